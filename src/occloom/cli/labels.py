"""`occloom labels`: what is in voxel labels."""

import itertools
import json
from pathlib import Path
from typing import Annotated

import tyro
from PIL import Image
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from occloom.cli.arguments import bind, ready_to_write, split_name
from occloom.data.labelled_frames import labelled_frames
from occloom.data.occ3d_files import Mask
from occloom.engine.logs import progress_bar
from occloom.errors import InputError
from occloom.grid import LabelSpace
from occloom.labels.statistics import PlaceCounts, count_places
from occloom.viewer.cubes import display_colours
from occloom.viewer.heat_rows import HeatPanel, heat_rows


def stats(
    *,
    root: Path,
    parts: tuple[str, ...] = (),
    mask: Mask = "camera",
    heights: tuple[float, ...] = (0.2, 2.2),
    ranges: tuple[float, ...] = (10.0, 30.0),
    picture: Path | None = None,
    json_file: Annotated[Path | None, tyro.conf.arg(name="json")] = None,
) -> None:
    """Count the voxels of each class by height and by distance, as in Fig. 4 of the Dr.Occ paper.

    Prints a row a class: its voxels, their share of all occupied ones, and which share of them lies in each band of
    heights and of distances; then the regions that the bands make, with how full they are and what fills them. Heights
    are z in the ego frame (on SemanticKITTI and KITTI-360 that of the velodyne, 1.73 m above the road); distances are
    horizontal, from the ego frame's origin.

    Args:
        root: Folder of the data: it holds `gts` (Occ3D), `data_2d_raw` (KITTI-360) or `sequences` (SemanticKITTI).
        parts: Scenes, drives or sequences; all that are there unless given.
        mask: Voxels of Occ3D that count: those a camera sees, those the LiDAR observed, or all.
        heights: Borders between the bands of heights, in metres.
        ranges: Borders between the bands of distances, in metres; whole multiples of 2 are exact.
        picture: Also draw class against height and class against distance to this .png file.
        json_file: Also write all counts to this .json file.
    """
    for name, borders in (("heights", heights), ("ranges", ranges)):
        if list(borders) != sorted(set(borders)):
            raise InputError(f"--{name} is {_numbers(borders)}", rule="borders ascend")
    for path in (picture, json_file):
        if path is not None:
            ready_to_write(path)
    frames = labelled_frames(root, parts, mask)
    total: PlaceCounts | None = None
    with progress_bar() as bar:
        for index in bar.track(range(len(frames)), description="counting"):
            target = frames.target(index)
            if target is None:
                raise InputError("no voxel labels", where=root, rule="statistics are made of labels")
            counts = count_places(target, frames.grid, num_classes=frames.label_space.num_classes)
            total = counts if total is None else total + counts
    assert total is not None, "a data set has at least one frame"
    console = Console(highlight=False)
    console.print(summary(total, frames.label_space, len(frames)))
    console.print(class_table(total, frames.label_space, heights, ranges))
    console.print(region_table(total, frames.label_space, heights, ranges))
    if picture is not None:
        place_picture(total, frames.label_space, heights, ranges).save(picture)
    if json_file is not None:
        json_file.write_text(json.dumps(as_json(total, frames.label_space, len(frames))) + "\n")


def summary(counts: PlaceCounts, label_space: LabelSpace, frames: int) -> str:
    """How many frames, and how much of them is observed and occupied."""
    observed = int(counts.voxels.sum())
    empty = int(counts.voxels[label_space.empty].sum())
    seen = 100 * observed / (observed + counts.unobserved)
    return f"{frames} frames; {seen:.1f} % of all voxels count, {_percent(empty, observed)} % of those are empty."


def class_table(
    counts: PlaceCounts, label_space: LabelSpace, heights: tuple[float, ...], ranges: tuple[float, ...]
) -> Table:
    """Voxels of each class that occurs, their share of the occupied ones, and where they lie, in per cent."""
    regions = counts.by_region(heights, ranges)
    table = Table(box=SIMPLE_HEAD, collapse_padding=True, pad_edge=False)
    table.add_column("class", no_wrap=True)
    for column in ("voxels", "share"):
        table.add_column(column, justify="right", no_wrap=True)
    for name, borders in (("z", heights), ("range", ranges)):
        for band in _bands(borders):
            table.add_column(f"{name}\n{band}", justify="right")
    occupied = int(regions[list(label_space.occupied)].sum())
    for label in _classes_in(counts, label_space):
        voxels = int(regions[label].sum())
        bands = [*regions[label].sum(dim=1).tolist(), *regions[label].sum(dim=0).tolist()]
        shares = [_percent(part, voxels) for part in bands]
        table.add_row(label_space.names[label], f"{voxels:,}", _percent(voxels, occupied, digits=2), *shares)
    return table


