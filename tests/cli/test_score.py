import json
from pathlib import Path

import numpy as np
import pytest

from occloom.cli.score import score
from occloom.data.kitti_files import pack_bits, unpack_bits, write_voxel_bits, write_voxel_bytes, write_voxel_labels
from occloom.data.label_spaces import SEMANTIC_KITTI
from occloom.errors import InputError

SHAPE = (256, 256, 32)
RAW = np.array([0, 10, 40, 44, 50, 70, 72], np.uint16)
TOKENS = ("00/000000", "00/000005", "01/000000")


def write_prediction(root: Path, token: str, raw: np.ndarray) -> Path:
    sequence, frame = token.split("/")
    path = root / "sequences" / sequence / "predictions" / f"{frame}.label"
    write_voxel_labels(path, raw)
    return path


def write_truth(root: Path, token: str, raw: np.ndarray, invalid: np.ndarray) -> Path:
    sequence, frame = token.split("/")
    path = root / "sequences" / sequence / "voxels" / f"{frame}.label"
    write_voxel_labels(path, raw)
    write_voxel_bits(path.with_suffix(".invalid"), invalid)
    return path


@pytest.fixture
def folders(tmp_path):
    """Three random frames: predictions are right in four voxels of five."""
    rng = np.random.default_rng(0)
    for token in TOKENS:
        truth = RAW[rng.integers(0, len(RAW), SHAPE)]
        prediction = np.where(rng.random(SHAPE) < 0.8, truth, RAW[rng.integers(0, len(RAW), SHAPE)])
        write_prediction(tmp_path / "predictions", token, prediction)
        write_truth(tmp_path / "labels", token, truth, rng.random(SHAPE) < 0.3)
    return tmp_path / "predictions", tmp_path / "labels"


def scored(predictions: Path, labels: Path, **options) -> dict:
    file = labels / "scores.json"
    score(predictions, labels, json_file=file, **options)
    return json.loads(file.read_text())


def test_pooled_scores_equal_scores_from_the_files_by_hand(folders):
    predictions, labels = folders
    hits, either = 0, 0
    class_hits, class_either = 0, 0
    for token in TOKENS:
        sequence, frame = token.split("/")
        truth = np.fromfile(labels / "sequences" / sequence / "voxels" / f"{frame}.label", "<u2")
        bits = np.fromfile(labels / "sequences" / sequence / "voxels" / f"{frame}.invalid", np.uint8)
        guess = np.fromfile(predictions / "sequences" / sequence / "predictions" / f"{frame}.label", "<u2")
        truth, guess = (volume[np.unpackbits(bits) == 0] for volume in (truth, guess))
        hits += ((truth > 0) & (guess > 0)).sum()
        either += ((truth > 0) | (guess > 0)).sum()
        class_hits += ((truth == 50) & (guess == 50)).sum()
        class_either += ((truth == 50) | (guess == 50)).sum()
    answer = scored(predictions, labels)
    assert answer["frames"] == list(TOKENS)
    assert answer["scores"]["iou"] == pytest.approx(hits / either, abs=1e-12)
    assert answer["scores"]["per_class"]["building"] == pytest.approx(class_hits / class_either, abs=1e-9)
    assert answer["scores"]["per_class"]["truck"] == 0.0


def test_detail_splits_the_same_voxels(folders, capsys):
    answer = scored(*folders, detail=True, distances=(20.0, 100.0), heights=(0.0, 1.0, 10.0))
    assert [part["below"] for part in answer["detail"]["distance"]] == [20.0, 100.0]
    assert len(answer["detail"]["height"]) == 3
    printed = capsys.readouterr().out
    assert "by distance" in printed
    assert "by height" in printed
    whole = answer["scores"]["iou"]
    for parts in answer["detail"].values():
        ious = [part["iou"] for part in parts]
        assert min(ious) <= whole <= max(ious)


def test_card_and_every_class_are_printed(folders, capsys):
    score(*folders, protocol="monoscene")
    printed = capsys.readouterr().out
    assert "SSCMetrics" in printed
    for label in SEMANTIC_KITTI.occupied:
        assert SEMANTIC_KITTI.names[label] in printed


def test_a_missing_prediction_is_named_and_only_left_out_by_name(folders):
    predictions, labels = folders
    (predictions / "sequences/00/predictions/000005.label").unlink()
    with pytest.raises(InputError, match=r"no prediction for frame 00/000005 \(1 of 3 are missing\).*common-frames"):
        score(predictions, labels)
    assert scored(predictions, labels, common_frames_only=True)["frames"] == ["00/000000", "01/000000"]


