"""Which voxels an input depth map says are occupied: the queries of depth-proposed lifting (VoxFormer, CGFormer)."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from occloom.geometry.precision import full_precision
from occloom.geometry.projection import feature_pixels, unproject
from occloom.geometry.rigid import invert, transform_points
from occloom.geometry.voxelize import flat_index, voxel_index
from occloom.grid import VoxelGrid


def depth_proposals(
    depth: Float[Tensor, "B N H W"],
    intrinsics: Float[Tensor, "B N 3 3"],
    camera_from_ego: Float[Tensor, "B N 4 4"],
    grid: VoxelGrid,
) -> Bool[Tensor, "B X Y Z"]:
    """The voxels in which at least one pixel of known depth lies, seen from any camera.

    Args:
        depth: z-depth of each pixel in metres, 0 = unknown; unknown pixels propose nothing.
        intrinsics: Of the images the depth belongs to.
        camera_from_ego: From the present ego frame.
        grid: Of the volume, in the ego frame.
    """
    batch, cameras, height, width = depth.shape
    with full_precision(depth.device.type):
        pixels = feature_pixels((height, width), 1, dtype=depth.dtype, device=depth.device).flatten(0, 1)
        points = unproject(pixels.expand(batch, cameras, -1, 2), depth.flatten(2), intrinsics)
        index, inside = voxel_index(transform_points(invert(camera_from_ego), points), grid)
    known = inside & (depth.flatten(2) > 0)
    voxels = grid.shape[0] * grid.shape[1] * grid.shape[2]
    # One place more than there are voxels takes the pixels that propose nothing.
    flat = torch.where(known, flat_index(index, grid.shape), voxels).flatten(1)
    proposed = torch.zeros(batch, voxels + 1, dtype=torch.bool, device=depth.device).scatter_(1, flat, True)
    return proposed[:, :voxels].unflatten(1, grid.shape)
