"""Depth of many frames, written once: resumes after an interruption, spreads over processes."""

import io
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np

from occloom.cache import MANIFEST, Cache, digests, read_cache, require_origin, write_atomically
from occloom.data.depth_sources import DepthSource, FileDepth, LidarDepth, SgbmDepth
from occloom.data.kitti_files import KittiFrame
from occloom.errors import InputError


def depth_entry(frame: KittiFrame) -> str:
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
    for source in (SgbmDepth(), LidarDepth(), FileDepth(folder)):
        if source.origin.source == cache.origin.source:
            require_origin(cache, source.origin)
    return cache


def frames_to_prepare(
    root: Path, sequences: Sequence[str], which: Literal["voxels", "pictures"]
) -> tuple[KittiFrame, ...]:
    """The frames that have a picture and, with "voxels", voxels too.

    Args:
        root: Holds `sequences`.
        sequences: Their names; none means all that are there.
        which: "voxels" for the frames that are trained and scored, "pictures" for every one (temporal models).

    Raises:
        InputError: If a sequence is not there, or no frame is found.
    """
    base = root / "sequences"
    if not base.is_dir():
        raise InputError("no such folder", where=base, rule="root holds the folder `sequences`", remedy="check --root")
    names = list(sequences) or sorted(path.name for path in base.iterdir() if path.is_dir())
    frames = []
    for name in names:
        if not (base / name).is_dir():
            raise InputError("no such sequence", where=base / name, remedy="check --sequences")
        pictures = {path.stem for path in (base / name / "image_2").glob("*.png")}
        if which == "voxels":
            pictures &= {p.stem for p in (base / name / "voxels").glob("*") if p.suffix in (".bin", ".label")}
        frames += [KittiFrame(root, name, stem) for stem in sorted(pictures)]
    if not frames:
        raise InputError(
            "no frame to prepare",
            where=base,
            rule=f"frames need a picture in image_2{' and a file in voxels' if which == 'voxels' else ''}",
            remedy="complete the download, or choose other --sequences or --frames",
        )
    return tuple(frames)


def fill_depth_cache(
    cache: Cache, source: DepthSource, frames: Sequence[KittiFrame], *, workers: int
) -> Iterator[KittiFrame]:
    """Prepare what is not finished yet, yielding each frame when it is.

    The bytes do not depend on the number of workers.

    Raises:
        InputError: If a frame lacks an input, or the cache holds entries of other inputs.
    """
    missing = []
    for frame in frames:
        if cache.done(depth_entry(frame), digests(source.inputs(frame), frame.root)):
            yield frame
        else:
            missing.append(frame)
    for frame in _each(partial(_write, source, cache.folder), missing, workers):
        cache.record(depth_entry(frame), digests(source.inputs(frame), frame.root))
        yield frame


def _write(source: DepthSource, folder: Path, frame: KittiFrame) -> KittiFrame:
    """Compute and write one frame's depth."""
    buffer = io.BytesIO()
    np.save(buffer, source.depth(frame))
    write_atomically(folder / depth_entry(frame), buffer.getvalue())
    return frame


def _each(work: Callable[[KittiFrame], KittiFrame], frames: Sequence[KittiFrame], workers: int) -> Iterator[KittiFrame]:
    """Do the work for each frame, in this process or in several; the first error ends it."""
    if workers == 1 or len(frames) < 2:
        yield from map(work, frames)
        return
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        futures = [pool.submit(work, frame) for frame in frames]
        try:
            for future in as_completed(futures):
                yield future.result()
        finally:
            pool.shutdown(cancel_futures=True)
