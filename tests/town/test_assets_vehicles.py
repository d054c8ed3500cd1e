"""Laws of the vehicles: on their wheels, of sensible size, alike on both sides, lights where they belong."""

import numpy as np
import pytest

from occloom.town import assets_vehicles
from occloom.town.materials import Material

LARGEST = {
    assets_vehicles.car: (5.0, 2.3, 1.9),
    assets_vehicles.van: (6.1, 2.5, 2.7),
    assets_vehicles.truck: (8.7, 2.7, 3.6),
    assets_vehicles.bus: (11.7, 2.7, 3.3),
    assets_vehicles.trailer: (6.5, 2.6, 2.6),
    assets_vehicles.bicycle: (1.9, 0.7, 1.2),
    assets_vehicles.motorcycle: (2.2, 0.9, 1.3),
}
WITH_ENGINES = (assets_vehicles.car, assets_vehicles.van, assets_vehicles.truck, assets_vehicles.bus)


@pytest.mark.parametrize("make", LARGEST)
def test_vehicles_stand_on_the_ground_and_have_their_size(make, assert_stands) -> None:
    assert_stands(make, LARGEST[make])


@pytest.mark.parametrize("make", LARGEST)
def test_a_vehicle_is_a_function_of_its_generator(make, assert_drawn) -> None:
    assert_drawn(make)


@pytest.mark.parametrize("make", LARGEST)
def test_what_touches_the_ground_is_a_tyre_or_a_stand(make) -> None:
    for seed in range(6):
        mesh = make(np.random.default_rng(seed))
        corners = mesh.vertices[mesh.faces]
        lowest = mesh.material[corners[..., 2].min(axis=1) < 0.03]
        assert Material.RUBBER in lowest
        assert set(lowest.tolist()) <= {Material.RUBBER, Material.METAL}


@pytest.mark.parametrize("make", WITH_ENGINES)
def test_two_white_lights_in_front_and_two_red_ones_behind(make) -> None:
    for seed in range(6):
        mesh = make(np.random.default_rng(seed))
        middle = mesh.vertices[mesh.faces].mean(axis=1)
        length = np.ptp(mesh.vertices[:, 0])
        for kind, way in ((Material.HEAD_LIGHT, 1), (Material.TAIL_LIGHT, -1)):
            lights = middle[mesh.material == kind]
            assert (way * lights[:, 0] > 0.4 * length).all()
            assert (lights[:, 1] > 0).sum() == (lights[:, 1] < 0).sum() > 0
            red, _, blue = mesh.colour[mesh.material == kind].T
            assert (red > 5 * blue).all() == (kind == Material.TAIL_LIGHT)


@pytest.mark.parametrize("make", WITH_ENGINES)
def test_both_sides_are_mirror_images(make) -> None:
    """Each corner on the left has its like on the right."""
    for seed in range(6):
        points = make(np.random.default_rng(seed)).vertices.astype(np.float64)
        left, right = points[points[:, 1] > 0.01], points[points[:, 1] < -0.01] * [1, -1, 1]
        assert len(left) == len(right)
        near = np.linalg.norm(left[:, None] - right[None], axis=-1).min(axis=1)
        assert near.max() < 1e-4


def test_paint_is_often_grey_but_not_always() -> None:
    rng = np.random.default_rng(0)
    shades = np.array([assets_vehicles.paint(rng) for _ in range(400)])
    assert shades.min() >= 0
    assert shades.max() <= 1
    grey = np.ptp(shades, axis=1) < 0.05
    assert 0.4 < grey.mean() < 0.8
