import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from tiny_recipes import GRID, LABELS, SIZES, TinyData, tiny

from occloom.engine.evaluate import count, evenly_spaced, layer_edges, other_scenes, results, ring_edges
from occloom.engine.train import build_model
from occloom.errors import InputError
from occloom.grid import VoxelGrid
from occloom.interfaces import Needs
from occloom.metrics.protocols import SEMANTICKITTI


@pytest.fixture
def model():
    return build_model(tiny()).eval()


def naive_counts(model, data):
    counts = np.zeros((3, 3), np.int64)
    for index in range(len(data)):
        sample = data.sample(index)
        prediction = model.predict(sample.scene.to(dtype=torch.float32))
        for voxel in np.ndindex(1, *GRID.shape):
            if sample.target.observed[voxel]:
                counts[sample.target.labels[voxel], prediction[voxel]] += 1
    return counts


@pytest.mark.parametrize(("batch_size", "workers"), [(1, 0), (2, 0), (1, 1)])
def test_counts_are_those_of_a_loop_over_voxels(model, fabric, batch_size, workers):
    data = TinyData().build("val", Needs())
    counts = count(model, data, fabric, indices=range(len(data)), batch_size=batch_size, workers=workers)
    assert np.array_equal(counts.total.numpy(), naive_counts(model, data))
    assert torch.equal(counts.by_height.sum(0), counts.total)
    assert counts.frames == SIZES["val"]


def test_progress_is_told_of_every_frame(model, fabric):
    told = []
    count(model, TinyData().build("val", Needs()), fabric, indices=[0, 2, 4], batch_size=2, advance=told.append)
    assert told == [2, 1]


def test_rings_and_layers_cover_any_grid():
    for grid in (GRID, VoxelGrid((-40.0, -40.0, -1.0), (0.4, 0.4, 0.4), (200, 200, 16))):
        corner = max(math.hypot(x, y) for x in (grid.lower[0], grid.upper[0]) for y in (grid.lower[1], grid.upper[1]))
        assert ring_edges(grid)[-1] >= corner
        assert layer_edges(grid)[-1] == pytest.approx(grid.upper[2])


def sequence(token):
    return token.split("/")[0]


@pytest.mark.parametrize("sizes", [(1, 1), (3, 3), (5, 2, 3), (1, 4, 3), (2, 2, 2, 2)])
def test_each_frame_gets_one_of_another_sequence(sizes):
    tokens = [f"{s:02d}/{i:06d}" for i in range(max(sizes)) for s, size in enumerate(sizes) if i < size]
    other = other_scenes(tokens)
    assert sorted(other) == list(range(len(tokens)))
    assert all(sequence(tokens[index]) != sequence(tokens[other[index]]) for index in range(len(tokens)))


@pytest.mark.parametrize("sizes", [(2,), (7,), (5, 1), (3, 1, 1)])
def test_where_one_sequence_is_most_of_the_set_no_frame_keeps_its_own(sizes):
    tokens = [f"{s:02d}/{i:06d}" for s, size in enumerate(sizes) for i in range(size)]
    other = other_scenes(tokens)
    assert sorted(other) == list(range(len(tokens)))
    assert all(index != other[index] for index in range(len(tokens)))


def test_one_frame_cannot_be_shuffled():
    with pytest.raises(InputError, match="one frame"):
        other_scenes(["00/000000"])


def test_shuffling_changes_what_the_model_sees(model, fabric):
    data = TinyData().build("val", Needs())
    plain, shuffled = (
        count(model, data, fabric, indices=range(len(data)), scene_of=scene_of)
        for scene_of in (None, other_scenes(data.tokens))
    )
    assert torch.equal(plain.total.sum(1), shuffled.total.sum(1))
    assert not torch.equal(plain.total, shuffled.total)


@pytest.mark.parametrize(("total", "number"), [(10, 3), (7, 7), (5, 0), (3, 9), (100, 1), (0, 4)])
def test_evenly_spaced_indices(total, number):
    indices = evenly_spaced(total, number)
    assert len(indices) == (min(number, total) or total)
    assert indices == sorted(set(indices))
    gaps = {b - a for a, b in pairwise(indices)}
    assert not gaps or max(gaps) - min(gaps) <= 1


def test_results_are_the_protocols_scores(model, fabric):
    data = TinyData().build("val", Needs())
    counts = count(model, data, fabric, indices=range(len(data)))
    report = results(counts, SEMANTICKITTI, GRID, LABELS)
    scores = SEMANTICKITTI.scores(counts.total)
    assert (report["iou"], report["miou"]) == (scores.iou, scores.miou)
    assert report["per_class"] == dict(zip(LABELS.names, scores.per_class, strict=True))
    assert report["confusion"] == counts.total.tolist()
    assert [row["to"] for row in report["by_distance"]] == [10.0]
