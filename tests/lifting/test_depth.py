import itertools

import numpy as np
import pytest
import torch

from occloom.lifting.depth import DepthBins, DepthHead, depth_histogram


def test_bins_span_the_range_and_grow_linearly():
    edges = DepthBins(near=2.0, far=54.0, count=13).edges(dtype=torch.float64)
    widths = edges.diff()
    assert len(edges) == 14
    assert (edges[0].item(), edges[-1].item()) == (2.0, pytest.approx(54.0))
    torch.testing.assert_close(widths.diff(), torch.full((12,), widths[0].item(), dtype=torch.float64))


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
