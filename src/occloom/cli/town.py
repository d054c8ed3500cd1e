"""`occloom town`: writes the procedural driving world to disk."""

import time
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.console import Console
from rich.table import Table

from occloom.engine.logs import progress_bar
from occloom.errors import InputError
from occloom.town.nuscenes_tables import SCENES
from occloom.town.shares import ClassShares, class_shares
from occloom.town.surround_write import IMAGE_SIZE, write_surround_town
from occloom.town.write import LAYOUTS, write_town

STEREO_IMAGE_SIZE = (96, 320)
Layout = Literal["semantickitti", "kitti360", "nuscenes"]


def town(
    out: Annotated[Path, tyro.conf.Positional],
    *,
    sequences: int = 4,
    frames: int = 10,
    image_size: tuple[int, int] | None = None,
    seed: int = 0,
    following_scans: int = 70,
    labels: Literal["scans", "exact"] = "scans",
    workers: int = 2,
    first_sequence: int = 0,
    image_every: int = 5,
    scan_every: int = 5,
    layout: Layout = "semantickitti",
    val_sequences: int = 0,
    label_seconds: float = 3.0,
    sweeps: Literal["none", "lidar", "all"] = "none",
) -> None:
    """Write a town: streets with labelled scans, pictures and voxels, in the layout of a benchmark.

    The same settings give the same bytes, whatever the number of workers. An interrupted run is continued by the same
    command; sequences that are there already are kept.

    Args:
        out: Folder to write: `sequences/NN/...` (kitti360: `data_2d_raw/...` and `data_3d_raw/...`; nuscenes:
            `samples/...`, `gts/...` and tables) and `town.json`, the record of the settings.
        sequences: How many sequences (nuscenes: scenes of the train split).
        frames: Labelled frames a sequence, half a second apart (every fifth scan of KITTI's layouts).
        image_size: Height and width of the pictures, pixels; 96 320, or with nuscenes 225 400, unless given.
        seed: Of the whole town; another seed is another town.
        following_scans: Scans after a frame that add to its labels, not nuscenes (SemanticKITTI: 70; 15 is faster).
        labels: `scans` for the official rule, tubes behind moving things included; `exact` for the true surfaces at
            the moment of the frame.
        workers: Processes; a sequence is made by one.
        first_sequence: Number of the first sequence; 08 is SemanticKITTI's validation sequence.
        image_every: Scans from one stereo pair to the next; 1 gives all of them, for video models (not nuscenes).
        scan_every: Scans from one velodyne file to the next (not nuscenes).
        layout: Whose files, classes and cameras: SemanticKITTI's, `kitti360` for SSCBench-KITTI-360's (drive 00NN
            is sequence NN; its pictures have 1408x376 pixels, so a quarter is `--image-size 94 352`), or `nuscenes`
            for nuScenes with Occ3D's labels, six cameras around.
        val_sequences: How many more scenes for the val split, with the numbers after those of `sequences` (nuscenes).
        label_seconds: Drive before the first and after the last keyframe whose scans add to the labels (nuscenes).
        sweeps: Files between the keyframes (nuscenes): none, the LiDAR's (20 a second), or the cameras' (12) too.
    """
    _refuse_foreign(
        layout, (val_sequences, label_seconds, sweeps) != (0, 3.0, "none"), (following_scans, image_every, scan_every)
    )
    console, started = Console(), time.perf_counter()
    there = _complete(out, layout, range(first_sequence, first_sequence + sequences))
    with progress_bar() as bar:
        task = bar.add_task("making streets", total=(sequences + val_sequences) * frames)
        write = (
            partial(write_surround_town, val_sequences=val_sequences, label_seconds=label_seconds, sweeps=sweeps)
            if layout == "nuscenes"
            else partial(
                write_town,
                following_scans=following_scans,
                image_every=image_every,
                scan_every=scan_every,
                layout=layout,
            )
        )
        folders = write(
            out,
            sequences=sequences,
            frames=frames,
            image_size=image_size or (IMAGE_SIZE if layout == "nuscenes" else STEREO_IMAGE_SIZE),
            seed=seed,
            labels=labels,
            workers=workers,
            first_sequence=first_sequence,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    seconds = time.perf_counter() - started
    made = sum(folder.name not in there for folder in folders)
    if made:
        console.print(f"made {made * frames} frames in {seconds:.1f} s, {seconds / (made * frames):.2f} s a frame")
    if made < len(folders):
        console.print(f"kept {len(folders) - made} sequences that were there already")
    console.print(shares_table(class_shares(out)))


def _complete(out: Path, layout: Layout, numbers: range) -> set[str]:
    """Names of the folders of sequences that are there already."""
    if layout == "nuscenes":
        return {path.stem for path in (out / SCENES).glob("*/*.json")}
    folders = [LAYOUTS[layout].folders(out, f"{number:02d}")[-1] for number in numbers]
    return {folder.name for folder in folders if folder.is_dir()}


def _refuse_foreign(layout: Layout, surround_options: bool, stereo_options: tuple[int, int, int]) -> None:
    """Refuses options of the other kind of layout, rather than to leave them out."""
    if layout != "nuscenes" and surround_options:
        raise InputError(
            "--val-sequences, --label-seconds and --sweeps are options of --layout nuscenes",
            rule=f"the layout is {layout}",
            remedy="leave them out; the validation sequence is 08, made with --first-sequence 8",
        )
    if layout == "nuscenes" and stereo_options != (70, 5, 5):
        raise InputError(
            "--following-scans, --image-every and --scan-every are options of KITTI's layouts",
            rule="the layout is nuscenes",
            remedy="leave them out; --sweeps writes files between the keyframes",
        )


def shares_table(shares: ClassShares) -> Table:
    """The class shares of a town beside those of the benchmark."""
    table = Table(
        title=f"Filled voxels, {shares.num_frames} frames of {shares.num_sequences} sequences; real: the benchmark's"
    )
    table.add_column("class")
    for heading in ("per frame", "share %", "real %", "ratio", "sequences"):
        table.add_column(heading, justify="right")
    for k in shares.label_space.occupied:
        table.add_row(
            shares.label_space.names[k],
            f"{shares.voxels[k] / shares.num_frames:.0f}",
            f"{100 * shares.share[k]:.3f}",
            f"{100 * shares.reference[k]:.3f}",
            f"{shares.share[k] / shares.reference[k]:.2f}",
            f"{shares.sequences[k]}/{shares.num_sequences}",
        )
    return table
