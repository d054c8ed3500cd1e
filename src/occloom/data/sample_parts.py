"""The parts of a sample that are made alike whatever the layout: pictures, depth, points, truth, augmentation."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float32, Float64, Int64, UInt8
from torch import Tensor

from occloom.cache import Cache
from occloom.data.depth_cache import depth_entry
from occloom.data.kitti_files import StereoFrame, read_points
from occloom.data.label_reduction import majority_labels, monoscene_labels
from occloom.data.label_spaces import IGNORED
from occloom.data.pictures import PictureFit
from occloom.data.transforms import draw_colour_shift, mirror, shift_colours
from occloom.grid import LabelSpace, VoxelGrid
from occloom.scene import Points, Sample, Target

LabelReduction = Literal["majority", "monoscene"]


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


def load_depth(folder: Path, cache: Cache | None, frame: StereoFrame, fit: PictureFit) -> Float32[Tensor, "H W"]:
    """A frame's prepared depth, fitted as its picture, in metres.

    Args:
        folder: Where the prepared depth lies.
        cache: The cache that the folder is; None for files from elsewhere.
        frame: Whose depth.
        fit: How its picture is fitted.

    Raises:
        InputError: If the depth is missing, damaged, or made of other files than there are now.
    """
    entry = depth_entry(frame)
    if cache is not None:
        cache.check(entry, frame.root)
    return fit.depth(folder / entry)


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
        labels = reduce(labels, scale, num_classes=label_space.num_classes)
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
