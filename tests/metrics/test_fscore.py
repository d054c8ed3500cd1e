import json
import math

import numpy as np
import pytest
import torch
from scipy.spatial import cKDTree

from occloom.data.occ3d_labels import OCC3D, OCC3D_GRID
from occloom.grid import VoxelGrid
from occloom.metrics.fscore import f_score

GRID = VoxelGrid(lower=(-2.0, -1.0, -0.5), voxel_size=(0.4, 0.5, 0.3), shape=(7, 6, 5))


def by_tree(prediction, labels, observed, reach):
    """As the challenge does it, with points and a tree."""

    def points(ids):
        index = np.argwhere(observed & (ids != OCC3D.empty))
        return index * np.array(GRID.voxel_size) + np.array(GRID.voxel_size) / 2 + np.array(GRID.lower)

    predicted, true = points(prediction), points(labels)
    accuracy = (cKDTree(true).query(predicted)[0] < reach).mean()
    completeness = (cKDTree(predicted).query(true)[0] < reach).mean()
    return 2 / (1 / (accuracy + 1e-8) + 1 / (completeness + 1e-8))


@pytest.mark.parametrize("reach", [0.2, 0.4, 0.55, 1.3])
def test_equals_a_search_in_a_tree_of_points(reach):
    rng = np.random.default_rng(0)
    labels, prediction = (np.where(rng.random(GRID.shape) < 0.08, 4, 17).astype(np.uint8) for _ in range(2))
    observed = rng.random(GRID.shape) < 0.8
    kept = labels.copy(), prediction.copy()
    score = f_score(*map(torch.from_numpy, (prediction, labels, observed)), GRID, OCC3D, reach=reach)
    assert score == pytest.approx(by_tree(prediction, labels, observed, reach), abs=1e-12)
    assert np.array_equal(labels, kept[0])
    assert np.array_equal(prediction, kept[1])


def test_nothing_predicted_scores_zero_and_nothing_true_has_no_score():
    nothing, something = torch.full((7, 6, 5), 17), torch.full((7, 6, 5), 4)
    everywhere = torch.ones(7, 6, 5, dtype=torch.bool)
    assert f_score(nothing, something, everywhere, GRID, OCC3D) == 0
    assert math.isnan(f_score(something, nothing, everywhere, GRID, OCC3D))
    assert f_score(something, something, everywhere, GRID, OCC3D) == pytest.approx(1)


@pytest.mark.real_data
def test_equals_the_official_program_to_the_last_digits(real_data):
    folder = real_data / "metric_cases"
    expected = json.loads((folder / "occ01_real_camera_mask.json").read_text())["expected"]["fscore"]
    with np.load(folder / "occ01_real_camera_mask.npz") as arrays:
        prediction, labels, mask = (torch.from_numpy(arrays[key]) for key in ("pred", "semantics", "mask_camera"))
    assert f_score(prediction, labels, mask.bool(), OCC3D_GRID, OCC3D) == pytest.approx(expected, abs=1e-15)
