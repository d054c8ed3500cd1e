"""Fences and walls, poles, lamps, traffic lights and signs. Fences run along x from 0; poles stand on the origin."""

import numpy as np

from occloom.town.materials import Material
from occloom.town.mesh import Mesh, concatenate
from occloom.town.shapes import Colour, box, boxes, disc, rod, tube

FENCE, POLE, SIGN = 51, 80, 81
_GREY = (0.3, 0.31, 0.32)


def fence(rng: np.random.Generator, *, length: float, height: float) -> Mesh:
    """Pickets, iron bars, closed boards or a masonry wall."""
    style = rng.integers(4)
    x = np.arange(0.0, length - 0.05, (0.16, 0.14, 0.3, length)[style])
    posts = np.append(np.arange(0.0, length - 0.5, 2.4), length - 0.1)
    if style == 0:
        tone = rng.choice([[0.6, 0.6, 0.56], [0.25, 0.15, 0.08], [0.12, 0.2, 0.15]])
        parts = [_bars(x, 0.1, 0.02, height, Material.WOOD, tone), _bars(posts, 0.1, 0.1, height, Material.WOOD, tone)]
        parts += [box((0, -0.04, z), (length, 0.0, z + 0.08), Material.WOOD, tone) for z in (0.25, 0.75 * height)]
    elif style == 1:
        tone = rng.choice([[0.03, 0.03, 0.03], [0.04, 0.1, 0.06]])
        parts = [
            _bars(x, 0.025, 0.025, height, Material.METAL, tone),
            _bars(posts, 0.08, 0.08, height + 0.1, Material.METAL, tone),
        ]
        parts += [box((0, -0.02, z), (length, 0.02, z + 0.04), Material.METAL, tone) for z in (0.35, height - 0.12)]
        parts.append(box((0, -0.14, -0.6), (length, 0.14, 0.3), Material.STONE, (0.35, 0.34, 0.32)))
    elif style == 2:
        tone = np.array(rng.choice([[0.3, 0.19, 0.1], [0.22, 0.2, 0.18], [0.38, 0.26, 0.15]]))
        shade = tone * rng.uniform(0.75, 1.2, (len(x), 1))
        lower = np.stack([x, 0 * x - 0.02, 0 * x - 0.4], -1)
        parts = [
            boxes(lower, lower + np.array([0.285, 0.04, height + 0.4]), Material.WOOD, shade),
            _bars(posts, 0.12, 0.14, height + 0.08, Material.WOOD, 0.7 * tone),
        ]
    else:
        kind = (Material.BRICK, Material.PLASTER, Material.STONE)[rng.integers(3)]
        tone = rng.choice([[0.36, 0.16, 0.1], [0.45, 0.4, 0.33], [0.38, 0.37, 0.35]])
        cuts = np.linspace(0, length, max(1, int(length / 3)) + 1)
        lower = np.stack([cuts[:-1], 0 * cuts[:-1] - 0.13, 0 * cuts[:-1] - 0.6], -1)
        upper = np.stack([cuts[1:], 0 * cuts[1:] + 0.13, 0 * cuts[1:] + height], -1)
        parts = [
            boxes(lower, upper, kind, tone),
            box((-0.03, -0.18, height), (length + 0.03, 0.18, height + 0.09), Material.STONE, (0.4, 0.39, 0.36)),
        ]
        parts.append(_bars(posts, 0.3, 0.3, height + 0.22, kind, tone))
    return concatenate(parts).named(FENCE, 0)


def field_fence(*, length: float) -> Mesh:
    """Posts and three rails beside a field."""
    posts = np.append(np.arange(0.0, length - 0.5, 2.2), length - 0.1)
    parts = [_bars(posts, 0.12, 0.12, 1.25, Material.WOOD, (0.24, 0.18, 0.12))]
    parts += [
        box((0, -0.03, z), (length, 0.03, z + 0.12), Material.WOOD, (0.28, 0.22, 0.15)) for z in (0.35, 0.7, 1.05)
    ]
    return concatenate(parts).named(FENCE, 0)


