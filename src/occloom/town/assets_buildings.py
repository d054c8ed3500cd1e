"""Buildings: walls with recessed windows, doors, shop fronts, balconies and several kinds of roof.

A building's frame has x along the street, y away from it (the front is the plane y = 0) and z up from the ground.
"""

from dataclasses import dataclass

import numpy as np

from occloom.town.materials import Material
from occloom.town.mesh import Mesh, concatenate
from occloom.town.shapes import box, boxes, quads, triangles

BUILDING = 50
_UNDER = 1.6  # walls reach this far below the ground, for slopes
_PLASTERS = [
    [0.62, 0.55, 0.42], [0.58, 0.42, 0.27], [0.6, 0.6, 0.55], [0.55, 0.36, 0.3], [0.42, 0.47, 0.42], [0.66, 0.6, 0.35],
    [0.4, 0.42, 0.46], [0.62, 0.48, 0.4], [0.5, 0.5, 0.5], [0.35, 0.4, 0.5],
]  # fmt: skip
_BRICKS = [[0.36, 0.14, 0.09], [0.3, 0.16, 0.11], [0.42, 0.24, 0.14], [0.45, 0.38, 0.28]]
_ROOFS = [[0.33, 0.12, 0.07], [0.25, 0.1, 0.07], [0.1, 0.1, 0.11], [0.17, 0.15, 0.14], [0.36, 0.18, 0.09]]


@dataclass(frozen=True)
class BuildingPlan:
    """Size and manner of one building.

    Attributes:
        width, depth: footprint, metres.
        storeys: number of floors; storey_height: metres each.
        roof: "gable", "hip" or "flat".
        shop: large panes on the ground floor; balconies: on some upper windows.
        detail: windows on the sides and the back as well.
    """

    width: float
    depth: float
    storeys: int
    storey_height: float
    roof: str
    shop: bool = False
    balconies: bool = False
    detail: bool = True


@dataclass(frozen=True)
class _Finish:
    wall: Material
    colour: np.ndarray
    trim: np.ndarray
    frame: np.ndarray
    roof: np.ndarray


def building(rng: np.random.Generator, plan: BuildingPlan) -> Mesh:
    """One building after `plan`; colours, window sizes and ornaments are drawn from `rng`."""
    brick = rng.uniform() < 0.3
    colour = rng.choice(_BRICKS) if brick else rng.choice(_PLASTERS)
    finish = _Finish(
        Material.BRICK
        if brick
        else Material.CONCRETE
        if plan.roof == "flat" and rng.uniform() < 0.4
        else Material.PLASTER,
        colour * rng.uniform(0.85, 1.1),
        np.clip(colour * rng.choice([0.6, 1.25]), 0, 0.75),
        rng.choice([[0.65, 0.65, 0.62], [0.65, 0.65, 0.62], [0.2, 0.12, 0.07], [0.05, 0.06, 0.07]]),
        rng.choice(_ROOFS) * rng.uniform(0.8, 1.2),
    )
    w, depth, height = plan.width, plan.depth, plan.storeys * plan.storey_height
    walls = [  # origin, direction, length, shop
        ((0.0, 0.0), (1.0, 0.0), w, True, plan.shop),
        ((w, 0.0), (0.0, 1.0), depth, plan.detail, False),
        ((w, depth), (-1.0, 0.0), w, plan.detail, False),
        ((0.0, depth), (0.0, -1.0), depth, plan.detail, False),
    ]
    opening = (rng.uniform(0.95, 1.35), rng.uniform(2.2, 3.2))
    parts = []
    for start, along, length, pierced, shop in walls:
        wall = _wall(rng, plan, finish, length, opening if pierced else (1.0, 1e9), shop)
        parts.append(wall.placed(_onto(start, along)))
    parts.append(_door(rng, finish, plan).placed(_onto((0.0, 0.0), (1.0, 0.0))))
    parts.append(
        _flat_roof(rng, plan, finish, height) if plan.roof == "flat" else _pitched_roof(rng, plan, finish, height)
    )
    ledge = 0.08
    parts.append(boxes(
        np.array([[-ledge, -ledge, -_UNDER], [-ledge, -ledge, height - 0.22]]),
        np.array([[w + ledge, depth + ledge, 0.45], [w + ledge, depth + ledge, height - 0.02]]),
        Material.STONE, np.stack([0.6 * finish.trim, finish.trim]),
    ))  # fmt: skip
    middle = np.eye(4)
    middle[0, 3] = -0.5 * w
    return concatenate(parts).placed(middle).named(BUILDING, 0)


