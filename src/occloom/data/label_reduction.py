"""Label grids at 1:2, 1:4 and 1:8: the two rules in use, by name.

Both give a coarse voxel the most frequent class among its occupied fine voxels, ties to the smaller id. They differ in
when a coarse voxel counts as occupied at all, so that scores on coarse grids compare only within one rule.
"""

import numpy as np
from jaxtyping import Int64, UInt8

from occloom.data.label_spaces import IGNORED

MOSTLY_FREE = 0.95
"""MonoScene: a coarse voxel with a larger share of empty and ignored fine voxels has no class."""


def majority_labels(
    labels: UInt8[np.ndarray, "X Y Z"], factor: int, *, num_classes: int, empty: int
) -> UInt8[np.ndarray, "x y z"]:
    """LMSCNet's rule: one occupied fine voxel makes a coarse one occupied; else empty if any is; else ignored.

    Args:
        labels: Dense ids, and `IGNORED`.
        factor: Fine voxels along the edge of a coarse one; divides the shape.
        num_classes: K, the empty class included.
        empty: Id of the empty class.
    """
    counts = _counts(labels, factor, num_classes)
    occupied = _occupied(counts, empty)
    free = np.where(counts[..., empty] > 0, empty, IGNORED)
    return np.where(occupied.any(axis=-1), occupied.argmax(axis=-1), free).astype(np.uint8)


def monoscene_labels(
    labels: UInt8[np.ndarray, "X Y Z"], factor: int, *, num_classes: int, empty: int
) -> UInt8[np.ndarray, "x y z"]:
    """MonoScene's and VoxFormer's rule: above 95 % empty and ignored, whichever of the two is more (ties: ignored).

    Args:
        labels: Dense ids, and `IGNORED`.
        factor: Fine voxels along the edge of a coarse one; divides the shape.
        num_classes: K, the empty class included.
        empty: Id of the empty class.
    """
    counts = _counts(labels, factor, num_classes)
    num_empty, num_ignored = counts[..., empty], counts[..., num_classes]
    free = np.where(num_empty > num_ignored, empty, IGNORED)
    majority = _occupied(counts, empty).argmax(axis=-1)
    return np.where(num_empty + num_ignored > MOSTLY_FREE * factor**3, free, majority).astype(np.uint8)


def _occupied(counts: Int64[np.ndarray, "x y z bins"], empty: int) -> Int64[np.ndarray, "x y z K"]:
    """Fine voxels of each class, none of the empty one."""
    occupied = counts[..., :-1].copy()
    occupied[..., empty] = 0
    return occupied


def _counts(labels: UInt8[np.ndarray, "X Y Z"], factor: int, num_classes: int) -> Int64[np.ndarray, "x y z bins"]:
    """Fine voxels of each class, and last of the ignored, in each coarse voxel."""
    x, y, z = (n // factor for n in labels.shape)
    rows = [np.arange(n * factor) // factor for n in (x, y, z)]
    cell = (rows[0][:, None, None] * y + rows[1][:, None]) * z + rows[2]
    bins = np.where(labels == IGNORED, num_classes, labels.astype(np.int64))
    flat = (cell * (num_classes + 1) + bins).ravel()
    return np.bincount(flat, minlength=x * y * z * (num_classes + 1)).reshape(x, y, z, num_classes + 1)
