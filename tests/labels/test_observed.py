import numpy as np

from occloom.grid import VoxelGrid
from occloom.labels.observed import Eye, crossed_by_beams, seen_by_cameras

GRID = VoxelGrid(lower=(-4.0, -4.0, -1.0), voxel_size=(0.4, 0.5, 0.25), shape=(20, 16, 12))


def naive_crossed(origin: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Voxels of points a hundredth of a voxel apart along one beam, up to one voxel before its end."""
    size, crossed = np.array(GRID.voxel_size), np.zeros(GRID.shape, bool)
    start, stop = (origin - GRID.lower) / size, (end - GRID.lower) / size
    length = np.linalg.norm(stop - start)
    for step in np.arange(0, max(length - 1, 0), 0.01):
        place = np.floor(start + step / length * (stop - start)).astype(int)
        if (place >= 0).all() and (place < GRID.shape).all():
            crossed[tuple(place)] = True
    return crossed


def test_beams_cross_what_a_walk_in_small_steps_crosses() -> None:
    rng = np.random.default_rng(0)
    origin = np.array([0.3, -0.2, 0.4])
    ends = rng.uniform([-9, -9, -3], [9, 9, 4], (60, 3))
    exact = np.any([naive_crossed(origin, end) for end in ends], axis=0)
    found = crossed_by_beams(origin, ends, GRID)
    assert not (found & ~exact).any()
    assert found.sum() > 0.85 * exact.sum()  # the others are cut at a corner


def test_a_return_and_what_lies_behind_are_not_crossed() -> None:
    crossed = crossed_by_beams(np.zeros(3), np.array([[2.05, 0.1, 0.1]]), GRID)
    assert crossed[10:14, 8, 4].all()
    assert not crossed[15:].any()
    assert not crossed_by_beams(np.zeros(3), np.zeros((0, 3)), GRID).any()


def eye(depth: np.ndarray) -> Eye:
    """A camera in the origin that looks along x: 90 degrees wide and high."""
    camera_from_ego = np.eye(4)
    camera_from_ego[:3, :3] = [[0, -1, 0], [0, 0, -1], [1, 0, 0]]
    half = depth.shape[0] / 2
    intrinsics = np.array([[half, 0, half - 0.5], [0, half, half - 0.5], [0, 0, 1.0]])
    return Eye(intrinsics, camera_from_ego, depth.astype(np.float32))


def test_free_voxels_are_seen_before_the_surface_and_within_the_picture() -> None:
    observed, nothing = np.ones(GRID.shape, bool), np.zeros(GRID.shape, bool)
    seen = seen_by_cameras(observed, nothing, [eye(np.full((40, 40), 2.1))], GRID)
    x, y, z = np.moveaxis(GRID.centres().numpy(), -1, 0)
    np.testing.assert_array_equal(seen, (x > 0) & (x < 2.1) & (np.abs(y) < x) & (np.abs(z) < x))
    to_the_sky = seen_by_cameras(observed, nothing, [eye(np.zeros((40, 40)))], GRID)
    np.testing.assert_array_equal(to_the_sky, (x > 0) & (np.abs(y) < x) & (np.abs(z) < x))


def test_a_filled_voxel_is_seen_by_a_corner() -> None:
    filled = np.zeros(GRID.shape, bool)
    filled[15], filled[17] = True, True  # from 2 m to 2.4 m, and from 2.8 m
    seen = seen_by_cameras(filled, filled, [eye(np.full((40, 40), 2.1))], GRID)
    assert seen[15, 5:11, 2:9].all()
    assert not seen[17].any()
    assert not seen_by_cameras(filled, filled, [], GRID).any()


def test_only_observed_voxels_are_seen_and_cameras_add_up() -> None:
    rng = np.random.default_rng(1)
    observed, filled = rng.uniform(size=(2, *GRID.shape)) < 0.5
    eyes = [eye(rng.uniform(1, 5, (20, 20))), eye(rng.uniform(1, 5, (30, 30)))]
    both = seen_by_cameras(observed, filled, eyes, GRID)
    assert not (both & ~observed).any()
    one, other = (seen_by_cameras(observed, filled, [single], GRID) for single in eyes)
    np.testing.assert_array_equal(both, one | other)