def hall(rng: np.random.Generator, *, width: float, depth: float, height: float) -> Mesh:
    """A shop or works hall: ribbed metal walls, a band of colour, a glazed entrance and a flat roof."""
    tone, band = (
        rng.choice([[0.5, 0.5, 0.48], [0.4, 0.43, 0.46], [0.55, 0.5, 0.4]]),
        rng.choice([[0.5, 0.03, 0.03], [0.03, 0.12, 0.4], [0.5, 0.38, 0.02], [0.05, 0.3, 0.1]]),
    )
    w = 0.5 * width
    parts = [
        box((-w, 0, -_UNDER), (w, depth, height), Material.CONCRETE, tone),
        box((-w - 0.1, -0.12, height - 1.4), (w + 0.1, 0.0, height + 0.3), Material.METAL, band),
        box((-0.35 * w, -0.2, height - 1.1), (0.1 * w, -0.1, height - 0.1), Material.SIGN, (0.65, 0.65, 0.62)),
        box((-0.5 * w, -1.6, 3.1), (0.3 * w, 0.0, 3.35), Material.METAL, band),
    ]
    ribs = np.arange(-w, w, 1.2)
    low, high = (
        np.stack([ribs, 0 * ribs - 0.06, 0 * ribs], -1),
        np.stack([ribs + 0.1, 0 * ribs, 0 * ribs + height - 1.4], -1),
    )
    parts.append(boxes(low, high, Material.METAL, 0.8 * tone))
    panes = np.arange(-0.7 * w, 0.6 * w, 1.5)
    low, high = (
        np.stack([panes, 0 * panes - 0.08, 0 * panes + 0.2], -1),
        np.stack([panes + 1.4, 0 * panes, 0 * panes + 2.9], -1),
    )
    parts.append(boxes(low, high, Material.GLASS if rng.uniform() < 0.4 else Material.LIT_GLASS, (0.05, 0.06, 0.07)))
    return concatenate(parts).named(BUILDING, 0)


def _onto(start: tuple[float, float], along: tuple[float, float]) -> np.ndarray:
    """Pose of a wall's frame: x along the wall, -y outwards, z up."""
    pose = np.eye(4)
    pose[:2, 0], pose[:2, 1] = along, (-along[1], along[0])
    pose[:2, 3] = start
    return pose


def _wall(
    rng: np.random.Generator,
    plan: BuildingPlan,
    finish: _Finish,
    length: float,
    opening: tuple[float, float],
    shop: bool,
) -> Mesh:
    """One wall in its own frame (x along, z up, outside towards -y): solid parts, reveals, panes, frames and sills."""
    pane, pitch = opening
    count = int((length - 0.6) / pitch)
    rows = [(k * plan.storey_height, (k + 1) * plan.storey_height) for k in range(plan.storeys)]
    if count < 1:
        return quads(_face(np.array([[0.0, length, -_UNDER, rows[-1][1]]]), 0.0), finish.wall, finish.colour)
    solid, holes = [[0.0, length, -_UNDER, 0.0]], []
    for k, (low, high) in enumerate(rows):
        wide = length / count - 0.5 if shop and k == 0 else pane
        sill, head = (low + 0.5, high - 0.45) if shop and k == 0 else (low + 0.9, high - 0.5)
        centres = (np.arange(count) + 0.5) * length / count
        left, right = centres - 0.5 * wide, centres + 0.5 * wide
        solid += [[0.0, length, low, sill], [0.0, length, head, high]]
        solid += [[a, b, sill, head] for a, b in zip([0.0, *right], [*left, length], strict=True)]
        holes += [[a, b, sill, head] for a, b in zip(left, right, strict=True)]
    gaps = np.array(holes)
    parts = [quads(_face(np.array(solid), 0.0), finish.wall, finish.colour), *_windows(rng, gaps, finish)]
    if plan.balconies and length == plan.width:
        parts += [_balcony(gap, finish) for gap in gaps[count:] if rng.uniform() < 0.4]
    return concatenate(parts)