def test_a_prediction_without_label_is_named(folders):
    predictions, labels = folders
    (labels / "sequences/01/voxels/000000.label").unlink()
    with pytest.raises(InputError, match="no label for frame 01/000000"):
        score(predictions, labels)


def test_folders_without_a_common_frame_are_refused_in_any_case(folders, tmp_path):
    other = write_prediction(tmp_path / "other", "07/000000", np.zeros(SHAPE, np.uint16))
    with pytest.raises(InputError, match="no frame in common"):
        score(other.parents[3], folders[1], common_frames_only=True)


@pytest.mark.parametrize(
    "name", ["predictions/sequences/00/predictions/000005.label", "labels/sequences/01/voxels/000000.invalid"]
)
def test_a_truncated_file_is_named(folders, tmp_path, name):
    path = tmp_path / name
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(InputError, match=path.name):
        score(*folders)


def test_a_missing_folder_is_named(folders, tmp_path):
    with pytest.raises(InputError, match="nowhere: no such folder"):
        score(tmp_path / "nowhere", folders[1])
    with pytest.raises(InputError, match="no label files"):
        score(tmp_path, folders[1])


def test_edges_out_of_order_are_refused(folders):
    with pytest.raises(InputError, match="rising"):
        score(*folders, detail=True, distances=(20.0, 10.0))


@pytest.mark.real_data
def test_official_case_scores_through_files(real_data, tmp_path):
    case = real_data / "metric_cases" / "sk03_two_frames_accumulated"
    with np.load(case.with_suffix(".npz")) as arrays:
        for i in range(2):
            write_prediction(tmp_path / "p", f"08/00000{i}", arrays[f"pred_{i}"])
            write_truth(
                tmp_path / "l", f"08/00000{i}", arrays[f"target_{i}"], unpack_bits(arrays[f"invalid_{i}"], SHAPE)
            )
            assert (pack_bits(unpack_bits(arrays[f"invalid_{i}"], SHAPE)) == arrays[f"invalid_{i}"]).all()
    expected = json.loads(case.with_suffix(".json").read_text())["expected"]
    scores = scored(tmp_path / "p", tmp_path / "l")["scores"]
    assert scores["iou"] == pytest.approx(expected["iou_completion"], abs=1e-6)
    assert scores["precision"] == pytest.approx(expected["precision"], abs=1e-6)
    assert scores["recall"] == pytest.approx(expected["recall"], abs=1e-6)
    assert scores["miou"] == pytest.approx(expected["iou_mean"], abs=1e-6)
    assert list(scores["per_class"].values()) == pytest.approx(expected["iou_per_class"], abs=1e-6)


def test_kitti_360_is_scored_with_its_own_classes_and_rule(tmp_path, capsys):
    drive, rng = "2013_05_28_drive_0006_sync", np.random.default_rng(1)
    truth = rng.choice(np.array([0, 0, 10, 40, 52, 71, 99], np.uint16), SHAPE)
    invalid = rng.random(SHAPE) < 0.3
    prediction = np.where((rng.random(SHAPE) < 0.7) & (truth != 71), truth, np.uint16(52))
    path = tmp_path / "data" / "data_2d_raw" / drive / "voxels" / "000005.label"
    write_voxel_labels(path, truth)
    write_voxel_bytes(path.with_suffix(".invalid"), invalid)
    write_prediction(tmp_path / "out", f"{drive}/000005", prediction)
    score(tmp_path / "out", tmp_path / "data", protocol="sscbench", detail=True, json_file=tmp_path / "scores.json")
    report = json.loads((tmp_path / "scores.json").read_text())
    counted = (truth != 71) & ((truth != 0) | ~invalid)
    hits = ((truth == 99) & (prediction == 99) & counted).sum()
    either = (((truth == 99) | (prediction == 99)) & counted).sum()
    assert report["frames"] == [f"{drive}/000005"]
    assert report["scores"]["per_class"]["other-object"] == pytest.approx(hits / either)
    both, any_of = (
        ((truth > 0) & (prediction > 0) & counted).sum(),
        (((truth > 0) | (prediction > 0)) & counted).sum(),
    )
    assert report["scores"]["iou"] == pytest.approx(both / any_of)
    assert np.sum(report["confusion_rows_truth_columns_prediction"]) == counted.sum()
    assert "other-structure" in capsys.readouterr().out
