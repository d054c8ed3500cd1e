"""How often each class occurs in a town, beside the benchmark's own counts."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float64, Int64

from occloom.data.label_files import KITTI_360_FILES, SEMANTIC_KITTI_FILES
from occloom.data.occ3d_labels import OCC3D
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
    """Counts the voxel labels of every sequence of a folder in the layout of any benchmark that the town writes.

    Raises:
        InputError: If there is no voxel label file.
    """
    if (root / "gts").is_dir():
        return _occ3d_shares(root)
    files = KITTI_360_FILES if (root / "data_2d_raw").is_dir() else SEMANTIC_KITTI_FILES
    paths = sorted(root.glob(files.truth))
    if not paths:
        raise InputError("no voxel labels", where=root, rule=f"expected {files.truth}")
    counts = []
    for path in paths:
        truth, observed = files.read_truth(path, path.with_suffix(".invalid"))
        counts.append((path.parts[-3], np.bincount(truth[observed], minlength=files.label_space.num_classes)))
    return _added_up(files.label_space, counts)


def _occ3d_shares(root: Path) -> ClassShares:
    """The same of Occ3D's layout, where a sequence is a scene; voxels that the LiDAR observes count."""
    counts = []
    for path in sorted(root.glob("gts/*/*/labels.npz")):
        with np.load(path) as file:
            truth, observed = file["semantics"], file["mask_lidar"] > 0
        counts.append((path.parts[-3], np.bincount(truth[observed], minlength=OCC3D.num_classes)))
    return _added_up(OCC3D, counts)


def _added_up(label_space: LabelSpace, counts: list[tuple[str, Int64[np.ndarray, " K"]]]) -> ClassShares:
    """Shares of the counts of frames, each with the name of its sequence."""
    of_sequence: dict[str, np.ndarray] = {}
    for sequence, found in counts:
        of_sequence[sequence] = of_sequence.get(sequence, 0) + found
    stacked = np.stack(list(of_sequence.values())).astype(np.int64)
    return ClassShares(label_space, stacked.sum(axis=0), (stacked > 0).sum(axis=0), len(stacked), len(counts))


def _shares(voxels: Float64[np.ndarray, " K"], label_space: LabelSpace) -> Float64[np.ndarray, " K"]:
    filled = np.where(np.arange(len(voxels)) == label_space.empty, 0.0, voxels)
    return filled / max(filled.sum(), 1.0)
