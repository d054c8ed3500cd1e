"""Builds a whole drive from a seed: a street through several quarters, what stands on it and who moves."""

import numpy as np

from occloom.town.assets_plants import VEGETATION
from occloom.town.assets_street import guide_sign, traffic_light, traffic_sign
from occloom.town.blocks import FAR, Block, commercial, corners, country, estate, old_town, park, suburb
from occloom.town.materials import Material
from occloom.town.mesh import Mesh, World
from occloom.town.shapes import ball
from occloom.town.site import MARKING, OTHER_GROUND, ROAD, TERRAIN, Site
from occloom.town.street import Course, Street
from occloom.town.traffic import OTHER_VEHICLE, TRUCK, moving, park_along, park_beside, stand_about
from occloom.town.weather import draw_weather

BEFORE, AFTER = 85.0, 90.0  # metres of town before the start and past the end of the drive
_TAR, _WHITE = (0.085, 0.085, 0.09), (0.62, 0.62, 0.6)
_QUARTERS = (old_town, suburb, estate, commercial, park, country)
_MIXES = np.array(
    [  # how often each quarter comes, for five kinds of town
        [5, 1, 0.6, 0.2, 1, 0.2],
        [0.5, 5, 0.6, 0.2, 1.5, 1],
        [1, 2, 3, 0.5, 1.5, 0.5],
        [0.5, 1.5, 1, 1.2, 1.5, 1],
        [0.2, 2, 0.3, 0.2, 2, 4],
    ]
)


def build_world(*, seed: int, duration: float) -> World:
    """The world of one drive.

    Args:
        seed: of everything in it; equal arguments give equal arrays in any process.
        duration: seconds of drive.

    Returns:
        The town at least 80 m beyond both ends of the drive and 90 m to its sides.
    """
    rng = np.random.default_rng([seed, 20110926])
    weather = draw_weather(rng)
    street = _street(rng)
    lane_width = float(rng.uniform(3.1, 3.7))
    site = Site(street, rng, half=lane_width + 0.25)
    ego = _ego(rng, street, lane_width)
    last = ego.place(duration)[0]
    blocks, gaps = _divide(site, last + AFTER)
    mix = _MIXES[rng.integers(len(_MIXES))]
    rare = [TRUCK, OTHER_VEHICLE, *([TRUCK, OTHER_VEHICLE] if rng.uniform() < 0.3 else [])]
    rng.shuffle(rare)
    drive = (-4.0, last + 28.0)
    spots: list[tuple[float, float]] = []
    walks: list[tuple[float, float, float]] = []
    for block in blocks:
        corners(block, 45.0)
        edge = _QUARTERS[int(rng.choice(len(_QUARTERS), p=mix / mix.sum()))](block)
        park_along(site, block, edge.bays, rare, drive)
        _signs(site, block, edge.kerb)
        middle = np.arange(block.start + 4, block.end - 4, 3.0)
        spots += [(float(s), block.d(edge.behind - 0.45)) for s in middle if drive[0] < s < drive[1]]
        walks.append((block.start + 0.5, block.end - 0.5, block.d(edge.walk - 0.2)))
    for gap in gaps:
        park_beside(site, gap, rare if drive[0] < gap[0] < drive[1] else [])
    _roads(site, gaps, (blocks[0].start, blocks[-1].end))
    _horizon(site, (blocks[0].start, blocks[-1].end))
    stand_about(site, spots, last)
    movers = moving(site, ego, duration, 0.5 * lane_width, walks, gaps)
    lamps = np.array(site.lamps, np.float32).reshape(-1, 3)
    return World(site.mesh(), movers, weather, ego, lamps, duration)


def _street(rng: np.random.Generator) -> Street:
    bends = np.stack(
        [rng.uniform([2.0, 0.5], [9.0, 1.5]), 2 * np.pi / rng.uniform([220, 90], [420, 140]), rng.uniform(0, 6.3, 2)],
        -1,
    )
    rises = np.stack(
        [rng.uniform([0.3, 0.1], [2.2, 0.4]), 2 * np.pi / rng.uniform([200, 80], [400, 120]), rng.uniform(0, 6.3, 2)],
        -1,
    )
    return Street(bends, rises, rng.uniform(-2.5, 6.0, 2))


def _ego(rng: np.random.Generator, street: Street, lane_width: float) -> Course:
    speed, rate = float(rng.uniform(6.5, 10.5)), float(rng.uniform(0.2, 0.5))
    sway = float(rng.uniform(0.0, 1.4)) / rate
    phase = float(rng.uniform(0, 6.3))
    return Course(street, (-sway * float(np.sin(phase)), -0.5 * lane_width, 0.0), speed, 0.0, sway, rate, phase)


def _divide(site: Site, end: float) -> tuple[list[Block], list[tuple[float, float]]]:
    """Cuts the street into blocks on both sides and the gaps of the side streets between them."""
    rng = site.rng
    blocks, gaps, s = [], [], -BEFORE
    while s < end:
        length = float(rng.uniform(42, 78))
        blocks += [Block(site, side, s, s + length) for side in (-1, 1)]
        s += length
        gaps.append((s, s + float(rng.uniform(6.2, 7.8))))
        s = gaps[-1][1]
    return blocks, gaps[:-1]


