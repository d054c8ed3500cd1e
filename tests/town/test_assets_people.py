"""Laws of the people: on their feet or on two wheels, of human size, clothed and with a skin."""

import numpy as np
import pytest

from occloom.town import assets_people
from occloom.town.assets_vehicles import bicycle, motorcycle
from occloom.town.materials import Material


def stander(rng):
    return assets_people.walker(rng, stride=0.0)


def walker(rng):
    return assets_people.walker(rng, stride=0.3)


LARGEST = {
    stander: (0.9, 0.9, 2.0),
    walker: (1.2, 0.9, 2.0),
    assets_people.cyclist: (1.9, 0.9, 2.0),
    assets_people.motorcyclist: (2.2, 0.9, 2.0),
}


@pytest.mark.parametrize("make", LARGEST)
def test_people_stand_on_the_ground_and_have_their_size(make, assert_stands) -> None:
    assert_stands(make, LARGEST[make])


@pytest.mark.parametrize("make", LARGEST)
def test_a_person_is_a_function_of_its_generator(make, assert_drawn) -> None:
    assert_drawn(make)


@pytest.mark.parametrize("make", LARGEST)
def test_a_person_has_clothes_below_the_head_and_skin(make) -> None:
    for seed in range(6):
        mesh = make(np.random.default_rng(seed))
        level = mesh.vertices[mesh.faces].mean(axis=1)[:, 2]
        assert level[mesh.material == Material.SKIN].max() > level[mesh.material == Material.CLOTH].max()
        assert 1.4 < mesh.vertices[:, 2].max() < 2.0


def test_a_longer_stride_puts_the_feet_further_apart() -> None:
    for seed in range(6):
        spread = []
        for stride in (0.0, 0.15, 0.3):
            mesh = assets_people.walker(np.random.default_rng(seed), stride=stride)
            shoes = mesh.vertices[mesh.faces[mesh.material == Material.RUBBER]].reshape(-1, 3)
            left, right = shoes[shoes[:, 1] > 0], shoes[shoes[:, 1] < 0]
            spread.append(left[:, 0].mean() - right[:, 0].mean())
        assert abs(spread[0]) < 1e-5
        assert 0.9 * 0.3 - 1e-3 < spread[1] < 1.08 * 0.3 + 1e-3
        assert spread[2] == pytest.approx(2 * spread[1], rel=1e-3)


@pytest.mark.parametrize(
    ("make", "ridden"), [(assets_people.cyclist, bicycle), (assets_people.motorcyclist, motorcycle)]
)
def test_a_rider_sits_on_a_whole_machine(make, ridden) -> None:
    for seed in range(6):
        both, alone = make(np.random.default_rng(seed)), ridden(np.random.default_rng(seed))
        count = len(alone.vertices)
        np.testing.assert_array_equal(both.vertices[:count], alone.vertices)
        assert both.vertices[count:, 2].min() > 0.2  # no foot on the ground
        assert both.vertices[count:, 2].max() > alone.vertices[:, 2].max() + 0.3
