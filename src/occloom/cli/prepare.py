"""`occloom prepare`: what models read besides pictures, computed once."""

from pathlib import Path
from typing import Literal

import numpy as np
import tyro

from occloom.cache import create_cache
from occloom.cli.arguments import bind, require_at_least, split_name
from occloom.cli.depth_prior import depth_prior
from occloom.cli.image_labels import image_labels
from occloom.cli.masks import masks
from occloom.cli.queries import pseudo_voxels, queries
from occloom.cli.road_images import road_images
from occloom.cli.teacher_features import teacher_features
from occloom.data.depth_cache import depth_entry, fill_depth_cache, frames_to_prepare
from occloom.data.depth_report import depth_errors, markdown_table
from occloom.data.depth_sources import DepthSource, FileDepth, LidarDepth, MobileStereoDepth, SgbmDepth
from occloom.engine.logs import progress_bar
from occloom.errors import InputError
from occloom.stereo.mobile_stereonet import WEIGHTS_REMEDY

SourceName = Literal["stereo-sgbm", "stereo-msnet3d", "lidar", "file"]


def depth(
    *,
    root: Path,
    source: SourceName = "stereo-sgbm",
    out: Path | None = None,
    sequences: tuple[str, ...] = (),
    frames: Literal["voxels", "pictures"] = "voxels",
    files: Path | None = None,
    weights: Path | None = None,
    workers: int | None = None,
) -> None:
    """Prepare the depth of image_2 as float32 metres, one `.npy` a frame; an interrupted run goes on.

    Args:
        root: Folder that holds `sequences`.
        source: `stereo-sgbm` matches image_2 and image_3, `stereo-msnet3d` does so by a network, `lidar` projects the
            scan, `file` checks and takes over what another program wrote.
        out: Folder to write; <root>/depth/<source> unless given.
        sequences: Names such as 00 08; all that are there unless given.
        frames: `voxels` for the frames that have voxels, `pictures` for every picture (temporal models).
        files: With `file`: the folder that holds `sequences/NN/FFFFFF.npy`.
        weights: With `stereo-msnet3d`: the published MSNet3D_SF_DS_KITTI2015.ckpt, or its state dict.
        workers: Processes; 2 unless given, 1 with `stereo-msnet3d`, which uses all cores by itself.
    """
    processes = workers if workers is not None else 1 if source == "stereo-msnet3d" else 2
    require_at_least("workers", processes, 1)
    chosen = frames_to_prepare(root, sequences, frames)
    maker = _source(source, files, weights)
    folder = out or root / "depth" / source
    cache = create_cache(folder, maker.origin)
    with progress_bar() as bar:
        task = bar.add_task("depth", total=len(chosen))
        for _ in fill_depth_cache(cache, maker, chosen, workers=processes):
            bar.advance(task)
    print(f"Depth of {len(chosen)} frames lies in {folder}")


def depth_report(*, root: Path, depth: Path, sequences: tuple[str, ...] = ()) -> None:
    """Compare prepared depth with the LiDAR's, by range, over the frames that have a scan; prints a table.

    Args:
        root: Folder that holds `sequences`.
        depth: Folder of prepared depth, or its name under <root>/depth.
        sequences: Names such as 00 08; all that are there unless given.
    """
    folder = root / "depth" / depth if len(depth.parts) == 1 else depth
    estimated, lidar = FileDepth(folder), LidarDepth()
    chosen = [
        frame
        for frame in frames_to_prepare(root, sequences, "pictures")
        if frame.scan.is_file() and (folder / depth_entry(frame)).is_file()
    ]
    if not chosen:
        raise InputError(
            "no frame has both depth and a scan",
            where=folder,
            rule="the report compares the two",
            remedy="run `occloom prepare depth` first",
        )
    estimates = np.concatenate([estimated.depth(frame).ravel() for frame in chosen])
    truth = np.concatenate([lidar.depth(frame).ravel() for frame in chosen])
    print(f"{len(chosen)} frames against projected LiDAR; {100 * (estimates > 0).mean():.1f} % of all pixels filled\n")
    print(markdown_table(depth_errors(estimates, truth)))


def main(arguments: list[str]) -> int:
    """Run one preparation.

    Args:
        arguments: The command line after `occloom prepare`.

    Returns:
        The exit code 0.

    Raises:
        InputError: If an input cannot be used.
    """
    preparations = {
        "depth": depth,
        "depth-report": depth_report,
        "depth-prior": depth_prior,
        "image-labels": image_labels,
        "masks": masks,
        "pseudo-voxels": pseudo_voxels,
        "queries": queries,
        "road-images": road_images,
        "teacher-features": teacher_features,
    }
    name, rest = split_name(arguments)
    if name is None and {"-h", "--help"} & set(rest):
        tyro.extras.subcommand_cli_from_dict(preparations, prog="occloom prepare", args=rest)
    if name not in preparations:
        raise InputError(
            f"no preparation {name!r}" if name else "no preparation named",
            rule=f"there are {', '.join(preparations)}",
            remedy="run `occloom prepare --help`",
        )
    bind(preparations[name], rest, prog=f"occloom prepare {name}")()
    return 0


def _source(name: SourceName, files: Path | None, weights: Path | None) -> DepthSource:
    """The depth source of a name."""
    if name == "stereo-sgbm":
        return SgbmDepth()
    if name == "lidar":
        return LidarDepth()
    if name == "stereo-msnet3d":
        if weights is None:
            raise InputError(
                "--source stereo-msnet3d needs --weights",
                rule="it names the file of the network's weights",
                remedy=WEIGHTS_REMEDY,
            )
        return MobileStereoDepth(weights)
    if files is None:
        raise InputError("--source file needs --files", rule="it names the folder that holds sequences/NN/FFFFFF.npy")
    return FileDepth(files)
