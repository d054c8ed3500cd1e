import itertools
import math

import pytest
import torch

from occloom.grid import VoxelGrid
from occloom.labels.statistics import RANGE_STEP, count_places
from occloom.scene import Target

GRID = VoxelGrid(lower=(-4.0, -3.0, -1.0), voxel_size=(0.5, 0.75, 0.4), shape=(16, 9, 5))
OCC3D_GRID = VoxelGrid(lower=(-40.0, -40.0, -1.0), voxel_size=(0.4, 0.4, 0.4), shape=(200, 200, 16))


def random_target(batch: int, seed: int) -> Target:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 4, (batch, *GRID.shape), generator=generator)
    observed = torch.rand(labels.shape, generator=generator) < 0.7
    return Target(labels=torch.where(observed, labels, 0), observed=observed)


@pytest.fixture
def target() -> Target:
    return random_target(2, 0)


def test_counts_are_those_of_a_loop(target):
    counts = count_places(target, GRID, num_classes=4)
    expected = torch.zeros_like(counts.voxels)
    for b, x, y, z in itertools.product(range(2), *map(range, GRID.shape)):
        if target.observed[b, x, y, z]:
            distance = math.hypot(-4.0 + 0.5 * (x + 0.5), -3.0 + 0.75 * (y + 0.5))
            expected[target.labels[b, x, y, z], z, int(distance / RANGE_STEP)] += 1
    assert torch.equal(counts.voxels, expected)
    assert counts.unobserved == int((~target.observed).sum())
    assert counts.heights == pytest.approx((-1.0, -0.6, -0.2, 0.2, 0.6, 1.0))
    assert counts.ranges == (0.0, 2.0, 4.0, 6.0)


def test_frames_add_up(target):
    other = random_target(1, 1)
    both = Target(
        labels=torch.cat([target.labels, other.labels]), observed=torch.cat([target.observed, other.observed])
    )
    one, two = count_places(target, GRID, num_classes=4), count_places(other, GRID, num_classes=4)
    assert torch.equal((one + two).voxels, count_places(both, GRID, num_classes=4).voxels)
    assert (one + two).unobserved == int((~both.observed).sum())


def test_regions_of_the_paper_hold_the_voxels_that_the_reference_counted():
    """Reference drocc 4 counted columns of 1.6 m; the 0.4 m ones add up to the same whole and the same layers."""
    target = Target(
        labels=torch.zeros(1, *OCC3D_GRID.shape, dtype=torch.int64),
        observed=torch.ones(1, *OCC3D_GRID.shape, dtype=torch.bool),
    )
    (regions,) = count_places(target, OCC3D_GRID, num_classes=1).by_region((0.2, 2.2), (10.0, 30.0))
    assert regions.sum() == OCC3D_GRID.num_voxels
    assert (regions[:, 0] * 5 == regions[1, 0] * torch.tensor([3, 5, 8])).all()
    coarse = OCC3D_GRID.coarsen((4, 4, 1))
    target = Target(
        labels=torch.zeros(1, *coarse.shape, dtype=torch.int64), observed=torch.ones(1, *coarse.shape, dtype=torch.bool)
    )
    (regions,) = count_places(target, coarse, num_classes=1).by_region((0.2, 2.2), (10.0, 30.0))
    assert regions.T.tolist() == [[360, 600, 960], [2988, 4980, 7968], [4152, 6920, 11072]]
