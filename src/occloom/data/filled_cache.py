"""Filling a cache frame by frame: what is finished stays, and several processes write the same bytes as one."""

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import partial
from pathlib import Path
from typing import TypeVar

from occloom.cache import Cache, digests, write_atomically
from occloom.data.kitti_files import StereoFrame

Frame = TypeVar("Frame", bound=StereoFrame)


def fill_cache(
    cache: Cache,
    frames: Sequence[Frame],
    *,
    entry: Callable[[Frame], str],
    inputs: Callable[[Frame], Sequence[Path]],
    make: Callable[[Frame], bytes],
    workers: int,
) -> Iterator[Frame]:
    """Make the entries that are not finished yet, yielding each frame when its own is.

    Args:
        cache: To write into.
        frames: Each gets an entry.
        entry: Names a frame's entry.
        inputs: The files that a frame's entry is made from.
        make: The bytes of a frame's entry; with several workers it and `entry` travel to other processes.
        workers: Processes; the bytes do not depend on their number.

    Raises:
        InputError: If a frame lacks an input, or the cache holds entries of other inputs.
    """
    missing = []
    for frame in frames:
        if cache.done(entry(frame), digests(inputs(frame), frame.root)):
            yield frame
        else:
            missing.append(frame)
    for frame in _each(partial(_write, make, entry, cache.folder), missing, workers):
        cache.record(entry(frame), digests(inputs(frame), frame.root))
        yield frame


def _write(make: Callable[[Frame], bytes], entry: Callable[[Frame], str], folder: Path, frame: Frame) -> Frame:
    """Make and write one frame's entry."""
    write_atomically(folder / entry(frame), make(frame))
    return frame


def _each(work: Callable[[Frame], Frame], frames: Sequence[Frame], workers: int) -> Iterator[Frame]:
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
