import numpy as np
import pytest
import torch
from scipy.ndimage import map_coordinates

from occloom.geometry.projection import feature_pixels
from occloom.geometry.sampling import (
    pixels_to_grid,
    sample_features,
    sample_fractions,
    sample_volume,
    sample_volume_fractions,
    voxels_to_grid,
)
from occloom.geometry.voxelize import voxel_coordinates
from occloom.grid import VoxelGrid


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [(1, 1), (3, 5), (24, 7)])
def test_a_pixel_centre_gives_that_pixel(dtype, size):
    image = torch.randn(2, 3, *size, dtype=dtype, generator=torch.Generator().manual_seed(0))
    pixels = feature_pixels(size, 1, dtype=dtype).reshape(1, -1, 2).expand(2, -1, 2)
    torch.testing.assert_close(sample_features(image, pixels, 1), image.flatten(2), atol=1e-4, rtol=0)


@pytest.mark.parametrize("stride", [2, 4, 16])
def test_the_place_of_a_feature_gives_that_feature(stride):
    features = torch.randn(2, 3, 4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    pixels = feature_pixels((4, 6), stride, dtype=torch.float64).reshape(1, -1, 2).expand(2, -1, 2)
    torch.testing.assert_close(sample_features(features, pixels, stride), features.flatten(2))


def test_features_agree_with_scipys_interpolation():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(1, 1, 5, 8))
    stride = 4
    pixels = rng.uniform((-3, -3), (8 * stride + 2, 5 * stride + 2), (1, 50, 2))
    place = (pixels[0] - (stride - 1) / 2) / stride
    expected = map_coordinates(features[0, 0], place.T[::-1], order=1, mode="grid-constant", cval=0.0)
    read = sample_features(torch.tensor(features), torch.tensor(pixels), stride)
    np.testing.assert_allclose(read[0, 0].numpy(), expected, atol=1e-12)


def test_the_borders_of_an_image_are_minus_one_and_one():
    corners = torch.tensor([[-0.5, -0.5], [6.5, 3.5]])
    assert torch.equal(pixels_to_grid(corners, (4, 7)), torch.tensor([[-1.0, -1.0], [1.0, 1.0]]))


@pytest.mark.parametrize("lead", [(), (2,), (1, 2), (0,)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_any_leading_dimensions_and_precision(lead, dtype):
    pixels, coordinates = torch.ones(*lead, 2, dtype=dtype), torch.ones(*lead, 3, dtype=dtype)
    for answer, given in (
        (pixels_to_grid(pixels, (3, 4)), pixels),
        (voxels_to_grid(coordinates, (2, 3, 4)), coordinates),
    ):
        assert (answer.shape, answer.dtype) == (given.shape, dtype)


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 5, 2), (4, 2, 7)])
def test_the_centre_of_a_voxel_gives_that_voxel(shape):
    grid = VoxelGrid(lower=(-1.0, -2.0, 0.5), voxel_size=(0.5, 0.25, 1.0), shape=shape)
    volume = torch.randn(2, 3, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    coordinates = voxel_coordinates(grid.centres(dtype=torch.float64), grid).reshape(1, -1, 3).expand(2, -1, 3)
    torch.testing.assert_close(sample_volume(volume, coordinates), volume.flatten(2))


def test_volumes_agree_with_scipys_interpolation():
    rng = np.random.default_rng(3)
    volume = rng.normal(size=(1, 1, 4, 6, 3))
    coordinates = rng.uniform(-1, 7, (1, 80, 3))
    expected = map_coordinates(volume[0, 0], coordinates[0].T - 0.5, order=1, mode="grid-constant", cval=0.0)
    read = sample_volume(torch.tensor(volume), torch.tensor(coordinates))
    np.testing.assert_allclose(read[0, 0].numpy(), expected, atol=1e-12)


def test_no_points_give_no_features():
    assert sample_features(torch.ones(2, 3, 4, 5), torch.ones(2, 0, 2), 4).shape == (2, 3, 0)
    assert sample_volume(torch.ones(2, 3, 4, 5, 6), torch.ones(2, 0, 3)).shape == (2, 3, 0)


def test_gradients_reach_features_and_places():
    generator = torch.Generator().manual_seed(5)
    features = torch.randn(1, 2, 3, 4, dtype=torch.float64, generator=generator, requires_grad=True)
    pixels = (torch.rand(1, 5, 2, dtype=torch.float64, generator=generator) * 5 + 1.1).requires_grad_()
    assert torch.autograd.gradcheck(lambda f, p: sample_features(f, p, 2), (features, pixels))


def test_fractions_agree_with_pixels():
    generator = torch.Generator().manual_seed(6)
    features = torch.randn(2, 3, 5, 8, dtype=torch.float64, generator=generator)
    fractions = torch.rand(2, 4, 6, 2, dtype=torch.float64, generator=generator) * 1.4 - 0.2
    pixels = fractions.flatten(1, 2) * torch.tensor([8, 5]) - 0.5
    torch.testing.assert_close(sample_fractions(features, fractions), sample_features(features, pixels, 1))


def test_fractions_of_a_volume_agree_with_scipys_interpolation():
    rng = np.random.default_rng(7)
    volume = rng.normal(size=(1, 1, 4, 6, 3))
    fractions = rng.uniform(-0.2, 1.2, (1, 80, 3))
    place = fractions[0, :, ::-1] * volume.shape[2:] - 0.5
    expected = map_coordinates(volume[0, 0], place.T, order=1, mode="grid-constant", cval=0.0)
    read = sample_volume_fractions(torch.tensor(volume), torch.tensor(fractions))
    np.testing.assert_allclose(read[0, 0].numpy(), expected, atol=1e-12)
