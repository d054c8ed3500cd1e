from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from occloom.cli.main import run
from occloom.data.kitti360 import Kitti360Config
from occloom.data.kitti360_labels import KITTI_360
from occloom.data.kitti_files import (
    Calibration,
    KittiFrame,
    write_calibration,
    write_voxel_bits,
    write_voxel_labels,
)
from occloom.data.label_spaces import SEMANTIC_KITTI
from occloom.interfaces import Needs
from occloom.viewer.cubes import display_colours

SHAPE = (256, 256, 32)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two frames: a car of 20 voxels with a stray one, and a car with a trail of 60; the ground is unobserved."""
    intrinsics = np.broadcast_to(np.array([[80.0, 0, 63.5], [0, 80.0, 23.5], [0, 0, 1]]), (4, 3, 3))
    projections = np.concatenate([intrinsics, np.zeros((4, 3, 1))], axis=2)
    for name, length in (("000000", 20), ("000005", 60)):
        frame = KittiFrame(tmp_path / "data", "08", name)
        write_calibration(frame.folder / "calib.txt", Calibration(projections, np.eye(4)))
        raw = np.zeros(SHAPE, np.uint16)
        raw[100 : 100 + length, 50:59, 4:11] = 10  # car
        raw[:, :, :4] = 40  # road
        if length == 20:
            raw[10, 10, 20] = 252  # moving car, the same class
        invalid = np.zeros(SHAPE, dtype=bool)
        invalid[:, :, 0] = True
        write_voxel_labels(frame.file("voxels", ".label"), raw)
        write_voxel_bits(frame.file("voxels", ".invalid"), invalid)
        write_voxel_bits(frame.file("voxels", ".bin"), raw > 0)
    return tmp_path / "data"


def rows(printed: str) -> dict[str, list[str]]:
    """Cells of each class."""
    return {cells[0]: cells[1:] for cells in map(str.split, printed.splitlines()) if len(cells) == 7}


def test_lengths_and_shares_are_those_of_the_labels(root, capsys):
    assert run(["scales", "--root", str(root)]) == 0
    printed = capsys.readouterr().out
    assert "2 frames" in printed
    found = rows(printed)
    short, long = 20 * 9 * 7, 60 * 9 * 7
    voxels, x, y, z, too_long, too_small = found["car"]
    assert voxels == f"{short + long + 1:,}"
    # 5 % lie within the short car, half and 95 % within the long one.
    assert (x, y, z) == ("21/61/61", "10/10/10", "8/8/8")
    assert too_long == f"{100 * long / (short + long + 1):.2f}"
    assert too_small == f"{100 / (short + long + 1):.2f}"
    assert found["road"] == [f"{2 * 256 * 256 * 3:,}", *["257/257/257"] * 2, "4/4/4", "100.00", "0.00"]
    assert "empty" not in found
    assert run(["scales", "--root", str(root), "--maximum", "62", "30", "30", "--minimum", "2", "2", "2"]) == 0
    assert rows(capsys.readouterr().out)["car"][-2:] == ["0.00", "0.00"]


def test_the_picture_has_a_row_a_class_in_its_colour(root, tmp_path):
    picture = tmp_path / "made" / "scales.png"
    assert run(["scales", "--root", str(root), "--sequences", "08", "--picture", str(picture)]) == 0
    pixels = np.asarray(Image.open(picture).convert("RGB")).reshape(-1, 3)
    colours, counts = np.unique(pixels, axis=0, return_counts=True)
    often = {tuple(c) for c, n in zip(colours.tolist(), counts.tolist(), strict=True) if n > 200}
    drawn = {
        name
        for name, colour in zip(SEMANTIC_KITTI.names, display_colours(SEMANTIC_KITTI).tolist(), strict=True)
        if tuple(colour) in often
    }
    assert drawn - {"empty"} == {"car", "road"}


def test_drives_of_kitti_360_are_measured_in_their_own_classes(tiny_drives, capsys):
    assert run(["scales", "--root", str(tiny_drives)]) == 0
    printed = capsys.readouterr().out
    data = Kitti360Config(root=tiny_drives, test=("0000",)).build("test", Needs(images=False))
    target = data.target(0)
    assert target is not None
    counts = torch.bincount(target.labels[target.observed], minlength=KITTI_360.num_classes)
    found = rows(printed)
    assert {name for name, count in zip(KITTI_360.names, counts.tolist(), strict=True) if count} == {
        *found,
        "empty",
    } - {"class"}
    assert found["road"][0] == f"{int(counts[KITTI_360.names.index('road')]):,}"


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--root", "{root}/nowhere"], "no sequence has voxels"),
        (["--root", "{root}", "--sequences", "07"], "no such sequence"),
        (["--root", "{root}", "--picture", "{root}"], "a folder"),
        (["--root", "{root}", "--maximum", "thirty"], "--maximum"),
    ],
)
def test_mistakes_give_one_line_and_code_2(root, capsys, arguments, named):
    assert run(["scales", *(argument.format(root=root) for argument in arguments)]) == 2
    error = capsys.readouterr().err
    assert named in error
    assert error.count("\n") == 1


def test_labels_that_are_missing_are_said_to_be(root, capsys):
    for path in root.rglob("*.label"):
        path.unlink()
    assert run(["scales", "--root", str(root)]) == 2
    assert "no voxel labels" in capsys.readouterr().err
