import zipfile
from pathlib import Path

import numpy as np
import pytest

from occloom.data.kitti_files import read_voxel_labels
from occloom.data.label_spaces import SEMANTIC_KITTI_GRID, to_train_ids
from occloom.data.predictions import prediction_path, write_prediction, write_submission
from occloom.errors import InputError


def test_a_prediction_reads_back_through_the_raw_ids(tmp_path: Path):
    labels = np.random.default_rng(0).integers(0, 20, SEMANTIC_KITTI_GRID.shape)
    path = prediction_path(tmp_path, "11/000005")
    write_prediction(path, labels)
    assert path == tmp_path / "sequences" / "11" / "predictions" / "000005.label"
    assert np.array_equal(to_train_ids(read_voxel_labels(path, SEMANTIC_KITTI_GRID.shape)), labels)
    for wrong in (-1, 20, 255):
        with pytest.raises(ValueError, match="class ids"):
            write_prediction(path, np.full((1, 1, 1), wrong))


def test_a_submission_has_folder_entries_and_whole_files_only(tmp_path: Path):
    for token in ("11/000000", "11/000005", "12/000000"):
        write_prediction(prediction_path(tmp_path / "out", token), np.zeros(SEMANTIC_KITTI_GRID.shape, dtype=np.int64))
    (tmp_path / "out" / "picture.png").write_bytes(b"x")
    assert write_submission(tmp_path / "out", tmp_path / "s.zip") == 3
    assert zipfile.ZipFile(tmp_path / "s.zip").namelist() == [
        "sequences/",
        "sequences/11/",
        "sequences/11/predictions/",
        "sequences/12/",
        "sequences/12/predictions/",
        "sequences/11/predictions/000000.label",
        "sequences/11/predictions/000005.label",
        "sequences/12/predictions/000000.label",
    ]
    write_prediction(prediction_path(tmp_path / "out", "13/000000"), np.zeros((2, 2, 2), dtype=np.int64))
    with pytest.raises(InputError, match="16 bytes"):
        write_submission(tmp_path / "out", tmp_path / "s.zip")
    with pytest.raises(InputError, match="no predictions"):
        write_submission(tmp_path / "nothing", tmp_path / "s.zip")
