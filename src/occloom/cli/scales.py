"""`occloom scales`: how large the instances of each class are in voxel labels, for people who check labels."""

import math
from itertools import pairwise
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from occloom.cli.arguments import ready_to_write
from occloom.data.kitti360 import Kitti360, Kitti360Config
from occloom.data.semantickitti import SemanticKitti, SemanticKittiConfig
from occloom.engine.logs import progress_bar
from occloom.errors import InputError
from occloom.grid import LabelSpace, Shape
from occloom.interfaces import Needs
from occloom.losses.voxnt import ScaleCounts, count_scales
from occloom.viewer.cubes import display_colours

QUANTILES = (0.05, 0.5, 0.95)
_PAPER, _INK, _GREY, _LIMIT = (255, 255, 255), (28, 32, 40), (150, 156, 166), (200, 30, 40)
_LEFT, _TOP, _PANEL, _ROW, _GAP, _BOTTOM = 120, 64, 300, 34, 24, 40


def scales(
    *,
    root: Path,
    sequences: tuple[str, ...] = (),
    maximum: Shape = (30, 30, 30),
    minimum: Shape = (3, 3, 3),
    picture: Path | None = None,
) -> None:
    """Measure the scale of instances in voxel labels, and how many labels are too long or too small to be true.

    From each observed voxel the run of its own class is followed along x, y and z. Its length is given as VoxDet gives
    it (Eq. 9): the number of voxels of the run plus one, so 2 is a stray voxel. A car of 4.4 m is 22 voxels of 0.2 m:
    lengths far beyond are trails of moving cars, or cars that touch.

    Prints, for each class, the lengths that 5 %, 50 % and 95 % of its voxels do not exceed, and the share of its voxels
    that training would leave out if the class were refined: "long" reaches the maximum on any axis, "small" is below
    the minimum on all three.

    Args:
        root: Folder that holds `sequences` in SemanticKITTI's layout, or `data_2d_raw` in SSCBench-KITTI-360's.
        sequences: Names such as 00 08 (drives: 0000 0006); all that have voxels unless given.
        maximum: Lengths along x, y, z that are too long (Eq. 11).
        minimum: Lengths along x, y, z below which all three are too small (Eq. 10).
        picture: Also draw the distributions to this .png file.
    """
    if picture is not None:
        ready_to_write(picture)
    dataset = _labelled_frames(root, sequences)
    label_space = dataset.label_space
    total: ScaleCounts | None = None
    with progress_bar() as bar:
        for index in bar.track(range(len(dataset)), description="measuring"):
            target = dataset.target(index)
            if target is None:
                raise InputError("no voxel labels", where=root, rule="scales are measured on labels")
            counts = count_scales(target, num_classes=label_space.num_classes, maximum=maximum, minimum=minimum)
            total = counts if total is None else total + counts
    assert total is not None, "a data set has at least one frame"
    console = Console(highlight=False)
    shares = "/".join(f"{100 * q:g}" for q in QUANTILES)
    console.print(f"{len(dataset)} frames. x, y, z: lengths that {shares} % of a class's voxels do not exceed.")
    console.print(f"long: any of them reaches {_sizes(maximum)}. small: all are below {_sizes(minimum)}.")
    console.print(scale_table(total, label_space))
    if picture is not None:
        scale_picture(total, maximum, label_space).save(picture)


def _labelled_frames(root: Path, sequences: tuple[str, ...]) -> SemanticKitti | Kitti360:
    """All frames of the sequences, or of all that have voxels, in whichever of the two layouts lies there."""
    drives = (root / "data_2d_raw").is_dir()
    folders = "data_2d_raw/*/voxels" if drives else "sequences/*/voxels"
    names = sequences or tuple(sorted(path.parent.name for path in root.glob(folders)))
    if not names:
        raise InputError(
            "no sequence has voxels",
            where=root,
            rule="root holds sequences/NN/voxels or data_2d_raw/DRIVE/voxels",
            remedy="check --root",
        )
    config = Kitti360Config(root=root, test=names) if drives else SemanticKittiConfig(root=root, test=names)
    return config.build("test", Needs(images=False))


