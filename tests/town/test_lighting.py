"""Light against closed forms: Lambert's law, the law of the air, open and covered sky."""

from dataclasses import replace

import numpy as np
import pytest

from occloom.town.lighting import (
    Hit,
    glow,
    lamplight,
    mirrored,
    on_sphere,
    openness,
    sky,
    sunlight,
    through_haze,
)
from occloom.town.materials import Material
from occloom.town.mesh import World
from occloom.town.scene_rays import WorldRays

DOWN = np.array([0.6, 0.0, -0.8], np.float32)


def on_ground(places: list[list[float]], material: Material = Material.MATTE) -> Hit:
    count = len(places)
    return Hit(
        np.array(places, np.float32),
        np.tile(np.array([0, 0, 1], np.float32), (count, 1)),
        np.tile(DOWN, (count, 1)),
        np.full(count, material, np.uint8),
        np.full((count, 3), 0.4, np.float32),
        np.full(count, 0.5, np.float32),
    )


@pytest.fixture(scope="module")
def plain_rays(plain_world: World) -> WorldRays:
    return WorldRays(plain_world)


def test_sunlight_follows_lambert_and_stops_behind_things(plain_rays: WorldRays) -> None:
    """Albedo x irradiance x cosine / pi in the open; the parked car (x from 12, y -6 to -4) shades the third."""
    hit = on_ground([[0, 0, 0], [-20, -9, 0], [11.8, -5, 0]])
    weather = plain_rays.world.weather
    light, free = sunlight(plain_rays, 0.0, hit, np.zeros((3, 3), np.float32))
    expected = 0.4 * weather.sun_colour * weather.sun_direction[2] / np.pi
    np.testing.assert_allclose(light, np.tile(expected, (3, 1)), rtol=1e-4)
    assert free.tolist() == [True, True, False]


def test_open_ground_sees_the_sky_and_a_corner_sees_less(plain_rays: WorldRays) -> None:
    random = np.random.default_rng(0).uniform(size=(4000, 4)).astype(np.float32)
    field = openness(plain_rays, 0.0, on_ground([[-40, -30, 0]] * 4000), random)
    corner = openness(plain_rays, 0.0, on_ground([[-40, 8.0, 0]] * 4000), random)
    assert field.all()
    assert 0.4 < corner.mean() < 0.65  # a wall beside it hides half of the half space


def test_haze_keeps_light_near_by_and_replaces_it_far_off(plain_world: World) -> None:
    weather = replace(plain_world.weather, haze=0.01, sun_colour=np.zeros(3))
    light = np.full((3, 3), 0.9, np.float32)
    distance = np.array([0.0, 100.0, 1e5], np.float32)
    seen = through_haze(weather, light, distance, np.tile(DOWN, (3, 1)))
    share = np.exp(-0.01 * distance)[:, None]
    np.testing.assert_allclose(seen, 0.9 * share + weather.sky_horizon * (1 - share), rtol=1e-5)


def test_a_clear_sky_goes_from_horizon_to_zenith_and_is_brightest_at_the_sun(plain_world: World) -> None:
    weather = replace(plain_world.weather, cloud_cover=0.0)
    dark = replace(weather, sun_colour=np.zeros(3))
    up = np.array([[1, 0, 0], [0, 0, 1]], np.float32)
    np.testing.assert_allclose(sky(dark, up)[0], weather.sky_horizon, rtol=1e-5)
    np.testing.assert_allclose(sky(dark, up)[1], weather.sky_zenith, atol=0.05)
    rng = np.random.default_rng(0)
    towards = np.concatenate([weather.sun_direction[None], on_sphere(*rng.uniform(size=(2, 500)).astype(np.float32))])
    assert sky(weather, towards.astype(np.float32)).sum(axis=1).argmax() == 0


def test_clouds_cover_more_of_the_sky_the_more_there_are(plain_world: World) -> None:
    rng = np.random.default_rng(1)
    towards = on_sphere(*rng.uniform(size=(2, 4000)).astype(np.float32))
    towards = towards[towards[:, 2] > 0.3]
    clear = sky(replace(plain_world.weather, cloud_cover=0.0), towards)
    changed = [
        (np.abs(sky(replace(plain_world.weather, cloud_cover=cover), towards) - clear) > 0.02).any(axis=1).mean()
        for cover in (0.2, 0.5, 0.9)
    ]
    assert changed[0] < changed[1] < changed[2]


def test_glass_shines_more_at_a_glancing_view_and_matter_not_at_all(plain_rays: WorldRays) -> None:
    steep = on_ground([[-40, -30, 0]], Material.GLASS)
    glancing = replace(steep, direction=np.array([[0.995, 0, -0.0998]], np.float32))
    assert mirrored(plain_rays, 0.0, glancing).mean() > 3 * mirrored(plain_rays, 0.0, steep).mean() > 0
    assert not mirrored(plain_rays, 0.0, on_ground([[-40, -30, 0]])).any()


def test_lamps_and_windows_glow_with_the_dark(plain_world: World) -> None:
    day, night = plain_world.weather, replace(plain_world.weather, darkness=1.0)
    for kind in (Material.LIT_GLASS, Material.TAIL_LIGHT, Material.HEAD_LIGHT, Material.LAMP):
        hit = on_ground([[0, 0, 0]], kind)
        assert glow(night, hit).min() > glow(day, hit).max()
    assert not glow(night, on_ground([[0, 0, 0]], Material.GLASS)).any()


def test_a_street_lamp_is_brightest_below_and_hidden_behind_things(plain_world: World) -> None:
    lamp = np.array([[14.0, -9.0, 5.0]], np.float32)
    rays = WorldRays(replace(plain_world, lamps=lamp, weather=replace(plain_world.weather, darkness=1.0)))
    below, aside, behind_car = lamplight(rays, 0.0, on_ground([[14, -9, 0], [14, -14, 0], [14, -3.9, 0]]), lamp[0])
    unlit = WorldRays(replace(plain_world, weather=replace(plain_world.weather, darkness=1.0)))
    head_lights = lamplight(unlit, 0.0, on_ground([[14, -3.9, 0]]), lamp[0])[0]
    assert below.mean() > 2 * aside.mean() > 0
    np.testing.assert_allclose(behind_car, head_lights, rtol=1e-5)


def test_directions_on_the_sphere_are_even() -> None:
    a, b = np.random.default_rng(2).uniform(size=(2, 20000)).astype(np.float32)
    vectors = on_sphere(a, b)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(vectors.mean(axis=0), 0, atol=0.03)
    np.testing.assert_allclose(vectors.T @ vectors / 20000, np.eye(3) / 3, atol=0.02)
