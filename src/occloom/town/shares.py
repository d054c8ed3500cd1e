"""How often each class occurs in a town, beside the benchmark's own counts."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float64, Int64

from occloom.data.label_files import KITTI_360_FILES, SEMANTIC_KITTI_FILES
from occloom.errors import InputError
from occloom.grid import LabelSpace


@dataclass(frozen=True)
class ClassShares:
    """Voxels by class, voxels that no scan sees left out.

    Attributes:
        label_space: the classes.
        voxels: count of each class.
        sequences: how many sequences have the class at all.
        num_sequences, num_frames: how much was counted.
    """

    label_space: LabelSpace
    voxels: Int64[np.ndarray, " K"]
    sequences: Int64[np.ndarray, " K"]
    num_sequences: int
    num_frames: int

    @property
    def share(self) -> Float64[np.ndarray, " K"]:
        """Share of each class among the filled voxels; that of empty is 0."""
        return _shares(self.voxels.astype(np.float64), self.label_space)

    @property
    def reference(self) -> Float64[np.ndarray, " K"]:
        """Share of each class among the filled voxels of the benchmark's training set (its published counts)."""
        return _shares(np.array(self.label_space.frequencies), self.label_space)


def class_shares(root: Path) -> ClassShares:
    """Counts the voxel labels of every sequence of a folder in the layout of SemanticKITTI or SSCBench-KITTI-360.

    Raises:
        InputError: If there is no voxel label file.
    """
    files = KITTI_360_FILES if (root / "data_2d_raw").is_dir() else SEMANTIC_KITTI_FILES
    paths = sorted(root.glob(files.truth))
    if not paths:
        raise InputError("no voxel labels", where=root, rule=f"expected {files.truth}")
    counts: dict[str, np.ndarray] = {}
    for path in paths:
        truth, observed = files.read_truth(path, path.with_suffix(".invalid"))
        found = np.bincount(truth[observed], minlength=files.label_space.num_classes)
        counts[path.parts[-3]] = counts.get(path.parts[-3], 0) + found
    stacked = np.stack(list(counts.values())).astype(np.int64)
    return ClassShares(files.label_space, stacked.sum(axis=0), (stacked > 0).sum(axis=0), len(stacked), len(paths))


def _shares(voxels: Float64[np.ndarray, " K"], label_space: LabelSpace) -> Float64[np.ndarray, " K"]:
    filled = np.where(np.arange(len(voxels)) == label_space.empty, 0.0, voxels)
    return filled / max(filled.sum(), 1.0)
