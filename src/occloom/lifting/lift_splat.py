"""Lift, splat: image features to a voxel volume along the rays of their pixels (Philion and Fidler, ECCV 2020)."""

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from occloom.geometry.precision import full_precision
from occloom.geometry.projection import frustum
from occloom.geometry.rigid import invert, transform_points
from occloom.geometry.voxelize import flat_index, voxel_index
from occloom.grid import VoxelGrid
from occloom.lifting.depth import DepthBins, DepthPlanes
from occloom.ops.voxel_pooling import voxel_pooling


def frustum_voxels(
    intrinsics: Float[Tensor, "B N 3 3"],
    camera_from_ego: Float[Tensor, "B N 4 4"],
    grid: VoxelGrid,
    bins: DepthBins | DepthPlanes,
    size: tuple[int, int],
    stride: int,
) -> Int64[Tensor, "B N h w D"]:
    """Flat index of the voxel in which each frustum point lies, -1 outside the grid.

    Args:
        intrinsics: For the images of which the features are cells.
        camera_from_ego: From the present ego frame.
        grid: Of the volume, in the ego frame.
        bins: Their centres are the depths of the points.
        size: h and w of the features.
        stride: Image pixels a feature pixel.
    """
    with full_precision(intrinsics.device.type):
        depths = bins.centres(dtype=intrinsics.dtype, device=intrinsics.device)
        points = frustum(intrinsics, depths, size, stride)
        index, inside = voxel_index(transform_points(invert(camera_from_ego), points.flatten(2, 4)), grid)
    flat = torch.where(inside, flat_index(index, grid.shape), -1)
    return flat.unflatten(2, (bins.count, *size)).movedim(2, -1)


def lift_splat(
    features: Float[Tensor, "B N C h w"],
    depth: Float[Tensor, "B N D h w"],
    voxels: Int64[Tensor, "B N h w D"],
    valid: Bool[Tensor, "B N"],
    shape: tuple[int, int, int],
) -> Float[Tensor, "B C X Y Z"]:
    """Sum the features of all cameras in the voxels of their sample, weighted by depth probability.

    Args:
        features: Of the images.
        depth: Probability of each depth bin.
        voxels: From `frustum_voxels`.
        valid: False for cameras that must not contribute.
        shape: X, Y, Z of the volume.
    """
    batch, channels = features.shape[0], features.shape[2]
    num_voxels = shape[0] * shape[1] * shape[2]
    first = torch.arange(batch, device=voxels.device).view(batch, 1, 1, 1, 1) * num_voxels
    usable = (voxels >= 0) & valid[:, :, None, None, None]
    pooled = voxel_pooling(
        features.permute(0, 1, 3, 4, 2).reshape(-1, channels),
        depth.permute(0, 1, 3, 4, 2).reshape(-1, depth.shape[2]),
        torch.where(usable, voxels + first, -1).reshape(-1, depth.shape[2]),
        batch * num_voxels,
    )
    return pooled.view(batch, *shape, channels).permute(0, 4, 1, 2, 3)
