import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import occloom.town.write as module
from occloom.errors import InputError
from occloom.town.mesh import World
from occloom.town.write import write_town

TINY: dict[str, Any] = {"frames": 1, "image_size": (16, 48), "seed": 5, "following_scans": 1}


def contents(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


@pytest.fixture
def quick_world(monkeypatch: pytest.MonkeyPatch, plain_world: World) -> None:
    """The hand-made world instead of a built one, in this process."""
    monkeypatch.setattr(module, "build_world", lambda *, seed, duration: plain_world)


@pytest.mark.multiprocess
@pytest.mark.slow
def test_bytes_do_not_depend_on_the_number_of_workers(tmp_path: Path) -> None:
    for workers in (1, 2):
        write_town(tmp_path / str(workers), sequences=2, workers=workers, **TINY)
    one, two = contents(tmp_path / "1"), contents(tmp_path / "2")
    assert len(one) > 20
    assert one == two
    assert one["sequences/00/velodyne/000000.bin"] != one["sequences/01/velodyne/000000.bin"]


def test_progress_counts_frames_and_the_record_holds_the_settings(quick_world: None, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    folders = write_town(
        tmp_path / "town", sequences=2, first_sequence=7, progress=lambda *counts: seen.append(counts), **TINY
    )
    assert [folder.name for folder in folders] == ["07", "08"]
    assert seen[-1] == (2, 2)
    assert seen == sorted(seen)
    record = json.loads((tmp_path / "town" / "town.json").read_text())
    assert record["seed"] == TINY["seed"]
    assert record["image_size"] == list(TINY["image_size"])
    assert record["labels"] == "scans"
    assert {path.name for path in (tmp_path / "town").iterdir()} == {"town.json", "sequences"}


def test_an_interrupted_run_leaves_no_half_sequence_and_is_continued(
    quick_world: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_town(tmp_path / "whole", sequences=2, **TINY)
    real, calls = module.write_sequence, []

    def stops(root: Path, sequence: str, *args: Any, **options: Any) -> None:
        real(root, sequence, *args, **options)
        calls.append(sequence)
        if sequence == "01" and calls.count("01") == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(module, "write_sequence", stops)
    town = tmp_path / "town"
    with pytest.raises(KeyboardInterrupt):
        write_town(town, sequences=2, **TINY)
    assert [path.name for path in (town / "sequences").iterdir()] == ["00"]
    write_town(town, sequences=2, **TINY)
    assert calls == ["00", "01", "01"]
    assert contents(town) == contents(tmp_path / "whole")
    write_town(town, sequences=2, **TINY)
    assert len(calls) == 3


def test_each_layout_has_its_own_towns(quick_world: None, tmp_path: Path) -> None:
    (folder,) = write_town(tmp_path / "town", sequences=1, first_sequence=6, layout="kitti360", **TINY)
    drive = "2013_05_28_drive_0006_sync"
    assert folder == tmp_path / "town" / "data_2d_raw" / drive
    assert {path.name for path in (tmp_path / "town").iterdir()} == {"town.json", "data_2d_raw", "data_3d_raw"}
    before = contents(tmp_path / "town")
    assert f"data_3d_raw/{drive}/velodyne_points/data/000000.bin" in before
    shutil.rmtree(folder)  # as if stopped between the two folders
    write_town(tmp_path / "town", sequences=1, first_sequence=6, layout="kitti360", **TINY)
    assert contents(tmp_path / "town") == before
    with pytest.raises(InputError, match="other settings"):
        write_town(tmp_path / "town", sequences=1, **TINY)


def test_a_foreign_folder_and_other_settings_are_refused(quick_world: None, tmp_path: Path) -> None:
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match="not empty"):
        write_town(tmp_path / "foreign", sequences=1, **TINY)
    assert contents(tmp_path / "foreign") == {"thesis.txt": b"mine"}
    write_town(tmp_path / "town", sequences=1, **TINY)
    with pytest.raises(InputError, match="other settings"):
        write_town(tmp_path / "town", sequences=1, **{**TINY, "seed": 6})


@pytest.mark.parametrize(
    "wrong", [{"frames": 0}, {"sequences": 0}, {"workers": 0}, {"following_scans": -1}, {"first_sequence": 100}]
)
def test_numbers_that_make_no_town_are_refused(tmp_path: Path, wrong: dict[str, int]) -> None:
    with pytest.raises(InputError):
        write_town(tmp_path / "town", **{"sequences": 1, **TINY, **wrong})
    assert not (tmp_path / "town").exists()
