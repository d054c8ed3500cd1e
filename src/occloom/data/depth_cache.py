"""Depth of many frames, written once: resumes after an interruption, spreads over processes."""

import io
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np

from occloom.cache import MANIFEST, Cache, read_cache, require_origin
from occloom.data.depth_sources import DepthSource, FileDepth, LidarDepth, SgbmDepth, mobile_stereo_origin
from occloom.data.filled_cache import fill_cache
from occloom.data.kitti360_files import Kitti360Frame, drive_folder
from occloom.data.kitti_files import KittiFrame, StereoFrame
from occloom.errors import InputError


def depth_entry(frame: StereoFrame) -> str:
    """The name of a frame's depth map in its cache: the layout of VoxFormer and VoxDet."""
    return f"sequences/{frame.token}.npy"


def open_depth_cache(folder: Path) -> Cache | None:
    """The cache of prepared depth in a folder, to read from; None where the folder is no cache.

    Raises:
        InputError: If the manifest is damaged, or one of occloom's sources made the cache with other settings or by
            other code than it has now.
    """
    if not (folder / MANIFEST).is_file():
        return None
    cache = read_cache(folder)
    # Whoever reads depth of a network does not need its weights: any will do.
    of_network = mobile_stereo_origin(str(cache.origin.settings.get("weights")))
    for origin in (SgbmDepth().origin, LidarDepth().origin, FileDepth(folder).origin, of_network):
        if origin.source == cache.origin.source:
            require_origin(cache, origin)
    return cache


def named_depth_cache(folder: Path | None) -> Cache | None:
    """The cache in the folder that a data set names; None for a plain folder of files from elsewhere.

    Raises:
        InputError: If no folder is named, or as `open_depth_cache`.
    """
    if folder is None:
        raise InputError(
            "the model needs depth and the data has none",
            rule="depth names a prepared source",
            remedy="run `occloom prepare depth --source stereo-sgbm` and give depth=stereo-sgbm",
        )
    return open_depth_cache(folder)


def require_prepared(cache: Cache, frames: Sequence[StereoFrame], compared: Sequence[StereoFrame]) -> None:
    """Refuse a cache that does not serve a split.

    Args:
        cache: The prepared depth.
        frames: Each must have its whole entry.
        compared: Of these the digests are compared with the inputs as they are now.

    Raises:
        InputError: If an entry is missing, cut short, or was made from other files.
    """
    for frame in frames:
        cache.require_whole(depth_entry(frame))
    for frame in compared:
        cache.check(depth_entry(frame), frame.root)


def frames_to_prepare(
    root: Path, sequences: Sequence[str], which: Literal["voxels", "pictures"]
) -> tuple[StereoFrame, ...]:
    """The frames that have a left picture and, with "voxels", voxels too.

    Args:
        root: Holds `sequences` (SemanticKITTI's layout) or `data_2d_raw` (SSCBench-KITTI-360's).
        sequences: Their names, or the numbers of drives such as 0006; none means all that are there.
        which: "voxels" for the frames that are trained and scored, "pictures" for every one (temporal models).

    Raises:
        InputError: If a sequence is not there, or no frame is found.
    """
    drives = (root / "data_2d_raw").is_dir()
    base = root / ("data_2d_raw" if drives else "sequences")
    if not base.is_dir():
        raise InputError("no such folder", where=base, rule="root holds the folder `sequences`", remedy="check --root")
    given = [drive_folder(name) if drives and name.isdigit() else name for name in sequences]
    frames: list[StereoFrame] = []
    for name in given or sorted(path.name for path in base.iterdir() if path.is_dir()):
        if not (base / name).is_dir():
            raise InputError("no such sequence", where=base / name, remedy="check --sequences")
        pictures = {path.stem for path in (base / name).glob("image_00/data_rect/*.png" if drives else "image_2/*.png")}
        if which == "voxels":
            pictures &= {p.stem for p in (base / name / "voxels").glob("*") if p.suffix in (".bin", ".label")}
        kind = Kitti360Frame if drives else KittiFrame
        frames += [kind(root, name, stem) for stem in sorted(pictures)]
    if not frames:
        raise InputError(
            "no frame to prepare",
            where=base,
            rule="frames need a picture in "
            + ("image_00" if drives else "image_2")
            + (" and a file in voxels" if which == "voxels" else ""),
            remedy="complete the download, or choose other --sequences or --frames",
        )
    return tuple(frames)


def fill_depth_cache(
    cache: Cache, source: DepthSource, frames: Sequence[StereoFrame], *, workers: int
) -> Iterator[StereoFrame]:
    """Prepare what is not finished yet, yielding each frame when it is.

    The bytes do not depend on the number of workers.

    Raises:
        InputError: If a frame lacks an input, or the cache holds entries of other inputs.
    """
    make = partial(_depth_bytes, source)
    return fill_cache(cache, frames, entry=depth_entry, inputs=source.inputs, make=make, workers=workers)


def _depth_bytes(source: DepthSource, frame: StereoFrame) -> bytes:
    """One frame's depth as a `.npy` file."""
    buffer = io.BytesIO()
    np.save(buffer, source.depth(frame))
    return buffer.getvalue()
