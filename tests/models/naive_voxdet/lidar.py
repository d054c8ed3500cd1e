"""The LiDAR's points."""

import torch
import torch.nn.functional as F
from torch import Tensor

from .image import State, batch_norm, linear
from .lifting import Grid


def point_features(state: State, points: Tensor, grid: Grid, name: str = "lidar_tokenizer.point_mlp"):
    """Features (P 128) and voxels (P 3) of the points (x, y, z, intensity) strictly inside the range."""
    upper = grid.lower + grid.size * torch.tensor(grid.shape)
    place = points[:, :3].double()
    inside = ((place > grid.lower) & (place < upper)).all(-1)
    points, place = points[inside], place[inside]
    voxel = torch.floor((place - grid.lower) / grid.size).long()
    offset = (place - (grid.lower + (voxel + 0.5) * grid.size)).float()
    x = torch.cat([offset, points[:, :2], points[:, 3:4]], dim=1)
    x = linear(state, f"{name}.1", batch_norm(state, f"{name}.0", x))
    for norm, after in ((2, 4), (5, 7), (8, 10)):
        x = linear(state, f"{name}.{after}", F.relu(batch_norm(state, f"{name}.{norm}", x)))
    return x, voxel


def scattered(features: Tensor, voxel: Tensor, grid: Grid) -> Tensor:
    """The largest of each channel in each voxel, zero where no point is: C X Y Z."""
    volume = torch.zeros(features.shape[1], *grid.shape)
    taken = torch.zeros(grid.shape, dtype=torch.bool)
    for feature, (x, y, z) in zip(features, voxel.tolist(), strict=True):
        volume[:, x, y, z] = torch.maximum(volume[:, x, y, z], feature) if taken[x, y, z] else feature
        taken[x, y, z] = True
    return volume
