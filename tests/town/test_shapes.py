"""The solids, held against closed forms of their volume and area; closed skins have each edge once each way."""

from collections import Counter

import numpy as np
import pytest
from scipy.spatial import ConvexHull

from occloom.town.materials import Material
from occloom.town.mesh import Mesh
from occloom.town.shapes import ball, box, boxes, disc, leaves, loft, quads, rod, surface, triangles, tube

GREY = (0.5, 0.5, 0.5)
SOLIDS = {
    "box": lambda: box((-1, 2, 3), (1, 5, 3.5), Material.MATTE, GREY),
    "rod": lambda: rod((0, 0, 0), (1, 2, 3), 0.5, Material.MATTE, GREY),
    "rod along x": lambda: rod((2, 1, 0), (-3, 1, 0), 0.2, Material.MATTE, GREY, 9),
    "rod along z": lambda: rod((2, 1, 5), (2, 1, 0), 0.2, Material.MATTE, GREY, 3),
    "ball": lambda: ball((1, 2, 3), (1, 2, 0.5), Material.MATTE, GREY),
    "odd ball": lambda: ball((1, 2, 3), (1, 1, 1), Material.MATTE, GREY, sides=9),
    "prism": lambda: loft(np.stack([square(0.0), square(2.0)]), Material.MATTE, GREY),
}


def square(z: float, size: float = 1.0) -> np.ndarray:
    return np.array([[-size, -size, z], [size, -size, z], [size, size, z], [-size, size, z]])


def arc(angle: np.ndarray) -> np.ndarray:
    return np.stack([3 * np.cos(angle), 3 * np.sin(angle), 0 * angle], -1)


def corners_of(mesh: Mesh) -> np.ndarray:
    return mesh.vertices.astype(np.float64)[mesh.faces]


def normals(mesh: Mesh) -> np.ndarray:
    """Normals of the triangles, as long as their areas."""
    corners = corners_of(mesh)
    return 0.5 * np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])


def volume(mesh: Mesh) -> float:
    """What the skin encloses by the divergence theorem, positive where its normals look out."""
    return float((corners_of(mesh)[:, 0] * normals(mesh)).sum() / 3)


def is_closed(mesh: Mesh) -> bool:
    """Whether each edge between places (not indices) is run through once each way."""
    _, place = np.unique(mesh.vertices.round(4), axis=0, return_inverse=True)
    faces = place.reshape(-1)[mesh.faces]
    edges = Counter(map(tuple, faces[:, [[0, 1], [1, 2], [2, 0]]].reshape(-1, 2).tolist()))
    return set(edges.values()) == {1} and all((b, a) in edges for a, b in edges)


@pytest.mark.parametrize("name", SOLIDS)
def test_convex_solids_are_closed_and_look_outwards(name: str) -> None:
    mesh = SOLIDS[name]()
    assert is_closed(mesh)
    outwards = corners_of(mesh).mean(axis=1) - mesh.vertices.mean(axis=0)
    assert (np.einsum("ij,ij->i", normals(mesh), outwards) > 0).all()
    assert volume(mesh) == pytest.approx(ConvexHull(mesh.vertices.astype(np.float64)).volume, rel=1e-4)


def test_a_skin_with_a_hole_or_a_turned_triangle_is_noticed() -> None:
    whole = SOLIDS["box"]()
    turned = whole.faces.copy()
    turned[3] = turned[3, ::-1]
    assert not is_closed(surface(whole.vertices, whole.faces[1:], Material.MATTE, GREY))
    assert not is_closed(surface(whole.vertices, turned, Material.MATTE, GREY))


def test_the_volume_of_a_box_is_the_product_of_its_sides() -> None:
    assert volume(box((-1, 2, 3), (1, 5, 3.5), Material.MATTE, GREY)) == pytest.approx(2 * 3 * 0.5)


def test_many_boxes_are_each_one_box_with_its_colour() -> None:
    rng = np.random.default_rng(0)
    lower = rng.uniform(-5, 5, (7, 3))
    upper = lower + rng.uniform(0.1, 2, (7, 3))
    tones = rng.uniform(size=(7, 3))
    mesh = boxes(lower, upper, Material.WOOD, tones)
    for k in range(7):
        one = box(tuple(lower[k]), tuple(upper[k]), Material.WOOD, tuple(tones[k]))
        np.testing.assert_array_equal(corners_of(mesh)[12 * k : 12 * k + 12], corners_of(one))
        np.testing.assert_array_equal(mesh.colour[12 * k : 12 * k + 12], one.colour)
    assert len(mesh.faces) == 7 * 12
    assert len(boxes(lower[:0], upper[:0], Material.WOOD, GREY).faces) == 0


def test_a_rod_has_nearly_the_volume_of_a_cylinder() -> None:
    cylinder = np.pi * 0.5**2 * np.sqrt(14.0)
    mesh = rod((0, 0, 0), (1, 2, 3), 0.5, Material.MATTE, GREY, 40)
    assert 0.99 * cylinder < volume(mesh) < cylinder


