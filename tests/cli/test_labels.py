import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from occloom.cli.main import run
from occloom.data.occ3d_files import Occ3dLabels, label_path, write_labels
from occloom.data.occ3d_labels import OCC3D, OCC3D_GRID

CAR, ROAD, FREE = OCC3D.names.index("car"), OCC3D.names.index("driveable_surface"), OCC3D.empty


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two frames of a road layer 1 m below the ego frame and a car 20 m ahead; cameras see the half before the car."""
    for number, scene in enumerate(("scene-0001", "scene-0002")):
        semantics = np.full(OCC3D_GRID.shape, FREE, np.uint8)
        semantics[:, :, 0] = ROAD
        if number:
            semantics[145:155, 95:100, 1:4] = CAR
        mask_camera = np.zeros(OCC3D_GRID.shape, dtype=bool)
        mask_camera[100:] = True
        labels = Occ3dLabels(semantics, np.ones_like(mask_camera), mask_camera)
        write_labels(label_path(tmp_path / "data", f"{scene}/abc"), labels)
    return tmp_path / "data"


def rows(printed: str) -> dict[str, list[str]]:
    """Cells of each class."""
    return {cells[0]: cells[1:] for cells in map(str.split, printed.splitlines()) if len(cells) == 9}


def test_classes_and_regions_are_those_of_the_labels(root: Path, capsys: pytest.CaptureFixture[str]):
    assert run(["labels", "stats", "--root", str(root)]) == 0
    printed = capsys.readouterr().out
    assert "2 frames; 50.0 % of all voxels count" in printed
    found = rows(printed)
    # 10 x 5 x 3 voxels, two of three layers below 0.2 m, all between 10 and 30 m away.
    assert found["car"] == ["150", f"{100 * 150 / 40150:.2f}", "66.7", "33.3", "0.0", "0.0", "100.0", "0.0"]
    assert found["driveable_surface"][:5] == ["40,000", f"{100 * 40000 / 40150:.2f}", "100.0", "0.0", "0.0"]
    # The car's 100 lower voxels are 0.6 % of what fills its region.
    assert "driveable_surface 99, car 1" in " ".join(printed.split())


def test_mask_scenes_and_bands_can_be_chosen(root: Path, capsys: pytest.CaptureFixture[str]):
    command = ["labels", "stats", "--root", str(root), "--parts", "scene-0001", "--mask", "none"]
    assert run([*command, "--heights", "--ranges", "20"]) == 0
    printed = capsys.readouterr().out
    assert "1 frames; 100.0 % of all voxels count, 93.8 % of those are empty" in printed
    cells = next(line.split() for line in printed.splitlines() if line.split()[:1] == ["driveable_surface"])
    assert cells[1:4] == ["40,000", "100.00", "100.0"]
    assert float(cells[4]) == pytest.approx(100 * np.pi * 20**2 / 80**2, abs=0.2)


def test_counts_and_picture_are_written(root: Path, tmp_path: Path):
    picture, numbers = tmp_path / "made" / "places.png", tmp_path / "made" / "places.json"
    assert run(["labels", "stats", "--root", str(root), "--picture", str(picture), "--json", str(numbers)]) == 0
    report = json.loads(numbers.read_text())
    assert report["frames"] == 2
    assert report["heights"][:2] == pytest.approx([-1.0, -0.6])
    voxels = np.array(report["voxels"]["car"])
    assert voxels.shape == (16, len(report["ranges"]) - 1)
    assert voxels.sum(axis=1).tolist() == [0, 50, 50, 50, *[0] * 12]
    assert Image.open(picture).height > 60


@pytest.mark.real_data
def test_the_real_label_fills_the_low_and_near_with_road(real_data: Path, capsys: pytest.CaptureFixture[str]):
    assert run(["labels", "stats", "--root", str(real_data / "occ3d_nuscenes")]) == 0
    found = rows(capsys.readouterr().out)
    assert found["driveable_surface"][:2] == ["5,933", "25.95"]
    assert found["vegetation"][0] == "8,045"


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--root", "{root}/gts"], "no layout that is known"),
        (["--root", "{root}", "--heights", "2", "1"], "--heights is 2 1"),
        (["--root", "{root}", "--picture", "{root}"], "a folder"),
        (["--root", "{root}", "--mask", "lidars"], "--mask"),
    ],
)
def test_mistakes_give_one_line_and_code_2(root, capsys, arguments, named):
    assert run(["labels", "stats", *(argument.format(root=root) for argument in arguments)]) == 2
    error = capsys.readouterr().err
    assert named in error
    assert error.count("\n") == 1


def test_a_command_that_does_not_exist_is_refused(capsys):
    assert run(["labels", "statistic"]) == 2
    assert "occloom labels stats" in capsys.readouterr().err
    assert run(["labels", "--help"]) == 0
