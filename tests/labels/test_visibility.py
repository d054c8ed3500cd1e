from itertools import pairwise

import numpy as np
import pytest

from occloom.grid import VoxelGrid
from occloom.labels.visibility import occupied_rays, unseen

GRID = VoxelGrid(lower=(-2.0, 1.0, 0.5), voxel_size=(0.5, 0.25, 0.2), shape=(13, 9, 7))


def walk(start: np.ndarray, end: np.ndarray) -> list[tuple[int, ...]]:
    """Every voxel the segment passes through, found between each two crossings of a voxel border."""
    borders = [0.0, 1.0]
    for axis in range(3):
        step = end[axis] - start[axis]
        if step:
            low, high = sorted((start[axis], end[axis]))
            borders += [(plane - start[axis]) / step for plane in range(int(np.ceil(low)), int(np.floor(high)) + 1)]
    borders = sorted(t for t in borders if 0 <= t <= 1)
    return [
        tuple(int(i) for i in np.floor(start + 0.5 * (a + b) * (end - start)))
        for a, b in pairwise(borders)
        if b - a > 1e-6
    ]


def naive_unseen(filled: np.ndarray, sensors: np.ndarray) -> np.ndarray:
    """Walks from each sensor to each centre, voxel by voxel."""
    hidden = np.zeros_like(filled)
    for index in np.argwhere(~filled):
        seen = False
        for sensor in sensors:
            start = (sensor - np.array(GRID.lower)) / np.array(GRID.voxel_size)
            passed = walk(start, index + 0.5)
            inside = [i for i in passed if all(0 <= k < n for k, n in zip(i, filled.shape, strict=True))]
            seen = seen or not any(filled[i] for i in inside)
        hidden[tuple(index)] = not seen
    return hidden


@pytest.mark.parametrize("share", [0.02, 0.2])
@pytest.mark.parametrize("place", ["inside", "outside", "both"])
def test_agrees_with_a_walk_through_the_voxels(share: float, place: str) -> None:
    rng = np.random.default_rng(int(100 * share))
    filled = rng.uniform(size=GRID.shape) < share
    filled[6, 4, 3] = False
    inside = np.array(GRID.lower) + np.array([6.31, 4.47, 3.63]) * np.array(GRID.voxel_size)
    outside = np.array([-4.13, 2.21, 1.37])
    sensors = {"inside": [inside], "outside": [outside], "both": [inside, outside, inside + 0.03]}[place]
    sensors = np.array(sensors)
    hidden = unseen(occupied_rays(filled, sensors, GRID), ~filled, sensors, GRID)
    expected = naive_unseen(filled, sensors)
    assert 0 < expected.sum() < expected.size
    # A line that passes exactly through an edge may be decided either way.
    assert np.count_nonzero(hidden != expected) <= 1


def test_a_wall_hides_what_is_behind_it_and_a_second_sensor_sees_it() -> None:
    filled = np.zeros(GRID.shape, bool)
    filled[6] = True
    before, behind = np.array([[-1.9, 2.0, 1.2]]), np.array([[4.4, 2.0, 1.2]])
    hidden = unseen(occupied_rays(filled, before, GRID), ~filled, before, GRID)
    assert hidden[7:].all()
    assert not hidden[:6].any()
    both = np.concatenate([before, behind])
    assert not unseen(occupied_rays(filled, both, GRID), ~filled, both, GRID).any()


def test_nothing_filled_and_no_sensor() -> None:
    filled = np.zeros(GRID.shape, bool)
    sensor = np.array([[0.0, 2.0, 1.0]])
    rays = occupied_rays(filled, sensor, GRID)
    assert not unseen(rays, ~filled, sensor, GRID).any()
    assert unseen(rays, ~filled, sensor[:0], GRID).all()
