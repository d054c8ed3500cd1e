"""Solid primitives as meshes without a class: every asset of the town is built from these.

All are in metres with z up. The label is 0 until `Mesh.named` gives one.
"""

import numpy as np
from jaxtyping import Float

from occloom.town.materials import Material
from occloom.town.mesh import Mesh

Point = tuple[float | int, float | int, float | int]
Colour = Point | np.ndarray

_BOX_SIDES = np.array(
    [[0, 2, 3, 1], [4, 5, 7, 6], [0, 1, 5, 4], [2, 6, 7, 3], [0, 4, 6, 2], [1, 3, 7, 5]], dtype=np.int32
)  # corners numbered x + 2 y + 4 z; anticlockwise from outside


def triangles(corners: Float[np.ndarray, "N 3 3"], material: Material, colour: Colour) -> Mesh:
    """Separate triangles; `colour` is one RGB or one per triangle."""
    faces = np.arange(3 * len(corners), dtype=np.int32).reshape(-1, 3)
    return surface(corners.reshape(-1, 3), faces, material, colour)


def quads(corners: Float[np.ndarray, "N 4 3"], material: Material, colour: Colour) -> Mesh:
    """Separate quadrilaterals, two triangles each; `colour` is one RGB or one per quadrilateral."""
    first = 4 * np.arange(len(corners), dtype=np.int32)[:, None, None]
    faces = (first + np.array([[0, 1, 2], [0, 2, 3]], dtype=np.int32)).reshape(-1, 3)
    shades = np.asarray(colour, dtype=np.float32)
    return surface(
        corners.reshape(-1, 3), faces, material, np.repeat(shades, 2, axis=0) if shades.ndim == 2 else shades
    )


def surface(vertices: np.ndarray, faces: np.ndarray, material: Material, colour: Colour) -> Mesh:
    """A mesh of one material and no class."""
    count = len(faces)
    return Mesh(
        np.ascontiguousarray(vertices, dtype=np.float32),
        np.ascontiguousarray(faces, dtype=np.int32),
        np.zeros(count, np.uint16),
        np.zeros(count, np.uint16),
        np.full(count, int(material), np.uint8),
        np.ascontiguousarray(np.broadcast_to(np.asarray(colour, np.float32), (count, 3))),
    )


def boxes(lower: Float[np.ndarray, "N 3"], upper: Float[np.ndarray, "N 3"], material: Material, colour: Colour) -> Mesh:
    """Axis-aligned boxes; `colour` is one RGB or one per box."""
    bits = (np.arange(8)[:, None] >> np.arange(3)) & 1
    corners = np.where(bits[None] == 1, upper[:, None], lower[:, None])
    shades = np.asarray(colour, dtype=np.float32)
    shades = np.repeat(shades, 6, axis=0) if shades.ndim == 2 else shades
    return quads(corners[:, _BOX_SIDES].reshape(-1, 4, 3), material, shades)


def box(lower: Point, upper: Point, material: Material, colour: Colour) -> Mesh:
    """One axis-aligned box."""
    return boxes(np.array([lower], dtype=float), np.array([upper], dtype=float), material, colour)


def loft(rings: Float[np.ndarray, "R P 3"], material: Material, colour: Colour, *, capped: bool = True) -> Mesh:
    """A skin over closed rings of equal length, with flat fans as caps."""
    count, points = rings.shape[:2]
    i = np.arange(count - 1, dtype=np.int32)[:, None] * points
    j, k = np.arange(points, dtype=np.int32), (np.arange(points, dtype=np.int32) + 1) % points
    a, b, c, d = i + j, i + k, i + points + k, i + points + j
    faces = [np.stack([a, b, c], -1).reshape(-1, 3), np.stack([a, c, d], -1).reshape(-1, 3)]
    if capped:
        fan = np.stack([np.zeros(points - 2, np.int32), j[1:-1], j[2:]], -1)
        faces += [fan[:, ::-1], fan + (count - 1) * points]
    vertices, triples = rings.reshape(-1, 3), np.concatenate(faces)
    corners = vertices[triples]
    area = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=-1)
    return surface(vertices, triples[area > 1e-7], material, colour)


