import numpy as np
import pytest

from occloom.data.label_spaces import IGNORED
from occloom.data.road_labels import BDD100K_RAW, CITYSCAPES_RAW, KITTI360_RAW, NUIMAGES_NAMES, ROAD, road_ids


def test_the_classes_are_cityscapes_19_in_their_order():
    assert ROAD.names[1:9] == ("road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign")
    assert ROAD.names[9:14] == ("vegetation", "terrain", "sky", "person", "rider")
    assert ROAD.names[14:] == ("car", "truck", "bus", "train", "motorcycle", "bicycle")
    assert ROAD.empty == 0
    assert ROAD.colours[ROAD.names.index("road")] == (128, 64, 128)
    assert len(set(ROAD.colours)) == 20


@pytest.mark.parametrize("names", [CITYSCAPES_RAW, KITTI360_RAW, BDD100K_RAW])
def test_every_class_can_be_had_and_what_has_none_is_ignored(names):
    table = road_ids(names)
    assert set(table) == {*range(1, 20), IGNORED}
    assert all(table[raw] == ROAD.names.index(name) for raw, name in names.items())
    assert table[255] == IGNORED


def test_cityscapes_training_ids_are_the_dense_ones_less_one():
    # As published: 7 8 11 12 13 17 19 20 21 22 23 24 25 26 27 28 31 32 33.
    raw = [7, 8, *range(11, 14), 17, *range(19, 29), *range(31, 34)]
    np.testing.assert_array_equal(road_ids(CITYSCAPES_RAW)[raw], np.arange(1, 20))
    np.testing.assert_array_equal(road_ids(BDD100K_RAW)[:19], np.arange(1, 20))


def test_nuimages_names_only_classes_of_roads():
    assert set(NUIMAGES_NAMES.values()) <= set(ROAD.names)