def _windows(rng: np.random.Generator, gaps: np.ndarray, finish: _Finish) -> list[Mesh]:
    a, b, low, high = gaps.T
    deep = 0.16
    at = np.stack
    zero, inner = 0 * a, 0 * a + deep
    reveals = np.concatenate([
        at([at([a, zero, low], -1), at([a, inner, low], -1), at([a, inner, high], -1), at([a, zero, high], -1)], 1),
        at([at([b, inner, low], -1), at([b, zero, low], -1), at([b, zero, high], -1), at([b, inner, high], -1)], 1),
        at([at([a, zero, low], -1), at([b, zero, low], -1), at([b, inner, low], -1), at([a, inner, low], -1)], 1),
        at([at([a, inner, high], -1), at([b, inner, high], -1), at([b, zero, high], -1), at([a, zero, high], -1)], 1),
    ])  # fmt: skip
    lit = rng.uniform(size=len(a)) < 0.35
    tint = np.array([0.045, 0.05, 0.055]) * rng.uniform(0.5, 1.6, (len(a), 1))
    panes = [
        quads(_face(gaps[keep], deep), kind, tint[keep])
        for keep, kind in ((lit, Material.LIT_GLASS), (~lit, Material.GLASS))
    ]
    bar, mid, cross = 0.06, 0.5 * (a + b), low + 0.68 * (high - low)
    strips = np.concatenate([
        at([a, a + bar, low, high], -1), at([b - bar, b, low, high], -1), at([mid - 0.03, mid + 0.03, low, high], -1),
        at([a, b, low, low + bar], -1), at([a, b, high - bar, high], -1), at([a, b, cross - 0.02, cross + 0.02], -1),
    ])  # fmt: skip
    sills = boxes(
        at([a - 0.06, 0 * a - 0.1, low - 0.09], -1), at([b + 0.06, 0 * a + 0.02, low], -1), Material.STONE, finish.trim
    )
    parts = [
        quads(reveals, Material.PLASTER, finish.trim),
        *panes,
        quads(_face(strips, deep - 0.035), Material.WOOD, finish.frame),
        sills,
    ]
    blind = rng.uniform(size=len(a)) < 0.2
    drop = high[blind] - rng.uniform(0.2, 0.9, int(blind.sum())) * (high - low)[blind]
    parts.append(
        quads(_face(at([a[blind], b[blind], drop, high[blind]], -1), deep - 0.05), Material.WOOD, 0.8 * finish.frame)
    )
    return parts


def _face(rects: np.ndarray, y: float) -> np.ndarray:
    """Rectangles (N, 4) of (x0, x1, z0, z1) as upright quadrilaterals (N, 4, 3) that look towards -y."""
    x0, x1, z0, z1 = rects.T
    level = np.full(len(rects), y)
    return np.stack([np.stack(c, -1) for c in ((x0, level, z0), (x1, level, z0), (x1, level, z1), (x0, level, z1))], 1)


def _balcony(gap: np.ndarray, finish: _Finish) -> Mesh:
    a, b, low, _ = gap
    x0, x1, floor = a - 0.5, b + 0.5, low - 0.9
    bars = np.arange(x0, x1 - 0.02, 0.16)
    posts = boxes(
        np.stack([bars, 0 * bars - 1.2, 0 * bars + floor], -1),
        np.stack([bars + 0.03, 0 * bars - 1.17, 0 * bars + floor + 0.95], -1),
        Material.METAL,
        (0.1, 0.1, 0.1),
    )
    sheet = boxes(
        np.array([[x0, -1.2, floor], [x1 - 0.04, -1.2, floor]]),
        np.array([[x0 + 0.04, 0, floor + 0.95], [x1, 0, floor + 0.95]]),
        Material.PLASTER,
        finish.trim,
    )
    slab = box((x0, -1.22, floor - 0.16), (x1, 0.0, floor), Material.CONCRETE, (0.4, 0.4, 0.38))
    rail = box((x0, -1.23, floor + 0.95), (x1, -1.15, floor + 1.0), Material.METAL, (0.15, 0.15, 0.15))
    return concatenate([slab, posts, sheet, rail])


def _door(rng: np.random.Generator, finish: _Finish, plan: BuildingPlan) -> Mesh:
    x = float(rng.uniform(0.25, 0.75)) * plan.width
    tone = rng.choice([[0.2, 0.08, 0.04], [0.05, 0.12, 0.08], [0.08, 0.1, 0.2], [0.3, 0.28, 0.25]])
    return concatenate(
        [
            box((x - 0.65, -0.12, 0.0), (x + 0.65, 0.0, 2.45), Material.STONE, finish.trim),
            box((x - 0.5, -0.15, 0.15), (x + 0.5, -0.1, 2.25), Material.WOOD, tone),
            box((x - 0.3, -0.165, 1.45), (x + 0.3, -0.14, 2.05), Material.GLASS, (0.05, 0.05, 0.06)),
            box((x - 0.8, -0.6, -0.4), (x + 0.8, 0.0, 0.15), Material.STONE, (0.35, 0.35, 0.33)),
        ]
    )


