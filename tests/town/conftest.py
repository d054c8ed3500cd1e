"""A world small enough to work out by hand: a road, a wall beside it, a post ahead and a box that drives."""

from collections.abc import Callable
from dataclasses import fields

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


Maker = Callable[[np.random.Generator], Mesh]


def corners_of(mesh: Mesh) -> np.ndarray:
    """The corners (F, 3, 3) of all triangles in double precision."""
    return mesh.vertices[mesh.faces].astype(np.float64)


@pytest.fixture(scope="session")
def assert_sound() -> Callable[[Mesh], None]:
    """The check that a mesh has solid triangles of known materials and colours within range."""

    def check(mesh: Mesh) -> None:
        corners = corners_of(mesh)
        area = 0.5 * np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=-1)
        assert np.isfinite(mesh.vertices).all()
        assert area.min() > 1e-8
        assert mesh.material.max() < len(Material)
        assert mesh.colour.min() >= 0
        assert mesh.colour.max() <= 1
        assert mesh.faces.min() >= 0
        assert mesh.faces.max() < len(mesh.vertices)

    return check


@pytest.fixture(scope="session")
def assert_same() -> Callable[[Mesh, Mesh], None]:
    """The check that two meshes are equal to the last bit."""

    def check(one: Mesh, two: Mesh) -> None:
        for field in fields(Mesh):
            np.testing.assert_array_equal(getattr(one, field.name), getattr(two, field.name))

    return check


@pytest.fixture(scope="session")
def assert_drawn(assert_same: Callable[[Mesh, Mesh], None]) -> Callable[[Maker], None]:
    """The check that an asset is a function of its generator and of nothing else."""

    def check(make: Maker) -> None:
        assert_same(make(np.random.default_rng(3)), make(np.random.default_rng(3)))

    return check


@pytest.fixture(scope="session")
def assert_stands(assert_sound: Callable[[Mesh], None]) -> Callable[[Maker, tuple[float, float, float]], None]:
    """The check that a thing stands on the ground about its origin and is no larger than a size along x, y, z."""

    def check(make: Maker, largest: tuple[float, float, float]) -> None:
        for seed in range(6):
            mesh = make(np.random.default_rng(seed))
            assert_sound(mesh)
            low, high = mesh.vertices.min(axis=0), mesh.vertices.max(axis=0)
            assert (high - low <= largest).all()
            assert -0.06 < low[2] < 0.06
            assert (np.abs(low + high)[:2] < (1.1, 0.2)).all()

    return check


@pytest.fixture(scope="session")
def assert_stuff(assert_sound: Callable[[Mesh], None]) -> Callable[[Maker, set[int]], None]:
    """The check that an asset is sound, has just the given raw ids and is no instance."""

    def check(make: Maker, labels: set[int]) -> None:
        for seed in range(6):
            mesh = make(np.random.default_rng(seed))
            assert_sound(mesh)
            assert set(mesh.label.tolist()) == labels
            assert not mesh.instance.any()

    return check


@pytest.fixture(scope="session")
def extents() -> Callable[[Mesh], np.ndarray]:
    """The function that gives the lowest and highest corner (N, 2, 3) of each instance of a mesh."""

    def measure(mesh: Mesh) -> np.ndarray:
        corners = corners_of(mesh)
        things = [corners[mesh.instance == one].reshape(-1, 3) for one in np.unique(mesh.instance[mesh.instance > 0])]
        return np.array([[thing.min(axis=0), thing.max(axis=0)] for thing in things]).reshape(-1, 2, 3)

    return measure
