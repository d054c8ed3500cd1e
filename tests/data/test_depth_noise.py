from dataclasses import replace

import numpy as np
import pytest

from occloom.data.depth_noise import NoiseConfig, noisy_depth
from occloom.errors import InputError

NONE = NoiseConfig(scale=0.0, warp=0.0, pixel=0.0, growth=0.0, bleeding=0.0)
WALL = np.full((60, 100), 20, np.float32)


def log_errors(depth: np.ndarray, noise: NoiseConfig, count: int) -> np.ndarray:
    return np.stack([np.log(noisy_depth(depth, noise, f"scene/token/{n}") / depth) for n in range(count)])


def test_no_noise_changes_nothing():
    depth = np.random.default_rng(0).uniform(1, 60, (30, 50)).astype(np.float32)
    np.testing.assert_allclose(noisy_depth(depth, NONE, "a"), depth, rtol=1e-6)


def test_a_name_and_a_seed_decide_everything():
    once = noisy_depth(WALL, NoiseConfig(), "scene/a/CAM_FRONT")
    np.testing.assert_array_equal(noisy_depth(WALL, NoiseConfig(), "scene/a/CAM_FRONT"), once)
    assert (noisy_depth(WALL, NoiseConfig(), "scene/a/CAM_BACK") != once).any()
    assert (noisy_depth(WALL, NoiseConfig(seed=1), "scene/a/CAM_FRONT") != once).any()


def test_the_scale_is_one_number_a_picture_with_the_named_spread():
    errors = log_errors(WALL, replace(NONE, scale=0.1), 400)
    assert np.ptp(errors, axis=(1, 2)).max() < 1e-5
    assert errors[:, 0, 0].std() == pytest.approx(0.1, rel=0.1)
    assert abs(errors[:, 0, 0].mean()) < 0.02


def test_pixels_err_independently_and_more_with_depth():
    depth = np.repeat(np.array([[10.0, 50.0]], np.float32), 200, axis=1).repeat(50, axis=0)
    errors = log_errors(depth, replace(NONE, pixel=0.01, growth=0.005), 4)
    near, far = errors[..., :200], errors[..., 200:]
    assert near.std() == pytest.approx(0.015, rel=0.05)
    assert far.std() == pytest.approx(0.035, rel=0.05)
    assert abs(np.corrcoef(near[..., :-1].ravel(), near[..., 1:].ravel())[0, 1]) < 0.02


def test_the_warp_is_smooth_and_differs_over_the_picture():
    errors = log_errors(WALL, replace(NONE, warp=0.05), 50)
    assert np.abs(np.diff(errors, axis=2)).max() < 0.03
    assert np.ptp(errors, axis=(1, 2)).min() > 0.02
    assert errors.std() == pytest.approx(0.05, rel=0.35)


def test_bleeding_keeps_planes_and_lets_edges_run():
    # Inverse depth of a road seen by a level camera grows linearly downwards.
    road = np.repeat((60 / np.arange(1, 61, dtype=np.float32))[:, None], 100, axis=1)
    bled = noisy_depth(road, replace(NONE, bleeding=0.02), "a")
    np.testing.assert_allclose(bled[2:-2], road[2:-2], rtol=1e-4)
    edge = WALL.copy()
    edge[:, 50:] = 5
    bled = noisy_depth(edge, replace(NONE, bleeding=0.02), "a")
    between = (bled[30] > 5.001) & (bled[30] < 19.999)
    assert np.flatnonzero(between).tolist() == [48, 49, 50, 51]


def test_unknown_stays_unknown_and_spoils_no_neighbour():
    depth = WALL.copy()
    depth[20:30, 10:60] = 0
    noisy = noisy_depth(depth, replace(NONE, bleeding=0.03), "a")
    np.testing.assert_array_equal(noisy > 0, depth > 0)
    np.testing.assert_allclose(noisy[depth > 0], 20, rtol=1e-5)
    assert (noisy_depth(depth, NoiseConfig(), "a") > 0).sum() == (depth > 0).sum()


@pytest.mark.parametrize("name", ["scale", "warp", "pixel", "growth", "bleeding"])
def test_a_share_is_at_least_0_and_below_1(name):
    with pytest.raises(InputError, match=f"{name} is -0.1"):
        replace(NONE, **{name: -0.1})
