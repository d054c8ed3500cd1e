from pathlib import Path

import pytest

from occloom.cache import CacheOrigin, create_cache
from occloom.data.filled_cache import fill_cache
from occloom.data.kitti_files import KittiFrame
from occloom.errors import InputError

ORIGIN = CacheOrigin(source="reversed", settings={}, code_version=1)


def entry(frame: KittiFrame) -> str:
    return f"{frame.token}.txt"


def inputs(frame: KittiFrame) -> tuple[Path, ...]:
    return (frame.file("given", ".txt"),)


def make(frame: KittiFrame) -> bytes:
    return frame.file("given", ".txt").read_bytes()[::-1]


@pytest.fixture
def frames(tmp_path: Path) -> list[KittiFrame]:
    frames = [KittiFrame(tmp_path, "00", f"{number:06d}") for number in range(5)]
    for frame in frames:
        path = frame.file("given", ".txt")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"frame {frame.name}")
    return frames


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.multiprocess)])
def test_every_frame_gets_its_entry_once(frames: list[KittiFrame], tmp_path: Path, workers: int):
    cache = create_cache(tmp_path / "cache", ORIGIN)
    found = list(fill_cache(cache, frames, entry=entry, inputs=inputs, make=make, workers=workers))
    assert sorted(frame.name for frame in found) == [frame.name for frame in frames]
    for frame in frames:
        assert cache.path(entry(frame)).read_text() == f"frame {frame.name}"[::-1]


def test_what_is_finished_is_not_made_again(frames: list[KittiFrame], tmp_path: Path):
    made: list[str] = []

    def counted(frame: KittiFrame) -> bytes:
        made.append(frame.name)
        return make(frame)

    cache = create_cache(tmp_path / "cache", ORIGIN)
    stopped = fill_cache(cache, frames, entry=entry, inputs=inputs, make=counted, workers=1)
    next(stopped)
    stopped.close()
    again = create_cache(tmp_path / "cache", ORIGIN)
    list(fill_cache(again, frames, entry=entry, inputs=inputs, make=counted, workers=1))
    assert made == [frame.name for frame in frames]


def test_other_inputs_and_missing_ones_are_refused(frames: list[KittiFrame], tmp_path: Path):
    cache = create_cache(tmp_path / "cache", ORIGIN)
    list(fill_cache(cache, frames[:2], entry=entry, inputs=inputs, make=make, workers=1))
    frames[1].file("given", ".txt").write_text("changed")
    with pytest.raises(InputError, match="stale"):
        list(fill_cache(cache, frames, entry=entry, inputs=inputs, make=make, workers=1))
    frames[2].file("given", ".txt").unlink()
    with pytest.raises(InputError, match="no such file"):
        list(fill_cache(cache, frames[2:], entry=entry, inputs=inputs, make=make, workers=1))
