"""Pseudo voxels: where the depth of the present frame and of earlier ones lies, moved into the present by the poses.

The input of VoxFormer's query network (reference monoocc 2 and 11, items 2 and 3). A voxel is occupied if at least one
pixel of known depth of one of the frames lies in it. Earlier frames without depth are left out; the present one must
have some. Where VoxFormer also walks the rays and marks what is free, only what is occupied is kept, which comes to the
same.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float32, Float64
from torch import Tensor

from occloom.cache import Cache, CacheOrigin
from occloom.data.depth_cache import depth_entry, open_depth_cache
from occloom.data.depth_sources import FileDepth
from occloom.data.filled_cache import fill_cache
from occloom.data.kitti_files import (
    Calibration,
    KittiFrame,
    pack_bits,
    read_poses,
    require_row,
    velodyne_poses,
)
from occloom.data.label_spaces import SEMANTIC_KITTI_GRID
from occloom.data.packed_volumes import NO_KEY, PSEUDO_VOXELS, volumes_origin
from occloom.errors import InputError
from occloom.geometry.projection import feature_pixels, unproject
from occloom.geometry.rigid import transform_points
from occloom.geometry.voxelize import voxel_index
from occloom.grid import VoxelGrid

SCANS = 10
"""Of a window: the present one and the nine before it."""


@dataclass(frozen=True)
class PseudoVoxels:
    """Pseudo voxels made from prepared depth of image_2."""

    root: Path
    """Of the data; holds `sequences`."""
    depth: Path
    """Folder of the prepared depth; holds `sequences`."""
    scans: int = SCANS
    """Scans of a window, the present one counted."""

    @property
    def origin(self) -> CacheOrigin:
        """Keyed by the window and by what the depth is keyed by."""
        cache = open_depth_cache(self.depth)
        key = NO_KEY if cache is None else cache.origin.key
        settings = {"scans": self.scans}
        return volumes_origin(PSEUDO_VOXELS, "pseudo-voxels", settings, root=self.root, made_of=self.depth, key=key)

    def window(self, now: KittiFrame) -> list[KittiFrame]:
        """The frame and those of the scans before it that have depth.

        Raises:
            InputError: If the frame itself has none.
        """
        numbers = range(int(now.name), max(-1, int(now.name) - self.scans), -1)
        frames = [KittiFrame(now.root, now.sequence, f"{number:06d}") for number in numbers]
        found = [frame for frame in frames if self._path(frame).is_file()]
        if now not in found:
            raise InputError(
                f"no depth of {now.token}",
                where=self._path(now),
                rule="pseudo voxels are made where the present frame has depth; earlier ones without are left out",
                remedy=f"run `occloom prepare depth --root {now.root}`, or name other --sequences",
            )
        return found

    def inputs(self, now: KittiFrame) -> tuple[Path, ...]:
        """The depth of the window, the calibration and, if earlier scans count, the poses."""
        poses = (_poses_file(now),) if self.scans > 1 else ()
        return (*(self._path(frame) for frame in self.window(now)), *now.calibration_files, *poses)

    def voxels(self, now: KittiFrame) -> Bool[np.ndarray, "X Y Z"]:
        """The voxels that the window's points lie in.

        Raises:
            InputError: If depth, calibration or poses are missing or damaged.
        """
        frames, calibration = self.window(now), now.calibration()
        poses = self._poses(now, calibration)
        source, occupied = FileDepth(self.depth), np.zeros(SEMANTIC_KITTI_GRID.shape, dtype=bool)
        for frame in frames:
            now_from_then = np.eye(4)
            if frame != now:
                now_from_then = np.linalg.inv(poses[int(now.name)]) @ poses[int(frame.name)]
            points = depth_points(source.depth(frame), calibration)
            occupied |= occupied_voxels(points, now_from_then, SEMANTIC_KITTI_GRID)
        return occupied

    def packed(self, now: KittiFrame) -> bytes:
        """The contents of the frame's file."""
        return pack_bits(self.voxels(now)).tobytes()

    def _path(self, frame: KittiFrame) -> Path:
        """Where a frame's depth lies."""
        return self.depth / depth_entry(frame)

    def _poses(self, now: KittiFrame, calibration: Calibration) -> Float64[np.ndarray, "N 4 4"]:
        """Of the velodyne; none where only the present scan counts.

        Raises:
            InputError: If the sequence has no poses, or none for the frame.
        """
        path = _poses_file(now)
        if self.scans == 1:
            return np.zeros((0, 4, 4))
        if not path.is_file():
            raise InputError(
                "no poses",
                where=path,
                rule="they move the depth of earlier scans into the present",
                remedy="fetch poses.txt of the sequence, or take the present scan alone (--scans 1)",
            )
        poses = velodyne_poses(read_poses(path), calibration)
        require_row(poses, path, now.name)
        return poses


def _poses_file(frame: KittiFrame) -> Path:
    """Of the frame's sequence."""
    return frame.folder / "poses.txt"


def depth_points(depth: Float32[np.ndarray, "H W"], calibration: Calibration) -> Float64[Tensor, "P 3"]:
    """The points of all pixels of image_2 whose depth is known, in the frame of the velodyne, in metres."""
    values = torch.from_numpy(depth.astype(np.float64))
    known = values > 0
    pixels = feature_pixels((depth.shape[0], depth.shape[1]), 1, dtype=torch.float64)[known]
    points = unproject(pixels, values[known], torch.from_numpy(calibration.intrinsics(2)))
    return transform_points(torch.from_numpy(np.linalg.inv(calibration.camera_from_velodyne(2))), points)


def occupied_voxels(
    points: Float64[Tensor, "P 3"], now_from_then: Float64[np.ndarray, "4 4"], grid: VoxelGrid
) -> Bool[np.ndarray, "X Y Z"]:
    """The voxels that at least one point lies in, once the points are moved into the present ego frame."""
    index, inside = voxel_index(transform_points(torch.from_numpy(now_from_then), points), grid)
    occupied = np.zeros(grid.shape, dtype=bool)
    occupied[tuple(index[inside].numpy().T)] = True
    return occupied


def fill_pseudo_voxels(
    cache: Cache, source: PseudoVoxels, frames: Sequence[KittiFrame], *, workers: int
) -> Iterator[KittiFrame]:
    """Prepare what is not finished yet, yielding each frame when it is.

    Raises:
        InputError: If a frame lacks an input, or the cache holds entries of other inputs.
    """
    return fill_cache(
        cache, frames, entry=PSEUDO_VOXELS.entry, inputs=source.inputs, make=source.packed, workers=workers
    )
