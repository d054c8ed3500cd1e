"""Trees, bushes and hedges: crowns are many small leaf sprays, so that light and laser beams pass between them."""

import numpy as np

from occloom.town.materials import Material
from occloom.town.mesh import Mesh, concatenate
from occloom.town.shapes import ball, boxes, leaves, tube

VEGETATION, TRUNK = 70, 71


def tree(rng: np.random.Generator, *, height: float, slim: bool, fine: bool) -> Mesh:
    """A broad-leaved tree: trunk and limbs (71), crown (70); `fine` ones have more and smaller leaves."""
    clear = height * rng.uniform(0.26, 0.36)
    spread = height * (0.16 if slim else rng.uniform(0.28, 0.36))
    lean = rng.normal(0.0, 0.15, 2)
    bark = np.array([0.16, 0.12, 0.085]) * rng.uniform(0.7, 1.3)
    spine = np.array([[0, 0, -0.3], [0, 0, clear * 0.6], [*lean, clear], [*(1.6 * lean), height * 0.72]])
    girth = 0.016 * height + 0.05
    wood = [tube(spine, girth * np.array([1.25, 0.95, 0.85, 0.3]), 7, Material.BARK, bark)]
    tips = []
    for angle in rng.uniform(0, 2 * np.pi) + np.arange(6) * 2.4:
        base = spine[2] + (spine[3] - spine[2]) * rng.uniform(0.0, 0.6)
        reach = spread * rng.uniform(0.5, 0.85)
        rise = height * rng.uniform(0.1, 0.24)
        tip = base + np.array([reach * np.cos(angle), reach * np.sin(angle), rise])
        wood.append(tube(np.stack([base, tip]), np.array([0.45, 0.12]) * girth, 4, Material.BARK, bark))
        tips.append(tip)
    middle = np.array([*(1.4 * lean), 0.5 * (clear + height) + 0.05 * height])
    crown = crown_points(
        rng,
        middle,
        np.array([spread, spread, 0.5 * (height - clear)]),
        clumps=38 if fine else 18,
        per_clump=28 if fine else 12,
    )
    crown = crown[crown[:, 2] > 0.8 * clear]
    return concatenate(
        [
            concatenate(wood).named(TRUNK, 0),
            foliage(rng, crown, middle, (0.055 if fine else 0.11) * height**0.5).named(VEGETATION, 0),
        ]
    )


def conifer(rng: np.random.Generator, *, height: float) -> Mesh:
    """A spruce: tiers of hanging sprays around a straight trunk."""
    wood = tube(
        np.array([[0, 0, -0.3], [0, 0, height * 0.9]]),
        np.array([0.02 * height + 0.04, 0.03]),
        6,
        Material.BARK,
        (0.12, 0.085, 0.06),
    )
    share = np.sqrt(rng.uniform(0, 1, 520))
    level = height * (1.0 - 0.9 * share)
    angle = rng.uniform(0, 2 * np.pi, len(share))
    radius = 0.22 * height * share * (0.55 + 0.45 * rng.uniform(0, 1, len(share)) ** 0.5)
    points = np.stack([radius * np.cos(angle), radius * np.sin(angle), level - 0.25 * radius], -1)
    shade = rng.uniform(0.55, 1.1, (len(points), 1)) * (0.6 + 0.6 * (radius / (0.22 * height * share + 1e-3)))[:, None]
    green = leaves(points, 0.26, Material.LEAF, np.array([0.035, 0.085, 0.04]) * shade, rng)
    return concatenate([wood.named(TRUNK, 0), green.named(VEGETATION, 0)])


def bush(rng: np.random.Generator, *, radius: float, height: float) -> Mesh:
    """A shrub that stands on the ground, sometimes in flower."""
    middle = np.array([0.0, 0.0, 0.5 * height])
    points = crown_points(rng, middle, np.array([radius, radius, 0.5 * height]), clumps=9, per_clump=14)
    points = points[points[:, 2] > 0.0]
    core = ball(
        (0.0, 0.0, 0.36 * height),
        (0.55 * radius, 0.55 * radius, 0.38 * height),
        Material.LEAF,
        (0.03, 0.05, 0.02),
        sides=6,
    )
    parts = [core, foliage(rng, points, middle, 0.12 + 0.04 * radius)]
    if rng.uniform() < 0.35:
        bloom = rng.choice([[0.6, 0.1, 0.2], [0.7, 0.6, 0.1], [0.7, 0.7, 0.7], [0.4, 0.15, 0.5]])
        parts.append(leaves(points[::4] * [1.08, 1.08, 1.04], 0.06, Material.MATTE, bloom, rng))
    return concatenate(parts).named(VEGETATION, 0)


