"""Voxel labels and predictions in files, of either benchmark that keeps SemanticKITTI's raw ids."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, UInt8, UInt16

from occloom.data.kitti360_labels import KITTI_360, to_kitti360_ids, to_kitti360_raw_ids
from occloom.data.kitti_files import read_voxel_labels, read_voxel_mask
from occloom.data.label_spaces import IGNORED, SEMANTIC_KITTI, SEMANTIC_KITTI_GRID, to_raw_ids, to_train_ids
from occloom.errors import InputError
from occloom.grid import LabelSpace

Volume = UInt8[np.ndarray, "X Y Z"]
Mask = Bool[np.ndarray, "X Y Z"]


@dataclass(frozen=True)
class LabelFiles:
    """What the `.label` files of a benchmark mean; the grid is SemanticKITTI's."""

    label_space: LabelSpace
    """The classes."""
    to_train: Callable[[UInt16[np.ndarray, "*shape"]], UInt8[np.ndarray, "*shape"]]
    """Dense ids of raw ids, `IGNORED` where there is no class."""
    to_raw: Callable[[UInt8[np.ndarray, "*shape"]], UInt16[np.ndarray, "*shape"]]
    """Raw ids of dense ids."""
    label_wins: bool
    """Whether a voxel with a label counts although its invalid bit is set."""
    truth: str
    """Pattern of the label files below the benchmark's folder."""

    def read_train_ids(self, labels: Path, invalid: Path | None) -> Volume:
        """Dense ids of a `.label` file, `IGNORED` where a voxel does not count.

        Args:
            labels: Raw ids.
            invalid: The mask that belongs to it, of one bit or one byte a voxel; None for no mask.

        Raises:
            InputError: If a file is missing or truncated.
        """
        raw = read_voxel_labels(labels, SEMANTIC_KITTI_GRID.shape)
        train = self.to_train(raw)
        if invalid is not None:
            masked = read_voxel_mask(invalid, SEMANTIC_KITTI_GRID.shape)
            train[masked & (raw == 0) if self.label_wins else masked] = IGNORED
        return train

    def read_truth(self, labels: Path, invalid: Path | None) -> tuple[Volume, Mask]:
        """Dense ids (empty where unobserved), and the voxels that count. Arguments and errors: `read_train_ids`."""
        truth = self.read_train_ids(labels, invalid)
        observed = truth != IGNORED
        truth[~observed] = self.label_space.empty
        return truth, observed

    def read_prediction(self, path: Path, observed: Mask) -> Volume:
        """Dense ids of a predicted `.label` file; unobserved voxels may hold anything, and ignored ids become empty.

        Raises:
            InputError: If the file is missing or truncated, or an observed voxel has an id without a class.
        """
        raw = read_voxel_labels(path, SEMANTIC_KITTI_GRID.shape)
        prediction = self.to_train(raw)
        wrong = prediction == IGNORED
        if (wrong & observed).any():
            raise InputError(
                f"predicts raw id {raw[wrong & observed][0]}, which has no class",
                where=path,
                rule=f"predictions hold raw ids of the {len(self.label_space.occupied)} classes, or 0 for empty",
                remedy="map training ids to raw ids before writing",
            )
        prediction[wrong] = self.label_space.empty
        return prediction


SEMANTIC_KITTI_FILES = LabelFiles(
    SEMANTIC_KITTI, to_train_ids, to_raw_ids, label_wins=False, truth="sequences/*/voxels/*.label"
)
KITTI_360_FILES = LabelFiles(
    KITTI_360, to_kitti360_ids, to_kitti360_raw_ids, label_wins=True, truth="data_2d_raw/*/voxels/*.label"
)
