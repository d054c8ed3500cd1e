"""Light, air and camera of a sequence, drawn by chance: clear, cloudy, hazy, dusk and night."""

import numpy as np

from occloom.town.mesh import Weather


def draw_weather(rng: np.random.Generator) -> Weather:
    """A weather: about half clear days, and overcast, haze, dusk and night for the rest."""
    kind = rng.choice(5, p=[0.46, 0.2, 0.1, 0.14, 0.1])
    return (_clear, _overcast, _hazy, _dusk, _night)[int(kind)](rng)


def _sun(rng: np.random.Generator, low: float, high: float) -> np.ndarray:
    height, azimuth = np.deg2rad(rng.uniform(low, high)), rng.uniform(0, 2 * np.pi)
    return np.array([np.cos(height) * np.cos(azimuth), np.cos(height) * np.sin(azimuth), np.sin(height)])


def _make(
    rng: np.random.Generator,
    sun: np.ndarray,
    light: list[float],
    zenith: list[float],
    horizon: list[float],
    *,
    cloud: float,
    haze: float,
    darkness: float,
    exposure: float,
    noise: float,
) -> Weather:
    sky = 0.65 * np.array(zenith) + 0.35 * np.array(horizon)
    return Weather(
        sun_direction=sun,
        sun_colour=np.array(light),
        sky_zenith=np.array(zenith),
        sky_horizon=np.array(horizon),
        ground=0.16 * (sky + np.array(light) * max(float(sun[2]), 0.0) / 2.0) + 0.02 * sky,
        cloud_cover=cloud,
        cloud_shift=rng.uniform(0, 1000, 2),
        haze=haze,
        darkness=darkness,
        exposure=exposure * float(rng.uniform(0.88, 1.12)),
        white_balance=np.array([1.0, 1.0, 1.0]) + rng.normal(0, 0.025, 3),
        noise=noise * float(rng.uniform(0.7, 1.4)),
        vignette=float(rng.uniform(0.05, 0.3)),
    )


def _clear(rng: np.random.Generator) -> Weather:
    sun = _sun(rng, 22.0, 62.0)
    warm = 1.0 - 0.5 * float(sun[2])
    light = [4.6, 4.6 - 0.65 * warm, 4.4 - 1.65 * warm]
    return _make(
        rng,
        sun,
        light,
        [0.20, 0.36, 0.72],
        [0.66, 0.76, 0.88],
        cloud=float(rng.uniform(0.1, 0.6)),
        haze=0.0015,
        darkness=0.0,
        exposure=0.9,
        noise=0.008,
    )


def _overcast(rng: np.random.Generator) -> Weather:
    return _make(
        rng,
        _sun(rng, 35.0, 70.0),
        [0.35, 0.34, 0.33],
        [0.75, 0.78, 0.84],
        [0.92, 0.93, 0.95],
        cloud=0.95,
        haze=0.003,
        darkness=0.0,
        exposure=1.05,
        noise=0.010,
    )


def _hazy(rng: np.random.Generator) -> Weather:
    return _make(
        rng,
        _sun(rng, 15.0, 40.0),
        [0.9, 0.85, 0.72],
        [0.62, 0.66, 0.72],
        [0.86, 0.86, 0.85],
        cloud=0.5,
        haze=float(rng.uniform(0.008, 0.016)),
        darkness=0.0,
        exposure=0.95,
        noise=0.010,
    )


def _dusk(rng: np.random.Generator) -> Weather:
    return _make(
        rng,
        _sun(rng, 4.0, 11.0),
        [1.5, 0.75, 0.32],
        [0.14, 0.19, 0.38],
        [0.75, 0.46, 0.30],
        cloud=float(rng.uniform(0.2, 0.6)),
        haze=0.003,
        darkness=0.45,
        exposure=1.35,
        noise=0.014,
    )


def _night(rng: np.random.Generator) -> Weather:
    return _make(
        rng,
        _sun(rng, 30.0, 60.0),
        [0.03, 0.035, 0.05],
        [0.012, 0.016, 0.03],
        [0.035, 0.035, 0.05],
        cloud=0.3,
        haze=0.002,
        darkness=1.0,
        exposure=2.3,
        noise=0.022,
    )
