"""Laws of the buildings: as large as planned, closed all around, with a roof of their kind."""

import numpy as np
import pytest

from occloom.town.assets_buildings import BuildingPlan, building, hall
from occloom.town.materials import Material

PLANS = {
    "terrace": BuildingPlan(12.0, 10.0, 4, 3.1, "gable", True, True, False),
    "villa": BuildingPlan(9.0, 9.0, 2, 2.8, "hip"),
    "flats": BuildingPlan(22.0, 11.0, 5, 2.9, "flat", False, True),
}
STUFF = {
    **{name: (lambda r, plan=plan: building(r, plan)) for name, plan in PLANS.items()},
    "hall": lambda r: hall(r, width=40.0, depth=18.0, height=7.0),
}


def is_hit(corners: np.ndarray, origin: np.ndarray, direction: np.ndarray) -> bool:
    """Whether a ray meets any triangle: solves origin + t direction = a + u (b - a) + v (c - a) for each."""
    edges = np.stack([corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]], -1)
    system = np.concatenate([edges, np.broadcast_to(-direction[:, None], (len(corners), 3, 1))], -1)
    fair = np.abs(np.linalg.det(system)) > 1e-12
    u, v, t = np.linalg.solve(system[fair], (origin - corners[fair, 0])[..., None])[..., 0].T
    return bool(((u >= -1e-6) & (v >= -1e-6) & (u + v <= 1 + 1e-6) & (t > 0)).any())


@pytest.mark.parametrize("name", STUFF)
def test_buildings_are_sound_and_have_their_class(name: str, assert_stuff) -> None:
    assert_stuff(STUFF[name], {50})


@pytest.mark.parametrize("name", STUFF)
def test_a_building_is_a_function_of_its_generator(name: str, assert_drawn) -> None:
    assert_drawn(STUFF[name])


@pytest.mark.parametrize("name", PLANS)
def test_a_building_has_the_size_of_its_plan(name: str) -> None:
    plan = PLANS[name]
    eaves = plan.storeys * plan.storey_height
    pitch = (0.0, 0.0) if plan.roof == "flat" else 0.5 * plan.depth * np.tan([0.6, 0.85])
    above = (0.5, 2.4) if plan.roof == "flat" else (0.9, 0.9)  # rim or plant, or chimney
    for seed in range(6):
        points = building(np.random.default_rng(seed), plan).vertices
        low, high = points.min(axis=0), points.max(axis=0)
        np.testing.assert_allclose([low[0], high[0]], [-0.5 * plan.width, 0.5 * plan.width], atol=0.4)
        assert -1.3 < low[1] < 0.0
        assert plan.depth <= high[1] < plan.depth + 0.4 + 0.9 * plan.balconies
        assert low[2] < -1.0  # founded for slopes
        assert eaves + pitch[0] + above[0] - 1e-3 < high[2] < eaves + pitch[1] + above[1] + 1e-3


@pytest.mark.parametrize("name", STUFF)
def test_no_ray_leaves_a_building(name: str) -> None:
    """Walls, panes and roofs leave no hole: every ray from within meets something."""
    mesh = STUFF[name](np.random.default_rng(2))
    corners = mesh.vertices[mesh.faces].astype(np.float64)
    height = PLANS[name].storeys * PLANS[name].storey_height if name in PLANS else 7.0
    rng = np.random.default_rng(5)
    for _ in range(120):
        direction = rng.normal(size=3)
        direction[2] = abs(direction[2]) - 0.3 * rng.uniform()
        origin = np.array([rng.uniform(-2, 2), rng.uniform(3.5, 5.5), rng.uniform(0.5, height - 0.5)])
        assert is_hit(corners, origin, direction / np.linalg.norm(direction))


def test_the_way_out_of_a_building_without_a_roof_is_found() -> None:
    mesh = building(np.random.default_rng(2), PLANS["villa"])
    open_above = mesh.faces[mesh.vertices[mesh.faces][..., 2].max(axis=1) < 5.0]
    origin = np.array([0.3, 4.4, 3.0])
    assert not is_hit(mesh.vertices[open_above].astype(np.float64), origin, np.array([0.0, 0.0, 1.0]))
    assert is_hit(mesh.vertices[open_above].astype(np.float64), origin, np.array([1.0, 0.0, 0.0]))


def test_shops_have_more_glass_and_plain_sides_have_none() -> None:
    def glass(plan: BuildingPlan) -> np.ndarray:
        mesh = building(np.random.default_rng(4), plan)
        panes = np.isin(mesh.material, [Material.GLASS, Material.LIT_GLASS])
        return mesh.vertices[mesh.faces[panes]].astype(np.float64)

    def area(corners: np.ndarray) -> float:
        cross = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        return float(np.linalg.norm(cross, axis=-1).sum() / 2)

    plain = BuildingPlan(12.0, 10.0, 3, 3.0, "flat")
    shop = BuildingPlan(12.0, 10.0, 3, 3.0, "flat", shop=True)
    bare = BuildingPlan(12.0, 10.0, 3, 3.0, "flat", detail=False)
    assert area(glass(shop)) > 1.1 * area(glass(plain))
    assert glass(bare)[..., 1].max() < 0.2  # on the front alone
    assert glass(plain)[..., 1].max() > 9.8