def hedge(rng: np.random.Generator, *, length: float, height: float, width: float) -> Mesh:
    """A clipped hedge along x: a dark core under a skin of leaves."""
    count = int(length * (2 * height + width) * 4)
    points = rng.uniform([0, -0.5, 0], [1, 0.5, 1], (count, 3))
    face = rng.uniform(0, 2 * height + width, count)
    points[:, 1] = np.where(face < height, -0.5, np.where(face < 2 * height, 0.5, points[:, 1]))
    points[:, 2] = np.where(face < 2 * height, points[:, 2], 1.0)
    points = points * [length, width, height] + rng.normal(0, 0.05, (count, 3))
    tint = np.array([0.07, 0.15, 0.035]) * rng.uniform(0.6, 1.3, (count, 1))
    skin = leaves(points, 0.15, Material.LEAF, tint, rng)
    cuts = np.linspace(0, length, max(2, int(length / 2)) + 1)
    slack = rng.uniform(0.0, 0.06, (len(cuts) - 1, 1))
    lower = np.stack([cuts[:-1], np.full(len(cuts) - 1, -0.42 * width), np.full(len(cuts) - 1, -0.4)], -1)
    upper = np.stack([cuts[1:], np.full(len(cuts) - 1, 0.42 * width), height * 0.94 - slack[:, 0]], -1)
    return concatenate([boxes(lower, upper, Material.LEAF, (0.035, 0.07, 0.02)), skin]).named(VEGETATION, 0)


def shrubs(rng: np.random.Generator, *, length: float, height: float, width: float) -> Mesh:
    """A wild row of shrubs along x: lumps of leaves around dark cores, no two alike."""
    parts = []
    for x in np.arange(0.5, length, 1.5):
        high, radius = height * float(rng.uniform(0.7, 1.1)), 0.5 * width * float(rng.uniform(0.75, 1.15))
        middle = np.array([x, rng.normal(0, 0.15 * width), 0.45 * high])
        long = max(radius, 0.95)
        core = (0.8 * long, 0.8 * radius, 0.47 * high)
        parts.append(ball((x, float(middle[1]), 0.42 * high), core, Material.LEAF, (0.035, 0.065, 0.02), sides=6))
        points = rng.normal(size=(46, 3))
        points /= np.linalg.norm(points, axis=-1, keepdims=True)
        points = middle + points * rng.uniform(0.8, 1.05, (46, 1)) * np.array([long, radius, 0.55 * high])
        parts.append(foliage(rng, points[points[:, 2] > 0.05], middle, 0.2 + 0.03 * height))
    return concatenate(parts).named(VEGETATION, 0)


def crown_points(
    rng: np.random.Generator, centre: np.ndarray, radii: np.ndarray, *, clumps: int, per_clump: int = 20
) -> np.ndarray:
    """Leaf positions (N, 3) in clumps spread through the outer part of an ellipsoid."""
    seeds = rng.normal(size=(clumps, 3))
    seeds /= np.linalg.norm(seeds, axis=-1, keepdims=True)
    seeds *= rng.uniform(0.45, 0.9, (clumps, 1))
    offsets = rng.normal(size=(clumps, per_clump, 3))
    offsets /= np.linalg.norm(offsets, axis=-1, keepdims=True)
    offsets *= 0.36 * rng.uniform(0.3, 1.0, (clumps, per_clump, 1)) ** 0.5
    return centre + ((seeds[:, None] + offsets) * radii).reshape(-1, 3)


def foliage(rng: np.random.Generator, points: np.ndarray, centre: np.ndarray, size: float) -> Mesh:
    """Leaf sprays, darker inside and below, in one of several greens."""
    base = rng.choice(
        [
            [0.075, 0.16, 0.03],
            [0.1, 0.17, 0.04],
            [0.05, 0.12, 0.035],
            [0.13, 0.17, 0.035],
            [0.09, 0.14, 0.055],
            [0.2, 0.14, 0.03],
        ]
    )
    away = np.linalg.norm(points - centre, axis=-1)
    light = 0.65 + 0.45 * (points[:, 2] - centre[2]) / (np.abs(points[:, 2] - centre[2]).max() + 1e-6)
    light = light * (0.7 + 0.4 * away / away.max()) * rng.uniform(0.75, 1.25, len(points))
    return leaves(points, size, Material.LEAF, base * light[:, None], rng)