def guard_rail(*, length: float) -> Mesh:
    """A steel guard rail."""
    posts = np.arange(0.0, length, 2.0)
    parts = [
        _bars(posts, 0.08, 0.1, 0.7, Material.METAL, _GREY),
        box((0, -0.1, 0.45), (length, -0.05, 0.75), Material.METAL, (0.45, 0.46, 0.47)),
    ]
    return concatenate(parts).named(FENCE, 0)


def street_lamp(rng: np.random.Generator, *, reach: float) -> Mesh:
    """A lamp post with an arm of `reach` metres along +x; the light is at its end, 6.5 m up."""
    tone = rng.choice([[0.28, 0.3, 0.3], [0.05, 0.09, 0.07], [0.12, 0.12, 0.12]])
    spine = np.array([[0, 0, -0.2], [0, 0, 1.0], [0, 0, 5.8], [0.25 * reach, 0, 6.4], [reach, 0, 6.6]])
    parts = [tube(spine, np.array([0.11, 0.085, 0.065, 0.05, 0.045]), 7, Material.METAL, tone)]
    parts.append(box((reach - 0.15, -0.13, 6.53), (reach + 0.5, 0.13, 6.68), Material.METAL, tone))
    parts.append(box((reach - 0.08, -0.1, 6.5), (reach + 0.44, 0.1, 6.53), Material.LAMP, (0.75, 0.72, 0.6)))
    return concatenate(parts).named(POLE, 0)


def utility_pole(rng: np.random.Generator) -> Mesh:
    """A wooden pole with a cross-arm and insulators."""
    high = float(rng.uniform(7.5, 9.0))
    parts = [tube(np.array([[0, 0, -0.3], [0, 0, high]]), np.array([0.15, 0.11]), 8, Material.WOOD, (0.2, 0.15, 0.1))]
    parts.append(box((-0.06, -0.9, high - 0.6), (0.06, 0.9, high - 0.48), Material.WOOD, (0.22, 0.17, 0.12)))
    parts += [
        rod((0, y, high - 0.48), (0, y, high - 0.3), 0.04, Material.STONE, (0.5, 0.5, 0.5))
        for y in (-0.8, -0.3, 0.3, 0.8)
    ]
    return concatenate(parts).named(POLE, 0)


def bollards(count: int) -> Mesh:
    """Short posts in a row along x, 1.5 m apart."""
    posts = [
        rod((1.5 * k, 0, -0.1), (1.5 * k, 0, 0.95), 0.075, Material.METAL, (0.06, 0.06, 0.06), 8) for k in range(count)
    ]
    return concatenate(posts).named(POLE, 0)


def traffic_light(rng: np.random.Generator) -> Mesh:
    """Signals on a post, facing -x."""
    glow = int(rng.integers(3))
    lamps = [[0.5, 0.02, 0.02], [0.5, 0.3, 0.02], [0.02, 0.45, 0.12]]
    parts = [
        rod((0, 0, -0.2), (0, 0, 3.4), 0.07, Material.METAL, (0.2, 0.21, 0.2), 8),
        box((-0.3, -0.17, 2.4), (-0.06, 0.17, 3.4), Material.MATTE, (0.02, 0.025, 0.02)),
    ]
    for k in range(3):
        kind = Material.LAMP if k == glow else Material.MATTE
        tone = np.array(lamps[k]) * (1.0 if k == glow else 0.15)
        parts.append(disc((-0.31, 0, 3.22 - 0.31 * k), (-1, 0, 0), 0.11, 10, kind, tone))
    return concatenate(parts).named(POLE, 0)


