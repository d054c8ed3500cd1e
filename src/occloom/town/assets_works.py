"""Roadworks and what stands at kerbs: barriers, traffic cones, diggers, wheel loaders, bins and rubbish.

Only the surround town has them; x is forward, and the origin on the ground. Classes that SemanticKITTI lacks have ids
of the town's own, from 300.
"""

import numpy as np

from occloom.town.materials import Material
from occloom.town.mesh import Mesh, concatenate
from occloom.town.shapes import ball, box, loft, rod, tube

BARRIER, TRAFFIC_CONE, CONSTRUCTION_VEHICLE = 300, 301, 302
_DARK, _GLASS = (0.03, 0.03, 0.035), (0.05, 0.06, 0.07)
_MACHINE_PAINTS = [[0.6, 0.36, 0.02], [0.55, 0.42, 0.05], [0.5, 0.16, 0.02], [0.5, 0.5, 0.47]]
_BIN_PAINTS = [[0.04, 0.05, 0.05], [0.03, 0.14, 0.06], [0.03, 0.07, 0.22], [0.4, 0.3, 0.03]]


def barrier(rng: np.random.Generator) -> Mesh:
    """Two metres of temporary barrier across x: concrete, water-filled plastic, or a board on feet."""
    style, half = int(rng.integers(3)), 1.0
    if style == 2:
        parts = [
            box((-0.03, -half + 0.1, z), (0.03, half - 0.1, z + 0.2), Material.SIGN, tone)
            for z, tone in ((0.35, (0.65, 0.65, 0.62)), (0.6, (0.55, 0.03, 0.02)), (0.85, (0.65, 0.65, 0.62)))
        ]
        parts += [box((-0.04, y - 0.04, 0.0), (0.04, y + 0.04, 1.1), Material.METAL, _DARK) for y in (-0.8, 0.8)]
        parts += [box((-0.3, y - 0.1, 0.0), (0.3, y + 0.1, 0.1), Material.RUBBER, _DARK) for y in (-0.8, 0.8)]
        return concatenate(parts)
    tone = rng.choice([[0.42, 0.41, 0.39], [0.5, 0.49, 0.46]] if style == 0 else [[0.6, 0.06, 0.02], [0.6, 0.6, 0.57]])
    profile = np.array([[-0.28, 0.0], [-0.28, 0.1], [-0.13, 0.35], [-0.08, 0.9], [0.08, 0.9], [0.13, 0.35]])
    profile = np.concatenate([profile, [[0.28, 0.1], [0.28, 0.0]]])
    rings = [np.stack([profile[:, 0], np.full(len(profile), y), profile[:, 1]], -1) for y in (half, -half)]
    return loft(np.stack(rings), Material.CONCRETE if style == 0 else Material.PAINT, tone)


def traffic_cone(rng: np.random.Generator) -> Mesh:
    """A cone or a tall post with white bands, on a rubber foot."""
    high, wide = (float(rng.uniform(0.7, 0.8)), 0.16) if rng.uniform() < 0.7 else (1.05, 0.11)
    orange, white = (0.6, 0.12, 0.02), (0.66, 0.66, 0.63)
    cuts = np.array([0.04, 0.35, 0.55, 0.7, 0.85, 1.0]) * high
    radius = wide - (wide - 0.035) * cuts / high
    parts = [box((-0.2, -0.2, 0.0), (0.2, 0.2, 0.05), Material.RUBBER, _DARK)]
    for k in range(len(cuts) - 1):
        path = np.array([[0.0, 0.0, cuts[k]], [0.0, 0.0, cuts[k + 1]]])
        parts.append(
            tube(path, radius[k : k + 2], 10, Material.SIGN if k % 2 else Material.MATTE, (orange, white)[k % 2])
        )
    return concatenate(parts)


