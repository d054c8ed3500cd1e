"""Each layout with pictures of the town in it: what is read is what the town's rays met."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from town_views import ANNOTATED, VISTAS_OF_ROAD, WRITERS, save, town_views

from occloom.data.kitti_files import read_image
from occloom.data.label_spaces import IGNORED
from occloom.data.labelled_pictures import ClassPicture, write_classes
from occloom.data.road_images import READERS
from occloom.data.road_labels import ROAD
from occloom.data.vistas_labels import VISTAS, VISTAS_IDS
from occloom.errors import InputError


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("split", ["train", "val"])
def test_pixels_have_the_classes_that_the_town_has(name, split, town_sets: Path, tiny_town: Path):
    (labelled,) = READERS[name](town_sets / name, split)
    view = town_views(tiny_town)[split == "val"]
    assert view.name in labelled.token
    assert labelled.token.startswith(f"{name}/")
    assert np.abs(read_image(labelled.picture).astype(int) - view.image).mean() < 2
    classes = labelled.classes.read()
    space = VISTAS if name == "vistas" else ROAD
    found = np.array([*space.names, *[""] * (256 - space.num_classes)])[classes]
    expected = np.where(np.isin(view.names, list(ANNOTATED[name])), view.names, "")
    if name == "vistas":
        expected = np.array([VISTAS_OF_ROAD.get(one, "") for one in expected.ravel()]).reshape(expected.shape)
    np.testing.assert_array_equal(found, expected)
    assert len(np.unique(found)) > 3


@pytest.mark.parametrize("name", WRITERS)
def test_an_empty_folder_is_refused_with_what_to_fetch(name, tmp_path: Path):
    with pytest.raises(InputError, match=r"no label picture there|no such list|no such table"):
        READERS[name](tmp_path, "train")


def test_cameras_that_were_not_fetched_are_left_out_and_a_spoilt_list_is_named(town_sets: Path, tmp_path: Path):
    tokens = [picture.token for picture in READERS["kitti360"](town_sets / "kitti360", "val")]
    assert tokens == ["kitti360/2013_05_28_drive_0000_sync_image_00_01000005"]
    listing = tmp_path / "data_2d_semantics" / "train" / "2013_05_28_drive_val_frames.txt"
    listing.parent.mkdir(parents=True)
    listing.write_text("a/b/c/d/e.png f.png\n")
    with pytest.raises(InputError, match="no picture of it is there"):
        READERS["kitti360"](tmp_path, "val")
    listing.write_text("one\n")
    with pytest.raises(InputError, match="a line names a picture and its labels"):
        READERS["kitti360"](tmp_path, "val")


def test_coloured_previews_are_refused(tmp_path: Path):
    save(tmp_path / "labels.png", np.zeros((4, 5, 3), np.uint8))
    with pytest.raises(InputError, match="has mode RGB"):
        ClassPicture(tmp_path / "labels.png", VISTAS_IDS).read()


def test_a_palette_is_not_looked_at_and_bytes_without_a_class_are_ignored(tmp_path: Path):
    raw = np.array([[0, 21, 123], [122, 124, 255]], np.uint8)
    save(tmp_path / "labels.png", raw, palette=True)
    classes = ClassPicture(tmp_path / "labels.png", VISTAS_IDS).read()
    np.testing.assert_array_equal(classes, [[1, 22, IGNORED], [123, IGNORED, IGNORED]])


def test_written_classes_are_bytes_in_colour(tmp_path: Path):
    classes = np.arange(20, dtype=np.uint8).reshape(4, 5)
    write_classes(tmp_path / "set" / "name.png", classes, ROAD)
    with Image.open(tmp_path / "set" / "name.png") as picture:
        np.testing.assert_array_equal(np.asarray(picture), classes)
        np.testing.assert_array_equal(np.asarray(picture.convert("RGB")), np.array(ROAD.colours)[classes])
