"""The town in the layout of SSCBench-KITTI-360, seen by KITTI-360's fixed rig.

The raw ids are SemanticKITTI's, as in the benchmark. Classes that KITTI-360 does not have are written as what its own
annotation calls them: a trunk is vegetation, and a rider is a person.
"""

from pathlib import Path

import numpy as np
from jaxtyping import Float64, UInt16

from occloom.data.kitti360_files import Kitti360Frame, drive_folder, fixed_calibration
from occloom.data.kitti_files import (
    Calibration,
    write_points,
    write_text,
    write_voxel_bits,
    write_voxel_bytes,
    write_voxel_labels,
)
from occloom.labels.voxelizer import FrameLabels
from occloom.town.lidar import Scan

RAW_ID_ON_KITTI_360 = {71: 70, 31: 30, 32: 30, 253: 254, 255: 254}
"""Trunk to vegetation, riders to persons, moving ones to moving ones; all other ids stay."""


class Kitti360Layout:
    """SSCBench-KITTI-360's; sequence 06 of the town is drive 0006."""

    def folders(self, root: Path, sequence: str) -> tuple[Path, ...]:
        """Scans lie apart from pictures and voxels."""
        drive = drive_folder(f"{int(sequence):04d}")
        return (root / "data_3d_raw" / drive, root / "data_2d_raw" / drive)

    def calibration(self, image_size: tuple[int, int]) -> Calibration:
        """KITTI-360's rig."""
        return fixed_calibration(image_size)

    def write_course(
        self,
        root: Path,
        sequence: str,
        calibration: Calibration,
        world_from_ego: Float64[np.ndarray, "S 4 4"],
    ) -> None:
        """cam0_to_world.txt: number of the scan and sixteen numbers."""
        world_from_left = world_from_ego @ np.linalg.inv(calibration.camera0_from_velodyne)
        rows = [" ".join([str(scan), *map(repr, pose.ravel().tolist())]) for scan, pose in enumerate(world_from_left)]
        write_text(self.folders(root, sequence)[-1] / "cam0_to_world.txt", "".join(f"{row}\n" for row in rows))

    def picture(self, root: Path, sequence: str, scan: int, camera: int) -> Path:
        """In image_00 or image_01."""
        return _frame(root, sequence, scan).picture(f"image_0{camera - 2}")

    def write_scan(self, root: Path, sequence: str, scan: int, points: Scan) -> None:
        """The points; the benchmark has no labels of them."""
        write_points(_frame(root, sequence, scan).scan, points.points)

    def write_voxels(
        self, root: Path, sequence: str, scan: int, label: UInt16[np.ndarray, "X Y Z"], voxels: FrameLabels
    ) -> None:
        """Labels, the filled voxels of the scan, and the invalid mask with one byte a voxel."""
        frame, raw = _frame(root, sequence, scan), label.copy()
        for here, there in RAW_ID_ON_KITTI_360.items():
            raw[label == here] = there
        write_voxel_labels(frame.voxels(".label"), raw)
        write_voxel_bits(frame.voxels(".bin"), voxels.scan)
        write_voxel_bytes(frame.voxels(".invalid"), voxels.invalid)


def _frame(root: Path, sequence: str, scan: int) -> Kitti360Frame:
    """The files of a scan."""
    return Kitti360Frame(root, drive_folder(f"{int(sequence):04d}"), f"{scan:06d}")
