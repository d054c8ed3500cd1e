"""Cars, vans, trucks, buses, trailers, bicycles and motorcycles, with x forward and the origin on the ground."""

import numpy as np

from occloom.town.materials import Material
from occloom.town.mesh import Mesh, concatenate
from occloom.town.shapes import Colour, ball, box, disc, loft, quads, rod, tube

_DARK = (0.03, 0.03, 0.035)
_GLASS = (0.05, 0.06, 0.07)
_PAINTS = [
    [0.55, 0.55, 0.55],
    [0.62, 0.62, 0.6],
    [0.03, 0.03, 0.035],
    [0.10, 0.11, 0.12],
    [0.25, 0.26, 0.27],
    [0.35, 0.02, 0.025],
    [0.02, 0.05, 0.2],
    [0.03, 0.12, 0.3],
    [0.02, 0.1, 0.06],
    [0.4, 0.33, 0.22],
    [0.5, 0.2, 0.02],
    [0.12, 0.03, 0.05],
    [0.3, 0.4, 0.45],
]


def paint(rng: np.random.Generator) -> np.ndarray:
    """A car colour, greys more often than others."""
    return np.array(_PAINTS[int(rng.integers(len(_PAINTS)) if rng.uniform() < 0.6 else rng.integers(5))])


def car(rng: np.random.Generator) -> Mesh:
    """A hatchback, saloon, estate or off-roader of random proportions."""
    length, width = rng.uniform(3.7, 4.8), rng.uniform(1.68, 1.86)
    belt, top = rng.uniform(0.86, 0.98), rng.uniform(1.40, 1.55)
    if rng.uniform() < 0.2:
        belt, top = belt + 0.14, top + 0.22
    half, back = length / 2, rng.choice([0.02, 0.05, 0.2])  # share of the length behind the rear window
    nose = half - rng.uniform(0.20, 0.26) * length
    glass_x = (nose, nose - 0.16 * length, -half + back * length + 0.12 * length, -half + back * length)
    return _motor_car(length, width, belt, top, glass_x, paint(rng))


def van(rng: np.random.Generator) -> Mesh:
    """A delivery van with a closed body."""
    length, width, top = rng.uniform(5.0, 5.9), 2.0, rng.uniform(2.1, 2.5)
    half = length / 2
    colour = np.array([0.6, 0.6, 0.58]) if rng.uniform() < 0.6 else paint(rng)
    body = _motor_car(length, width, 1.15, top, (half - 0.75, half - 1.5, -half + 0.1, -half + 0.02), colour)
    panel = [
        box((-half + 0.2, y - 0.03, 1.1), (half - 2.3, y + 0.03, top - 0.12), Material.PAINT, colour)
        for y in (-0.9, 0.9)
    ]
    return concatenate([body, *panel])


def _motor_car(
    length: float, width: float, belt: float, top: float, glass_x: tuple[float, float, float, float], colour: Colour
) -> Mesh:
    """Hull, glasshouse (windscreen foot, roof front, roof rear, rear window foot in `glass_x`), wheels and lights."""
    half, w = length / 2, width / 2
    foot, front, rear, tail = glass_x
    stations = np.array(
        [  # x, lowest, waist, top, half width
            [-half, 0.38, 0.6, belt - 0.10, 0.86 * w],
            [-half + 0.12, 0.24, 0.6, belt - 0.02, 0.95 * w],
            [tail, 0.2, 0.6, belt, w],
            [0.0, 0.19, 0.6, belt, w],
            [foot, 0.2, 0.6, belt - 0.01, w],
            [half - 0.35, 0.2, 0.58, belt - 0.15, 0.96 * w],
            [half - 0.06, 0.24, 0.55, belt - 0.25, 0.88 * w],
            [half, 0.36, 0.5, belt - 0.32, 0.76 * w],
        ]
    )
    x, low, mid, high, wide = stations.T[:, :, None]
    side = np.array([[0.88, 1.0, 1.0, 0.95, 0.80, -0.80, -0.95, -1.0, -1.0, -0.88]])
    level = np.concatenate([low, low + 0.08, mid, high - 0.07, high, high, high - 0.07, mid, low + 0.08, low], axis=1)
    rings = np.stack([np.broadcast_to(x, level.shape), wide * side, level], axis=-1)
    hull = loft(rings, Material.PAINT, colour)
    parts = [hull, _glasshouse(w, belt, top, foot, front, rear, tail, colour)]
    radius, axles = 0.31 + 0.05 * (top > 1.6), (half - 0.19 * length, -half + 0.20 * length)
    parts += [_wheel(a, s * (w - 0.09), radius, 0.2, s) for a in axles for s in (-1, 1)]
    for s in (-1, 1):
        parts.append(
            box(
                (half - 0.22, s * 0.62 * w - 0.17, belt - 0.42),
                (half - 0.02, s * 0.62 * w + 0.17, belt - 0.28),
                Material.HEAD_LIGHT,
                (0.7, 0.7, 0.66),
            )
        )
        parts.append(
            box(
                (-half - 0.015, s * 0.68 * w - 0.12, belt - 0.34),
                (-half + 0.1, s * 0.68 * w + 0.12, belt - 0.14),
                Material.TAIL_LIGHT,
                (0.4, 0.02, 0.02),
            )
        )
        parts.append(
            box(
                (foot - 0.45, s * (w + 0.09) - 0.09, belt),
                (foot - 0.33, s * (w + 0.09) + 0.09, belt + 0.13),
                Material.PAINT,
                colour,
            )
        )
    parts.append(box((-half - 0.02, -0.26, 0.48), (-half + 0.02, 0.26, 0.59), Material.SIGN, (0.7, 0.7, 0.66)))
    parts.append(box((half - 0.03, -0.26, 0.36), (half + 0.015, 0.26, 0.46), Material.SIGN, (0.7, 0.7, 0.66)))
    parts.append(box((half - 0.12, -0.5 * w, 0.47), (half + 0.01, 0.5 * w, 0.58), Material.MATTE, _DARK))
    parts.append(box((-half - 0.01, -0.8 * w, 0.3), (-half + 0.1, 0.8 * w, 0.44), Material.MATTE, _DARK))
    return concatenate(parts)


