"""How often each class occurs in a town, beside SemanticKITTI's own counts."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float64, Int64

from occloom.data.kitti_files import KittiFrame, read_voxel_bits, read_voxel_labels
from occloom.data.label_spaces import SEMANTIC_KITTI, SEMANTIC_KITTI_GRID, to_train_ids
from occloom.errors import InputError


@dataclass(frozen=True)
class ClassShares:
    """Voxels by class, voxels that no scan sees left out.

    Attributes:
        voxels: count of each of the 20 classes.
        sequences: how many sequences have the class at all.
        num_sequences, num_frames: how much was counted.
    """

    voxels: Int64[np.ndarray, " K"]
    sequences: Int64[np.ndarray, " K"]
    num_sequences: int
    num_frames: int

    @property
    def share(self) -> Float64[np.ndarray, " K"]:
        """Share of each class among the filled voxels; that of empty is 0."""
        return _shares(self.voxels.astype(np.float64))


def class_shares(root: Path) -> ClassShares:
    """Counts the voxel labels of every sequence of a folder in the layout of SemanticKITTI.

    Raises:
        InputError: If there is no voxel label file.
    """
    files = sorted(root.glob("sequences/[0-9][0-9]/voxels/*.label"))
    if not files:
        raise InputError("no voxel labels", where=root, rule="expected sequences/NN/voxels/FFFFFF.label")
    counts: dict[str, np.ndarray] = {}
    for path in files:
        frame = KittiFrame(root, path.parent.parent.name, path.stem)
        train = to_train_ids(read_voxel_labels(path, SEMANTIC_KITTI_GRID.shape))
        known = ~read_voxel_bits(frame.file("voxels", ".invalid"), SEMANTIC_KITTI_GRID.shape)
        found = np.bincount(train[known], minlength=256)[: SEMANTIC_KITTI.num_classes]
        counts[frame.sequence] = counts.get(frame.sequence, 0) + found
    stacked = np.stack(list(counts.values())).astype(np.int64)
    return ClassShares(stacked.sum(axis=0), (stacked > 0).sum(axis=0), len(stacked), len(files))


def reference_shares() -> Float64[np.ndarray, " K"]:
    """Share of each class among the filled voxels of SemanticKITTI's training set (MonoScene's counts)."""
    return _shares(np.array(SEMANTIC_KITTI.frequencies))


def _shares(voxels: Float64[np.ndarray, " K"]) -> Float64[np.ndarray, " K"]:
    filled = np.where(np.arange(len(voxels)) == SEMANTIC_KITTI.empty, 0.0, voxels)
    return filled / max(filled.sum(), 1.0)
