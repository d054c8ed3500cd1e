import zipfile
from pathlib import Path

import numpy as np
import pytest

from occloom.data.label_spaces import IGNORED
from occloom.data.occ3d_files import (
    Occ3dLabels,
    label_path,
    prediction_path,
    read_labels,
    read_prediction,
    read_splits,
    write_labels,
    write_prediction,
    write_submission,
)
from occloom.data.occ3d_labels import OCC3D, OCC3D_GRID
from occloom.errors import InputError

SHAPE = OCC3D_GRID.shape


def made_labels() -> Occ3dLabels:
    rng = np.random.default_rng(0)
    semantics = rng.integers(0, 19, SHAPE).astype(np.uint8)
    return Occ3dLabels(semantics, mask_lidar=rng.random(SHAPE) < 0.5, mask_camera=rng.random(SHAPE) < 0.3)


def test_labels_come_back_and_lie_where_occ3d_has_them(tmp_path: Path):
    labels, path = made_labels(), label_path(tmp_path, "scene-0061/abc")
    assert path == tmp_path / "gts" / "scene-0061" / "abc" / "labels.npz"
    write_labels(path, labels)
    again = read_labels(path)
    for name in ("semantics", "mask_lidar", "mask_camera"):
        np.testing.assert_array_equal(getattr(again, name), getattr(labels, name))


def test_a_voxel_counts_if_the_mask_in_use_says_so_and_it_has_a_class():
    labels = made_labels()
    has_class = labels.semantics <= 17
    for mask, expected in (
        ("camera", has_class & labels.mask_camera),
        ("lidar", has_class & labels.mask_lidar),
        ("none", has_class),
    ):
        counted = labels.counted(mask)
        np.testing.assert_array_equal(counted != IGNORED, expected)
        np.testing.assert_array_equal(counted[expected], labels.semantics[expected])


@pytest.mark.parametrize("wrong", ["semantics", "mask_lidar", "mask_camera"])
def test_an_array_of_the_wrong_shape_is_refused_by_name(tmp_path: Path, wrong: str):
    arrays = {name: np.zeros(SHAPE, np.uint8) for name in ("semantics", "mask_lidar", "mask_camera")}
    np.savez_compressed(tmp_path / "labels.npz", **{**arrays, wrong: np.zeros((200, 16, 200), np.uint8)})
    with pytest.raises(InputError, match=rf"{wrong} is uint8 of shape 200x16x200; it is uint8 of shape 200x200x16"):
        read_labels(tmp_path / "labels.npz")
    del arrays[wrong]
    np.savez_compressed(tmp_path / "labels.npz", **arrays)
    with pytest.raises(InputError, match=rf"array {wrong} cannot be read.*labels hold semantics, mask_lidar"):
        read_labels(tmp_path / "labels.npz")


def test_files_that_cannot_be_read_are_named(tmp_path: Path):
    with pytest.raises(InputError, match="no such file"):
        read_labels(tmp_path / "labels.npz")
    (tmp_path / "labels.npz").write_bytes(b"PK\x03\x04 cut")
    with pytest.raises(InputError, match="semantics cannot be read"):
        read_labels(tmp_path / "labels.npz")
    np.savez(tmp_path / "labels.npz", semantics=np.zeros(SHAPE, np.int64))
    with pytest.raises(InputError, match="semantics is int64"):
        read_labels(tmp_path / "labels.npz")


def test_splits(tmp_path: Path):
    path = tmp_path / "annotations.json"
    with pytest.raises(InputError, match=r"annotations\.json: no such file.*--data\.train"):
        read_splits(tmp_path)
    path.write_text('{"train_split": ["scene-0001"], "val_split": ["scene-0003", "scene-0012"]}')
    assert read_splits(tmp_path) == {"train": ("scene-0001",), "val": ("scene-0003", "scene-0012")}
    for text in ('{"train_split": []}', "[]", "nonsense", '{"train_split": "a", "val_split": []}'):
        path.write_text(text)
        with pytest.raises(InputError, match="the splits"):
            read_splits(tmp_path)


def test_predictions_are_written_as_the_challenge_reads_them(tmp_path: Path):
    labels = np.random.default_rng(0).integers(0, 18, SHAPE)
    path = prediction_path(tmp_path / "out", "scene-0061/abc")
    write_prediction(path, labels)
    assert path == tmp_path / "out" / "abc.npz"
    with np.load(path) as archive:
        assert archive.files == ["arr_0"]
        assert archive["arr_0"].dtype == np.uint8
        np.testing.assert_array_equal(archive["arr_0"], labels)
    np.testing.assert_array_equal(read_prediction(path, np.ones(SHAPE, bool)), labels)
    with pytest.raises(ValueError, match=r"0\.\.17, got 0\.\.18"):
        write_prediction(path, np.where(labels == 3, 18, labels))


def test_only_voxels_that_count_need_a_class(tmp_path: Path):
    np.savez_compressed(tmp_path / "a.npz", np.full(SHAPE, 200, np.uint8))
    observed = np.zeros(SHAPE, bool)
    assert (read_prediction(tmp_path / "a.npz", observed) == OCC3D.empty).all()
    observed[3, 4, 5] = True
    with pytest.raises(InputError, match=r"predicts id 200, which has no class; ids are 0\.\.17, 17 is free"):
        read_prediction(tmp_path / "a.npz", observed)


def test_a_submission_holds_every_prediction_and_nothing_else(tmp_path: Path):
    folder = tmp_path / "results"
    with pytest.raises(InputError, match="no predictions"):
        write_submission(folder, tmp_path / "a.zip")
    for token in ("b", "a"):
        write_prediction(folder / f"{token}.npz", np.full(SHAPE, 17))
    (folder / "pictures").mkdir()
    assert write_submission(folder, tmp_path / "a.zip") == 2
    assert zipfile.ZipFile(tmp_path / "a.zip").namelist() == ["results/a.npz", "results/b.npz"]
    np.savez_compressed(folder / "c.npz", np.zeros((100, 100, 8), np.uint8))
    with pytest.raises(InputError, match="100x100x8"):
        write_submission(folder, tmp_path / "a.zip")


@pytest.mark.real_data
def test_the_real_ground_truth_has_the_counts_of_the_reference(real_data: Path):
    labels = read_labels(real_data / "occ3d_nuscenes" / "gts" / "29796060110c4163b07f06eff4af0753" / "labels.npz")
    counts = np.bincount(labels.semantics.ravel(), minlength=18)
    expected = {0: 169, 1: 82, 3: 974, 4: 1749, 6: 83, 11: 8433, 13: 2610, 14: 1007, 15: 5286, 16: 18699, 17: 600_908}
    assert {int(label): int(counts[label]) for label in np.flatnonzero(counts)} == expected
    assert (int(labels.mask_lidar.sum()), int(labels.mask_camera.sum())) == (56_601, 43_355)
    # Nearly all of what is not observed is free, not all.
    assert np.bincount(labels.semantics[~labels.mask_lidar])[[11, 13, 14, 15, 16]].tolist() == [2500, 258, 222, 1, 1]
    assert not (labels.mask_camera & ~labels.mask_lidar).any()
    assert (labels.counted("camera") != IGNORED).sum() == 43_355