def _signs(site: Site, block: Block, kerb: float) -> None:
    """Signs and lights at the ends of a block, for the traffic on its side."""
    rng, yaw = site.rng, 0.0 if block.side < 0 else np.pi
    last = block.end - 0.9 if block.side < 0 else block.start + 0.9
    first = block.start + 1.2 if block.side < 0 else block.end - 1.2
    site.upright(traffic_light(rng) if rng.uniform() < 0.35 else traffic_sign(rng), last, block.d(0.55), yaw=yaw)
    site.upright(traffic_sign(rng), first, block.d(0.6), yaw=yaw)
    middle = block.start + float(rng.uniform(0.35, 0.65)) * (block.end - block.start)
    kind = guide_sign if rng.uniform() < 0.2 and kerb < 1.0 else traffic_sign
    if rng.uniform() < 0.8:
        site.upright(kind(rng), middle, block.d(kerb + (1.6 if kind is guide_sign else 0.5)), yaw=yaw)


def _roads(site: Site, gaps: list[tuple[float, float]], ends: tuple[float, float]) -> None:
    """The street, its side streets with islands, and all markings."""
    half = site.half
    site.ground(ends, (-half, half), ROAD, Material.ASPHALT, _TAR, height=0.0, step=2.5)

    edges = [ends[0], *[e for gap in gaps for e in gap], ends[1]]
    _mark_lanes(site, list(zip(edges[::2], edges[1::2], strict=True)))
    for gap in gaps:
        _mark_crossing(site, gap)
        for side in (-1, 1):
            site.ground(gap, (side * half, side * FAR), ROAD, Material.ASPHALT, _TAR, height=0.0)
            if site.rng.uniform() < 0.5:
                _island(site, gap, side)


def _paint(site: Site, s: tuple[float, float], d: tuple[float, float]) -> None:
    site.ground(s, d, MARKING, Material.MARKING, _WHITE, height=0.006, step=2.5)


def _mark_lanes(site: Site, stretches: list[tuple[float, float]]) -> None:
    """The middle line, dashed or not, and perhaps edge lines, between side streets."""
    rng, half = site.rng, site.half
    dashed, edged = rng.uniform() < 0.7, rng.uniform() < 0.5
    for low, high in stretches:
        for s in np.arange(low + 8, high - 10, 7.0) if dashed else [low + 8]:
            _paint(site, (s, s + 3.0 if dashed else high - 8), (-0.07, 0.07))
        for d in (-half + 0.2, half - 0.2) if edged else ():
            _paint(site, (low + 6, high - 6), (d - 0.06, d + 0.06))


def _mark_crossing(site: Site, gap: tuple[float, float]) -> None:
    """Stop lines at a side street, often a zebra crossing, and the side street's own middle line."""
    half, (low, high) = site.half, gap
    if site.rng.uniform() < 0.65:
        for d in np.arange(-half + 0.5, half - 0.6, 1.0):
            _paint(site, (low - 4.2, low - 1.2), (d, d + 0.5))
    _paint(site, (low - 5.6, low - 5.2), (-half + 0.2, -0.1))
    _paint(site, (high + 5.2, high + 5.6), (0.1, half - 0.2))
    middle = 0.5 * (low + high)
    for d in np.arange(half + 9.5, 60, 6.0):
        for side in (-1, 1):
            _paint(site, (middle - 0.06, middle + 0.06), (side * d, side * (d + 2.5)))


def _island(site: Site, gap: tuple[float, float], side: int) -> None:
    """A cobbled island with a sign in the mouth of a side street."""
    near, far, middle = side * (site.half + 2.5), side * (site.half + 8.0), 0.5 * (gap[0] + gap[1])
    span = (middle - 0.6, middle + 0.6)
    site.ground(span, (near, far), OTHER_GROUND, Material.COBBLE, (0.34, 0.31, 0.27))
    for s in span:
        site.kerb((s, s), (near, far))
    for d in (near, far):
        site.kerb(span, (d, d))
    site.upright(traffic_sign(site.rng), middle, near + 0.5 * side, yaw=side * np.pi / 2)


def _horizon(site: Site, ends: tuple[float, float]) -> None:
    """Land and woods out of the sensors' reach, to close the view."""
    rng, grass = site.rng, (0.13, 0.16, 0.06)
    for s in ((ends[0] - 260, ends[0]), (ends[1], ends[1] + 260)):
        site.ground(s, (-site.half, site.half), ROAD, Material.ASPHALT, _TAR, height=0.0, step=8.0)
        for side in (-1, 1):
            site.ground(s, (side * site.half, side * FAR), TERRAIN, Material.GRASS, grass, step=12.0)
    for side in (-1, 1):
        site.ground(
            (ends[0] - 260, ends[1] + 260),
            (side * FAR, side * 300.0),
            TERRAIN,
            Material.GRASS,
            grass,
            height=0.1,
            step=16.0,
        )
        for s in np.arange(ends[0] - 240, ends[1] + 240, 7.0):
            site.upright(_wood(rng), s, side * float(rng.uniform(130, 240)), yaw=float(rng.uniform(0, 6)))
    for s in (ends[0] - 220, ends[1] + 220):
        for d in np.arange(-180, 180, 8.0):
            site.upright(_wood(rng), s + float(rng.uniform(-20, 20)), d, yaw=float(rng.uniform(0, 6)))


def _wood(rng: np.random.Generator) -> Mesh:
    wide, high = float(rng.uniform(5, 11)), float(rng.uniform(5, 12))
    tone = np.array([0.05, 0.09, 0.035]) * rng.uniform(0.7, 1.4)
    return ball((0.0, 0.0, 0.35 * high), (wide, 0.7 * wide, 0.65 * high), Material.LEAF, tone, sides=9).named(
        VEGETATION, 0
    )
