"""Sequences made side by side in a folder that their settings claim, each of them finished or not there at all."""

import json
import multiprocessing
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import numpy as np

from occloom.errors import InputError

RECORD = "town.json"
POLL_SECONDS = 0.3

Make = Callable[[str, Callable[[], None]], None]
"""Makes the sequence of a name from beginning to end, and calls the function after each frame; it can be pickled."""


def sequence_seed(seed: int, sequence: int) -> int:
    """The seed of a sequence's world, from the seed of the town and the number of the sequence alone."""
    return int(np.random.SeedSequence((seed, sequence)).generate_state(1)[0])


def draft_folder(root: Path, name: str) -> Path:
    """Where a sequence is written until it is complete."""
    return root / f".draft-{name}"


def require_at_least(numbers: Mapping[str, tuple[int | float, int | float]]) -> None:
    """Refuses numbers that make no town: for each name the number that is asked for, and the least."""
    for name, (value, lowest) in numbers.items():
        if value < lowest:
            raise InputError(f"{name} is {value}", rule=f"it must be at least {lowest}")


def claim(root: Path, record: Mapping[str, object]) -> None:
    """Records the settings in an empty folder, or makes sure that a town there has the same.

    Raises:
        InputError: If the folder holds anything else.
    """
    path = root / RECORD
    text = json.dumps(record, indent=2) + "\n"
    if path.is_file():
        if path.read_text() != text:
            raise InputError(
                "the folder holds a town of other settings or another version",
                where=path,
                remedy="choose another folder, or repeat the settings it records to add or finish sequences",
            )
        return
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise InputError("the folder is not empty and not a town", where=root, remedy="choose a new or empty folder")
    root.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def make_sequences(root: Path, names: Sequence[str], make: Make, *, workers: int, report: Callable[[], None]) -> None:
    """Makes sequences one after the other or side by side; fresh processes, so that nothing of this one leaks in.

    Args:
        root: the folder, for messages.
        names: of the sequences.
        make: makes one of them.
        workers: processes.
        report: called now and then, and after frames made in this process.

    Raises:
        InputError: If a worker is killed.
    """
    if workers == 1 or len(names) < 2:
        for name in names:
            make(name, report)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(workers, len(names)), mp_context=context) as pool:
        with _one_thread_each():
            pending = {pool.submit(make, name, _nothing) for name in names}
        while pending:
            done, pending = wait(pending, timeout=POLL_SECONDS, return_when=FIRST_EXCEPTION)
            failed = [future for future in done if future.exception() is not None]
            if failed:
                pool.shutdown(cancel_futures=True)
                _raise(failed[0].exception(), root)
            report()


def _raise(error: BaseException | None, root: Path) -> NoReturn:
    """Raises what stopped a worker; one that was killed left no words of its own."""
    if isinstance(error, BrokenProcessPool):
        raise InputError(
            "a worker process was killed",
            where=root,
            rule="each worker needs about 700 MB of memory",
            remedy="repeat the command to go on, with fewer workers if memory was short",
        ) from error
    assert error is not None
    raise error


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """Processes started within compute on one thread each: they share the cores already."""
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["OMP_NUM_THREADS"]
        else:
            os.environ["OMP_NUM_THREADS"] = before


def _nothing() -> None:
    """After a frame in a worker: the parent counts files."""