def _glasshouse(
    w: float, belt: float, top: float, foot: float, front: float, rear: float, tail: float, colour: Colour
) -> Mesh:
    """Roof and pillars in paint, windows in glass a little inside them."""
    low, high = 0.93 * w, 0.74 * w
    lower = np.array([[tail, -low, belt], [foot, -low, belt], [foot, low, belt], [tail, low, belt]])
    upper = np.array([[rear, -high, top], [front, -high, top], [front, high, top], [rear, high, top]])
    crown = upper * [0.9, 0.8, 1.0] + [0.05 * (front + rear), 0.0, 0.05]
    parts = [
        loft(np.stack([lower, upper]), Material.GLASS, _GLASS, capped=False),
        loft(np.stack([upper, crown]), Material.PAINT, colour),
    ]
    for s, order in ((0, [0, 1]), (3, [3, 2])):
        a, b = lower[order[0]], lower[order[1]]
        c, d = upper[order[1]], upper[order[0]]
        out = np.array([0.0, -0.012 if s == 0 else 0.012, 0.0])
        for t in (0.0, 0.40, 0.74, 0.97):  # pillars
            u = t + (0.045 if 0 < t < 0.9 else 0.03)
            corners = np.stack([a + t * (b - a), a + u * (b - a), d + u * (c - d), d + t * (c - d)]) + out
            parts.append(quads((corners if s == 0 else corners[::-1])[None], Material.PAINT, colour))
    return concatenate(parts)


def _wheel(x: float, y: float, radius: float, width: float, side: int) -> Mesh:
    angle = 2 * np.pi * np.arange(14) / 14
    ring = np.stack([radius * np.cos(angle), np.zeros(14), radius * np.sin(angle) + radius], -1)
    rings = np.stack([ring + np.array([x, y + s * 0.5 * width, 0]) for s in (1, -1)])
    hub = y + side * (0.5 * width + 0.008)
    return concatenate(
        [
            loft(rings, Material.RUBBER, (0.02, 0.02, 0.02)),
            disc((x, hub, radius), (0, side, 0), 0.64 * radius, 10, Material.METAL, (0.42, 0.43, 0.45)),
            disc((x, hub + side * 0.006, radius), (0, side, 0), 0.16 * radius, 6, Material.MATTE, _DARK),
        ]
    )