def digger(rng: np.random.Generator) -> Mesh:
    """An excavator on tracks, its arm ahead."""
    colour = rng.choice(_MACHINE_PAINTS[:3])
    parts = [_track_shoes(side * 0.95) for side in (-1, 1)]
    parts += [
        box((-0.8, -0.6, 0.5), (0.8, 0.6, 0.95), Material.METAL, _DARK),
        box((-1.9, -1.2, 0.95), (0.5, 1.2, 2.0), Material.PAINT, colour),
        box((-1.95, -1.1, 1.0), (-1.8, 1.1, 1.9), Material.METAL, _DARK),
        box((0.0, 0.25, 0.95), (1.3, 1.2, 1.7), Material.PAINT, colour),
        box((0.02, 0.27, 1.7), (1.25, 1.18, 2.75), Material.GLASS, _GLASS),
        box((0.0, 0.25, 2.75), (1.3, 1.2, 2.85), Material.PAINT, colour),
    ]
    lift = float(rng.uniform(-0.3, 0.5))
    elbow, wrist = (2.3, -0.3, 3.3 + lift), (3.1, -0.3, 1.3 + 0.5 * lift)
    parts += [
        tube(np.array([[0.4, -0.3, 1.5], elbow]), np.array([0.26, 0.2]), 4, Material.PAINT, colour),
        tube(np.array([elbow, wrist]), np.array([0.2, 0.14]), 4, Material.PAINT, colour),
        rod((0.7, -0.3, 1.3), (1.6, -0.3, 2.3 + 0.6 * lift), 0.07, Material.METAL, (0.5, 0.5, 0.5)),
        box((2.6, -0.75, 0.6 + 0.5 * lift), (3.3, 0.15, 1.3 + 0.5 * lift), Material.METAL, (0.12, 0.11, 0.1)),
    ]
    return _centred(concatenate(parts))


def loader(rng: np.random.Generator) -> Mesh:
    """A wheel loader with its shovel down."""
    colour = rng.choice(_MACHINE_PAINTS)
    parts = [
        box((-2.6, -0.85, 0.8), (-0.3, 0.85, 1.9), Material.PAINT, colour),
        box((-0.3, -0.5, 0.7), (1.4, 0.5, 1.3), Material.METAL, _DARK),
        box((-0.6, -0.8, 1.3), (0.6, 0.8, 1.9), Material.PAINT, colour),
        box((-0.58, -0.78, 1.9), (0.58, 0.78, 3.0), Material.GLASS, _GLASS),
        box((-0.65, -0.85, 3.0), (0.65, 0.85, 3.1), Material.PAINT, colour),
        box((2.2, -1.3, 0.05), (3.0, 1.3, 1.0), Material.METAL, (0.14, 0.13, 0.12)),
    ]
    for side in (-1, 1):
        parts.append(rod((0.6, 0.5 * side, 1.5), (2.4, 0.5 * side, 0.6), 0.15, Material.PAINT, colour))
        parts += [_tyre(x, side * 1.05) for x in (-1.7, 1.2)]
    return _centred(concatenate(parts))


def bins(rng: np.random.Generator) -> Mesh:
    """Two or three wheeled bins in a row across x, and perhaps a sack beside them."""
    count = int(rng.integers(2, 4))
    parts = []
    for k in range(count):
        y = 0.7 * (k - 0.5 * (count - 1))
        colour, high = rng.choice(_BIN_PAINTS), float(rng.uniform(0.95, 1.1))
        rings = [
            np.array([[-a, y - b, z], [a, y - b, z], [a, y + b, z], [-a, y + b, z]])
            for a, b, z in ((0.24, 0.22, 0.0), (0.32, 0.28, high))
        ]
        parts.append(loft(np.stack(rings), Material.PAINT, colour))
        parts.append(box((-0.34, y - 0.3, high), (0.36, y + 0.3, high + 0.06), Material.PAINT, 0.8 * colour))
    if rng.uniform() < 0.5:
        parts.append(ball((0.55, 0.0, 0.27), (0.3, 0.32, 0.28), Material.RUBBER, (0.04, 0.04, 0.045)))
    return concatenate(parts)


def _track_shoes(y: float) -> Mesh:
    outline = np.array([[-1.6, 0.0], [1.5, 0.0], [1.9, 0.35], [1.6, 0.75], [-1.6, 0.75], [-1.9, 0.4]])
    sides = [np.stack([outline[:, 0], np.full(6, y + s), outline[:, 1]], -1) for s in (0.28, -0.28)]
    return loft(np.stack(sides), Material.RUBBER, (0.05, 0.045, 0.04))


def _tyre(x: float, y: float) -> Mesh:
    angle = 2 * np.pi * np.arange(14) / 14
    ring = np.stack([x + 0.7 * np.cos(angle), np.full(14, y), 0.7 + 0.7 * np.sin(angle)], -1)
    sides = np.stack([ring + np.array([0.0, s, 0.0]) for s in (0.25, -0.25)])
    return loft(sides, Material.RUBBER, (0.02, 0.02, 0.02))


def _centred(mesh: Mesh) -> Mesh:
    """The same mesh with the middle of its length over the origin."""
    pose = np.eye(4)
    pose[0, 3] = -0.5 * float(mesh.vertices[:, 0].min() + mesh.vertices[:, 0].max())
    return mesh.placed(pose)
