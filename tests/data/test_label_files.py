from pathlib import Path

import numpy as np
import pytest

from occloom.data.kitti360_labels import KITTI_360
from occloom.data.kitti_files import write_voxel_bits, write_voxel_bytes, write_voxel_labels
from occloom.data.label_files import KITTI_360_FILES, SEMANTIC_KITTI_FILES
from occloom.data.label_spaces import SEMANTIC_KITTI
from occloom.errors import InputError

SHAPE = (256, 256, 32)


def test_a_predicted_id_without_a_class_is_refused_where_observed(tmp_path: Path):
    raw = np.zeros(SHAPE, np.uint16)
    raw[5, 6, 7] = 99
    path = tmp_path / "000000.label"
    write_voxel_labels(path, raw)
    observed = np.ones(SHAPE, bool)
    with pytest.raises(InputError, match=r"000000\.label: predicts raw id 99"):
        SEMANTIC_KITTI_FILES.read_prediction(path, observed)
    observed[5, 6, 7] = False
    assert (SEMANTIC_KITTI_FILES.read_prediction(path, observed) == SEMANTIC_KITTI.empty).all()
    # What SemanticKITTI ignores is a class of KITTI-360.
    assert KITTI_360_FILES.read_prediction(path, ~observed)[5, 6, 7] == KITTI_360.names.index("other-object")


def test_ignored_labels_are_unobserved_and_empty(tmp_path: Path):
    raw = np.zeros(SHAPE, np.uint16)
    raw[0, 0, 0], raw[1, 1, 1], raw[2, 2, 2] = 52, 10, 10
    invalid = np.zeros(SHAPE, bool)
    invalid[2, 2, 2] = True
    path = tmp_path / "000000.label"
    write_voxel_labels(path, raw)
    write_voxel_bits(path.with_suffix(".invalid"), invalid)
    truth, observed = SEMANTIC_KITTI_FILES.read_truth(path, path.with_suffix(".invalid"))
    np.testing.assert_array_equal(np.argwhere(~observed), [[0, 0, 0], [2, 2, 2]])
    np.testing.assert_array_equal(np.argwhere(truth), [[1, 1, 1]])


@pytest.mark.parametrize("write_mask", [write_voxel_bits, write_voxel_bytes])
def test_a_label_wins_over_the_mask_on_kitti_360_alone(write_mask, tmp_path: Path):
    rng = np.random.default_rng(0)
    raw = rng.choice(np.array([0, 0, 10, 52, 71, 1], np.uint16), SHAPE)
    invalid = rng.random(SHAPE) < 0.5
    path = tmp_path / "000000.label"
    write_voxel_labels(path, raw)
    write_mask(path.with_suffix(".invalid"), invalid)
    # SSCBench's words: invalid[label != 0] = 0, then 255 where invalid.
    mask = invalid.copy()
    mask[raw != 0] = False
    truth, observed = KITTI_360_FILES.read_truth(path, path.with_suffix(".invalid"))
    assert np.array_equal(observed, ~mask & (raw != 71) & (raw != 1))
    assert np.array_equal(truth == 17, raw == 52)
    _, observed = SEMANTIC_KITTI_FILES.read_truth(path, path.with_suffix(".invalid"))
    assert np.array_equal(observed, ~invalid & ((raw == 0) | (raw == 10) | (raw == 71)))
