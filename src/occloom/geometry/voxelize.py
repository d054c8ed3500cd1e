"""From points to voxels: the index of a point is the floor, the lower border is inside, the upper one is not."""

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from occloom.grid import Shape, VoxelGrid

NEAREST, FARTHEST = 2.5, 70.0
"""Range in metres of the points that SemanticKITTI's voxelizer counts (reference datasets_and_metrics 1.2)."""


def voxel_coordinates(points: Float[Tensor, "*b 3"], grid: VoxelGrid) -> Float[Tensor, "*b 3"]:
    """Points of the ego frame, in metres, as continuous voxel coordinates: voxel i reaches from i to i + 1."""
    return (points - points.new_tensor(grid.lower)) / points.new_tensor(grid.voxel_size)


def voxel_index(points: Float[Tensor, "*b 3"], grid: VoxelGrid) -> tuple[Int64[Tensor, "*b 3"], Bool[Tensor, "*b"]]:
    """The voxel (ix, iy, iz) of each point of the ego frame, and whether it lies in the grid.

    The index of a point outside, or of one that is not a number, is (-1, -1, -1).
    """
    coordinates = voxel_coordinates(points, grid)
    inside = ((coordinates >= 0) & (coordinates < coordinates.new_tensor(grid.shape))).all(dim=-1)
    index = torch.where(inside[..., None], coordinates.floor(), -torch.ones_like(coordinates))
    return index.long(), inside


def flat_index(index: Int64[Tensor, "*b 3"], shape: Shape) -> Int64[Tensor, "*b"]:
    """The place of voxel (ix, iy, iz) in C order: (ix * Y + iy) * Z + iz; negative for the index of a point outside."""
    ix, iy, iz = index.unbind(-1)
    return (ix * shape[1] + iy) * shape[2] + iz
