import numpy as np
import pytest

from occloom.town.free_ground import FreeGround
from occloom.town.materials import Material
from occloom.town.mesh import World
from occloom.town.shapes import box
from occloom.town.site import ROAD, SIDEWALK

CRATE = box((-0.5, -0.5, 0.0), (0.5, 0.5, 1.0), Material.WOOD, (0.3, 0.2, 0.1))


def at(x: float, y: float) -> np.ndarray:
    pose = np.eye(4)
    pose[:2, 3] = x, y
    return pose


@pytest.fixture
def ground(plain_world: World) -> FreeGround:
    """For two seconds: the ego car drives from x = 0 to 10 along y = 0, the mover from 10 to 18 along y = 3."""
    return FreeGround(plain_world, np.arange(0, 2.05, 0.1))


def take(ground: FreeGround, x: float, y: float, label: int = ROAD) -> bool:
    lookouts = np.array([[0.0, 0.0, 0.0], [10.0, 0.0, 0.0]])
    return ground.take(CRATE, at(x, y), ground=(label,), lookouts=lookouts)


def test_open_road_is_taken_once(ground: FreeGround) -> None:
    assert take(ground, 20.0, 6.0)
    assert not take(ground, 20.4, 6.0)
    assert take(ground, 22.0, 6.0)


@pytest.mark.parametrize(
    ("x", "y", "why"),
    [
        (5.0, 0.5, "the ego car drives there"),
        (14.0, 3.0, "a mover drives there"),
        (14.0, -5.0, "a car is parked there"),
        (20.0, 7.9, "the wall is too near"),
        (8.0, 12.0, "it is behind the wall"),
        (500.0, 0.0, "there is no ground"),
    ],
)
def test_other_places_are_refused(ground: FreeGround, x: float, y: float, why: str) -> None:
    assert not take(ground, x, y), why


def test_places_that_are_left_in_time_are_free(plain_world: World) -> None:
    later = FreeGround(plain_world, np.array([3.0]))  # the ego car is at 15 by then, the mover at 22
    assert take(later, 5.0, 0.5)
    assert take(later, 14.0, 3.0)


def test_only_the_ground_asked_for_is_taken(ground: FreeGround) -> None:
    assert not take(ground, 20.0, 6.0, SIDEWALK)


def test_height_is_that_of_the_highest_surface(ground: FreeGround) -> None:
    height = ground.height(np.array([20.0, 6.0, 0.3]))
    assert height == pytest.approx(0.0, abs=1e-4)
    assert ground.height(np.array([14.0, -5.0, 0.0])) == pytest.approx(1.5, abs=1e-4)
    assert ground.height(np.array([500.0, 0.0, 0.0])) is None
