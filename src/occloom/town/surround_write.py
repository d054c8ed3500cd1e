"""A whole surround town on disk, in the layout of nuScenes with Occ3D's labels: scenes written side by side."""

import shutil
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path

from occloom.errors import InputError
from occloom.town.nuscenes_tables import SCENES, write_tables
from occloom.town.nuscenes_writer import Split, SurroundSettings, Sweeps, scene_name, write_scene
from occloom.town.semantickitti_writer import LabelRule
from occloom.town.sequences import claim, draft_folder, make_sequences, require_at_least, sequence_seed
from occloom.town.surround_world import build_surround_world

VERSION = 1  # of the surround town: raised when the same settings give other bytes
IMAGE_SIZE = (225, 400)
"""A quarter of nuScenes' pictures."""

Progress = Callable[[int, int], None]
"""Told how many keyframes are done, and how many there will be."""


def write_surround_town(
    root: Path,
    *,
    sequences: int,
    val_sequences: int,
    frames: int,
    seed: int,
    image_size: tuple[int, int] = IMAGE_SIZE,
    labels: LabelRule = "scans",
    label_seconds: float = 3.0,
    sweeps: Sweeps = "none",
    workers: int = 1,
    first_sequence: int = 0,
    progress: Progress | None = None,
) -> list[Path]:
    """Writes scenes of a surround town; those that are there already stay as they are.

    The bytes of a scene depend on the settings and its number alone. A scene is written beside its place and moved
    there when it is complete; the tables are put together last, from all scenes that are there.

    Args:
        root: folder that holds `town.json` and the data set.
        sequences: how many scenes to train on.
        val_sequences: how many more, with the numbers after those, to validate on.
        frames: keyframes a scene, half a second apart.
        seed: of the whole town.
        image_size: height and width of the pictures, pixels.
        labels: `scans`, accumulated LiDAR, or `exact`, true surfaces.
        label_seconds: drive before the first and after the last keyframe whose scans add to the labels.
        sweeps: files between the keyframes: `none`, `lidar`, or `all`, pictures too.
        workers: processes.
        first_sequence: number of the first scene.
        progress: called now and then with the numbers of keyframes done and asked for.

    Returns:
        The folders of the scenes' labels, in order.

    Raises:
        InputError: If a number is too small, the folder holds something else or a town of other settings, a scene is
            there in the other split, or a worker is killed.
    """
    settings = SurroundSettings(seed, frames, image_size, labels, label_seconds, sweeps)
    _check(sequences, val_sequences, first_sequence, workers, settings)
    claim(root, {"surround_version": VERSION, "layout": "nuscenes", **asdict(settings)})
    numbers = range(first_sequence, first_sequence + sequences + val_sequences)
    splits: dict[str, Split] = {
        scene_name(number): "train" if number < first_sequence + sequences else "val" for number in numbers
    }
    missing = [name for name, split in splits.items() if not scene_is_there(root, name, split)]
    total = frames * len(splits)

    def report() -> None:
        if progress is not None:
            there = [draft_folder(root, name) if name in missing else root for name in splits]
            pairs = zip(splits, there, strict=True)
            progress(sum(_frames_in(folder, name) or _frames_in(root, name) for name, folder in pairs), total)

    make = partial(_make_scene, root, settings, splits)
    make_sequences(root, missing, make, workers=workers, report=report)
    write_tables(root)
    report()
    return [root / "gts" / name for name in splits]


def scene_is_there(root: Path, name: str, split: Split) -> bool:
    """Whether a scene is complete.

    Raises:
        InputError: If it is, in the other split.
    """
    found = next((other for other in ("train", "val") if _rows(root, other, name).is_file()), None)
    if found not in (None, split):
        raise InputError(
            f"{name} is there as a scene of the {found} split",
            where=root,
            rule=f"it is asked for as one of the {split} split",
            remedy="repeat --sequences and --val-sequences, or choose another --first-sequence",
        )
    return found is not None


def _make_scene(
    root: Path,
    settings: SurroundSettings,
    splits: dict[str, Split],
    name: str,
    after_frame: Callable[[], None],
) -> None:
    """Writes one scene to a draft and moves its files to their places, its rows last."""
    draft, number = draft_folder(root, name), int(name.removeprefix("scene-"))
    shutil.rmtree(draft, ignore_errors=True)
    world = build_surround_world(
        seed=sequence_seed(settings.seed, number), duration=settings.duration, stretch=settings.stretch
    )
    write_scene(draft, number, world, settings, split=splits[name], after_frame=after_frame)
    made = [path for path in sorted(draft.rglob("*")) if path.is_file()]
    for path in sorted(made, key=lambda path: SCENES in path.relative_to(draft).parts[:1]):
        place = root / path.relative_to(draft)
        place.parent.mkdir(parents=True, exist_ok=True)
        path.rename(place)
    shutil.rmtree(draft)


def _rows(root: Path, split: str, name: str) -> Path:
    """The file with a scene's rows; once it is there, the scene is complete."""
    return root / SCENES / split / f"{name}.json"


def _frames_in(folder: Path, name: str) -> int:
    """Keyframes of a scene that have labels."""
    return len(list((folder / "gts" / name).glob("*/labels.npz")))


def _check(sequences: int, val_sequences: int, first_sequence: int, workers: int, settings: SurroundSettings) -> None:
    """Refuses numbers that make no town."""
    least = {
        "sequences": (sequences, 0),
        "val-sequences": (val_sequences, 0),
        "scenes": (sequences + val_sequences, 1),
        "frames": (settings.frames, 1),
        "workers": (workers, 1),
        "label-seconds": (settings.label_seconds, 0.1),
        "seed": (settings.seed, 0),
        "first sequence": (first_sequence, 0),
        "image height": (settings.image_size[0], 8),
        "image width": (settings.image_size[1], 8),
    }
    require_at_least(least)
    if first_sequence + sequences + val_sequences > 10_000:
        raise InputError("scenes beyond 9999 are asked for", rule="the layout has scene-0000 to scene-9999")
