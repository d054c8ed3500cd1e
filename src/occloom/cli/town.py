"""`occloom town`: writes the procedural driving world to disk."""

import time
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.console import Console
from rich.table import Table

from occloom.engine.logs import progress_bar
from occloom.town.shares import ClassShares, class_shares
from occloom.town.write import LAYOUTS, write_town


def town(
    out: Annotated[Path, tyro.conf.Positional],
    *,
    sequences: int = 4,
    frames: int = 10,
    image_size: tuple[int, int] = (96, 320),
    seed: int = 0,
    following_scans: int = 70,
    labels: Literal["scans", "exact"] = "scans",
    workers: int = 2,
    first_sequence: int = 0,
    image_every: int = 5,
    scan_every: int = 5,
    layout: Literal["semantickitti", "kitti360"] = "semantickitti",
) -> None:
    """Write a town: streets with labelled scans, stereo pictures and voxels, in the layout of a benchmark.

    The same settings give the same bytes, whatever the number of workers. An interrupted run is continued by the same
    command; sequences that are there already are kept.

    Args:
        out: Folder to write: `sequences/NN/...` (kitti360: `data_2d_raw/...` and `data_3d_raw/...`) and `town.json`,
            the record of the settings.
        sequences: How many sequences.
        frames: Labelled frames a sequence, half a second apart (every fifth scan).
        image_size: Height and width of the pictures, pixels.
        seed: Of the whole town; another seed is another town.
        following_scans: Scans after a frame that add to its voxel labels. SemanticKITTI has 70; 15 is faster and
            leaves more of the world unlabelled.
        labels: `scans` for the official rule, tubes behind moving things included; `exact` for the true surfaces at
            the moment of the frame.
        workers: Processes; a sequence is made by one.
        first_sequence: Number of the first sequence; 08 is SemanticKITTI's validation sequence.
        image_every: Scans from one stereo pair to the next; 1 gives all of them, for models that look at video.
        scan_every: Scans from one velodyne file to the next.
        layout: Whose files, classes and cameras: SemanticKITTI's, or `kitti360` for SSCBench-KITTI-360's (drive 00NN
            is sequence NN; its pictures have 1408x376 pixels, so a quarter is `--image-size 94 352`).
    """
    console = Console()
    names = [f"{number:02d}" for number in range(first_sequence, first_sequence + sequences)]
    there = {folder for name in names if (folder := LAYOUTS[layout].folders(out, name)[-1]).is_dir()}
    started = time.perf_counter()
    with progress_bar() as bar:
        task = bar.add_task("making streets", total=sequences * frames)
        folders = write_town(
            out,
            sequences=sequences,
            frames=frames,
            image_size=image_size,
            seed=seed,
            following_scans=following_scans,
            labels=labels,
            workers=workers,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
            first_sequence=first_sequence,
            image_every=image_every,
            scan_every=scan_every,
            layout=layout,
        )
    seconds = time.perf_counter() - started
    made = sum(folder not in there for folder in folders)
    if made:
        console.print(f"made {made * frames} frames in {seconds:.1f} s, {seconds / (made * frames):.2f} s a frame")
    if made < len(folders):
        console.print(f"kept {len(folders) - made} sequences that were there already")
    console.print(shares_table(class_shares(out)))


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
