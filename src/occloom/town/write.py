"""A whole town on disk: sequences written side by side, each finished or not there at all."""

import shutil
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Literal

from occloom.errors import InputError
from occloom.town.kitti360_writer import Kitti360Layout
from occloom.town.semantickitti_writer import LabelRule, SemanticKittiLayout, TownLayout, TownSettings, write_sequence
from occloom.town.sequences import claim, draft_folder, make_sequences, require_at_least, sequence_seed
from occloom.town.world import build_world

VERSION = 1  # of the town: raised when the same settings give other bytes
LayoutName = Literal["semantickitti", "kitti360"]
LAYOUTS: dict[LayoutName, TownLayout] = {"semantickitti": SemanticKittiLayout(), "kitti360": Kitti360Layout()}

Progress = Callable[[int, int], None]
"""Told how many labelled frames are done, and how many there will be."""


def write_town(
    root: Path,
    *,
    sequences: int,
    frames: int,
    image_size: tuple[int, int],
    seed: int,
    following_scans: int,
    labels: LabelRule = "scans",
    workers: int = 1,
    progress: Progress | None = None,
    first_sequence: int = 0,
    image_every: int = 5,
    scan_every: int = 5,
    layout: LayoutName = "semantickitti",
) -> list[Path]:
    """Writes a town in the layout of a benchmark; sequences that are there already stay as they are.

    The bytes of a sequence depend on the settings and its number alone. A sequence is written beside its place and
    moved there when it is complete, so what an interrupted run leaves can be continued by the same call.

    Args:
        root: folder that holds `town.json` and the sequences.
        sequences: how many sequences.
        frames: labelled frames a sequence; they are five scans (0.5 s) apart.
        image_size: height and width of the pictures, pixels.
        seed: of the whole town.
        following_scans: scans after a frame that add to its voxel labels; 70 in SemanticKITTI.
        labels: `scans`, the official rule, or `exact`, true surfaces.
        workers: processes.
        progress: called now and then with the numbers of labelled frames done and asked for.
        first_sequence: number of the first sequence.
        image_every: scans from one picture pair to the next.
        scan_every: scans from one velodyne file to the next.
        layout: whose files to write, and whose cameras take the pictures.

    Returns:
        The folders of the sequences, in order; with KITTI-360's layout those of pictures and voxels.

    Raises:
        InputError: If a number is too small, the folder holds something else or a town of other settings, or a worker
            is killed.
    """
    settings = TownSettings(seed, frames, image_size, following_scans, labels, image_every, scan_every)
    _check(sequences, first_sequence, workers, settings)
    # SemanticKITTI's layout goes without saying, as in towns that were written before there was another.
    named = {} if layout == "semantickitti" else {"layout": layout}
    claim(root, {"version": VERSION, **named, **asdict(settings)})
    places = LAYOUTS[layout]
    names = [f"{number:02d}" for number in range(first_sequence, first_sequence + sequences)]
    folders = [places.folders(root, name)[-1] for name in names]
    missing = [name for name, folder in zip(names, folders, strict=True) if not folder.is_dir()]
    total = frames * sequences

    def report() -> None:
        if progress is not None:
            pairs = zip(names, folders, strict=True)
            there = [folder if folder.is_dir() else draft_folder(root, name) for name, folder in pairs]
            progress(sum(len(list(folder.rglob("voxels/*.invalid"))) for folder in there), total)

    make = partial(_make_sequence, root, settings, layout)
    make_sequences(root, missing, make, workers=workers, report=report)
    report()
    return folders


def _make_sequence(
    root: Path, settings: TownSettings, layout: LayoutName, name: str, after_frame: Callable[[], None]
) -> None:
    """Writes one sequence to a draft and moves it to its place."""
    draft, places = draft_folder(root, name), LAYOUTS[layout]
    shutil.rmtree(draft, ignore_errors=True)
    world = build_world(seed=sequence_seed(settings.seed, int(name)), duration=settings.duration)
    write_sequence(draft, name, world, settings, after_frame=after_frame, layout=places)
    for made, place in zip(places.folders(draft, name), places.folders(root, name), strict=True):
        shutil.rmtree(place, ignore_errors=True)  # what a run left that was stopped between two folders
        place.parent.mkdir(exist_ok=True)
        made.rename(place)
    shutil.rmtree(draft)


def _check(sequences: int, first_sequence: int, workers: int, settings: TownSettings) -> None:
    """Refuses numbers that make no town."""
    least = {
        "sequences": (sequences, 1),
        "frames": (settings.frames, 1),
        "workers": (workers, 1),
        "following scans": (settings.following_scans, 0),
        "image-every": (settings.image_every, 1),
        "scan-every": (settings.scan_every, 1),
        "seed": (settings.seed, 0),
        "first sequence": (first_sequence, 0),
        "image height": (settings.image_size[0], 8),
        "image width": (settings.image_size[1], 8),
    }
    require_at_least(least)
    if first_sequence + sequences > 100:
        raise InputError(
            f"sequences up to {first_sequence + sequences - 1} are asked for", rule="the layout has 00 to 99"
        )
