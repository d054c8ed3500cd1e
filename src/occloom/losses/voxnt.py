"""Instance extents from class labels alone: VoxDet's voxel-to-instance trick (VoxNT), and what it tells of the labels.

From every voxel a run of its own class reaches some way along x+, x-, y+, y-, z+ and z-. Those six lengths stand in
for the box of an instance. Source: VoxDet, appendix B (Eq. 9 to 12) and Algorithm 1. See docs/voxnt.md.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int16, Int64, Shaped
from torch import Tensor

from occloom.grid import Shape
from occloom.scene import Target

UNOBSERVED = -1
"""Stands for the class of unobserved voxels: they end the runs of others and form runs of their own."""

_PADDING = 64
"""Columns behind each row of the counts: rows a power of two apart would share a few sets of the cache."""


@dataclass(frozen=True)
class Refinement:
    """Which labels are too long or too small to be true; training leaves them out.

    Lengths are those of Eq. 9, `l = d+ + d-`. Both distances count the voxel itself, so `l` is the number of voxels of
    the run PLUS ONE: an isolated voxel has 2 on each axis, and a maximum of 30 allows runs of 28 voxels.
    """

    classes: tuple[int, ...]
    """Ids of the classes to refine; VoxDet refines cars alone."""
    maximum: Shape = (30, 30, 30)
    """Along x, y, z: a voxel is left out if `l` reaches it on ANY axis (Eq. 11: the trail of a moving object)."""
    minimum: Shape | None = (3, 3, 3)
    """Along x, y, z: a voxel is left out if `l` is below it on ALL axes (Eq. 10: a stray voxel); None keeps those."""


def run_lengths(target: Target) -> Int16[Tensor, "B 6 X Y Z"]:
    """How far the run of a voxel's own class reaches along x+, x-, y+, y-, z+, z-.

    A voxel counts itself, so the least is 1; the border of the volume ends a run. The voxel that many steps away is
    the first of another class.

    Args:
        target: Class ids that fit in 16 bits; unobserved voxels form runs of their own.
    """
    labels = target.labels.to(torch.int16).masked_fill_(~target.observed, UNOBSERVED)
    count = _count_in_place if labels.device.type == "cpu" else _count_by_maxima
    lengths = _uninitialised((len(labels), 6, *labels.shape[1:]), torch.int16, labels.device)
    for axis in (1, 2, 3):
        lengths[:, 2 * axis - 2 : 2 * axis] = count(labels, axis).movedim(0, 1)
    return lengths


def boundary_offsets(lengths: Int16[Tensor, "B 6 X Y Z"], stride: Shape) -> Float[Tensor, "B 6 x y z"]:
    """The offset field that VoxDet regresses: run lengths as fractions of the length of their axis, in (0, 1].

    Args:
        lengths: `run_lengths` of a target.
        stride: Voxels of the target in a voxel of the offset field, along x, y, z. The first of each block stands for
            it, as released.
    """
    sx, sy, sz = stride
    kept = lengths[..., ::sx, ::sy, ::sz]
    offsets = _uninitialised(kept.shape, torch.float32, kept.device)
    for direction in range(6):
        torch.div(kept[:, direction], lengths.shape[2 + direction // 2], out=offsets[:, direction])
    return offsets


def axis_lengths(lengths: Int16[Tensor, "B 6 X Y Z"]) -> Int16[Tensor, "B 3 X Y Z"]:
    """Eq. 9: `l = d+ + d-` along x, y, z, one more than the number of voxels of the run."""
    return lengths[:, 0::2] + lengths[:, 1::2]


def too_long(lengths: Int16[Tensor, "B 3 X Y Z"], maximum: Shape) -> Bool[Tensor, "B X Y Z"]:
    """Eq. 11: voxels whose length along any axis reaches its maximum."""
    return (lengths >= lengths.new_tensor(maximum).view(3, 1, 1, 1)).any(dim=1)


def too_small(lengths: Int16[Tensor, "B 3 X Y Z"], minimum: Shape) -> Bool[Tensor, "B X Y Z"]:
    """Eq. 10: voxels whose length along every axis is below its minimum."""
    return (lengths < lengths.new_tensor(minimum).view(3, 1, 1, 1)).all(dim=1)


def refine(target: Target, lengths: Int16[Tensor, "B 6 X Y Z"], refinement: Refinement, *, empty: int) -> Target:
    """Eq. 12: the target with abnormal voxels of some classes unobserved.

    Args:
        target: Labels at full resolution.
        lengths: Its `run_lengths`.
        refinement: What is abnormal.
        empty: Id of the empty class, which unobserved voxels carry.
    """
    along_axes = axis_lengths(lengths)
    abnormal = too_long(along_axes, refinement.maximum)
    if refinement.minimum is not None:
        abnormal |= too_small(along_axes, refinement.minimum)
    chosen = torch.zeros_like(abnormal)
    for label in refinement.classes:
        chosen |= target.labels == label
    flagged = chosen & abnormal
    return replace(target, labels=target.labels.masked_fill(flagged, empty), observed=target.observed & ~flagged)


@dataclass(frozen=True)
class ScaleCounts:
    """How large the instances of each class are, in observed voxels; counts of several frames add up."""

    lengths: Int64[Tensor, "K 3 L"]
    """Voxels of each class by their length of Eq. 9 along x, y, z: 0 to the longest axis plus one."""
    too_long: Int64[Tensor, " K"]
    """Voxels whose length reaches a maximum (Eq. 11)."""
    too_small: Int64[Tensor, " K"]
    """Voxels whose lengths are all below a minimum (Eq. 10)."""

    def __add__(self, other: "ScaleCounts") -> "ScaleCounts":
        """Counts over both."""
        return ScaleCounts(
            self.lengths + other.lengths, self.too_long + other.too_long, self.too_small + other.too_small
        )

    @property
    def voxels(self) -> Int64[Tensor, " K"]:
        """Observed voxels of each class."""
        return self.lengths[:, 0].sum(dim=1)

    def quantile(self, share: float) -> Int64[Tensor, "K 3"]:
        """The least length that a share of a class's voxels do not exceed, along x, y, z; 0 for absent classes."""
        reached = self.lengths.cumsum(dim=2) >= share * self.voxels[:, None, None]
        return reached.to(torch.uint8).argmax(dim=2)


