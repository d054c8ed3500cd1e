"""Voxel labels out of labelled scans, by the rule of SemanticKITTI's voxelizer.

The rule (reference datasets_and_metrics 1.2): take scan f and up to 70 scans after it; of each, the points between
2.5 m and 70 m from its own sensor; move them into the ego frame of f; give each voxel the raw id that most of its
points have, the smaller id where two have as many. "Outlier" (1) counts as "unlabelled" (0), and a voxel in which 0
wins is empty. Things that move leave all their places behind them, as they do in the official labels.

Frames and axes as in docs/conventions.md: ego frame of f, metres, axis order X Y Z.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float32, Float64, Integer, UInt16

from occloom.geometry.voxelize import FARTHEST, NEAREST
from occloom.grid import VoxelGrid
from occloom.labels.visibility import never_seen, occupied_rays, unseen

OUTLIER = 1  # raw id that counts as unlabelled


@dataclass(frozen=True)
class Returns:
    """The points of one scan that may vote, in the frame of their own sensor.

    Attributes:
        xyz: metres, one row a coordinate, so that a frame change is one matrix product.
        label: raw ids, outliers already counted as 0.
    """

    xyz: Float32[np.ndarray, "3 P"]
    label: UInt16[np.ndarray, " P"]


@dataclass(frozen=True)
class FrameLabels:
    """What SemanticKITTI stores of one frame, in the ego frame of its scan.

    Attributes:
        label: raw ids; 0 is empty.
        scan: voxels that the scan of this frame alone fills (`.bin`).
        occluded: not visible from the pose of this frame; filled voxels are not visible (`.occluded`).
        invalid: empty and not visible from the pose of any scan used (`.invalid`).
    """

    label: UInt16[np.ndarray, "X Y Z"]
    scan: Bool[np.ndarray, "X Y Z"]
    occluded: Bool[np.ndarray, "X Y Z"]
    invalid: Bool[np.ndarray, "X Y Z"]


def select_returns(
    points: Float[np.ndarray, "P C"],
    raw: Integer[np.ndarray, " P"],
    *,
    min_range: float = NEAREST,
    max_range: float = FARTHEST,
) -> Returns:
    """Keeps the points of one scan that may vote.

    Args:
        points: x, y, z in the frame of the sensor, metres; further columns are not looked at.
        raw: raw semantic ids in the lower 16 bits, as in a `.label` file of points.
        min_range: nearer points belong to the car itself, metres.
        max_range: farther points are too sparse, metres.
    """
    xyz = np.ascontiguousarray(points[:, :3].T, dtype=np.float32)
    distance = np.sqrt(np.einsum("ij,ij->j", xyz, xyz))
    kept = (distance >= min_range) & (distance <= max_range)
    label = (raw[kept] & 0xFFFF).astype(np.uint16)
    label[label == OUTLIER] = 0
    return Returns(np.ascontiguousarray(xyz[:, kept]), label)


def voxelize(
    scans: Sequence[Returns], ego_from_sensors: Float64[np.ndarray, "S 4 4"], grid: VoxelGrid
) -> UInt16[np.ndarray, "X Y Z"]:
    """The raw id most points of each voxel have; 0 where there is no point or where 0 wins.

    Args:
        scans: the scans that vote.
        ego_from_sensors: from the sensor of each scan to the ego frame of the grid.
        grid: the voxels.
    """
    parts = [_votes(scan, pose, grid) for scan, pose in zip(scans, ego_from_sensors, strict=True)]
    label = np.concatenate([scan.label[kept] for scan, (kept, _) in zip(scans, parts, strict=True)])
    voxel = np.concatenate([index for _, index in parts])
    winners, ids = _majority(voxel, label)
    volume = np.zeros(grid.num_voxels, np.uint16)
    volume[winners] = ids
    return volume.reshape(grid.shape)


def label_frame(
    scans: Sequence[Returns], ego_from_sensors: Float64[np.ndarray, "S 4 4"], grid: VoxelGrid
) -> FrameLabels:
    """Everything SemanticKITTI stores of one frame.

    Args:
        scans: the scan of the frame first, then the following ones.
        ego_from_sensors: from the sensor of each scan to the ego frame of the first; row 0 is the pose of the frame.
        grid: the voxels.

    Raises:
        InputError: If embreex is not installed.
    """
    label = voxelize(scans, ego_from_sensors, grid)
    scan = voxelize(scans[:1], ego_from_sensors[:1], grid) > 0
    filled = (label > 0) | scan
    sensors = ego_from_sensors[:, :3, 3]
    rays = occupied_rays(filled, sensors, grid)
    hidden = unseen(rays, ~filled, sensors[:1], grid)
    return FrameLabels(label, scan, hidden | filled, never_seen(rays, hidden, filled, sensors[1:], grid))


def _votes(
    scan: Returns, ego_from_sensor: Float64[np.ndarray, "4 4"], grid: VoxelGrid
) -> tuple[Integer[np.ndarray, " V"], Integer[np.ndarray, " V"]]:
    """Which points lie in the grid, and the flat index of the voxel of each of these."""
    size = np.array(grid.voxel_size)
    turn = (ego_from_sensor[:3, :3] / size[:, None]).astype(np.float32)
    shift = ((ego_from_sensor[:3, 3] - np.array(grid.lower)) / size).astype(np.float32)
    place = turn @ scan.xyz
    place += shift[:, None]
    upper = np.array(grid.shape, np.float32)[:, None]
    kept = np.flatnonzero(((place >= 0) & (place < upper)).all(axis=0))
    ix, iy, iz = place[:, kept].astype(np.int32)
    return kept, (ix * grid.shape[1] + iy) * grid.shape[2] + iz


def _majority(
    voxel: Integer[np.ndarray, " V"], label: UInt16[np.ndarray, " V"]
) -> tuple[Integer[np.ndarray, " M"], UInt16[np.ndarray, " M"]]:
    """The voxels that have points, ascending, and the most frequent id of each, ties to the smaller id."""
    if len(voxel) == 0:
        return voxel, label
    ids = np.flatnonzero(np.bincount(label)).astype(np.uint16)
    dense = np.zeros(int(ids[-1]) + 1, np.int64)
    dense[ids] = np.arange(len(ids))
    wide = np.int64 if (int(voxel.max()) + 1) * len(ids) > np.iinfo(np.int32).max else np.int32
    keys = np.sort(voxel.astype(wide) * wide(len(ids)) + dense[label].astype(wide))
    starts = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]]))
    counts = np.diff(np.append(starts, len(keys)))
    voxels, choice = np.divmod(keys[starts], len(ids))
    # Within a voxel the ids ascend, so the first run that has the highest count is the smallest such id.
    groups = np.flatnonzero(np.concatenate([[True], voxels[1:] != voxels[:-1]]))
    sizes = np.diff(np.append(groups, len(voxels)))
    best = np.flatnonzero(counts == np.repeat(np.maximum.reduceat(counts, groups), sizes))
    first = np.concatenate([[True], voxels[best][1:] != voxels[best][:-1]])
    return voxels[best][first], ids[choice[best][first]]