def truck(rng: np.random.Generator) -> Mesh:
    """A lorry with a box body, a tarpaulin or a tipper."""
    length, width = rng.uniform(6.5, 8.5), 2.4
    half, w, colour = length / 2, width / 2, paint(rng)
    cab = half - 1.9
    rings = np.array(
        [
            [[x, -w * k, z], [x, w * k, z]]
            for x, z, k in (
                (cab, 0.5, 1),
                (half, 0.45, 0.97),
                (half, 1.35, 0.97),
                (half - 0.35, 2.5, 0.92),
                (cab, 2.6, 0.92),
            )
        ]
    )
    profile = np.stack([rings[:, 0], rings[:, 1]])
    parts = [loft(profile, Material.PAINT, colour)]
    screen = np.array(
        [
            [half + 0.01, -0.88 * w, 1.45],
            [half + 0.01, 0.88 * w, 1.45],
            [half - 0.31, 0.84 * w, 2.38],
            [half - 0.31, -0.84 * w, 2.38],
        ]
    )
    parts.append(quads((screen + np.array([0.02, 0, 0]))[None], Material.GLASS, _GLASS))
    for s in (-1, 1):
        parts.append(
            box((cab + 0.4, s * 1.0 * w - 0.02, 1.45), (half - 0.5, s * 1.0 * w + 0.02, 2.1), Material.GLASS, _GLASS)
        )
        parts.append(
            box(
                (half - 0.1, s * 0.75 * w - 0.2, 0.6),
                (half + 0.03, s * 0.75 * w + 0.2, 0.85),
                Material.HEAD_LIGHT,
                (0.7, 0.7, 0.66),
            )
        )
        parts.append(
            box(
                (-half - 0.03, s * 0.8 * w - 0.2, 0.75),
                (-half + 0.05, s * 0.8 * w + 0.2, 0.95),
                Material.TAIL_LIGHT,
                (0.4, 0.02, 0.02),
            )
        )
        parts += [_wheel(x, s * (w - 0.2), 0.48, 0.3, s) for x in (half - 1.2, -half + 1.3, -half + 2.4)]
    parts.append(box((-half, -0.5, 0.5), (cab, 0.5, 0.95), Material.METAL, _DARK))
    tone = rng.choice([[0.6, 0.6, 0.58], [0.1, 0.2, 0.4], [0.45, 0.3, 0.05], [0.35, 0.06, 0.05], [0.2, 0.3, 0.2]])
    high = 2.0 if rng.uniform() < 0.25 else rng.uniform(2.9, 3.4)
    parts.append(box((-half, -w, 0.95), (cab - 0.15, w, high), Material.PAINT, tone))
    ribs = np.arange(-half, cab - 0.15, 0.8)
    parts += [box((x, -w - 0.03, 0.95), (x + 0.07, w + 0.03, high + 0.02), Material.METAL, 0.8 * tone) for x in ribs]
    return concatenate(parts)


def bus(rng: np.random.Generator) -> Mesh:
    """A city bus."""
    length, w, top = rng.uniform(9.5, 11.5), 1.25, 2.95
    half = length / 2
    colour = rng.choice([[0.55, 0.45, 0.05], [0.45, 0.04, 0.04], [0.08, 0.25, 0.45], [0.1, 0.35, 0.2], [0.6, 0.6, 0.6]])
    parts = [
        box((-half, -w, 0.3), (half, w, 1.15), Material.PAINT, colour),
        box((-half + 0.04, -w + 0.04, 1.15), (half - 0.04, w - 0.04, 2.35), Material.GLASS, _GLASS),
        box((-half, -w, 2.35), (half, w, top), Material.PAINT, colour),
        box((-half * 0.7, -0.8 * w, top), (half * 0.5, 0.8 * w, top + 0.2), Material.METAL, (0.4, 0.4, 0.4)),
        box((half, -0.7, 2.45), (half + 0.02, 0.7, 2.75), Material.SIGN, (0.3, 0.2, 0.02)),
    ]
    for x in np.linspace(-half + 0.02, half - 0.1, 8):
        parts += [box((x, s * w - 0.03, 1.15), (x + 0.09, s * w + 0.03, 2.35), Material.PAINT, colour) for s in (-1, 1)]
    for s in (-1, 1):
        parts += [_wheel(x, s * (w - 0.14), 0.48, 0.28, s) for x in (half - 2.4, -half + 2.8)]
        parts.append(
            box(
                (half - 0.05, s * 0.9 - 0.2, 0.55),
                (half + 0.03, s * 0.9 + 0.2, 0.8),
                Material.HEAD_LIGHT,
                (0.7, 0.7, 0.66),
            )
        )
        parts.append(
            box(
                (-half - 0.03, s * 1.0 - 0.15, 0.7),
                (-half + 0.05, s * 1.0 + 0.15, 1.05),
                Material.TAIL_LIGHT,
                (0.4, 0.02, 0.02),
            )
        )
    return concatenate(parts)


