"""Telling SemanticKITTI's voxel release of before August 2020 from the present one.

In the old release every voxel stands one flat index too high, so one layer too high (reference datasets_and_metrics
1.1; PRBonn/semantic-kitti-api issue 49). Nothing in a file says so, and training on it works: one layer too high.
"""

import numpy as np
from jaxtyping import Bool, Float32

from occloom.data.kitti_files import KittiFrame, read_points, read_voxel_bits
from occloom.errors import InputError
from occloom.geometry.voxelize import FARTHEST, NEAREST
from occloom.grid import VoxelGrid

ROAD_AHEAD, ROAD_HALF_WIDTH, ROAD_TOP = (2.0, 15.0), 2.0, -1.6
"""Metres: where the road stands one sensor height (1.73 m) below the velodyne."""


def require_present_release(frame: KittiFrame, grid: VoxelGrid) -> None:
    """Refuse voxels of the old release.

    With the frame's velodyne scan the test compares voxels and scan as they stand and one index on. Without it, it
    asks for what the old release never has: a voxel in the lowest layer, or road before the car at its true height.

    Raises:
        InputError: If the frame's `.bin` is of the old release.
    """
    path = frame.file("voxels", ".bin")
    if not path.is_file():
        return
    occupied = read_voxel_bits(path, grid.shape)
    scan = frame.file("velodyne", ".bin")
    shifted = (
        _fits_shifted(occupied, scan_voxels(read_points(scan), grid)) if scan.is_file() else _lacks_road(occupied, grid)
    )
    if shifted:
        raise InputError(
            "the voxels are of the release of before August 2020: each stands one index (one layer) too high",
            where=path,
            rule="voxels agree with the frame's scan",
            remedy="download the voxel data again from semantic-kitti.org (version 1.1)",
        )


def scan_voxels(points: Float32[np.ndarray, "P 4"], grid: VoxelGrid) -> Bool[np.ndarray, "X Y Z"]:
    """Voxels that hold a point that the voxelizer counts."""
    positions = points[:, :3].astype(np.float64)
    distance = np.linalg.norm(positions, axis=1)
    positions = positions[(distance >= NEAREST) & (distance <= FARTHEST)]
    index = np.floor((positions - grid.lower) / grid.voxel_size).astype(np.int64)
    index = index[((index >= 0) & (index < grid.shape)).all(axis=1)]
    occupied = np.zeros(grid.shape, dtype=np.bool_)
    occupied[tuple(index.T)] = True
    return occupied


def _fits_shifted(occupied: Bool[np.ndarray, "X Y Z"], scan: Bool[np.ndarray, "X Y Z"]) -> bool:
    """Whether the voxels agree better with the scan moved by one flat index."""
    as_is = int((occupied & scan).sum())
    moved = int((occupied.ravel()[1:] & scan.ravel()[:-1]).sum())
    return moved > as_is


def _lacks_road(occupied: Bool[np.ndarray, "X Y Z"], grid: VoxelGrid) -> bool:
    """Whether the lowest layer is empty and no road stands at its height before the car."""
    xs = slice(*((int((x - grid.lower[0]) / grid.voxel_size[0])) for x in ROAD_AHEAD))
    ys = slice(*((int((y - grid.lower[1]) / grid.voxel_size[1])) for y in (-ROAD_HALF_WIDTH, ROAD_HALF_WIDTH)))
    columns = occupied[xs, ys].reshape(-1, grid.shape[2])
    columns = columns[columns.any(axis=1)]
    top_layer = round((ROAD_TOP - grid.lower[2]) / grid.voxel_size[2])
    at_height = columns[:, :top_layer].any(axis=1)
    return len(columns) > 0 and not occupied[..., 0].any() and bool(at_height.mean() < 0.05)
