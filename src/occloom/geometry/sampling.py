"""The one place that speaks `grid_sample`'s coordinates: align_corners is False, outside is zero.

grid_sample's -1 and 1 are then the outer borders of the first and the last pixel, as in docs/conventions.md, where
pixel u reaches from u - 0.5 to u + 0.5.
"""

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from occloom.grid import Shape


def pixels_to_grid(pixels: Float[Tensor, "*b 2"], size: tuple[int, int]) -> Float[Tensor, "*b 2"]:
    """Pixels (u, v) of an image of `size` (H, W) as grid_sample's coordinates (x, y)."""
    height, width = size
    return (2 * pixels + 1) / pixels.new_tensor((width, height)) - 1


def voxels_to_grid(coordinates: Float[Tensor, "*b 3"], shape: Shape) -> Float[Tensor, "*b 3"]:
    """Continuous voxel coordinates as grid_sample's coordinates for a volume "B C X Y Z".

    `coordinates` are those of `voxelize.voxel_coordinates`: voxel i reaches from i to i + 1, its centre is i + 0.5.
    grid_sample names the last axis first, so the answer is ordered z, y, x.
    """
    return (2 * coordinates / coordinates.new_tensor(shape) - 1).flip(-1)


def sample_features(
    features: Float[Tensor, "M C h w"], pixels: Float[Tensor, "M P 2"], stride: int
) -> Float[Tensor, "M C P"]:
    """Features at pixels (u, v) of the image, bilinear, zero outside; features sit where `feature_pixels` says."""
    height, width = features.shape[-2:]
    grid = pixels_to_grid(pixels, (height * stride, width * stride))
    return F.grid_sample(features, grid[:, :, None], align_corners=False)[..., 0]


def sample_volume(volume: Float[Tensor, "B C X Y Z"], coordinates: Float[Tensor, "B P 3"]) -> Float[Tensor, "B C P"]:
    """A volume at continuous voxel coordinates (see `voxels_to_grid`), trilinear, zero outside."""
    grid = voxels_to_grid(coordinates, (volume.shape[2], volume.shape[3], volume.shape[4]))
    return F.grid_sample(volume, grid[:, :, None, None], align_corners=False)[..., 0, 0]


def sample_fractions(features: Float[Tensor, "M C h w"], fractions: Float[Tensor, "M *p 2"]) -> Float[Tensor, "M C S"]:
    """Features at fractions (u, v) of the image, 0 and 1 being its borders, bilinear, zero outside; S = all of `*p`."""
    grid = 2 * fractions.flatten(1, -2) - 1
    return F.grid_sample(features, grid[:, :, None], align_corners=False)[..., 0]


def sample_volume_fractions(
    volume: Float[Tensor, "M C D h w"], fractions: Float[Tensor, "M *p 3"]
) -> Float[Tensor, "M C S"]:
    """A volume of image and depth at fractions (u, v, depth) of it, trilinear, zero outside; S = all of `*p`."""
    grid = 2 * fractions.flatten(1, -2) - 1
    return F.grid_sample(volume, grid[:, :, None, None], align_corners=False)[..., 0, 0]
