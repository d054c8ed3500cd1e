from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import pytest

from occloom.errors import InputError
from occloom.town import sequences
from occloom.town.sequences import claim, make_sequences, sequence_seed


def test_seeds_of_sequences_differ_and_depend_on_both_numbers() -> None:
    seeds = {sequence_seed(seed, number) for seed in range(20) for number in range(50)}
    assert len(seeds) == 1000


def test_each_sequence_is_made_once_and_reports() -> None:
    made: list[str] = []

    def make(name: str, after_frame: Callable[[], None]) -> None:
        made.append(name)
        after_frame()

    make_sequences(Path(), ["00", "01"], make, workers=1, report=lambda: made.append("."))
    assert made == ["00", ".", "01", "."]


def test_a_folder_is_claimed_once(tmp_path: Path) -> None:
    claim(tmp_path / "town", {"seed": 1})
    claim(tmp_path / "town", {"seed": 1})
    with pytest.raises(InputError, match="other settings"):
        claim(tmp_path / "town", {"seed": 2})


def test_a_killed_worker_gives_a_line_with_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    class Killed(ThreadPoolExecutor):
        def __init__(self, max_workers: int, mp_context: object) -> None:
            super().__init__(max_workers)

    def die(*args: object) -> None:
        raise BrokenProcessPool

    monkeypatch.setattr(sequences, "ProcessPoolExecutor", Killed)
    with pytest.raises(InputError, match=r"killed.*repeat the command"):
        make_sequences(Path("town"), ["00", "01"], die, workers=2, report=lambda: None)