def region_table(
    counts: PlaceCounts, label_space: LabelSpace, heights: tuple[float, ...], ranges: tuple[float, ...]
) -> Table:
    """Each region: its observed voxels, how many of them are occupied, and the classes that most of those have."""
    regions = counts.by_region(heights, ranges)
    occupied = list(label_space.occupied)
    table = Table(box=SIMPLE_HEAD, collapse_padding=True, pad_edge=False)
    for column in ("z", "range"):
        table.add_column(column, no_wrap=True)
    for column in ("observed", "occupied", "%"):
        table.add_column(column, justify="right")
    table.add_column("most of them")
    for h, height in enumerate(_bands(heights)):
        for r, distance in enumerate(_bands(ranges)):
            filled = regions[occupied, h, r]
            observed, full = int(regions[:, h, r].sum()), int(filled.sum())
            first = [int(i) for i in filled.argsort(descending=True, stable=True)[:3] if filled[i]]
            most = [f"{label_space.names[occupied[i]]} {_percent(int(filled[i]), full, digits=0)}" for i in first]
            table.add_row(height, distance, f"{observed:,}", f"{full:,}", _percent(full, observed), ", ".join(most))
    return table


def place_picture(
    counts: PlaceCounts, label_space: LabelSpace, heights: tuple[float, ...], ranges: tuple[float, ...]
) -> Image.Image:
    """Class against height and class against distance (Dr.Occ, Fig. 4 a and b); lines mark the bands' borders."""
    classes = _classes_in(counts, label_space)
    voxels = counts.voxels[classes].numpy()
    panels = [
        HeatPanel("height in metres", voxels.sum(axis=2), counts.heights, heights),
        HeatPanel("horizontal distance in metres", voxels.sum(axis=1), counts.ranges, ranges),
    ]
    names = [label_space.names[label] for label in classes]
    colours = display_colours(label_space)[classes]
    return heat_rows(panels, names, colours, heading="voxels of each class, relative to its fullest cell")


def as_json(counts: PlaceCounts, label_space: LabelSpace, frames: int) -> dict[str, object]:
    """All counts, by class, layer and bin of distances, with the borders in metres."""
    by_class = zip(label_space.names, counts.voxels.tolist(), strict=True)
    return {
        "frames": frames,
        "unobserved": counts.unobserved,
        "heights": list(counts.heights),
        "ranges": list(counts.ranges),
        "voxels": dict(by_class),
    }


def main(arguments: list[str]) -> int:
    """Run one command on labels.

    Args:
        arguments: The command line after `occloom labels`.

    Returns:
        The exit code 0.

    Raises:
        InputError: If an input cannot be used.
    """
    name, rest = split_name(arguments)
    if name is None and {"-h", "--help"} & set(rest):
        tyro.extras.subcommand_cli_from_dict({"stats": stats}, prog="occloom labels", args=rest)
    if name != "stats":
        raise InputError(
            f"no command {name!r}" if name else "no command named",
            rule="there is `occloom labels stats`",
            remedy="run `occloom labels --help`",
        )
    bind(stats, rest, prog="occloom labels stats")()
    return 0


def _classes_in(counts: PlaceCounts, label_space: LabelSpace) -> list[int]:
    """Ids of the occupied classes that occur."""
    return [label for label in label_space.occupied if counts.voxels[label].any()]


def _bands(borders: tuple[float, ...]) -> list[str]:
    """Names of the bands between some borders, such as < 10, 10 to 30, > 30."""
    if not borders:
        return ["all"]
    between = [f"{low:g} to {high:g}" for low, high in itertools.pairwise(borders)]
    return [f"< {borders[0]:g}", *between, f"> {borders[-1]:g}"]


def _percent(part: int, whole: int, *, digits: int = 1) -> str:
    """A share in per cent."""
    return f"{100 * part / whole:.{digits}f}" if whole else "-"


def _numbers(numbers: tuple[float, ...]) -> str:
    """As on the command line."""
    return " ".join(f"{number:g}" for number in numbers)
