import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from occloom.data import kitti_files, label_spaces
from occloom.metrics.confusion import count_confusion
from occloom.metrics.protocols import (
    MONOSCENE,
    OCC3D,
    OCC3D_LIDAR_MASK,
    OCC3D_NO_MASK,
    SEMANTICKITTI,
    SSCBENCH,
)

PROTOCOLS = [SEMANTICKITTI, MONOSCENE, SSCBENCH]
OCC3D_CASES = [
    "occ01_real_camera_mask",
    "occ02_real_lidar_mask",
    "occ03_real_no_mask",
    "occ04_two_frames",
    "occ05_random_small",
    "occ06_absent_in_both",
    "occ07_all_free",
    "occ08_all_masked",
    "occ09_class_only_in_pred",
    "occ10_gt_255",
]
CASES = [
    "sk01_real08_noisy",
    "sk02_real08_prevframe_as_pred",
    "sk03_two_frames_accumulated",
    "sk04_random_small",
    "sk05_absent_classes",
    "sk06_all_empty",
    "sk07_all_ignored",
    "sk08_pred_empty",
    "sk10_perfect",
]


def frames_of(folder: Path, name: str):
    """Prediction, labels, observed of each frame, as training ids."""
    with np.load(folder / "metric_cases" / f"{name}.npz") as arrays:
        suffixes = [""] if "pred" in arrays else sorted(key.removeprefix("pred") for key in arrays if "pred_" in key)
        for suffix in suffixes:
            target = label_spaces.to_train_ids(arrays["target" + suffix])
            invalid = kitti_files.unpack_bits(arrays["invalid" + suffix], target.shape)
            observed = (target != label_spaces.IGNORED) & ~invalid
            yield label_spaces.to_train_ids(arrays["pred" + suffix]), target, observed


def counts_of(frames, classes=20):
    return sum(
        count_confusion(*(torch.from_numpy(np.ascontiguousarray(array))[None] for array in frame), classes)
        for frame in frames
    )


def expected_of(folder: Path, name: str):
    return json.loads((folder / "metric_cases" / f"{name}.json").read_text())


def close(value, expected):
    return math.isnan(value) if expected is None else value == pytest.approx(expected, abs=1e-6)


@pytest.mark.real_data
@pytest.mark.parametrize("name", CASES)
def test_semantickitti_agrees_with_the_official_script(real_data, name):
    expected = expected_of(real_data, name)["expected"]
    counts = counts_of(frames_of(real_data, name))
    np.testing.assert_array_equal(counts.T, expected["confusion_rows_pred_cols_gt"])
    scores = SEMANTICKITTI.scores(counts)
    assert close(scores.iou, expected["iou_completion"])
    assert close(scores.precision, expected["precision"])
    assert close(scores.recall, expected["recall"])
    assert close(scores.miou, expected["iou_mean"])
    assert all(map(close, scores.per_class, expected["iou_per_class"]))


@pytest.mark.real_data
@pytest.mark.parametrize("name", CASES)
def test_monoscene_agrees_with_its_own_class(real_data, name):
    expected = expected_of(real_data, name)["also_monoscene_SSCMetrics"]
    scores = MONOSCENE.scores(counts_of(frames_of(real_data, name)))
    assert close(scores.iou, expected["iou"])
    assert close(scores.precision, expected["precision"])
    assert close(scores.recall, expected["recall"])
    assert close(scores.miou, expected["iou_ssc_mean"])
    assert all(map(close, scores.per_class, expected["iou_ssc"]))


@pytest.mark.real_data
def test_sscbench_agrees_with_its_own_class(real_data):
    cases = sorted(path.stem for path in (real_data / "metric_cases").glob("ssc*.json"))
    assert cases
    for name in cases:
        expected = expected_of(real_data, name)["expected"]
        with np.load(real_data / "metric_cases" / f"{name}.npz") as arrays:
            prediction, target = arrays["pred"], arrays["target"]
        scores = SSCBENCH.scores(counts_of([(prediction, target, target != 255)], classes=19))
        assert close(scores.iou, expected["iou"])
        assert close(scores.precision, expected["precision"])
        assert close(scores.recall, expected["recall"])
        assert close(scores.miou, expected["iou_ssc_mean"])
        assert all(map(close, scores.per_class, expected["iou_ssc"]))


