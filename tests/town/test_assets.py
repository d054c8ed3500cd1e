"""Laws that hold for every asset: known classes, solid triangles, feet on the ground, sensible size."""

from collections.abc import Callable

import numpy as np
import pytest

from occloom.town import assets_people, assets_plants, assets_street, assets_vehicles
from occloom.town.assets_buildings import BuildingPlan, building, hall
from occloom.town.materials import Material
from occloom.town.mesh import Mesh, concatenate

Maker = Callable[[np.random.Generator], Mesh]

THINGS: dict[str, tuple[Maker, tuple[float, float, float]]] = {  # the largest size along x, y, z
    "car": (assets_vehicles.car, (5.0, 2.3, 1.9)),
    "van": (assets_vehicles.van, (6.1, 2.5, 2.7)),
    "truck": (assets_vehicles.truck, (8.7, 2.7, 3.6)),
    "bus": (assets_vehicles.bus, (11.7, 2.7, 3.3)),
    "trailer": (assets_vehicles.trailer, (6.5, 2.6, 2.6)),
    "bicycle": (assets_vehicles.bicycle, (1.9, 0.7, 1.2)),
    "motorcycle": (assets_vehicles.motorcycle, (2.2, 0.9, 1.3)),
    "stander": (lambda r: assets_people.walker(r, stride=0.0), (0.9, 0.9, 2.0)),
    "walker": (lambda r: assets_people.walker(r, stride=0.3), (1.2, 0.9, 2.0)),
    "cyclist": (assets_people.cyclist, (1.9, 0.9, 2.0)),
    "motorcyclist": (assets_people.motorcyclist, (2.2, 0.9, 2.0)),
}

STUFF: dict[str, tuple[Maker, set[int]]] = {
    "tree": (lambda r: assets_plants.tree(r, height=8.0, slim=False, fine=True), {70, 71}),
    "far tree": (lambda r: assets_plants.tree(r, height=8.0, slim=True, fine=False), {70, 71}),
    "conifer": (lambda r: assets_plants.conifer(r, height=8.0), {70, 71}),
    "bush": (lambda r: assets_plants.bush(r, radius=0.8, height=1.2), {70}),
    "hedge": (lambda r: assets_plants.hedge(r, length=7.0, height=1.4, width=0.8), {70}),
    "shrubs": (lambda r: assets_plants.shrubs(r, length=7.0, height=2.5, width=2.0), {70}),
    "terrace": (lambda r: building(r, BuildingPlan(12.0, 10.0, 4, 3.1, "gable", True, True, False)), {50}),
    "villa": (lambda r: building(r, BuildingPlan(9.0, 9.0, 2, 2.8, "hip")), {50}),
    "flats": (lambda r: building(r, BuildingPlan(22.0, 11.0, 5, 2.9, "flat", False, True)), {50}),
    "hall": (lambda r: hall(r, width=40.0, depth=18.0, height=7.0), {50}),
    "fence": (lambda r: assets_street.fence(r, length=9.0, height=1.2), {51}),
    "field fence": (lambda r: assets_street.field_fence(length=9.0), {51}),
    "guard rail": (lambda r: assets_street.guard_rail(length=9.0), {51}),
    "lamp": (lambda r: assets_street.street_lamp(r, reach=1.4), {80}),
    "utility pole": (assets_street.utility_pole, {80}),
    "bollards": (lambda r: assets_street.bollards(3), {80}),
    "traffic light": (assets_street.traffic_light, {80}),
    "sign": (assets_street.traffic_sign, {80, 81}),
    "guide sign": (assets_street.guide_sign, {80, 81}),
}


def assert_sound(mesh: Mesh) -> None:
    corners = mesh.vertices[mesh.faces].astype(np.float64)
    area = 0.5 * np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=-1)
    assert area.min() > 1e-8
    assert mesh.material.max() < len(Material)
    assert mesh.colour.min() >= 0
    assert mesh.colour.max() <= 1
    assert mesh.faces.min() >= 0
    assert mesh.faces.max() < len(mesh.vertices)


@pytest.mark.parametrize("name", THINGS)
def test_things_stand_on_the_ground_and_have_their_size(name: str) -> None:
    make, largest = THINGS[name]
    for seed in range(6):
        mesh = make(np.random.default_rng(seed))
        assert_sound(mesh)
        low, high = mesh.vertices.min(axis=0), mesh.vertices.max(axis=0)
        assert (high - low <= largest).all()
        assert -0.06 < low[2] < 0.06
        assert (np.abs(low + high)[:2] < (1.1, 0.2)).all()  # about the origin


@pytest.mark.parametrize("name", STUFF)
def test_stuff_is_sound_and_has_its_classes(name: str) -> None:
    make, labels = STUFF[name]
    for seed in range(6):
        mesh = make(np.random.default_rng(seed))
        assert_sound(mesh)
        assert set(mesh.label.tolist()) == labels
        assert not mesh.instance.any()


def test_an_asset_is_a_function_of_its_generator() -> None:
    for make, _ in [*THINGS.values(), *STUFF.values()]:
        one, two = make(np.random.default_rng(3)), make(np.random.default_rng(3))
        np.testing.assert_array_equal(one.vertices, two.vertices)
        np.testing.assert_array_equal(one.colour, two.colour)


def test_placing_and_joining_keep_every_face() -> None:
    rng = np.random.default_rng(0)
    car, tree = assets_vehicles.car(rng).named(10, 4), assets_plants.tree(rng, height=7.0, slim=False, fine=True)
    pose = np.eye(4)
    pose[:3, 3] = (10.0, -3.0, 0.5)
    both = concatenate([car.placed(pose), tree])
    split = len(car.faces)
    expected = car.vertices[car.faces] + np.array([10.0, -3.0, 0.5], np.float32)
    np.testing.assert_allclose(both.vertices[both.faces[:split]], expected, atol=1e-5)
    np.testing.assert_array_equal(both.vertices[both.faces[split:]], tree.vertices[tree.faces])
    assert (both.label[:split] == 10).all()
    assert (both.instance[:split] == 4).all()
    assert len(concatenate([]).faces) == 0