def trailer(rng: np.random.Generator) -> Mesh:
    """A caravan or a loaded car trailer."""
    caravan = rng.uniform() < 0.6
    length, w = (rng.uniform(4.2, 5.2), 1.1) if caravan else (3.2, 0.85)
    half, high = length / 2, 2.5 if caravan else 1.5
    tone = (
        rng.choice([[0.62, 0.61, 0.57], [0.5, 0.52, 0.5]])
        if caravan
        else rng.choice([[0.1, 0.15, 0.25], [0.2, 0.22, 0.2]])
    )
    outline = np.array(
        [
            [-half, 0.55],
            [half * 0.9, 0.55],
            [half, 0.95],
            [half * 0.85, high - 0.15],
            [half * 0.6, high],
            [-half * 0.85, high],
            [-half, high - 0.3],
        ]
    )
    sides = [np.stack([outline[:, 0], np.full(7, y), outline[:, 1]], -1) for y in (-w, w)]
    parts = [
        loft(np.stack(sides), Material.PAINT, tone),
        rod((half, 0, 0.5), (half + 1.0, 0, 0.45), 0.05, Material.METAL, _DARK),
        rod((half + 0.8, 0, 0), (half + 0.8, 0, 0.5), 0.04, Material.METAL, _DARK),
    ]
    for s in (-1, 1):
        parts.append(_wheel(-0.1, s * (w - 0.02), 0.3, 0.18, s))
        parts.append(
            box(
                (-half - 0.03, s * 0.8 * w - 0.1, 0.7),
                (-half + 0.02, s * 0.8 * w + 0.1, 0.95),
                Material.TAIL_LIGHT,
                (0.4, 0.02, 0.02),
            )
        )
        if caravan:
            parts.append(
                box((-half * 0.6, s * w - 0.015, 1.35), (half * 0.1, s * w + 0.015, 1.95), Material.GLASS, _GLASS)
            )
            parts.append(
                box((-half, s * w - 0.012, 0.95), (half * 0.95, s * w + 0.012, 1.1), Material.PAINT, paint(rng))
            )
    return concatenate(parts)


def bicycle(rng: np.random.Generator) -> Mesh:
    """A bicycle on its wheels, 1.75 m long."""
    colour = rng.choice([[0.4, 0.03, 0.03], [0.03, 0.1, 0.35], [0.03, 0.03, 0.03], [0.05, 0.3, 0.15], [0.5, 0.5, 0.5]])
    hub_f, hub_r, crank, seat, head = (
        (0.54, 0, 0.34),
        (-0.52, 0, 0.34),
        (-0.08, 0, 0.3),
        (-0.24, 0, 0.86),
        (0.4, 0, 0.84),
    )
    tubes = [
        (hub_r, crank),
        (hub_r, seat),
        (crank, seat),
        (crank, head),
        (seat, head),
        (hub_f, head),
        (head, (0.37, 0, 1.02)),
    ]
    parts = [rod(a, b, 0.022, Material.PAINT, colour, 5) for a, b in tubes]
    parts += [_hoop(x, 0.34, 0.025) for x in (0.54, -0.52)]
    parts.append(rod((0.36, -0.28, 1.03), (0.36, 0.28, 1.03), 0.018, Material.RUBBER, _DARK, 5))
    parts.append(box((-0.38, -0.08, 0.9), (-0.1, 0.08, 0.97), Material.RUBBER, _DARK))
    parts.append(box((-0.72, -0.07, 0.7), (-0.32, 0.07, 0.73), Material.METAL, _DARK))
    return concatenate(parts)


def motorcycle(rng: np.random.Generator) -> Mesh:
    """A motorcycle or a scooter, 2 m long."""
    colour = paint(rng)
    parts = [_hoop(x, 0.31, 0.065) for x in (0.68, -0.66)]
    parts += [
        disc((x, s * 0.03, 0.31), (0, s, 0), 0.2, 8, Material.METAL, (0.3, 0.3, 0.3))
        for x in (0.68, -0.66)
        for s in (-1, 1)
    ]
    parts += [rod((0.68, y, 0.31), (0.42, y, 1.0), 0.03, Material.METAL, (0.4, 0.4, 0.4)) for y in (-0.09, 0.09)]
    parts.append(ball((0.0, 0, 0.45), (0.36, 0.17, 0.2), Material.METAL, (0.12, 0.12, 0.12)))
    parts.append(ball((0.16, 0, 0.82), (0.32, 0.17, 0.15), Material.PAINT, colour))
    parts.append(ball((-0.38, 0, 0.8), (0.42, 0.15, 0.09), Material.RUBBER, _DARK))
    parts.append(ball((-0.7, 0, 0.72), (0.25, 0.1, 0.1), Material.PAINT, colour))
    parts.append(rod((0.4, -0.36, 1.04), (0.4, 0.36, 1.04), 0.025, Material.RUBBER, _DARK, 5))
    parts.append(ball((0.52, 0, 0.88), (0.1, 0.11, 0.11), Material.HEAD_LIGHT, (0.7, 0.7, 0.66)))
    parts.append(box((-0.95, -0.07, 0.68), (-0.9, 0.07, 0.76), Material.TAIL_LIGHT, (0.4, 0.02, 0.02)))
    parts.append(rod((-0.75, -0.16, 0.32), (0.0, -0.16, 0.34), 0.05, Material.METAL, (0.4, 0.4, 0.42)))
    return concatenate(parts)


def _hoop(x: float, radius: float, thick: float) -> Mesh:
    angle = np.linspace(0, 2 * np.pi, 15)
    path = np.stack([x + (radius - thick) * np.cos(angle), 0 * angle, radius + (radius - thick) * np.sin(angle)], -1)
    return tube(path, thick, 4, Material.RUBBER, (0.02, 0.02, 0.02))