def test_a_bent_tube_keeps_its_radius_and_obeys_pappus() -> None:
    path = arc(np.linspace(0, 1.5, 30))
    mesh = tube(path, 0.4, 24, Material.MATTE, GREY)
    away = np.linalg.norm(mesh.vertices.reshape(30, 24, 3) - path[:, None], axis=-1)
    np.testing.assert_allclose(away, 0.4, atol=1e-5)
    assert is_closed(mesh)
    assert volume(mesh) == pytest.approx(np.pi * 0.4**2 * 3 * 1.5, rel=0.03)


def test_a_tapering_tube_has_nearly_the_volume_of_a_frustum() -> None:
    mesh = tube(np.array([[0.0, 0, 0], [0, 0, 3]]), np.array([1.0, 0.5]), 48, Material.MATTE, GREY)
    assert is_closed(mesh)
    assert volume(mesh) == pytest.approx(np.pi * 3 / 3 * (1 + 0.5 + 0.25), rel=0.01)


def test_a_ball_lies_on_its_ellipsoid_and_fills_it_better_with_more_sides() -> None:
    centre, radii = np.array([1.0, 2.0, 3.0]), np.array([1.0, 2.0, 0.5])
    shares = []
    for sides in (6, 9, 16, 64):
        mesh = ball((1, 2, 3), (1, 2, 0.5), Material.MATTE, GREY, sides=sides)
        np.testing.assert_allclose(np.linalg.norm((mesh.vertices - centre) / radii, axis=-1), 1.0, atol=1e-5)
        assert is_closed(mesh)
        shares.append(volume(mesh) / (4 / 3 * np.pi * radii.prod()))
        assert np.ptp(mesh.vertices[:, 2]) > 0.995 * 2 * radii[2]  # hardly flattened at the poles
    assert shares == sorted(shares)
    assert 0.99 < shares[-1] < 1


def test_a_loft_of_squares_is_a_prism_a_pyramid_or_an_open_sleeve() -> None:
    assert volume(SOLIDS["prism"]()) == pytest.approx(4 * 2)
    pyramid = loft(np.stack([square(0.0), square(3.0, 0.0)]), Material.MATTE, GREY)
    assert is_closed(pyramid)  # triangles without area at the tip are gone
    assert len(pyramid.faces) == 4 + 2
    assert volume(pyramid) == pytest.approx(4 * 3 / 3)
    sleeve = loft(np.stack([square(0.0), square(2.0)]), Material.MATTE, GREY, capped=False)
    assert not is_closed(sleeve)
    assert np.linalg.norm(normals(sleeve), axis=-1).sum() == pytest.approx(4 * 2 * 2)


@pytest.mark.parametrize("normal", [(0, 0, 1), (-1, 0, 0), (0, 1, 0), (0, -0.6, 0.8)])
def test_a_disc_faces_its_normal_with_the_area_of_a_polygon(normal: tuple[float, float, float]) -> None:
    mesh = disc((1, 2, 3), normal, 2.0, 7, Material.SIGN, GREY)
    polygon = 0.5 * 7 * 2.0**2 * np.sin(2 * np.pi / 7)
    np.testing.assert_allclose(normals(mesh).sum(axis=0), polygon * np.array(normal), atol=1e-4)
    np.testing.assert_allclose(np.linalg.norm(mesh.vertices - [1, 2, 3], axis=-1), 2.0, atol=1e-5)


def test_quads_and_triangles_keep_corners_order_and_colours() -> None:
    rng = np.random.default_rng(1)
    flat = np.stack([square(0.0, 1.0), square(1.0, 2.0)]) + rng.uniform(-9, 9, (2, 1, 3))
    tones = rng.uniform(size=(2, 3)).astype(np.float32)
    mesh = quads(flat, Material.PAVING, tones)
    np.testing.assert_allclose(normals(mesh), [[0, 0, 2]] * 2 + [[0, 0, 8]] * 2, atol=1e-4)
    np.testing.assert_array_equal(mesh.colour, tones[[0, 0, 1, 1]])
    cut = triangles(flat[:, :3], Material.TILES, tones)
    np.testing.assert_array_equal(cut.vertices[cut.faces], flat[:, :3].astype(np.float32))
    np.testing.assert_array_equal(cut.colour, tones)
    for one, kind in ((mesh, Material.PAVING), (cut, Material.TILES)):
        assert (one.material == kind).all()
        assert not one.label.any()
        assert not one.instance.any()


def test_leaves_hang_about_their_centres_in_all_directions() -> None:
    rng = np.random.default_rng(2)
    centres = rng.uniform(-3, 3, (2000, 3))
    tones = rng.uniform(size=(2000, 3)).astype(np.float32)
    mesh = leaves(centres, 0.2, Material.LEAF, tones, rng)
    away = np.linalg.norm(mesh.vertices.reshape(2000, 4, 3) - centres[:, None], axis=-1)
    assert away.max() < 1.2 * 0.2 + 1e-5
    assert away.max(axis=1).min() > 0.6 * 0.2 - 1e-5
    np.testing.assert_array_equal(mesh.colour[::2], tones)
    unit = normals(mesh) / np.linalg.norm(normals(mesh), axis=-1, keepdims=True)
    np.testing.assert_allclose((unit**2).mean(axis=0), 1 / 3, atol=0.03)
    assert len(leaves(centres[:0], 0.2, Material.LEAF, GREY, rng).faces) == 0