def tube(
    path: Float[np.ndarray, "R 3"],
    radius: Float[np.ndarray, "R"] | float,
    sides: int,
    material: Material,
    colour: Colour,
) -> Mesh:
    """A pipe along a polyline, its ends closed."""
    along = np.gradient(path, axis=0)
    along /= np.linalg.norm(along, axis=-1, keepdims=True)
    helper = np.array([1.0, 0.0, 0.0]) if abs(along[0, 0]) < 0.8 else np.array([0.0, 1.0, 0.0])
    one = np.cross(along, helper)
    one /= np.linalg.norm(one, axis=-1, keepdims=True)
    two = np.cross(along, one)
    angle = 2 * np.pi * np.arange(sides) / sides
    ring = np.cos(angle)[:, None] * one[:, None] + np.sin(angle)[:, None] * two[:, None]
    radii = np.broadcast_to(np.asarray(radius, dtype=float), (len(path),))
    return loft(path[:, None] + radii[:, None, None] * ring, material, colour)


def rod(
    start: Point,
    end: Point,
    radius: float,
    material: Material,
    colour: Colour,
    sides: int = 6,
) -> Mesh:
    """A straight pipe."""
    return tube(np.array([start, end], dtype=float), radius, sides, material, colour)


def ball(
    centre: Point,
    radii: Point,
    material: Material,
    colour: Colour,
    *,
    sides: int = 8,
) -> Mesh:
    """An ellipsoid in facets."""
    polar = np.linspace(0.06, np.pi - 0.06, max(4, sides // 2 + 1))
    angle = 2 * np.pi * np.arange(sides) / sides
    unit = np.stack(
        [
            np.sin(polar)[:, None] * np.cos(angle),
            np.sin(polar)[:, None] * np.sin(angle),
            np.broadcast_to(-np.cos(polar)[:, None], (len(polar), sides)),
        ],
        axis=-1,
    )
    return loft(np.array(centre) + unit * np.array(radii), material, colour)


def disc(
    centre: Point,
    normal: Point,
    radius: float,
    sides: int,
    material: Material,
    colour: Colour,
) -> Mesh:
    """A flat regular polygon that faces `normal`."""
    axis = np.array(normal, dtype=float)
    helper = np.array([1.0, 0.0, 0.0]) if abs(axis[0]) < 0.8 else np.array([0.0, 1.0, 0.0])
    one = np.cross(helper, axis)
    one /= np.linalg.norm(one)
    angle = 2 * np.pi * np.arange(sides)[:, None] / sides
    ring = np.array(centre) + radius * (np.cos(angle) * one + np.sin(angle) * np.cross(axis, one))
    fan = np.stack([np.zeros(sides - 2), np.arange(1, sides - 1), np.arange(2, sides)], -1).astype(np.int32)
    return surface(ring, fan, material, colour)


def leaves(
    centres: Float[np.ndarray, "N 3"], size: float, material: Material, colour: Colour, rng: np.random.Generator
) -> Mesh:
    """Random four-cornered leaf sprays, a little folded, one at each centre."""
    count = len(centres)
    one = rng.normal(size=(count, 3))
    one /= np.linalg.norm(one, axis=-1, keepdims=True)
    two = np.cross(one, rng.normal(size=(count, 3)))
    two /= np.linalg.norm(two, axis=-1, keepdims=True)
    bend = 0.25 * np.cross(one, two)
    reach = size * rng.uniform(0.6, 1.2, (count, 1, 1))
    corners = np.stack([one, 0.6 * two + bend, -one, -0.6 * two + bend], axis=1)
    return quads(centres[:, None] + reach * corners, material, colour)
