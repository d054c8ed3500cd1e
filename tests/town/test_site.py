"""Laws of the ground and of what is put on it, on a flat street, where street and world coordinates agree."""

import numpy as np
import pytest

from occloom.town.assets_street import fence
from occloom.town.materials import Material
from occloom.town.mesh import Mesh
from occloom.town.shapes import box
from occloom.town.site import KERB_HEIGHT, SIDEWALK, TERRAIN, Site
from occloom.town.street import Street

GREY = (0.5, 0.5, 0.5)


@pytest.fixture
def site(flat_street: Street) -> Site:
    return Site(flat_street, np.random.default_rng(7), half=3.5)


@pytest.fixture(scope="module")
def winding() -> Street:
    return Street(bends=np.array([[6.0, 0.02, 0.3]]), rises=np.array([[1.5, 0.03, 0.2]]), banks=np.array([2.0, -1.0]))


def normals(mesh: Mesh) -> np.ndarray:
    """Normals of the triangles, as long as their areas."""
    corners = mesh.vertices.astype(np.float64)[mesh.faces]
    return 0.5 * np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])


@pytest.mark.parametrize("d", [(3.5, 6.0), (-3.5, -6.0), (-6.0, -3.5), (-50.0, 41.0)])
def test_a_patch_of_ground_is_level_looks_up_and_has_its_area(site: Site, d: tuple[float, float]) -> None:
    site.ground((-10.0, 15.0), d, TERRAIN, Material.GRASS, GREY)
    mesh = site.mesh()
    assert (mesh.label == TERRAIN).all()
    assert not mesh.instance.any()
    np.testing.assert_allclose(mesh.vertices[:, 2], KERB_HEIGHT, atol=1e-6)
    assert (normals(mesh)[:, 2] > 0).all()
    np.testing.assert_allclose(normals(mesh).sum(axis=0), [0, 0, 25.0 * abs(d[1] - d[0])], rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(np.ptp(mesh.vertices[:, :2], axis=0), [25.0, abs(d[1] - d[0])], rtol=1e-5)


def test_rough_ground_keeps_near_its_height_and_shares_its_edges(site: Site) -> None:
    site.ground((0.0, 30.0), (5.0, 20.0), TERRAIN, Material.GRASS, GREY, height=0.2, rough=0.1)
    mesh = site.mesh()
    assert 0.2 - 0.16 - 1e-6 < mesh.vertices[:, 2].min() < mesh.vertices[:, 2].max() < 0.2 + 0.04 + 1e-6
    assert np.ptp(mesh.vertices[:, 2]) > 0.05
    assert normals(mesh)[:, 2].sum() == pytest.approx(30 * 15, rel=1e-5)


def test_slivers_of_ground_are_left_out(site: Site) -> None:
    site.ground((0.0, 0.04), (5.0, 20.0), TERRAIN, Material.GRASS, GREY)
    site.ground((0.0, 9.0), (5.0, 5.04), TERRAIN, Material.GRASS, GREY)
    site.ground((9.0, 0.0), (5.0, 9.0), TERRAIN, Material.GRASS, GREY)
    assert len(site.mesh().faces) == 0


def test_a_kerb_is_upright_and_reaches_from_below_the_road_to_the_sidewalk(site: Site) -> None:
    site.kerb((2.0, 12.0), (3.5, 3.5))
    site.kerb((2.0, 2.0), (-3.5, -9.5))
    mesh = site.mesh()
    assert (mesh.label == SIDEWALK).all()
    np.testing.assert_allclose(normals(mesh)[:, 2], 0.0, atol=1e-6)
    assert np.linalg.norm(normals(mesh), axis=-1).sum() == pytest.approx((10 + 6) * (KERB_HEIGHT + 0.05), rel=1e-4)
    assert mesh.vertices[:, 2].max() == pytest.approx(KERB_HEIGHT)


def test_numbers_are_never_given_twice(site: Site) -> None:
    thing = box((-2, -1, 0), (2, 1, 1.5), Material.PAINT, GREY)
    taken = [site.number()]
    site.park(thing, 10, 5.0, 1.0)
    site.park(thing, 20, 15.0, 1.0)
    taken.append(site.number())
    mesh = site.mesh()
    np.testing.assert_array_equal(np.unique(mesh.instance), np.setdiff1d(np.arange(1, 5), taken))
    assert [set(mesh.instance[mesh.label == label].tolist()) for label in (10, 20)] == [{2}, {3}]


@pytest.mark.parametrize("way", [(1.0, 0.0), (-1.0, 0.0), (0.0, 1.0), (0.6, -0.8)])
def test_what_is_parked_faces_its_way_and_stands_on_the_ground(site: Site, way: tuple[float, float]) -> None:
    thing = box((-2, -1, 0), (2, 1, 1.5), Material.PAINT, GREY)
    site.park(thing, 10, 5.0, -4.0, height=0.12, along=way[0], across=way[1])
    forward, left = np.array([*way, 0.0]), np.array([-way[1], way[0], 0.0])
    x, y, z = thing.vertices.T[:, :, None]
    expected = [5.0, -4.0, 0.12 - 0.005] + x * forward + y * left + z * [0, 0, 1]
    np.testing.assert_allclose(site.mesh().vertices, expected, atol=1e-5)


def test_what_is_parked_on_a_slope_keeps_its_shape(winding: Street) -> None:
    site = Site(winding, np.random.default_rng(0), half=3.5)
    thing = box((-2, -1, 0), (2, 1, 1.5), Material.PAINT, GREY)
    site.park(thing, 10, 40.0, -4.0, along=0.3, across=0.9)
    edges = [
        np.linalg.norm(m.vertices[m.faces[:, 0]] - m.vertices[m.faces[:, 1]], axis=-1) for m in (thing, site.mesh())
    ]
    np.testing.assert_allclose(edges[1], edges[0], atol=1e-4)


@pytest.mark.parametrize("d", [(4.0, 13.0), (-4.0, -13.0)])
def test_what_lies_along_or_across_a_flat_street_is_only_turned(site: Site, d: tuple[float, float]) -> None:
    row = fence(np.random.default_rng(1), length=9.0, height=1.2)
    x, y, z = row.vertices.T
    site.along(row, 20.0, d[0])
    site.across(row, 20.0, d)
    along, across = site.mesh().vertices.reshape(2, -1, 3)
    np.testing.assert_allclose(along, np.stack([20 + x, d[0] + y, KERB_HEIGHT + z], -1), atol=1e-5)
    way = 1.0 if d[1] > d[0] else -1.0
    np.testing.assert_allclose(across, np.stack([20 - way * y, d[0] + way * x, KERB_HEIGHT + z], -1), atol=1e-5)
    before, *after = (normals(mesh)[:, 2] for mesh in (row, site.mesh()))
    np.testing.assert_allclose(after[0], np.tile(before, 2), atol=1e-4)  # turned, not mirrored


def test_what_lies_along_a_winding_street_follows_it(winding: Street) -> None:
    site = Site(winding, np.random.default_rng(0), half=3.5)
    row = fence(np.random.default_rng(1), length=30.0, height=1.2)
    site.along(row, 20.0, 5.0)
    x, y, z = row.vertices.T.astype(float)
    np.testing.assert_allclose(site.mesh().vertices, winding.points(20 + x, 5 + y, KERB_HEIGHT + z), atol=1e-5)


def test_what_stands_upright_is_turned_and_scaled_about_its_foot(site: Site) -> None:
    post = box((-0.1, -0.2, 0.0), (0.3, 0.2, 4.0), Material.METAL, GREY).named(80, 0)
    site.upright(post, 12.0, -5.0, yaw=np.pi / 2, size=0.5)
    x, y, z = 0.5 * post.vertices.T
    np.testing.assert_allclose(site.mesh().vertices, np.stack([12 - y, -5 + x, KERB_HEIGHT + z], -1), atol=1e-5)


def test_trees_and_bushes_grow_where_they_are_put_and_by_the_seed_alone(flat_street: Street, assert_same) -> None:
    def planted(seed: int) -> Mesh:
        site = Site(flat_street, np.random.default_rng(seed), half=3.5)
        site.tree(50.0, 9.0)
        site.tree(50.0, 30.0, wild=True)
        site.bush(50.0, -9.0)
        return site.mesh()

    one = planted(3)
    assert_same(one, planted(3))
    assert len(planted(4).faces) != len(one.faces) or (planted(4).vertices != one.vertices).any()
    assert set(one.label.tolist()) == {70, 71}
    wood = one.vertices[one.faces[one.label == 71]].reshape(-1, 3)
    feet = wood[wood[:, 2] < 0.05]
    near, far = feet[np.abs(feet[:, 1] - 9) < 1], feet[np.abs(feet[:, 1] - 30) < 1]
    assert len(near) + len(far) == len(feet)
    for group, d in ((near, 9.0), (far, 30.0)):
        np.testing.assert_allclose(group.mean(axis=0)[:2], [50.0, d], atol=0.1)
