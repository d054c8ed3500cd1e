import numpy as np
import pytest

from occloom.data.label_spaces import IGNORED, RAW_LABELS, SEMANTIC_KITTI, SEMANTIC_KITTI_GRID, to_raw_ids, to_train_ids


def test_every_class_comes_back_from_its_raw_id():
    train = np.arange(20, dtype=np.uint8)
    raw = to_raw_ids(train)
    assert np.array_equal(to_train_ids(raw), train)
    names = {label.raw_id: label.name for label in RAW_LABELS}
    assert [names[int(r)] for r in raw[1:]] == list(SEMANTIC_KITTI.names[1:])


def test_classes_and_grid_are_the_published_ones():
    assert SEMANTIC_KITTI.num_classes == 20
    assert SEMANTIC_KITTI_GRID.lower == (0, -25.6, -2)
    assert SEMANTIC_KITTI_GRID.upper == pytest.approx((51.2, 25.6, 4.4))
    assert SEMANTIC_KITTI_GRID.num_voxels == 2_097_152


def test_only_raw_zero_is_empty():
    every = to_train_ids(np.arange(1 << 16, dtype=np.uint16))
    assert np.flatnonzero(every == SEMANTIC_KITTI.empty).tolist() == [0]
    assert all(every[i] == IGNORED for i in (1, 52, 99, 2, 358, 65535))
    assert np.unique(every).tolist() == [*range(20), 255]


def test_moving_things_have_the_class_of_standing_ones():
    by_name = {label.name: label.train_id for label in RAW_LABELS}
    for name, train_id in by_name.items():
        if name.startswith("moving-"):
            assert train_id == by_name[name.removeprefix("moving-")]


def test_an_ignored_prediction_has_no_raw_id():
    with pytest.raises(IndexError):
        to_raw_ids(np.array([IGNORED], dtype=np.uint8))


def test_class_weights_lie_where_the_papers_have_them():
    weights = SEMANTIC_KITTI.class_weights().numpy()
    assert weights.argmin() == SEMANTIC_KITTI.empty
    assert weights[[9, 13, 15]].max() < weights[[2, 3, 8]].min()
