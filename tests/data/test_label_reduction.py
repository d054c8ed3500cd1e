import json
from pathlib import Path

import numpy as np
import pytest

from occloom.data.kitti_files import read_voxel_bits
from occloom.data.label_reduction import majority_labels, monoscene_labels
from occloom.data.label_spaces import to_train_ids

RULES = {"majority": majority_labels, "monoscene": monoscene_labels}


@pytest.mark.real_data
def test_reduction_equals_the_published_programs(real_data: Path):
    folder = real_data / "semantickitti" / "sequences" / "08"
    raw = np.load(folder / "voxels_derived" / "000000.npz")["label"]
    labels = to_train_ids(raw)
    labels[read_voxel_bits(folder / "voxels" / "000000.invalid", labels.shape)] = 255
    cases = np.load(real_data / "metric_cases" / "downsample_08_000000.npz")
    described = json.loads((real_data / "metric_cases" / "downsample_08_000000.json").read_text())["shapes"]
    assert set(cases.files) == set(described)
    for name, expected in cases.items():
        rule, _, factor = name.split("_")
        assert np.array_equal(RULES[rule](labels, int(factor), num_classes=20, empty=0), expected), name


def naive(labels: np.ndarray, k: int, rule: str, empty: int) -> np.ndarray:
    out = np.zeros([n // k for n in labels.shape], dtype=np.uint8)
    for index in np.ndindex(out.shape):
        cell = labels[tuple(slice(i * k, i * k + k) for i in index)].ravel().tolist()
        occupied = [c for c in cell if c not in (empty, 255)]
        best = min(set(occupied), key=lambda c: (-occupied.count(c), c)) if occupied else None
        if rule == "majority":
            out[index] = best if best is not None else (empty if empty in cell else 255)
        elif cell.count(empty) + cell.count(255) > 0.95 * k**3:
            out[index] = empty if cell.count(empty) > cell.count(255) else 255
        else:
            out[index] = best
    return out


@pytest.mark.parametrize("rule", ["majority", "monoscene"])
@pytest.mark.parametrize("factor", [1, 2, 4])
@pytest.mark.parametrize("empty", [0, 5])
def test_reduction_equals_a_loop(rule: str, factor: int, empty: int):
    rng = np.random.default_rng(factor)
    shape = (2 * factor, 3 * factor, 5 * factor)
    for share in (0.02, 0.3, 0.9):
        classes = np.delete(np.arange(6), empty)
        labels = np.where(rng.random(shape) < share, rng.choice(classes, shape), rng.choice([empty, 255], shape))
        labels = labels.astype(np.uint8)
        reduced = RULES[rule](labels, factor, num_classes=6, empty=empty)
        assert np.array_equal(reduced, naive(labels, factor, rule, empty))
