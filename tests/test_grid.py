import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from occloom.grid import LabelSpace, VoxelGrid

GRID = VoxelGrid(lower=(0.0, -25.6, -2.0), voxel_size=(0.2, 0.2, 0.4), shape=(12, 8, 6))


def label_space(names: int = 3, *, empty: int = 2, colours: int = 3, frequencies: int = 3) -> LabelSpace:
    return LabelSpace(
        names=tuple(f"class {i}" for i in range(names)),
        empty=empty,
        colours=((0, 0, 0),) * colours,
        frequencies=tuple(10.0 ** (i + 1) for i in range(frequencies)),
    )


@given(
    lower=st.tuples(*[st.floats(-100, 100)] * 3),
    size=st.tuples(*[st.floats(0.05, 4)] * 3),
    coarse=st.tuples(*[st.integers(1, 5)] * 3),
    factors=st.tuples(*[st.integers(1, 4)] * 3),
)
def test_coarsening_keeps_the_bounds_and_the_volume(lower, size, coarse, factors):
    shape = (coarse[0] * factors[0], coarse[1] * factors[1], coarse[2] * factors[2])
    fine = VoxelGrid(lower=lower, voxel_size=size, shape=shape)
    coarser = fine.coarsen(factors)
    assert coarser.lower == fine.lower
    np.testing.assert_allclose(coarser.upper, fine.upper, atol=1e-9)
    assert coarser.shape == coarse
    assert coarser.num_voxels * np.prod(factors) == fine.num_voxels


def test_coarse_centres_are_the_means_of_the_fine_ones():
    fine = GRID.centres(dtype=torch.float64).numpy()
    means = fine.reshape(6, 2, 8, 1, 2, 3, 3).mean(axis=(1, 3, 5))
    np.testing.assert_allclose(GRID.coarsen((2, 1, 3)).centres(dtype=torch.float64).numpy(), means)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_centres_are_those_of_a_naive_loop(dtype):
    centres = GRID.centres(dtype=dtype)
    expected = np.zeros((*GRID.shape, 3))
    for index in np.ndindex(*GRID.shape):
        expected[index] = np.array(GRID.lower) + (np.array(index) + 0.5) * np.array(GRID.voxel_size)
    assert centres.dtype == dtype
    np.testing.assert_allclose(centres.numpy(), expected, atol=1e-5)


def test_a_factor_that_does_not_divide_is_refused():
    with pytest.raises(ValueError, match=r"divide the shape \(12, 8, 6\).*\(5, 1, 1\)"):
        GRID.coarsen((5, 1, 1))


@pytest.mark.parametrize(("size", "shape"), [((0.2, 0.0, 0.2), (1, 1, 1)), ((0.2, 0.2, 0.2), (4, 0, 4))])
def test_a_grid_without_extent_is_refused(size, shape):
    with pytest.raises(ValueError, match="positive voxel sizes and shape"):
        VoxelGrid(lower=(0.0, 0.0, 0.0), voxel_size=size, shape=shape)


def test_class_weights_are_numpys():
    space = label_space()
    expected = 1 / np.log(np.array(space.frequencies) + 0.001)
    np.testing.assert_allclose(space.class_weights(dtype=torch.float64).numpy(), expected, rtol=1e-15)
    np.testing.assert_allclose(space.class_weights().numpy(), expected.astype(np.float32), rtol=1e-7)


@pytest.mark.parametrize("empty", [0, 1, 2])
def test_occupied_classes_are_all_but_the_empty_one(empty):
    space = label_space(empty=empty)
    assert sorted((*space.occupied, empty)) == list(range(space.num_classes))


@pytest.mark.parametrize("lacking", ["names", "colours", "frequencies"])
def test_uneven_tables_are_refused(lacking):
    with pytest.raises(ValueError, match="as many colours and frequencies as names"):
        label_space(**{lacking: 2}, empty=1)


@pytest.mark.parametrize("empty", [-1, 3])
def test_an_empty_id_that_is_no_class_is_refused(empty):
    with pytest.raises(ValueError, match=rf"within 0\.\.2, got {empty}"):
        label_space(empty=empty)


def test_fewer_voxels_keep_the_bounds_and_are_coarse_ones_where_factors_divide():
    grid = VoxelGrid(lower=(-1.0, 0.0, 2.0), voxel_size=(0.5, 0.25, 1.0), shape=(8, 9, 5))
    assert grid.with_fewer_voxels((4, 3, 1)) == grid.coarsen((4, 3, 1))
    fewer = grid.with_fewer_voxels((3, 2, 4))
    assert fewer.shape == (3, 5, 2)
    assert (fewer.lower, fewer.upper) == (grid.lower, pytest.approx(grid.upper))
    with pytest.raises(ValueError, match="at least 1"):
        grid.with_fewer_voxels((0, 1, 1))
