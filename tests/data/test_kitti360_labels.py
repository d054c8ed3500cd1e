import numpy as np
import pytest

from occloom.data.kitti360_labels import KITTI_360, RAW_IDS_OF_CLASS, to_kitti360_ids, to_kitti360_raw_ids
from occloom.data.label_spaces import IGNORED, RAW_LABELS, SEMANTIC_KITTI


def test_a_raw_id_means_the_class_of_its_semantickitti_name():
    # Where both benchmarks have a class for a raw id, it has one name.
    for label in RAW_LABELS:
        train = int(to_kitti360_ids(np.array([label.raw_id], np.uint16))[0])
        if label.train_id and SEMANTIC_KITTI.names[label.train_id] in KITTI_360.names:
            expected = SEMANTIC_KITTI.names[label.train_id]
            assert KITTI_360.names[train] == expected
        elif label.name in KITTI_360.names:
            assert KITTI_360.names[train] == label.name
        elif label.raw_id:
            assert train == IGNORED


def test_ids_go_there_and_back():
    train = np.arange(KITTI_360.num_classes, dtype=np.uint8)
    assert np.array_equal(to_kitti360_ids(to_kitti360_raw_ids(train)), train)
    everything = to_kitti360_ids(np.arange(1 << 16, dtype=np.uint16))
    assert (everything != IGNORED).sum() == sum(map(len, RAW_IDS_OF_CLASS))
    with pytest.raises(IndexError):
        to_kitti360_raw_ids(np.array([IGNORED], np.uint8))


def test_common_things_outweigh_rare_ones():
    weights = KITTI_360.class_weights()
    assert KITTI_360.num_classes == 19
    assert weights.argmin() == KITTI_360.empty
    assert KITTI_360.names[int(weights.argmax())] == "motorcycle"
