"""A world small enough to work out by hand: a road, a wall beside it, a post ahead and a box that drives."""

import numpy as np
import pytest

from occloom.town.materials import Material
from occloom.town.mesh import Mesh, Mover, Weather, World, concatenate
from occloom.town.street import Course, Street


def quad(corners: list[list[float]], label: int, instance: int = 0, material: Material = Material.MATTE) -> Mesh:
    """One rectangle of two triangles."""
    return Mesh(
        np.array(corners, np.float32),
        np.array([[0, 1, 2], [0, 2, 3]], np.int32),
        np.full(2, label, np.uint16),
        np.full(2, instance, np.uint16),
        np.full(2, material, np.uint8),
        np.full((2, 3), 0.5, np.float32),
    )


def box(low: tuple[float, float, float], high: tuple[float, float, float], label: int, instance: int) -> Mesh:
    """The six sides of a box."""
    sides = []
    for axis in range(3):
        b, c = (axis + 1) % 3, (axis + 2) % 3
        for value in (low[axis], high[axis]):
            corners = np.zeros((4, 3))
            corners[:, axis] = value
            corners[:, b] = [low[b], high[b], high[b], low[b]]
            corners[:, c] = [low[c], low[c], high[c], high[c]]
            sides.append(quad(corners.tolist(), label, instance))
    return concatenate(sides)


@pytest.fixture(scope="session")
def flat_street() -> Street:
    return Street(bends=np.zeros((1, 3)), rises=np.zeros((1, 3)), banks=np.zeros(2))


@pytest.fixture(scope="session")
def plain_world(flat_street: Street) -> World:
    """Ground at z = 0, a wall at y = 8.05, a sign at x = 30, and a moving car at 4 m/s beside the ego car's 5 m/s."""
    ground = quad([[-90, -60, 0], [190, -60, 0], [190, 60, 0], [-90, 60, 0]], 40, material=Material.ASPHALT)
    wall = quad([[-90, 8.05, 0], [190, 8.05, 0], [190, 8.05, 6], [-90, 8.05, 6]], 50)
    sign = quad([[30, -2.1, 1], [30, -1.1, 1], [30, -1.1, 2.2], [30, -2.1, 2.2]], 81, material=Material.SIGN)
    parked = box((12, -6, 0), (16, -4, 1.5), 10, 3)
    car = box((-2, -0.9, 0.05), (2, 0.9, 1.5), 252, 7)
    weather = Weather(
        sun_direction=np.array([0.3, 0.2, 0.9]) / np.linalg.norm([0.3, 0.2, 0.9]),
        sun_colour=np.full(3, 2.0),
        sky_zenith=np.array([0.2, 0.4, 0.8]),
        sky_horizon=np.array([0.6, 0.7, 0.8]),
        ground=np.full(3, 0.2),
        cloud_cover=0.3,
        cloud_shift=np.zeros(2),
        haze=0.002,
        darkness=0.0,
        exposure=1.0,
        white_balance=np.ones(3),
        noise=0.01,
        vignette=0.1,
    )
    return World(
        static=concatenate([ground, wall, sign, parked]),
        movers=(Mover(car, Course(flat_street, (10.0, 3.0, 0.0), 4.0)),),
        weather=weather,
        ego=Course(flat_street, (0.0, 0.0, 0.0), 5.0),
        lamps=np.zeros((0, 3), np.float32),
        duration=20.0,
    )
