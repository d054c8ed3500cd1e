import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from occloom.geometry.voxelize import flat_index, voxel_coordinates, voxel_index
from occloom.grid import VoxelGrid

KITTI = VoxelGrid(lower=(0.0, -25.6, -2.0), voxel_size=(0.2, 0.2, 0.2), shape=(256, 256, 32))
# Borders of these voxels are exact in floating point.
EXACT = VoxelGrid(lower=(-1.0, -2.0, 0.5), voxel_size=(0.5, 0.25, 1.0), shape=(3, 5, 2))


@pytest.mark.parametrize("grid", [KITTI, EXACT])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_centre_of_a_voxel_lies_in_it(grid, dtype):
    centres = grid.centres(dtype=dtype)
    index, inside = voxel_index(centres, grid)
    expected = np.stack(np.meshgrid(*(np.arange(n) for n in grid.shape), indexing="ij"), axis=-1)
    assert inside.all()
    np.testing.assert_array_equal(index.numpy(), expected)
    np.testing.assert_array_equal(flat_index(index, grid.shape).reshape(-1).numpy(), np.arange(grid.num_voxels))


def test_lower_borders_are_inside_and_upper_ones_outside():
    lower, upper = torch.tensor(EXACT.lower), torch.tensor(EXACT.upper)
    below, under_upper = torch.nextafter(lower, lower - 1), upper - 1e-6
    middle = (lower + upper) / 2
    for axis in range(3):
        points = middle.repeat(4, 1)
        points[:, axis] = torch.stack([lower, below, upper, under_upper])[:, axis]
        index, inside = voxel_index(points, EXACT)
        assert inside.tolist() == [True, False, False, True]
        assert index[0, axis] == 0
        assert index[3, axis] == EXACT.shape[axis] - 1
        assert (index[~inside] == -1).all()


def test_a_border_between_voxels_belongs_to_the_upper_one():
    points = torch.tensor([[-0.5, -1.75, 1.5]])
    assert voxel_index(points, EXACT)[0].tolist() == [[1, 1, 1]]


def test_what_is_no_number_is_outside():
    points = torch.tensor([[float("nan"), -1.0, 1.0], [-0.9, float("inf"), 1.0], [-0.9, -1.0, -float("inf")]])
    index, inside = voxel_index(points, EXACT)
    assert not inside.any()
    assert (index == -1).all()
    assert (flat_index(index, EXACT.shape) < 0).all()


@given(seed=st.integers(0, 2**32 - 1), lead=st.sampled_from([(), (7,), (1, 2, 3), (0,), (2, 0)]))
def test_the_index_is_numpys_floor_and_the_flat_one_numpys_ravel(seed, lead):
    points = np.random.default_rng(seed).uniform(-3, 3, (*lead, 3))
    index, inside = voxel_index(torch.tensor(points), EXACT)
    expected = np.floor((points - EXACT.lower) / EXACT.voxel_size)
    expected_inside = ((expected >= 0) & (expected < EXACT.shape)).all(-1)
    np.testing.assert_array_equal(inside.numpy(), expected_inside)
    np.testing.assert_array_equal(index[inside].numpy(), expected[expected_inside])
    flat = np.ravel_multi_index(tuple(index[inside].numpy().T), EXACT.shape)
    np.testing.assert_array_equal(flat_index(index[inside], EXACT.shape).numpy(), flat)


def test_flat_indices_count_z_first():
    index = torch.tensor(list(itertools.product(*(range(n) for n in EXACT.shape))))
    assert flat_index(index, EXACT.shape).tolist() == list(range(EXACT.num_voxels))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_coordinates_keep_the_precision_and_put_centres_half_way(dtype):
    coordinates = voxel_coordinates(EXACT.centres(dtype=dtype), EXACT)
    assert coordinates.dtype == dtype
    assert torch.equal(coordinates % 1, torch.full_like(coordinates, 0.5))
