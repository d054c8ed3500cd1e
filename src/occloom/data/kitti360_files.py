"""Where SSCBench-KITTI-360 keeps the files of a frame, and the one calibration of all its drives.

Facts: reference datasets_and_metrics 2 and voxdet 14; docs/datasets/kitti360.md.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from occloom.data.kitti_files import Calibration, read_image_size
from occloom.geometry.augment import resized_intrinsics

FULL_SIZE = (376, 1408)
"""Height and width of the pictures that the numbers below belong to."""
INTRINSICS = ((552.554261, 0.0, 682.049453), (0.0, 552.554261, 238.769549), (0.0, 0.0, 1.0))
"""Of the rectified left and right camera."""
RIGHT_COLUMN = -328.318735
"""Upper right element of the right camera's projection: minus focal length (pixels) times baseline (0.594 m)."""
VELODYNE_FROM_LEFT = (
    (0.04307104361, -0.08829286498, 0.995162929, 0.8043914418),
    (-0.999004371, 0.007784614041, 0.04392796942, 0.2993489574),
    (-0.01162548558, -0.9960641394, -0.08786966659, -0.1770225824),
    (0.0, 0.0, 0.0, 1.0),
)
"""Of the left camera, in metres; its rotation is orthonormal to nine digits."""


def drive_folder(drive: str) -> str:
    """The folder's name of a drive such as "0006"."""
    return f"2013_05_28_drive_{drive}_sync"


def fixed_calibration(size: tuple[int, int] = FULL_SIZE) -> Calibration:
    """The calibration of every drive, for pictures resized as a whole to `size` (height and width).

    The grey pair 0, 1 of the record is the pair itself, as is the colour pair 2, 3: there is one pair only.
    """
    intrinsics = resized_intrinsics(
        torch.tensor(INTRINSICS, dtype=torch.float64), from_size=FULL_SIZE, to_size=size
    ).numpy()
    left, right = np.zeros(3), np.array([RIGHT_COLUMN * size[1] / FULL_SIZE[1], 0.0, 0.0])
    projections = np.stack([np.column_stack([intrinsics, column]) for column in (left, right, left, right)])
    return Calibration(projections=projections, camera0_from_velodyne=np.linalg.inv(np.array(VELODYNE_FROM_LEFT)))


@dataclass(frozen=True)
class Kitti360Frame:
    """Where the files of one frame lie."""

    root: Path
    """Folder that holds `data_2d_raw`."""
    sequence: str
    """Folder of the drive, such as "2013_05_28_drive_0006_sync"."""
    name: str
    """Six digits, such as "000005"."""

    @property
    def token(self) -> str:
        """Such as "2013_05_28_drive_0006_sync/000005"."""
        return f"{self.sequence}/{self.name}"

    @property
    def folder(self) -> Path:
        """The drive's folder of pictures and voxels."""
        return self.root / "data_2d_raw" / self.sequence

    def picture(self, camera: str) -> Path:
        """Picture of `image_00` or `image_01`."""
        return self.folder / camera / "data_rect" / f"{self.name}.png"

    def voxels(self, suffix: str) -> Path:
        """The frame's file of voxels, as in `voxels(".label")`."""
        return self.folder / "voxels" / f"{self.name}{suffix}"

    @property
    def left(self) -> Path:
        """Picture of the left camera."""
        return self.picture("image_00")

    @property
    def right(self) -> Path:
        """Picture of the right camera."""
        return self.picture("image_01")

    @property
    def scan(self) -> Path:
        """Velodyne file."""
        return self.root / "data_3d_raw" / self.sequence / "velodyne_points" / "data" / f"{self.name}.bin"

    @property
    def calibration_files(self) -> tuple[Path, ...]:
        """None: the calibration is fixed."""
        return ()

    @property
    def preprocessed(self) -> tuple[Path, ...]:
        """Where labels of train ids may lie: as SSCBench unpacks them, and as VoxDet keeps them."""
        entry = Path("labels") / self.sequence / f"{self.name}_1_1.npy"
        return (self.root / "preprocess" / entry, self.root / entry)

    def calibration(self) -> Calibration:
        """The fixed calibration for the left picture's size.

        Raises:
            InputError: If there is no left picture.
        """
        return fixed_calibration(read_image_size(self.left))
