from itertools import pairwise

import numpy as np
import pytest

from occloom.grid import VoxelGrid
from occloom.labels.visibility import never_seen, occupied_rays, unseen

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


def test_sight_that_grows_misses_hardly_anything_and_invents_nothing() -> None:
    grid = VoxelGrid(lower=(0.0, -6.4, -2.0), voxel_size=(0.2, 0.2, 0.2), shape=(96, 64, 32))
    rng = np.random.default_rng(2)
    filled = np.zeros(grid.shape, bool)
    filled[:, :, 1] = rng.uniform(size=grid.shape[:2]) < 0.9
    filled[:, 50] = rng.uniform(size=(96, 32)) < 0.8
    for _ in range(40):
        x, y, z = rng.integers((0, 0, 2), (88, 64, 20))
        filled[x : x + 8, y : y + 6, z : z + 8] = True
    filled[:40, 28:36, 6:14] = False
    sensors = np.stack([np.linspace(0.1, 7.3, 13), np.full(13, 0.05), np.full(13, 0.03)], axis=1)
    rays = occupied_rays(filled, sensors, grid)
    hidden = unseen(rays, ~filled, sensors[:1], grid)
    exact = unseen(rays, hidden, sensors[1:], grid)
    fast = never_seen(rays, hidden, filled, sensors[1:], grid)
    assert exact.sum() < 0.8 * hidden.sum()
    assert not (exact & ~fast).any()
    assert not (fast & ~hidden).any()
    assert np.count_nonzero(fast & ~exact) < 0.01 * exact.sum()


@pytest.mark.parametrize("count", [0, 1, 2, 3])
def test_few_places(count: int) -> None:
    filled = np.random.default_rng(9).uniform(size=GRID.shape) < 0.1
    sensors = np.array([[-4.1, 2.2, 1.3], [-3.3, 2.0, 1.2], [5.3, 1.8, 1.1]])[:count]
    rays = occupied_rays(filled, np.array([[-4.1, 2.2, 1.3], [5.3, 2.0, 1.2]]), GRID)
    exact, fast = unseen(rays, ~filled, sensors, GRID), never_seen(rays, ~filled, filled, sensors, GRID)
    assert not (exact & ~fast).any()
    if count < 3:
        np.testing.assert_array_equal(exact, fast)
