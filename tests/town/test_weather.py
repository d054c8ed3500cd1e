"""Weathers are possible ones, and of many kinds."""

import numpy as np

from occloom.town.weather import draw_weather


def test_weathers_are_possible_and_of_many_kinds() -> None:
    weathers = [draw_weather(np.random.default_rng(seed)) for seed in range(80)]
    for one in weathers:
        np.testing.assert_allclose(np.linalg.norm(one.sun_direction), 1.0)
        assert one.sun_direction[2] > 0
        for colour in (one.sun_colour, one.sky_zenith, one.sky_horizon, one.ground, one.white_balance):
            assert (colour > 0).all()
        assert 0 <= one.cloud_cover <= 1
    darkness = np.array([one.darkness for one in weathers])
    assert {0.0, 1.0} < set(darkness.tolist())
    assert (darkness == 0).mean() > 0.5
    assert max(one.haze for one in weathers) > 5 * min(one.haze for one in weathers)
    night, day = darkness == 1.0, darkness == 0.0
    light = np.array([(one.sun_colour + one.sky_zenith).sum() for one in weathers])
    assert light[night].max() < 0.2 * light[day].min()
