"""F-score of occupied voxels' centres: how many of each side have one of the other side near them.

Source: Metric_FScore of the CVPR 2023 occupancy challenge (reference datasets_and_metrics 3.1), which searches a tree
of points. Centres lie on a grid, so looking at the voxels within reach gives the same, to the last bit.
"""

import math
from itertools import product

import torch
from jaxtyping import Bool, Float64, Integer
from torch import Tensor

from occloom.grid import LabelSpace, VoxelGrid

CHALLENGE_REACH = 0.4
"""Metres, the edge of a voxel of Occ3D: whether face neighbours are nearer is decided by the rounding of centres."""
EPSILON = 1e-8


def f_score(
    prediction: Integer[Tensor, "X Y Z"],
    labels: Integer[Tensor, "X Y Z"],
    observed: Bool[Tensor, "X Y Z"],
    grid: VoxelGrid,
    label_space: LabelSpace,
    *,
    reach: float = CHALLENGE_REACH,
) -> float:
    """Harmonic mean of accuracy and completeness of one frame; a benchmark's is the mean over its frames.

    Accuracy is the share of predicted occupied voxels with a true one nearer than `reach`, completeness the share of
    true ones with a predicted one nearer. Classes do not matter.

    Args:
        prediction: Class ids; left as they are.
        labels: True class ids; left as they are.
        observed: Voxels that count.
        grid: Where the voxels lie.
        label_space: Says which id is empty.
        reach: In metres.

    Returns:
        A fraction: 0 where nothing is predicted, NaN where something is and nothing is true.
    """
    predicted, true = (observed & (ids != label_space.empty) for ids in (prediction, labels))
    if not predicted.any():
        return 0.0
    if not true.any():
        return math.nan
    near_true, near_predicted = (_within_reach(volume, grid, reach) for volume in (true, predicted))
    accuracy = float((predicted & near_true).sum() / predicted.sum(dtype=torch.float64))
    completeness = float((true & near_predicted).sum() / true.sum(dtype=torch.float64))
    return 2.0 / (1.0 / (accuracy + EPSILON) + 1.0 / (completeness + EPSILON))


def _within_reach(occupied: Bool[Tensor, "X Y Z"], grid: VoxelGrid, reach: float) -> Bool[Tensor, "X Y Z"]:
    """Voxels whose centre lies nearer than `reach` to an occupied one's."""
    centres = [_centres(grid, axis, occupied.device) for axis in range(3)]
    farthest = [int(reach / size + 1e-6) for size in grid.voxel_size]
    near = torch.zeros_like(occupied)
    for offset in product(*(range(-n, n + 1) for n in farthest)):
        here = tuple(slice(max(0, -o), n - max(0, o)) for o, n in zip(offset, grid.shape, strict=True))
        there = tuple(slice(max(0, o), n - max(0, -o)) for o, n in zip(offset, grid.shape, strict=True))
        x, y, z = (axis[to] - axis[of] for axis, to, of in zip(centres, there, here, strict=True))
        distance = torch.sqrt(x[:, None, None] ** 2 + y[:, None] ** 2 + z**2)
        near[here] |= occupied[there] & (distance < reach)
    return near


def _centres(grid: VoxelGrid, axis: int, device: torch.device) -> Float64[Tensor, " n"]:
    """Centres along an axis in metres, rounded as the challenge's program rounds them: its scores depend on it."""
    index = torch.arange(grid.shape[axis], dtype=torch.float64, device=device)
    return index * grid.voxel_size[axis] + grid.voxel_size[axis] / 2 + grid.lower[axis]