def scale_table(counts: ScaleCounts, label_space: LabelSpace) -> Table:
    """Lengths and flagged shares, a row a class that occurs."""
    table = Table(box=SIMPLE_HEAD, collapse_padding=True, pad_edge=False)
    table.add_column("class", no_wrap=True)
    for column in ("voxels", "x", "y", "z", "long %", "small %"):
        table.add_column(column, justify="right", no_wrap=True)
    quantiles = [counts.quantile(q).tolist() for q in QUANTILES]
    voxels, long, small = (c.tolist() for c in (counts.voxels, counts.too_long, counts.too_small))
    for label in _classes_in(counts, label_space):
        lengths = ["/".join(str(q[label][axis]) for q in quantiles) for axis in range(3)]
        flagged = [f"{100 * c[label] / voxels[label]:.2f}" for c in (long, small)]
        table.add_row(label_space.names[label], f"{voxels[label]:,}", *lengths, *flagged)
    return table


def scale_picture(counts: ScaleCounts, maximum: Shape, label_space: LabelSpace) -> Image.Image:
    """The distribution of lengths along x, y, z, a row a class that occurs (VoxDet, Fig. 9).

    Lengths are on a logarithmic scale; heights are voxels per unit of length, each divided by its peak. A line marks
    the maximum.
    """
    classes = _classes_in(counts, label_space)
    bottom = _TOP + len(classes) * _ROW
    sheet = Image.new("RGB", (_LEFT + 3 * (_PANEL + _GAP), bottom + _BOTTOM), _PAPER)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=13)
    draw.text(
        (12, 10), "length of instances along each axis, in voxels plus one", _INK, ImageFont.load_default(size=16)
    )
    colours = display_colours(label_space)
    longest = counts.lengths.shape[2] - 1
    for axis in range(3):
        left = _LEFT + axis * (_PANEL + _GAP)
        draw.text((left, _TOP - 22), "along " + "xyz"[axis], _INK, font)
        for tick in (2, 3, 5, 10, 20, 30, 50, 100, 200):
            x = left + _across(tick, longest)
            draw.line([(x, _TOP), (x, bottom)], (230, 232, 236))
            draw.text((x, bottom + 6), str(tick), _GREY, font, anchor="ma")
        for row, label in enumerate(classes):
            base = _TOP + (row + 1) * _ROW
            red, green, blue = colours[label].tolist()
            curve = _curve(counts.lengths[label, axis].tolist(), longest)
            points = [(left + x, base - 0.85 * _ROW * height) for x, height in curve]
            draw.polygon([(points[0][0], base), *points, (points[-1][0], base)], fill=(red, green, blue))
            draw.line([(left, base), (left + _PANEL, base)], _GREY)
        limit = left + _across(maximum[axis], longest)
        draw.line([(limit, _TOP), (limit, bottom)], _LIMIT)
    for row, label in enumerate(classes):
        draw.text((12, _TOP + (row + 1) * _ROW - 6), label_space.names[label], _INK, font, anchor="ls")
    return sheet


def _curve(voxels: list[int], longest: int) -> list[tuple[float, float]]:
    """Place and height in [0, 1] of a distribution, in steps that grow with length so that each holds enough voxels."""
    edges = [2]
    while edges[-1] <= longest:
        edges.append(edges[-1] + max(1, edges[-1] // 8))
    densities = [sum(voxels[a:b]) / (b - a) for a, b in pairwise(edges)]
    peak = max(densities)
    corners: list[tuple[float, float]] = []
    for (a, b), density in zip(pairwise(edges), densities, strict=True):
        corners += [(_across(a, longest), density / peak), (_across(min(b, longest), longest), density / peak)]
    return corners


def _across(length: int, longest: int) -> float:
    """Pixels from the left edge of a panel, on a logarithmic scale from 2 to the longest."""
    return _PANEL * math.log(min(max(length, 2), longest) / 2) / math.log(longest / 2)


def _classes_in(counts: ScaleCounts, label_space: LabelSpace) -> list[int]:
    """Ids of the occupied classes that occur."""
    voxels = counts.voxels.tolist()
    return [label for label in label_space.occupied if voxels[label]]


def _sizes(sizes: Shape) -> str:
    """One number where all are equal."""
    return str(sizes[0]) if len(set(sizes)) == 1 else " ".join(map(str, sizes))
