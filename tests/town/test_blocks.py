"""Laws of the quarters of a town, one block at a time on a flat street."""

import numpy as np
import pytest

from occloom.town.blocks import FAR, Block, commercial, corners, country, estate, old_town, park, roadside, suburb
from occloom.town.materials import Material
from occloom.town.mesh import Mesh
from occloom.town.site import OTHER_GROUND, PARKING, SIDEWALK, TERRAIN, Site
from occloom.town.street import Street

QUARTERS = [old_town, suburb, estate, commercial, park, country]
GROUND = [PARKING, SIDEWALK, OTHER_GROUND, TERRAIN]
START, END, HALF = 20.0, 77.0, 3.5


class Recorder(Site):
    """A site that also remembers the houses stood on it."""

    houses: list[Mesh]

    def upright(self, mesh: Mesh, s: float, d: float, *, height: float = 0.12, yaw: float = 0.0, size: float = 1.0):
        super().upright(mesh, s, d, height=height, yaw=yaw, size=size)
        if (mesh.label == 50).all():
            self.houses.append(self._meshes[-1])


def built(quarter, street: Street, side: int, seed: int) -> tuple[Recorder, Block]:
    site = Recorder(street, np.random.default_rng(seed), half=HALF)
    site.houses = []
    block = Block(site, side, START, END)
    corners(block, 45.0)
    quarter(block)
    return site, block


@pytest.fixture(scope="module", params=QUARTERS, ids=lambda quarter: quarter.__name__)
def quarter(request):
    return request.param


@pytest.fixture(scope="module", params=[-1, 1], ids=["right", "left"])
def side(request) -> int:
    return request.param


@pytest.fixture(scope="module")
def sites(quarter, side: int, flat_street: Street) -> list[Recorder]:
    return [built(quarter, flat_street, side, seed)[0] for seed in range(2)]


def test_a_block_is_a_function_of_its_seed(quarter, side: int, sites, flat_street: Street, assert_same) -> None:
    assert_same(built(quarter, flat_street, side, 1)[0].mesh(), sites[1].mesh())
    assert len(sites[0].mesh().faces) != len(sites[1].mesh().faces)


def test_a_block_is_sound_and_numbers_only_its_cars(sites, assert_sound) -> None:
    for site in sites:
        mesh = site.mesh()
        assert_sound(mesh)
        np.testing.assert_array_equal(mesh.instance > 0, mesh.label == 10)


def test_a_block_stays_on_its_side_between_its_ends(sites, side: int) -> None:
    for site in sites:
        mesh = site.mesh()
        ground = mesh.vertices[mesh.faces[np.isin(mesh.label, GROUND)]].reshape(-1, 3)
        assert START - 1e-4 <= ground[:, 0].min() < ground[:, 0].max() <= END + 1e-4
        away = side * ground[:, 1]
        assert HALF - 1e-4 <= away.min() < away.max() <= FAR + 1e-4
        solid = mesh.vertices[mesh.faces[np.isin(mesh.label, [10, 50, 51, 71])]].reshape(-1, 3)
        low = solid[solid[:, 2] < 1.0]
        assert (side * low[:, 1]).min() > HALF


def test_the_ground_of_a_block_has_no_hole(sites, side: int) -> None:
    """Each point from the kerb to the far edge lies on a patch of ground, seen in plan."""
    rng = np.random.default_rng(0)
    s, d = rng.uniform(START + 0.01, END - 0.01, 4000), side * rng.uniform(HALF + 0.01, FAR - 0.01, 4000)
    s[:1500], d[:1500] = rng.uniform(START, END, 1500), side * rng.uniform(HALF + 0.01, HALF + 25.0, 1500)
    for site in sites:
        mesh = site.mesh()
        plan = mesh.vertices[mesh.faces[np.isin(mesh.label, GROUND)]][..., :2].astype(np.float64)
        a, b, c = plan.transpose(1, 2, 0)
        twice = (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])
        flat = twice > 1e-6  # kerbs are upright
        a, b, c, twice = a[:, flat], b[:, flat], c[:, flat], twice[flat]
        u = ((s[:, None] - a[0]) * (c[1] - a[1]) - (d[:, None] - a[1]) * (c[0] - a[0])) / twice
        v = ((b[0] - a[0]) * (d[:, None] - a[1]) - (b[1] - a[1]) * (s[:, None] - a[0])) / twice
        covered = ((u >= -1e-4) & (v >= -1e-4) & (u + v <= 1 + 1e-4)).any(axis=1)
        assert covered.all()


def test_parked_cars_do_not_touch(sites, extents) -> None:
    for site in sites:
        assert_apart(extents(site.mesh()), 0.0)


def test_houses_do_not_stand_in_each_other(sites) -> None:
    for site in sites:
        bounds = np.array([[house.vertices.min(axis=0), house.vertices.max(axis=0)] for house in site.houses])
        assert_apart(bounds.reshape(-1, 2, 3), -0.7001)  # the eaves of both neighbours of a terrace are 0.35 m wide


def assert_apart(bounds: np.ndarray, least: float) -> None:
    """No two boxes (N, 2, 3) come nearer in plan than `least` metres along both axes."""
    low, high = bounds[:, 0, :2], bounds[:, 1, :2]
    gap = np.maximum(low[:, None] - high[None], low[None] - high[:, None]).max(axis=-1)
    assert (gap[~np.eye(len(bounds), dtype=bool)] >= least).all()


@pytest.mark.parametrize("side", [-1, 1])
def test_offsets_grow_away_from_the_street(flat_street: Street, side: int) -> None:
    block = Block(Site(flat_street, np.random.default_rng(0), half=HALF), side, START, END)
    assert block.d(0.0) == side * HALF
    assert abs(block.d(2.5)) == HALF + 2.5
    inwards = np.array([np.cos(block.facing - np.pi / 2), np.sin(block.facing - np.pi / 2)])  # a house looks at -y
    np.testing.assert_allclose(inwards, [0, -side], atol=1e-12)
    block.strip(1.0, 4.0, SIDEWALK, Material.PAVING, (0.5, 0.5, 0.5))
    low, high = block.site.mesh().vertices.min(axis=0), block.site.mesh().vertices.max(axis=0)
    np.testing.assert_allclose(sorted([side * low[1], side * high[1]]), [HALF + 1, HALF + 4], atol=1e-5)
    assert START < low[0] < high[0] < END


@pytest.mark.parametrize("parking", [False, True])
@pytest.mark.parametrize("verge", [0.0, 2.0])
def test_a_roadside_goes_from_the_kerb_over_the_walk_to_what_is_behind(
    flat_street: Street, parking: bool, verge: float
) -> None:
    site = Site(flat_street, np.random.default_rng(0), half=HALF)
    edge = roadside(Block(site, 1, START, END), parking=parking, walk=3.0, verge=verge)
    assert 0 < edge.kerb < edge.walk < edge.behind
    assert edge.behind - edge.kerb == pytest.approx(3.0 + verge)
    assert edge.behind - edge.walk == pytest.approx(1.5)
    assert bool(edge.bays) == parking == bool((site.mesh().label == PARKING).any())
    assert all(START + 8 < s < END - 8 for s in edge.bays)
    assert np.diff(edge.bays).min(initial=9.0) > 6.0
    lamps = np.array(site.lamps)
    assert len(lamps) > 1
    assert (np.diff(lamps[:, 0]) > 20).all()
    np.testing.assert_allclose(lamps[:, 2], 6.5, atol=1e-6)
