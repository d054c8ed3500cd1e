"""The parts of a sample that are made alike whatever the layout: pictures, depth, points, truth, augmentation."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, TypeVar, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float32, Float64, Int64, UInt8
from torch import Tensor

from occloom.cache import Cache
from occloom.data.depth_cache import depth_entry, named_depth_cache, require_prepared
from occloom.data.kitti_files import StereoFrame, read_points
from occloom.data.label_reduction import majority_labels, monoscene_labels
from occloom.data.label_spaces import IGNORED
from occloom.data.pictures import PictureFit
from occloom.data.transforms import draw_colour_shift, mirror, shift_colours
from occloom.errors import InputError
from occloom.grid import LabelSpace, VoxelGrid
from occloom.interfaces import Split
from occloom.scene import Points, Sample, Target

LabelReduction = Literal["majority", "monoscene"]


@runtime_checkable
class NamedFrame(Protocol):
    """A moment with a name, in whichever layout."""

    @property
    def token(self) -> str:
        """Such as "08/000005"."""
        ...


Frame = TypeVar("Frame", bound=NamedFrame)


@runtime_checkable
class LabelledDataset(Protocol):
    """A split whose truth can be had without its pictures."""

    label_space: LabelSpace

    def __len__(self) -> int:
        """Number of samples."""
        ...

    def target(self, index: int) -> Target | None:
        """What is true of a sample; None in an unlabelled split."""
        ...


@dataclass(frozen=True)
class TimedScan:
    """A velodyne file and how it gets into the present."""

    path: Path
    now_from_then: Float64[np.ndarray, "4 4"]
    """From the ego frame of the scan to the present one."""
    seconds: float
    """Relative to now (0 or negative)."""


def load_pictures(
    paths: Sequence[Sequence[Path]], fit: PictureFit
) -> tuple[Float32[Tensor, "1 T N 3 H W"], Bool[Tensor, "1 T N"]]:
    """The pictures of each moment and camera, black where one is missing, and which are there.

    Raises:
        InputError: If a picture is damaged or not of the size that `fit` begins with.
    """
    shape = (1, len(paths), len(paths[0]))
    images, valid = torch.zeros(*shape, 3, *fit.target), torch.zeros(shape, dtype=torch.bool)
    for t, moment in enumerate(paths):
        for n, path in enumerate(moment):
            if path.is_file():
                images[0, t, n], valid[0, t, n] = fit.image(path), True
    return images, valid


def usable_frames(
    frames: Sequence[Frame], reason_to_skip: Callable[[Frame], str], *, split: Split, root: Path
) -> tuple[list[Frame], dict[str, str]]:
    """The frames of a split that nothing speaks against, and by token what speaks against the others.

    Raises:
        InputError: If no frame is left.
    """
    reasons = {frame.token: reason_to_skip(frame) for frame in frames}
    usable = [frame for frame in frames if not reasons[frame.token]]
    if not usable:
        raise InputError(
            f"the split {split} has no usable frame",
            where=root,
            rule=f"each of its {len(frames)} frames lacks something: {'; '.join(sorted(set(reasons.values())))}",
            remedy=f"complete the download, or name others in {split}",
        )
    return usable, {token: reason for token, reason in reasons.items() if reason}


def require_depth(
    folder: Path | None,
    frames: Sequence[StereoFrame],
    read: Sequence[StereoFrame],
    *,
    cameras: Sequence[str],
    left: str,
) -> Cache | None:
    """Refuse depth that is of another camera, not prepared for every frame, or made from other files.

    Args:
        folder: Where the prepared depth lies.
        frames: Of the split. Digests are compared of one frame a sequence here, and of each when it is read.
        read: All whose depth is read; each must have its entry.
        cameras: That a sample holds.
        left: The camera whose depth is prepared.

    Returns:
        The cache that the folder is; None for files from elsewhere.

    Raises:
        InputError: If so.
    """
    if left not in cameras:
        raise InputError(
            f"the model needs depth and cameras is {', '.join(cameras)}",
            rule=f"depth is prepared for {left} alone",
            remedy=f"add {left} to cameras",
        )
    cache = named_depth_cache(folder)
    if cache is not None:
        first = {frame.token.partition("/")[0]: frame for frame in reversed(frames)}
        require_prepared(cache, read, list(first.values()))
    return cache


def load_depth(
    folder: Path | None,
    cache: Cache | None,
    frames: Sequence[StereoFrame],
    fit: PictureFit,
    *,
    cameras: Sequence[str],
    left: str,
) -> Float32[Tensor, "1 T N H W"]:
    """Prepared depth of each moment, fitted as its picture, in metres; unknown (0) for all cameras but one.

    Args:
        folder: Where the prepared depth lies.
        cache: The cache that the folder is; None for files from elsewhere.
        frames: One a moment.
        fit: How their pictures are fitted.
        cameras: That a sample holds.
        left: The camera whose depth is prepared.

    Raises:
        InputError: If the depth is missing, damaged, or made of other files than there are now.
    """
    assert folder is not None, "a model that needs depth is refused without"
    depth = torch.zeros(1, len(frames), len(cameras), *fit.target)
    for t, frame in enumerate(frames):
        entry = depth_entry(frame)
        if cache is not None:
            cache.check(entry, frame.root)
        depth[0, t, cameras.index(left)] = fit.depth(folder / entry)
    return depth


def load_points(scans: Sequence[TimedScan]) -> Points:
    """All points of some scans, in the present ego frame.

    Raises:
        InputError: If a file is missing or damaged.
    """
    positions, features, times = [], [], []
    for moment in scans:
        scan = torch.from_numpy(read_points(moment.path))
        transform = torch.from_numpy(moment.now_from_then)
        positions.append((scan[:, :3].double() @ transform[:3, :3].T + transform[:3, 3]).float())
        features.append(scan[:, 3:])
        times.append(torch.full((len(scan),), moment.seconds))
    return points_of_one_sample(positions, features, times)


def points_of_one_sample(positions: list[Tensor], features: list[Tensor], times: list[Tensor]) -> Points:
    """The points of several sweeps, each "P 3", "P F" and "P"."""
    joined = torch.cat(positions)
    return Points(
        positions=joined,
        features=torch.cat(features),
        batch_index=torch.zeros(len(joined), dtype=torch.int64),
        time=torch.cat(times),
    )


def target_of(
    labels: UInt8[np.ndarray, "X Y Z"], label_space: LabelSpace, *, scale: int, reduction: LabelReduction
) -> Target:
    """Truth from dense ids with `IGNORED` among them, reduced by `scale`; ignored voxels become unobserved."""
    if scale > 1:
        reduce = majority_labels if reduction == "majority" else monoscene_labels
        labels = reduce(labels, scale, num_classes=label_space.num_classes, empty=label_space.empty)
    observed = labels != IGNORED
    dense = np.where(observed, labels, np.uint8(label_space.empty)).astype(np.int64)
    return Target(labels=torch.from_numpy(dense)[None], observed=torch.from_numpy(observed)[None])


def augment(
    sample: Sample,
    rng: np.random.Generator,
    grid: VoxelGrid,
    *,
    width: int,
    flip_probability: float,
    colour_jitter: float,
) -> Sample:
    """A random mirroring and change of colours; the same number of draws every time."""
    flip, shift = rng.random() < flip_probability, draw_colour_shift(rng, colour_jitter)
    if flip:
        sample = mirror(sample, grid, width=width)
    return shift_colours(sample, shift)


def count_frequencies(dataset: LabelledDataset) -> Int64[np.ndarray, " K"]:
    """Observed voxels of each class over a labelled split; `LabelSpace.frequencies` are such counts."""
    counts = np.zeros(dataset.label_space.num_classes, dtype=np.int64)
    for index in range(len(dataset)):
        target = dataset.target(index)
        if target is not None:
            counts += torch.bincount(target.labels[target.observed], minlength=len(counts)).numpy()
    return counts