def traffic_sign(rng: np.random.Generator) -> Mesh:
    """One or two boards (81) on a post (80), facing -x."""
    high = float(rng.uniform(2.2, 2.7))
    parts = [rod((0, 0, -0.2), (0, 0, high + 0.55), 0.035, Material.METAL, _GREY).named(POLE, 0)]
    parts.append(_board(int(rng.integers(6)), high).named(SIGN, 0))
    if rng.uniform() < 0.35:
        parts.append(
            box((-0.06, -0.25, high - 0.68), (-0.04, 0.25, high - 0.42), Material.SIGN, (0.65, 0.65, 0.62)).named(
                SIGN, 0
            )
        )
    return concatenate(parts)


def guide_sign(rng: np.random.Generator) -> Mesh:
    """A large direction board (81) on two posts (80), facing -x."""
    tone = rng.choice([[0.02, 0.1, 0.4], [0.5, 0.38, 0.02], [0.02, 0.25, 0.1]])
    posts = [rod((0, y, -0.3), (0, y, 3.5), 0.06, Material.METAL, _GREY).named(POLE, 0) for y in (-0.8, 0.8)]
    board = [box((-0.1, -1.2, 2.1), (-0.06, 1.2, 3.5), Material.SIGN, tone)]
    board += [
        box((-0.115, -0.9, z), (-0.1, float(rng.uniform(0.0, 0.9)), z + 0.15), Material.SIGN, (0.7, 0.7, 0.68))
        for z in (2.35, 2.75, 3.15)
    ]
    return concatenate([*posts, concatenate(board).named(SIGN, 0)])


def _board(kind: int, z: float) -> Mesh:
    """Limit, warning, yield, stop, parking or no-entry."""
    white, red, blue = (0.7, 0.7, 0.68), (0.55, 0.02, 0.02), (0.02, 0.12, 0.5)

    def plate(x: float, radius: float, sides: int, turn: float, tone: Colour) -> Mesh:
        flat = disc((0, 0, 0), (-1, 0, 0), radius, sides, Material.SIGN, tone)
        pose = np.eye(4)
        pose[1:3, 1:3] = [[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]
        pose[:3, 3] = (x, 0.0, z)
        return flat.placed(pose)

    if kind == 0:
        return concatenate(
            [
                plate(-0.05, 0.33, 14, 0.0, red),
                plate(-0.056, 0.25, 14, 0.0, white),
                box((-0.062, -0.09, z - 0.12), (-0.058, 0.09, z + 0.12), Material.SIGN, (0.03, 0.03, 0.03)),
            ]
        )
    if kind in (1, 2):
        turn = 0.0 if kind == 1 else np.pi  # warning points up, yield points down
        return concatenate([plate(-0.05, 0.46, 3, turn, red), plate(-0.056, 0.3, 3, turn, white)])
    if kind == 3:
        return concatenate(
            [
                plate(-0.05, 0.38, 8, np.pi / 8, red),
                box((-0.056, -0.22, z - 0.06), (-0.052, 0.22, z + 0.06), Material.SIGN, white),
            ]
        )
    if kind == 4:
        return concatenate(
            [
                box((-0.05, -0.32, z - 0.32), (-0.045, 0.32, z + 0.32), Material.SIGN, blue),
                box((-0.056, 0.0, z - 0.22), (-0.05, 0.1, z + 0.22), Material.SIGN, white),
                box((-0.056, -0.12, z - 0.02), (-0.05, 0.1, z + 0.22), Material.SIGN, white),
            ]
        )
    return concatenate(
        [
            plate(-0.05, 0.34, 14, 0.0, red),
            box((-0.056, -0.24, z - 0.06), (-0.052, 0.24, z + 0.06), Material.SIGN, white),
        ]
    )


def _bars(
    x: np.ndarray,
    wide: float,
    deep: float,
    high: float,
    material: Material,
    colour: Colour,
) -> Mesh:
    lower = np.stack([x, 0 * x - 0.5 * deep, 0 * x - 0.4], -1)
    return boxes(lower, lower + np.array([wide, deep, high + 0.4]), material, colour)