def _pitched_roof(rng: np.random.Generator, plan: BuildingPlan, finish: _Finish, height: float) -> Mesh:
    w, depth, over = plan.width, plan.depth, 0.35
    top = height + 0.5 * depth * np.tan(rng.uniform(0.6, 0.85))
    inset = 0.32 * depth if plan.roof == "hip" else -over
    drop = (top - height) * over / (0.5 * depth)
    e = height - drop + 0.02
    corners = np.array([[-over, -over, e], [w + over, -over, e], [w + over, depth + over, e], [-over, depth + over, e]])
    ridge = np.array([[inset, 0.5 * depth, top], [w - inset, 0.5 * depth, top]])
    slopes = np.stack(
        [np.stack([corners[0], corners[1], ridge[1], ridge[0]]), np.stack([corners[2], corners[3], ridge[0], ridge[1]])]
    )
    under = slopes[:, ::-1] - [0, 0, 0.12]
    parts = [quads(slopes, Material.TILES, finish.roof), quads(under, Material.WOOD, 0.5 * finish.trim)]
    if plan.roof == "hip":
        ends = np.stack([np.stack([corners[1], corners[2], ridge[1]]), np.stack([corners[3], corners[0], ridge[0]])])
        parts.append(triangles(ends, Material.TILES, finish.roof))
    else:
        gables = np.array(
            [
                [[w, 0, height], [w, depth, height], [w, 0.5 * depth, top - 0.02]],
                [[0, depth, height], [0, 0, height], [0, 0.5 * depth, top - 0.02]],
            ]
        )
        parts.append(triangles(gables, finish.wall, finish.colour))
    parts.append(box((-over, -over - 0.12, e - 0.12), (w + over, -over, e), Material.METAL, (0.25, 0.25, 0.25)))
    x = float(rng.uniform(0.2, 0.8)) * w
    parts.append(
        box(
            (x - 0.35, 0.5 * depth + 0.3, height),
            (x + 0.35, 0.5 * depth + 1.0, top + 0.9),
            Material.BRICK,
            (0.3, 0.13, 0.09),
        )
    )
    if rng.uniform() < 0.55:
        steep = (top - height) / (0.5 * depth)
        for x in np.arange(1.6, w - 1.5, float(rng.uniform(2.4, 3.6))):
            y = 0.22 * depth
            z = height + y * steep
            parts.append(box((x - 0.6, y, z - 0.3), (x + 0.6, y + 1.5 / steep, z + 1.2), Material.TILES, finish.roof))
            parts.append(
                box((x - 0.42, y - 0.03, z + 0.15), (x + 0.42, y, z + 1.05), Material.GLASS, (0.05, 0.055, 0.06))
            )
            parts.append(box((x - 0.03, y - 0.05, z + 0.15), (x + 0.03, y, z + 1.05), Material.WOOD, finish.frame))
    return concatenate(parts)


def _flat_roof(rng: np.random.Generator, plan: BuildingPlan, finish: _Finish, height: float) -> Mesh:
    w, depth, rim = plan.width, plan.depth, 0.5
    lower = np.array(
        [
            [0, 0, height],
            [0, depth - 0.25, height],
            [0, 0.25, height],
            [w - 0.25, 0.25, height],
            [0.0, 0.0, height - 0.1],
        ]
    )
    upper = np.array(
        [
            [w, 0.25, height + rim],
            [w, depth, height + rim],
            [0.25, depth - 0.25, height + rim],
            [w, depth - 0.25, height + rim],
            [w, depth, height + 0.02],
        ]
    )
    parts = [boxes(lower, upper, finish.wall, finish.trim)]
    for _ in range(int(rng.integers(1, 4))):
        x, y = rng.uniform(0.1, 0.8) * w, rng.uniform(0.2, 0.7) * depth
        parts.append(
            box(
                (x, y, height),
                (x + rng.uniform(0.8, 2.5), y + 1.5, height + rng.uniform(0.8, 2.4)),
                Material.METAL,
                (0.4, 0.4, 0.4),
            )
        )
    return concatenate(parts)
