import itertools

import numpy as np
import pytest
import torch

from occloom.lifting.depth import DepthBins, DepthHead, DepthPlanes, depth_histogram


def test_bins_span_the_range_and_grow_linearly():
    edges = DepthBins(near=2.0, far=54.0, count=13).edges(dtype=torch.float64)
    widths = edges.diff()
    assert len(edges) == 14
    assert (edges[0].item(), edges[-1].item()) == (2.0, pytest.approx(54.0))
    torch.testing.assert_close(widths.diff(), torch.full((12,), widths[0].item(), dtype=torch.float64))


def test_planes_are_those_of_the_reference_by_default():
    planes = DepthPlanes()
    # Reference voxdet 3: 112 planes, 2.0 to 57.5 m, every half metre.
    assert torch.equal(planes.centres(dtype=torch.float64), torch.arange(4, 116, dtype=torch.float64) / 2)


@pytest.mark.parametrize("planes", [DepthPlanes(), DepthPlanes(near=1.5, step=0.8, count=7), DepthPlanes(count=1)])
def test_planes_lie_amid_the_depths_they_stand_for(planes):
    centres = planes.centres(dtype=torch.float64)
    assert len(centres) == planes.count
    edges = torch.linspace(planes.nearest, planes.farthest, planes.count + 1, dtype=torch.float64)
    torch.testing.assert_close((edges[1:] + edges[:-1]) / 2, centres)
    torch.testing.assert_close(edges.diff(), torch.full_like(centres, planes.step))


@pytest.mark.parametrize(("size", "stride"), [((8, 12), 4), ((7, 10), 4), ((5, 3), 1)])
def test_histogram_against_numpy(size, stride):
    bins = DepthBins(near=2.0, far=30.0, count=6)
    generator = torch.Generator().manual_seed(0)
    depth = torch.rand(3, *size, generator=generator, dtype=torch.float64) * 40
    depth = torch.where(torch.rand(3, *size, generator=generator) < 0.4, 0.0, depth)
    ours = depth_histogram(depth, bins, stride).numpy()
    edges = np.concatenate([[0.0], bins.edges(dtype=torch.float64).numpy()[1:], [np.inf]])
    h, w = -(-size[0] // stride), -(-size[1] // stride)
    assert ours.shape == (3, 8, h, w)
    for m, i, j in itertools.product(range(3), range(h), range(w)):
        cell = depth[m, i * stride : (i + 1) * stride, j * stride : (j + 1) * stride].numpy().ravel()
        known = cell[cell > 0]
        shares = np.histogram(known, edges)[0] / max(1, len(known))
        np.testing.assert_allclose(ours[m, :-1, i, j], shares, atol=1e-12)
        assert ours[m, -1, i, j] == pytest.approx(len(known) / len(cell))


def test_head_gives_a_distribution_and_follows_the_input_depth():
    bins = DepthBins(near=2.0, far=30.0, count=6)
    head = DepthHead(channels=16, bins=bins)
    features = torch.zeros(2, 16, 3, 5)
    unknown = head(features, torch.zeros(2, 9, 17), 4)
    assert unknown.shape == (2, 6, 3, 5)
    assert ((unknown >= 0).all() and (unknown.sum(dim=1) < 1).all()).item()
    middle = bins.centres()[3].item()
    known = head(features, torch.full((2, 9, 17), middle), 4)
    assert (known.argmax(dim=1) == 3).all()
    beyond = head(features, torch.full((2, 9, 17), 80.0), 4)
    assert (beyond.sum(dim=1) < unknown.sum(dim=1)).all()
