import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import occloom.town.surround_write as module
from occloom.errors import InputError
from occloom.town.mesh import World
from occloom.town.shares import class_shares
from occloom.town.surround_write import write_surround_town

TINY: dict[str, Any] = {"frames": 1, "image_size": (9, 16), "seed": 5, "label_seconds": 0.1}


def contents(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


@pytest.fixture
def quick_world(monkeypatch: pytest.MonkeyPatch, plain_world: World) -> None:
    """The hand-made world instead of a built one, in this process."""
    monkeypatch.setattr(module, "build_surround_world", lambda *, seed, duration, stretch: plain_world)


@pytest.mark.multiprocess
@pytest.mark.slow
def test_bytes_do_not_depend_on_the_number_of_workers(tmp_path: Path) -> None:
    for workers in (1, 2):
        write_surround_town(tmp_path / str(workers), sequences=1, val_sequences=1, workers=workers, **TINY)
    assert contents(tmp_path / "1") == contents(tmp_path / "2")


def test_scenes_can_be_added_and_interrupted_runs_continued(
    quick_world: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, int]] = []
    folders = write_surround_town(
        tmp_path / "whole", sequences=1, val_sequences=1, progress=lambda *counts: seen.append(counts), **TINY
    )
    assert [folder.name for folder in folders] == ["scene-0000", "scene-0001"]
    assert seen[-1] == (2, 2)
    assert seen == sorted(seen)
    real = module.write_scene

    def stops(root: Path, number: int, *args: Any, **options: Any) -> None:
        real(root, number, *args, **options)
        raise KeyboardInterrupt

    town = tmp_path / "town"
    write_surround_town(town, sequences=1, val_sequences=0, **TINY)
    monkeypatch.setattr(module, "write_scene", stops)
    with pytest.raises(KeyboardInterrupt):
        write_surround_town(town, sequences=1, val_sequences=1, **TINY)
    assert json.loads((town / "annotations.json").read_text())["val_split"] == []
    monkeypatch.setattr(module, "write_scene", real)
    write_surround_town(town, sequences=1, val_sequences=1, **TINY)
    assert contents(town) == contents(tmp_path / "whole")
    with pytest.raises(InputError, match="scene-0001 is there as a scene of the val split"):
        write_surround_town(town, sequences=2, val_sequences=0, **TINY)
    with pytest.raises(InputError, match="other settings"):
        write_surround_town(town, sequences=1, val_sequences=1, **{**TINY, "seed": 6})


@pytest.mark.parametrize("wrong", [{"frames": 0}, {"sequences": 0}, {"workers": 0}, {"image_size": (4, 4)}])
def test_numbers_that_make_no_town_are_refused(tmp_path: Path, wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        write_surround_town(tmp_path / "town", **{"sequences": 1, "val_sequences": 0, **TINY, **wrong})
    assert not (tmp_path / "town").exists()


def test_the_tiny_town_has_all_common_classes_on_all_sides(tiny_surround_town: Path) -> None:
    shares = class_shares(tiny_surround_town)
    assert (shares.num_sequences, shares.num_frames) == (2, 4)
    names = {shares.label_space.names[k] for k in shares.label_space.occupied if shares.sequences[k] == 2}
    assert names >= {"car", "driveable_surface", "sidewalk", "terrain", "manmade", "vegetation", "traffic_cone"}
    for path in tiny_surround_town.glob("gts/*/*/labels.npz"):
        with np.load(path) as file:
            filled = file["semantics"] != shares.label_space.empty
        assert all(filled[part].any() for part in (np.s_[:50], np.s_[150:], np.s_[:, :60], np.s_[:, 140:]))
        assert filled.any(axis=(0, 1))[2:].all()
