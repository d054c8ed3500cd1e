import math
from itertools import pairwise

import pytest
import torch
from scipy.stats import norm
from torch.nn import functional as F

from occloom.lifting.depth import DepthPlanes
from occloom.losses.depth import depth_cross_entropy, depth_divergence, gaussian_planes

PLANES = DepthPlanes(near=2.0, step=0.5, count=40)


@pytest.mark.parametrize("std", [0.2, 0.5, 2.0])
def test_shares_are_those_of_a_normal_distribution_cut_to_the_planes(std):
    depth = torch.tensor([1.76, 5.0, 10.13, 21.7])
    shares = gaussian_planes(depth.view(1, 1, 4), PLANES, std)[0, :, 0]
    for p, mean in enumerate(depth.tolist()):
        edges = [1.75 + 0.5 * i for i in range(41)]
        expected = [norm.cdf(b, mean, std) - norm.cdf(a, mean, std) for a, b in pairwise(edges)]
        whole = norm.cdf(edges[-1], mean, std) - norm.cdf(edges[0], mean, std)
        assert shares[:, p].tolist() == pytest.approx([share / whole for share in expected], abs=1e-5)


def test_the_likeliest_plane_is_the_one_that_lifting_uses():
    centres = PLANES.centres()
    peaks = gaussian_planes(centres.view(1, 1, -1), PLANES, 0.5)[0, :, 0].argmax(dim=0)
    assert peaks.tolist() == list(range(PLANES.count))


def test_divergence_is_that_of_pytorch_over_pixels_with_depth():
    generator = torch.Generator().manual_seed(0)
    depth = 2 + 19 * torch.rand(2, 3, 5, generator=generator)
    depth[0, 0] = 0
    depth[1, 1, 2], depth[1, 1, 3] = 22.0, 1.0  # beyond the last plane, before the first
    probability = torch.randn(2, 40, 3, 5, generator=generator).softmax(dim=1)
    known = (depth >= 1.75) & (depth < 21.75)
    target = gaussian_planes(depth, PLANES, 0.5).movedim(1, -1)[known]
    expected = F.kl_div(probability.movedim(1, -1)[known].log(), target, reduction="batchmean")
    found = depth_divergence(probability, depth, PLANES, std=0.5)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    changed = torch.where(known[:, None], probability, probability.flip(1))
    assert torch.equal(depth_divergence(changed, depth, PLANES, std=0.5), found)


def test_it_is_least_for_the_target_and_no_pixel_gives_zero():
    depth = torch.full((1, 2, 2), 8.3)
    target = gaussian_planes(depth, PLANES, 0.5)
    assert abs(float(depth_divergence(target, depth, PLANES, std=0.5))) < 1e-3
    assert float(depth_divergence(target.roll(2, 1), depth, PLANES, std=0.5)) > 0.5
    logits = torch.zeros(1, 40, 2, 2, requires_grad=True)
    loss = depth_divergence(logits.softmax(1), torch.zeros(1, 2, 2), PLANES, std=0.5)
    loss.backward()
    assert loss.item() == 0
    assert not logits.grad.any()


def test_a_distribution_of_zeros_stays_finite():
    probability = torch.zeros(1, 40, 1, 1)
    probability[:, 0] = 1
    probability.requires_grad_()
    loss = depth_divergence(probability, torch.full((1, 1, 1), 15.0), PLANES, std=0.5)
    loss.backward()
    assert math.isfinite(loss.item())
    assert probability.grad.isfinite().all()


BINS = DepthPlanes(near=1.25, step=0.5, count=88)
"""Of BEVDet: bin k holds the depths from 1 + k / 2 to 1.5 + k / 2 metres."""


@pytest.mark.parametrize(
    ("metres", "plane"),
    [(1.0, 0), (1.49, 0), (1.5, 1), (20.3, 38), (44.99, 87), (0.99, None), (45.0, None), (0.0, None)],
)
def test_cross_entropy_asks_for_the_plane_of_the_true_depth(metres, plane):
    logits = torch.randn(1, 88, 1, 1, generator=torch.Generator().manual_seed(0))
    probability = logits.softmax(dim=1)
    loss = depth_cross_entropy(probability, torch.full((1, 1, 1), metres), BINS)
    if plane is None:
        assert loss == 0
        return
    expected = -sum(math.log(p if k == plane else 1 - p) for k, p in enumerate(probability.flatten().tolist()))
    assert math.isclose(loss.item(), expected, rel_tol=1e-4)


def test_cross_entropy_is_the_mean_of_pixels_of_known_depth():
    generator = torch.Generator().manual_seed(0)
    probability = torch.rand(2, 88, 3, 4, generator=generator).softmax(dim=1)
    depth = torch.rand(2, 3, 4, generator=generator) * 60
    each = [
        depth_cross_entropy(probability[m, :, i, j].view(1, 88, 1, 1), depth[m, i, j].view(1, 1, 1), BINS)
        for m in range(2)
        for i in range(3)
        for j in range(4)
        if 1 <= depth[m, i, j] < 45
    ]
    assert len(each) < 24
    torch.testing.assert_close(depth_cross_entropy(probability, depth, BINS), torch.stack(each).mean())


def test_cross_entropy_of_certainty_stays_finite_forward_and_backward():
    probability = F.one_hot(torch.tensor([[[3]]]), 88).movedim(-1, 1).float().requires_grad_()
    for metres, least, most in ((2.6, 0, 1e-6), (7.0, 150, 250)):
        loss = depth_cross_entropy(probability, torch.full((1, 1, 1), metres), BINS)
        assert least <= loss.item() <= most
        (gradient,) = torch.autograd.grad(loss, probability)
        assert torch.isfinite(gradient).all()


def test_cross_entropy_leaves_mixed_precision():
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = depth_cross_entropy(torch.full((1, 88, 1, 1), 1 / 88, dtype=torch.bfloat16), torch.ones(1, 1, 1), BINS)
    assert torch.isfinite(loss)