def occ3d_frames_of(folder: Path, name: str):
    """Prediction, labels, observed of each frame, by the masks that the case says are used."""
    described = expected_of(folder, name)
    with np.load(folder / "metric_cases" / f"{name}.npz") as arrays:
        suffixes = [""] if "pred" in arrays else sorted(key.removeprefix("pred") for key in arrays if "pred_" in key)
        for suffix in suffixes:
            observed = arrays["semantics" + suffix] < 18
            for mask, used in (("mask_camera", "use_image_mask"), ("mask_lidar", "use_lidar_mask")):
                if described[used]:
                    observed &= arrays[mask + suffix].astype(bool)
            yield arrays["pred" + suffix], arrays["semantics" + suffix], observed


@pytest.mark.real_data
def test_every_occ3d_case_is_asked(real_data):
    assert sorted(path.stem for path in (real_data / "metric_cases").glob("occ*.json")) == OCC3D_CASES


@pytest.mark.real_data
@pytest.mark.parametrize("name", OCC3D_CASES)
def test_occ3d_agrees_with_the_official_program(real_data, name):
    expected = expected_of(real_data, name)["expected"]
    counts = counts_of(occ3d_frames_of(real_data, name), classes=18)
    np.testing.assert_array_equal(counts, expected["hist_rows_gt_cols_pred"])
    scores = OCC3D.scores(counts)

    def agrees(value, percent):
        return math.isnan(value) if percent is None else 100 * value == pytest.approx(percent, abs=1e-11)

    assert agrees(scores.miou, expected["miou"])
    assert agrees(scores.iou, expected["geometric_iou_percent"])
    assert all(map(agrees, scores.per_class, expected["iou_per_class_percent"]))


def test_occ3d_says_which_mask_is_in_use():
    assert [p.mask.split(":")[0] for p in (OCC3D, OCC3D_LIDAR_MASK, OCC3D_NO_MASK)] == ["camera", "lidar", "none"]
    assert len({p.name for p in (OCC3D, OCC3D_LIDAR_MASK, OCC3D_NO_MASK)}) == 3


@pytest.mark.real_data
def test_a_predicted_ignored_id_is_refused(real_data):
    assert "raises" in expected_of(real_data, "sk09_pred_ignored_id")["expected"]
    with pytest.raises(ValueError, match=r"prediction .* within 0\.\.19, got 255"):
        counts_of(frames_of(real_data, "sk09_pred_ignored_id"))


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_absent_classes_score_zero_and_divide(protocol):
    counts = torch.zeros(20, 20, dtype=torch.int64)
    present = [0, 1, 9, 15]
    counts[present, present] = 1_000_000
    scores = protocol.scores(counts)
    assert scores.miou == pytest.approx(3 / 19)
    assert [scores.per_class[c] for c in range(20) if c not in present] == [0.0] * 16
    assert scores.iou == 1.0


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_an_occupied_voxel_of_the_wrong_class_completes(protocol):
    counts = torch.zeros(20, 20, dtype=torch.int64)
    counts[1, 2] = 30
    counts[1, 0] = 10
    counts[0, 2] = 20
    counts[0, 0] = 500
    scores = protocol.scores(counts)
    assert scores.iou == pytest.approx(30 / 60)
    assert scores.precision == pytest.approx(30 / 50)
    assert scores.recall == pytest.approx(30 / 40)
    assert scores.miou == 0.0


def test_only_the_completion_of_nothing_differs_by_more_than_a_millionth():
    nothing = torch.zeros(20, 20, dtype=torch.int64)
    assert math.isnan(SEMANTICKITTI.scores(nothing).iou)
    assert MONOSCENE.scores(nothing).iou == 0.0
    counts = torch.randint(0, 1000, (20, 20), generator=torch.Generator().manual_seed(0))
    official, other = SEMANTICKITTI.scores(counts), MONOSCENE.scores(counts)
    assert official.iou == other.iou
    assert official.miou == pytest.approx(other.miou, abs=1e-6)


@pytest.mark.parametrize("protocol", [*PROTOCOLS, OCC3D])
def test_the_card_states_every_choice(protocol):
    card = protocol.card()
    assert card.startswith("protocol")
    for text in (protocol.labels, protocol.mask, protocol.averaged, protocol.absent, protocol.undefined):
        assert text in card
