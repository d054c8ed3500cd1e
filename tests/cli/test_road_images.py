from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from occloom.cli.main import run
from occloom.cli.road_images import CITYSCAPES_OF_KITTI, cityscapes_ids
from occloom.data.label_spaces import RAW_LABELS
from occloom.data.road_labels import CITYSCAPES_RAW


def test_ids_mean_the_same_in_both_tables():
    raw = {label.raw_id: label.name for label in RAW_LABELS}
    names = {raw[kitti]: CITYSCAPES_RAW.get(city, "none") for kitti, city in CITYSCAPES_OF_KITTI.items()}
    other = {
        "bicyclist": "rider",
        "motorcyclist": "rider",
        "lane-marking": "road",
        "trunk": "vegetation",
        "traffic-sign": "traffic sign",
        "on-rails": "train",
        "parking": "none",
        "other-ground": "none",
    }
    for kitti, city in names.items():
        plain = kitti.removeprefix("moving-")
        assert city == other.get(plain, plain)


def test_the_sky_has_a_class_and_instances_do_not_matter():
    segments = np.array([[-1, 10 + (7 << 16)], [40, 99]])
    np.testing.assert_array_equal(cityscapes_ids(segments), [[23, 26], [7, 0]])


def test_a_towns_pictures_are_written_once_beside_their_classes(tiny_town: Path, tmp_path: Path):
    command = ["prepare", "road-images", "--root", str(tiny_town), "--out", str(tmp_path), "--sequences", "01"]
    assert run([*command, "--val", "01"]) == 0
    labels = sorted((tmp_path / "cityscapes" / "gtFine").rglob("*.png"))
    assert [path.parent.parent.name for path in labels] == ["val"] * 2
    with Image.open(labels[0]) as picture:
        ids = np.asarray(picture)
    assert {7, 23} <= set(np.unique(ids).tolist())
    copied = tmp_path / "cityscapes" / "leftImg8bit" / "val" / "town" / "town_01_000005_leftImg8bit.png"
    original = tiny_town / "sequences" / "01" / "image_2" / "000005.png"
    assert copied.read_bytes() == original.read_bytes()
    written = [path.stat().st_mtime_ns for path in labels]
    assert run([*command, "--val", "01"]) == 0
    assert [path.stat().st_mtime_ns for path in labels] == written


def test_a_split_of_other_sequences_is_refused(tiny_town: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert run(["prepare", "road-images", "--root", str(tiny_town), "--out", str(tmp_path), "--val", "44"]) == 2
    assert "no sequence 44" in capsys.readouterr().err
