from collections.abc import Callable

import numpy as np
import pytest

from occloom.town.assets_works import barrier, bins, digger, loader, traffic_cone
from occloom.town.mesh import Mesh

Maker = Callable[[np.random.Generator], Mesh]


@pytest.mark.parametrize(
    ("make", "largest"),
    [
        (barrier, (0.7, 2.1, 1.2)),
        (traffic_cone, (0.5, 0.5, 1.1)),
        (digger, (5.5, 2.6, 4.2)),
        (loader, (6.5, 2.7, 3.3)),
        (bins, (1.3, 2.2, 1.3)),
    ],
)
def test_things_stand_on_the_ground_and_have_their_size(
    make: Maker,
    largest: tuple[float, float, float],
    assert_stands: Callable[[Maker, tuple[float, float, float]], None],
    assert_drawn: Callable[[Maker], None],
) -> None:
    assert_stands(make, largest)
    assert_drawn(make)


def test_cones_are_striped() -> None:
    cone = traffic_cone(np.random.default_rng(0))
    assert len(np.unique(cone.colour, axis=0)) == 3
