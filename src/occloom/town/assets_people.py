"""People on foot and on two wheels, with x forward and the origin on the ground."""

import numpy as np

from occloom.town.assets_vehicles import bicycle, motorcycle
from occloom.town.materials import Material
from occloom.town.mesh import Mesh, concatenate
from occloom.town.shapes import Colour, ball, box, loft, tube

_CLOTHES = [
    [0.35, 0.04, 0.04], [0.03, 0.08, 0.3], [0.02, 0.02, 0.025], [0.45, 0.4, 0.32], [0.05, 0.22, 0.12], [0.5, 0.5, 0.5],
    [0.5, 0.35, 0.03], [0.25, 0.08, 0.25], [0.1, 0.3, 0.4], [0.16, 0.12, 0.08],
]  # fmt: skip
_TROUSERS = [[0.03, 0.05, 0.12], [0.02, 0.02, 0.02], [0.12, 0.11, 0.1], [0.2, 0.17, 0.12], [0.06, 0.08, 0.16]]
_SKINS = [[0.5, 0.3, 0.2], [0.42, 0.24, 0.15], [0.25, 0.13, 0.07], [0.12, 0.06, 0.035]]
_HAIRS = [[0.02, 0.015, 0.01], [0.08, 0.045, 0.02], [0.3, 0.2, 0.08], [0.3, 0.3, 0.3]]


def walker(rng: np.random.Generator, *, stride: float) -> Mesh:
    """A person of random size and dress; `stride` is how far each foot is from the middle (0 when standing)."""
    shirt, trousers, skin, hair = (rng.choice(table) for table in (_CLOTHES, _TROUSERS, _SKINS, _HAIRS))
    bulk = rng.uniform(0.9, 1.15)
    parts = []
    for s in (-1, 1):
        step = s * stride
        hip, foot = np.array([0, 0.09 * s, 0.92]), np.array([step, 0.1 * s, 0.06 + 0.05 * max(0.0, -step)])
        knee = 0.5 * (hip + foot) + [0.06 * (stride > 0), 0, 0]
        parts.append(_limb([hip, knee, foot], [0.095 * bulk, 0.068, 0.05], Material.CLOTH, trousers))
        parts.append(
            ball(
                (foot[0] + 0.06, foot[1], 0.045 + foot[2] - 0.06),
                (0.14, 0.05, 0.055),
                Material.RUBBER,
                (0.03, 0.03, 0.03),
                sides=6,
            )
        )
        elbow = np.array([-0.5 * step - 0.04, 0.25 * bulk * s, 1.12])
        hand = np.array([-0.9 * step + 0.08, 0.24 * bulk * s, 0.88])
        parts.append(
            _limb([np.array([0, 0.19 * bulk * s, 1.42]), elbow, hand], [0.06, 0.05, 0.035], Material.CLOTH, shirt)
        )
        parts.append(ball(tuple(hand), (0.05, 0.035, 0.06), Material.SKIN, skin, sides=6))
    parts.append(_torso(np.array([0.0, 0.0, 0.88]), np.array([0.03, 0.0, 1.5]), bulk, shirt))
    parts += _head((0.03, 0.0, 1.64), skin, hair)
    if rng.uniform() < 0.35:
        parts.append(box((-0.3, -0.14, 1.05), (-0.12, 0.14, 1.42), Material.CLOTH, rng.choice(_CLOTHES)))
    size = np.eye(4)
    size[:3, :3] *= rng.uniform(0.9, 1.08)
    return concatenate(parts).placed(size)


def cyclist(rng: np.random.Generator) -> Mesh:
    """A person riding a bicycle."""
    return concatenate(
        [
            bicycle(rng),
            _rider(rng, seat=(-0.24, 0.95), grip=(0.36, 1.05), foot=(-0.05, 0.32), helmet=rng.uniform() < 0.5),
        ]
    )


def motorcyclist(rng: np.random.Generator) -> Mesh:
    """A person with a helmet riding a motorcycle."""
    return concatenate(
        [motorcycle(rng), _rider(rng, seat=(-0.32, 0.88), grip=(0.4, 1.06), foot=(-0.02, 0.3), helmet=True)]
    )


def _rider(
    rng: np.random.Generator,
    *,
    seat: tuple[float, float],
    grip: tuple[float, float],
    foot: tuple[float, float],
    helmet: bool,
) -> Mesh:
    shirt, trousers, skin, hair = (rng.choice(table) for table in (_CLOTHES, _TROUSERS, _SKINS, _HAIRS))
    hip, neck = np.array([seat[0], 0.0, seat[1]]), np.array([seat[0] + 0.22, 0.0, seat[1] + 0.55])
    parts = [_torso(hip, neck, 1.0, shirt)]
    for s, lift in ((-1, 0.0), (1, 0.22)):
        end = np.array([foot[0], 0.13 * s, foot[1] + lift])
        knee = np.array([seat[0] + 0.42, 0.13 * s, 0.5 * (seat[1] + foot[1]) + 0.2 + 0.5 * lift])
        parts.append(
            _limb([hip + np.array([0, 0.09 * s, 0]), knee, end], [0.095, 0.07, 0.05], Material.CLOTH, trousers)
        )
        hand = np.array([grip[0], 0.25 * s, grip[1]])
        shoulder = neck + np.array([0, 0.18 * s, -0.06])
        parts.append(
            _limb(
                [shoulder, 0.5 * (shoulder + hand) + [0, 0.06 * s, -0.06], hand],
                [0.06, 0.05, 0.04],
                Material.CLOTH,
                shirt,
            )
        )
    head = neck + np.array([0.06, 0.0, 0.15])
    parts += _head((head[0], head[1], head[2]), skin, rng.choice(_CLOTHES) if helmet else hair)
    return concatenate(parts)


def _limb(points: list[np.ndarray], radii: list[float], material: Material, colour: Colour) -> Mesh:
    return tube(np.stack(points), np.array(radii), 6, material, colour)


def _torso(hip: np.ndarray, neck: np.ndarray, bulk: float, colour: Colour) -> Mesh:
    angle = 2 * np.pi * np.arange(8) / 8
    rows = []
    for share, deep, wide in (
        (-0.08, 0.1, 0.14),
        (0.1, 0.12, 0.165),
        (0.4, 0.11, 0.155),
        (0.75, 0.125, 0.2),
        (0.93, 0.09, 0.19),
        (1.02, 0.05, 0.07),
    ):
        ring = np.stack([deep * bulk * np.cos(angle), wide * bulk * np.sin(angle), 0 * angle], -1)
        rows.append(hip + share * (neck - hip) + ring)
    return loft(np.stack(rows), Material.CLOTH, colour)


def _head(centre: tuple[float, float, float], skin: Colour, cap: Colour) -> list[Mesh]:
    x, y, z = centre
    return [
        ball(centre, (0.1, 0.08, 0.125), Material.SKIN, skin),
        ball((x - 0.02, y, z + 0.045), (0.105, 0.09, 0.1), Material.MATTE, cap),
    ]
