"""Laws of the weathers drawn by chance."""

import dataclasses

import numpy as np

from occloom.town.weather import draw_weather


def test_weathers_are_physical_and_of_many_kinds() -> None:
    drawn = [draw_weather(np.random.default_rng(seed)) for seed in range(200)]
    for weather in drawn:
        np.testing.assert_allclose(np.linalg.norm(weather.sun_direction), 1.0, atol=1e-9)
        assert weather.sun_direction[2] > 0
        for colour in (weather.sun_colour, weather.sky_zenith, weather.sky_horizon, weather.ground):
            assert (colour > 0).all()
        assert 0 <= weather.cloud_cover <= 1
        assert 0 <= weather.darkness <= 1
        assert weather.exposure > 0
        assert weather.haze > 0
    darkness = np.array([weather.darkness for weather in drawn])
    assert 0.6 < (darkness == 0).mean() < 0.9
    assert (darkness == 1).any()
    azimuth = np.array([np.arctan2(weather.sun_direction[1], weather.sun_direction[0]) for weather in drawn])
    assert (np.histogram(azimuth, bins=4, range=(-np.pi, np.pi))[0] > 30).all()


def test_a_weather_is_a_function_of_its_generator() -> None:
    one, same, other = (draw_weather(np.random.default_rng(seed)) for seed in (3, 3, 4))
    for field in dataclasses.fields(one):
        np.testing.assert_array_equal(getattr(one, field.name), getattr(same, field.name))
    assert (one.sun_direction != other.sun_direction).any()