def count_scales(target: Target, *, num_classes: int, maximum: Shape, minimum: Shape) -> ScaleCounts:
    """Lengths of all observed voxels, whatever their class, and how many of them `refine` would take for abnormal."""
    along_axes = axis_lengths(run_lengths(target))
    labels = target.labels[target.observed]
    bins = max(target.labels.shape[1:]) + 2
    lengths = [
        torch.bincount(labels * bins + axis[target.observed], minlength=num_classes * bins)
        for axis in along_axes.unbind(1)
    ]
    return ScaleCounts(
        lengths=torch.stack(lengths).view(3, num_classes, bins).transpose(0, 1),
        too_long=torch.bincount(labels[too_long(along_axes, maximum)[target.observed]], minlength=num_classes),
        too_small=torch.bincount(labels[too_small(along_axes, minimum)[target.observed]], minlength=num_classes),
    )


def _uninitialised(shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Memory for a tensor; on a CPU NumPy's.

    NumPy takes large arrays in huge pages; to touch PyTorch's for the first time costs as much as the counting.
    """
    if device.type != "cpu":
        return torch.empty(tuple(shape), dtype=dtype, device=device)
    return torch.from_numpy(np.empty(tuple(shape), {torch.int16: np.int16, torch.float32: np.float32}[dtype]))


def _count_in_place(labels: Int16[Tensor, "B X Y Z"], axis: int) -> Shaped[Tensor, "2 B X Y Z"]:
    """Runs ahead and behind along an axis, slice after slice in the smallest type that holds them (on the CPU).

    NumPy, because its calls on small slices cost a third of PyTorch's.
    """
    moved = labels.movedim(axis, 0).contiguous()
    slices = moved.numpy().reshape(len(moved), -1)
    length, width = slices.shape
    dtype = np.uint8 if length <= np.iinfo(np.uint8).max else np.int16
    counts = np.empty((2, length, width + _PADDING), dtype)[..., :width]
    same = (slices[1:] == slices[:-1]).view(np.uint8)
    ahead, behind = counts
    ahead[-1:] = 1
    behind[:1] = 1
    for i in range(length - 2, -1, -1):
        np.multiply(ahead[i + 1], same[i], out=ahead[i])
        ahead[i] += 1
    for i in range(1, length):
        np.multiply(behind[i - 1], same[i - 1], out=behind[i])
        behind[i] += 1
    return torch.from_numpy(counts).unflatten(2, moved.shape[1:]).movedim(1, 1 + axis)


def _count_by_maxima(labels: Int16[Tensor, "B X Y Z"], axis: int) -> Int16[Tensor, "2 B X Y Z"]:
    """Runs ahead and behind along an axis as running extremes of the borders between runs (few calls: for GPUs)."""
    length = labels.shape[axis]
    place = torch.arange(length, dtype=torch.int16, device=labels.device).view(
        [-1 if d == axis else 1 for d in range(4)]
    )
    differs = labels.narrow(axis, 1, length - 1) != labels.narrow(axis, 0, length - 1)
    border = torch.ones_like(labels.narrow(axis, 0, 1), dtype=torch.bool)
    starts = torch.where(torch.cat([border, differs], axis), place, 0)
    ends = torch.where(torch.cat([differs, border], axis), place, length - 1)
    first = starts.cummax(axis).values
    last = ends.flip(axis).cummin(axis).values.flip(axis)
    return torch.stack([last - place + 1, place - first + 1])
