"""One side of a street between two side streets: its ground, houses, gardens, fences, trees and parking.

Every quarter is a function of a `Block`. Offsets are measured from the edge of the road away from the street.
"""

from dataclasses import dataclass

import numpy as np

from occloom.town.assets_buildings import BuildingPlan, building, hall
from occloom.town.assets_plants import hedge, shrubs
from occloom.town.assets_street import bollards, fence, field_fence, guard_rail, street_lamp, utility_pole
from occloom.town.assets_vehicles import car
from occloom.town.materials import Material
from occloom.town.site import OTHER_GROUND, PARKING, SIDEWALK, TERRAIN, Site

CAR = 10
FAR = 92.0  # the ground reaches this far from the centre line
_CORNER = 3.0  # sidewalk beside a side street
_PAVE, _COBBLE, _LAWN, _EARTH, _TAR = (
    (0.4, 0.39, 0.37),
    (0.26, 0.25, 0.24),
    (0.1, 0.15, 0.045),
    (0.17, 0.13, 0.08),
    (0.1, 0.1, 0.105),
)


@dataclass(frozen=True)
class Block:
    """The side `side` (+1 left, -1 right) of the street for s in [start, end]."""

    site: Site
    side: int
    start: float
    end: float

    def d(self, offset: float) -> float:
        """Coordinate d of an offset from the edge of the road."""
        return self.side * (self.site.half + offset)

    def strip(
        self,
        low: float,
        high: float,
        label: int,
        material: Material,
        colour: tuple[float, float, float],
        *,
        rough: float = 0.0,
        height: float = 0.12,
        s: tuple[float, float] | None = None,
    ) -> None:
        """A strip of ground between two offsets, between the corner sidewalks unless `s` says otherwise."""
        span = s or (self.start + _CORNER, self.end - _CORNER)
        self.site.ground(span, (self.d(low), self.d(high)), label, material, colour, height=height, rough=rough)

    @property
    def facing(self) -> float:
        """Yaw of a house that looks at the street."""
        return 0.0 if self.side > 0 else np.pi


@dataclass(frozen=True)
class Roadside:
    """What `roadside` laid out: offsets of the kerb, of the sidewalk's middle and of its far edge; s of the bays."""

    kerb: float
    walk: float
    behind: float
    bays: tuple[float, ...]


def corners(block: Block, reach: float) -> None:
    """Sidewalks at both ends of a block, with their kerbs, `reach` metres along the side streets; ground behind."""
    for low, high, edge in (
        (block.start, block.start + _CORNER, block.start),
        (block.end - _CORNER, block.end, block.end),
    ):
        block.strip(0.0, reach, SIDEWALK, Material.PAVING, _PAVE, s=(low, high))
        block.strip(reach, FAR - block.site.half, TERRAIN, Material.GRASS, _LAWN, s=(low, high))
        block.site.kerb((edge, edge), (block.d(0.0), block.d(reach)))


def roadside(block: Block, *, parking: bool, walk: float, verge: float) -> Roadside:
    """Kerb, perhaps parking bays, a green verge and the sidewalk."""
    site, begin, stop = block.site, block.start, block.end
    bays: tuple[float, ...] = ()
    offset = 0.0
    if parking:
        low, high = begin + 7.0, stop - 7.0
        block.strip(0.0, 2.2, PARKING, Material.COBBLE, _COBBLE, height=0.0, s=(low, high))
        for a, b in ((begin + _CORNER, low), (high, stop - _CORNER)):
            block.strip(0.0, 2.2, SIDEWALK, Material.PAVING, _PAVE, s=(a, b))
        for edge in (low, high):
            site.kerb((edge, edge), (block.d(0.0), block.d(2.2)))
        for a, b, at in ((begin, low, 0.0), (low, high, 2.2), (high, stop, 0.0)):
            site.kerb((a, b), (block.d(at), block.d(at)))
        bays = tuple(np.arange(low + 3.2, high - 3.0, 6.1))
        offset = 2.2
    else:
        site.kerb((begin, stop), (block.d(0.0), block.d(0.0)))
    block.strip(offset, offset + 0.16, SIDEWALK, Material.KERB, (0.38, 0.38, 0.36))
    offset += 0.16
    if verge > 0:
        block.strip(offset, offset + verge, TERRAIN, Material.GRASS, _LAWN)
    block.strip(offset + verge, offset + verge + walk, SIDEWALK, Material.PAVING, _PAVE)
    _lamps(block, offset + 0.35)
    spacing = float(site.rng.uniform(8, 14))
    if verge > 0.8 or walk > 3.4:
        for s in np.arange(begin + 9, stop - 8, spacing):
            site.tree(s, block.d(offset + max(0.5 * verge, 0.7)), size=0.85)
            if verge > 0.8:
                site.bush(s + 0.5 * spacing, block.d(offset + 0.55 * verge), size=0.7)
    return Roadside(offset, offset + verge + 0.5 * walk, offset + verge + walk, bays)


def old_town(block: Block) -> Roadside:
    """Terraces of three to five storeys straight at the sidewalk, shops below, yards behind."""
    rng, site = block.site.rng, block.site
    edge = roadside(block, parking=bool(rng.uniform() < 0.35), walk=float(rng.uniform(2.4, 4.2)), verge=0.0)
    behind = edge.behind
    if rng.uniform() < 0.4:
        block.strip(behind, behind + 3.0, OTHER_GROUND, Material.COBBLE, (0.34, 0.3, 0.26))
        site.along(bollards(int((block.end - block.start - 16) / 1.5)), block.start + 8, block.d(behind + 0.2))
        behind += 3.0
    block.strip(behind, FAR - site.half, TERRAIN, Material.GRASS, _LAWN)
    s, end = block.start + _CORNER, block.end - _CORNER
    while end - s > 7:
        width = min(float(rng.uniform(9, 16)), end - s)
        gap = rng.uniform() < 0.12
        if not gap:
            plan = BuildingPlan(
                width,
                float(rng.uniform(9, 12)),
                int(rng.integers(2, 6)),
                float(rng.uniform(2.9, 3.5)),
                "gable" if rng.uniform() < 0.75 else "flat",
                bool(rng.uniform() < 0.45),
                bool(rng.uniform() < 0.25),
                False,
            )
            _house(block, plan, s + 0.5 * width, behind + 0.1 + 0.5 * float(rng.uniform() < 0.2))
        else:
            site.along(fence(rng, length=width, height=2.0), s, block.d(behind + 0.3))
            _thicket(block, (s, s + width), (behind + 1.5, behind + 9), 0.12)
        s += width
    _thicket(block, (block.start + 4, block.end - 4), (behind + 14, behind + 34), 0.016)
    _shrubs(block, behind + 17)
    _back_row(block, behind + 22)
    return edge


def suburb(block: Block) -> Roadside:
    """Detached houses in gardens behind fences and hedges, with driveways."""
    rng, site = block.site.rng, block.site
    verge = float(rng.choice([0.0, 1.6, 2.4]))
    edge = roadside(block, parking=bool(rng.uniform() < 0.25), walk=float(rng.uniform(2.0, 3.0)), verge=verge)
    behind = edge.behind
    block.strip(behind, FAR - site.half, TERRAIN, Material.GRASS, _LAWN, rough=0.04)
    garden = float(rng.uniform(3.5, 6.0))
    s = block.start + _CORNER
    while block.end - _CORNER - s > 13:
        lot = min(float(rng.uniform(14, 20)), block.end - _CORNER - s)
        width, depth = min(float(rng.uniform(8.5, 12)), lot - 4.4), float(rng.uniform(8, 10))
        plan = BuildingPlan(
            width,
            depth,
            int(rng.integers(1, 4)),
            2.8,
            str(rng.choice(["gable", "hip", "gable"])),
            False,
            bool(rng.uniform() < 0.3),
        )
        setback = behind + garden + float(rng.uniform(-1, 1.5))
        _house(block, plan, s + 0.5 * width + 0.8, setback)
        drive = (s + lot - 3.3, s + lot - 0.5)
        paved = rng.uniform() < 0.5
        block.strip(
            behind - 0.02,
            setback + 5,
            OTHER_GROUND,
            Material.COBBLE if paved else Material.GRAVEL,
            (0.32, 0.28, 0.24),
            height=0.125,
            s=drive,
        )
        if rng.uniform() < 0.55:
            site.park(
                car(rng),
                CAR,
                drive[0] + 1.4,
                block.d(setback + 0.5),
                height=0.125,
                along=0.0,
                across=float(rng.choice([-1, 1])),
            )
        front = drive[0] - s - 0.2
        kinds = rng.uniform()
        if kinds < 0.7:
            site.along(
                hedge(rng, length=front, height=float(rng.uniform(1.0, 2.0)), width=0.8), s, block.d(behind + 0.55)
            )
        if kinds > 0.35:
            site.along(fence(rng, length=front, height=float(rng.uniform(0.9, 1.5))), s, block.d(behind + 0.1))
        far = (block.d(behind + 0.4), block.d(behind + garden + 24))
        site.across(
            fence(rng, length=garden + 23, height=1.5)
            if rng.uniform() < 0.5
            else hedge(rng, length=garden + 23, height=1.7, width=0.9),
            s + lot - 0.2,
            far,
        )
        site.tree(s + float(rng.uniform(1, lot - 5)), block.d(behind + 0.5 * garden), size=0.7)
        _thicket(block, (s + 0.5, s + lot - 4), (behind + 1.2, setback - 0.8), 0.07)
        _thicket(block, (s, s + lot), (setback + depth + 2, setback + depth + 16), 0.03)
        s += lot
    _shrubs(block, behind + garden + 24.5)
    _back_row(block, behind + garden + 27)
    return edge


def estate(block: Block) -> Roadside:
    """Slab blocks of flats on lawns, with bays to park nose-in."""
    rng, site = block.site.rng, block.site
    edge = roadside(block, parking=False, walk=float(rng.uniform(2.2, 3.2)), verge=2.0)
    behind = edge.behind
    low, high = block.start + 9, block.end - 9
    middle = low + 0.55 * (high - low)
    block.strip(behind, behind + 5.2, PARKING, Material.COBBLE, _COBBLE, s=(low, middle))
    for a, b in ((block.start + _CORNER, low), (middle, block.end - _CORNER)):
        block.strip(behind, behind + 5.2, TERRAIN, Material.GRASS, _LAWN, s=(a, b))
    _rows_of_cars(block, (low, middle), behind + 2.7, 0.45)
    block.strip(behind + 5.2, FAR - site.half, TERRAIN, Material.GRASS, _LAWN, rough=0.05)
    site.along(hedge(rng, length=high - low, height=1.1, width=0.9), low, block.d(behind + 6.0))
    s = block.start + 6
    while block.end - 6 - s > 18:
        width = min(float(rng.uniform(18, 26)), block.end - 6 - s)
        plan = BuildingPlan(
            width, 11.0, int(rng.integers(3, 7)), 2.85, "flat" if rng.uniform() < 0.6 else "hip", False, True, False
        )
        _house(block, plan, s + 0.5 * width, behind + 12.0)
        s += width + 7
    _thicket(block, (block.start + 5, block.end - 5), (behind + 7, behind + 11.5), 0.045)
    _thicket(block, (block.start + 5, block.end - 5), (behind + 25, behind + 40), 0.02)
    _shrubs(block, behind + 8.6)
    return edge


def commercial(block: Block) -> Roadside:
    """A hall behind a parking lot."""
    rng, site = block.site.rng, block.site
    edge = roadside(block, parking=False, walk=float(rng.uniform(2.0, 3.0)), verge=1.8)
    behind = edge.behind
    low, high = block.start + 6, block.end - 6
    block.strip(behind, behind + 1.4, TERRAIN, Material.GRASS, _LAWN)
    if rng.uniform() < 0.6:
        site.along(hedge(rng, length=high - low, height=0.9, width=0.8), low, block.d(behind + 0.7))
    else:
        site.along(guard_rail(length=high - low), low, block.d(behind + 0.7))
    deep = float(rng.uniform(11, 14))
    block.strip(behind + 1.4, behind + 1.4 + deep, PARKING, Material.ASPHALT, _TAR, s=(low, high))
    for a, b in ((block.start + _CORNER, low), (high, block.end - _CORNER)):
        block.strip(behind + 1.4, behind + 1.4 + deep, OTHER_GROUND, Material.GRAVEL, (0.3, 0.28, 0.25), s=(a, b))
    for offset in (behind + 4.2, behind + deep - 1.0):
        _rows_of_cars(block, (low + 1, high - 1), offset, 0.35)
    block.strip(
        behind + 1.4 + deep, FAR - site.half, OTHER_GROUND if rng.uniform() < 0.3 else TERRAIN, Material.GRASS, _LAWN
    )
    place = hall(rng, width=0.8 * (high - low), depth=18.0, height=float(rng.uniform(5.5, 8.5)))
    site.upright(place, 0.5 * (low + high), block.d(behind + deep + 4.5), yaw=block.facing)
    _thicket(block, (low, high), (behind + deep + 24, behind + deep + 34), 0.02)
    return edge


def park(block: Block) -> Roadside:
    """Lawns, many trees and bushes behind a low fence or a hedge, and a path."""
    rng, site = block.site.rng, block.site
    edge = roadside(block, parking=bool(rng.uniform() < 0.25), walk=float(rng.uniform(2.4, 3.6)), verge=0.0)
    behind = edge.behind
    block.strip(behind, FAR - site.half, TERRAIN, Material.GRASS, _LAWN, rough=0.08)
    length = block.end - block.start - 2 * _CORNER
    border = (
        fence(rng, length=length, height=1.1)
        if rng.uniform() < 0.6
        else hedge(rng, length=length, height=1.2, width=0.9)
    )
    site.along(border, block.start + _CORNER, block.d(behind + 0.5))
    block.strip(behind + 7, behind + 9.2, OTHER_GROUND, Material.GRAVEL, (0.36, 0.31, 0.24), height=0.19)
    _thicket(block, (block.start + 4, block.end - 4), (behind + 1.8, behind + 6.2), 0.05)
    _shrubs(block, behind + 4.5)
    _shrubs(block, behind + 13.0)
    _thicket(block, (block.start + 4, block.end - 4), (behind + 10, behind + 42), 0.016)
    return edge


def country(block: Block) -> Roadside:
    """Fields with hedgerows and copses; a narrow sidewalk, a field fence and wooden poles."""
    rng, site = block.site.rng, block.site
    edge = roadside(block, parking=False, walk=1.6, verge=1.5)
    behind = edge.behind
    block.strip(behind, behind + 3, TERRAIN, Material.GRASS, (0.14, 0.16, 0.05), rough=0.06)
    block.strip(
        behind + 3,
        FAR - site.half,
        TERRAIN,
        *((Material.SOIL, _EARTH) if rng.uniform() < 0.4 else (Material.GRASS, (0.17, 0.18, 0.06))),
        rough=0.1,
    )
    length = block.end - block.start - 2 * _CORNER
    site.along(field_fence(length=length), block.start + _CORNER, block.d(behind + 0.6))
    for s in np.arange(block.start + 12, block.end - 5, 27.0):
        site.upright(utility_pole(rng), s, block.d(behind + 1.6))
    if rng.uniform() < 0.6:
        site.along(
            hedge(rng, length=length, height=float(rng.uniform(1.5, 2.4)), width=1.6),
            block.start + _CORNER,
            block.d(behind + 3.2),
        )
    _thicket(block, (block.start + 4, block.end - 4), (behind + 4, behind + 14), 0.05)
    _shrubs(block, behind + 5.5)
    _shrubs(block, behind + 16.0)
    _thicket(block, (block.start + 4, block.end - 4), (behind + 14, behind + 45), 0.012)
    if rng.uniform() < 0.5:
        plan = BuildingPlan(12.0, 10.0, 2, 2.9, "gable")
        _house(block, plan, 0.5 * (block.start + block.end), behind + 17)
    return edge


def _house(block: Block, plan: BuildingPlan, s: float, offset: float) -> None:
    d = block.d(offset)
    block.site.upright(building(block.site.rng, plan), s, d, yaw=block.facing, height=0.1)


def _back_row(block: Block, offset: float) -> None:
    """Plain houses that close the view between the front ones."""
    rng = block.site.rng
    for s in np.arange(block.start + 12, block.end - 10, 22.0):
        if rng.uniform() < 0.7:
            plan = BuildingPlan(float(rng.uniform(10, 16)), 9.0, int(rng.integers(2, 5)), 2.9, "gable", detail=False)
            _house(block, plan, s + float(rng.uniform(-3, 3)), offset + float(rng.uniform(0, 6)))


def _thicket(block: Block, s: tuple[float, float], offset: tuple[float, float], density: float) -> None:
    """Trees and bushes, `density` to the square metre, in a rectangle."""
    rng = block.site.rng
    for _ in range(rng.poisson(max(0.0, (s[1] - s[0]) * (offset[1] - offset[0])) * density)):
        at, away = float(rng.uniform(*s)), block.d(float(rng.uniform(*offset)))
        if rng.uniform() < 0.35:
            block.site.tree(at, away, wild=True)
        else:
            block.site.bush(at, away, size=1.3)


def _shrubs(block: Block, offset: float) -> None:
    """A wild row of shrubs, 2 to 4 m high and nearly as thick, with gaps, along the block at an offset."""
    rng, s = block.site.rng, block.start + 4.0
    while block.end - 5.0 - s > 6.0:
        length = min(float(rng.uniform(6, 16)), block.end - 5.0 - s)
        row = shrubs(rng, length=length, height=float(rng.uniform(1.8, 4.0)), width=float(rng.uniform(1.4, 3.0)))
        block.site.along(row, s, block.d(offset + float(rng.uniform(-0.4, 0.4))), height=0.05)
        s += length + float(rng.choice([0.0, 0.0, 2.5]))


def _lamps(block: Block, offset: float) -> None:
    rng, site = block.site.rng, block.site
    reach = 1.4
    for s in np.arange(block.start + float(rng.uniform(4.0, 12.0)), block.end - 3, 26.0):
        yaw = -block.side * np.pi / 2
        site.upright(street_lamp(rng, reach=reach), s, block.d(offset), yaw=yaw)
        at = site.street.points(np.array([s]), np.array([block.d(offset) - block.side * reach]), np.array([6.5]))
        site.lamps.append(at[0])


def _rows_of_cars(block: Block, s: tuple[float, float], offset: float, share: float) -> None:
    """Cars side by side, nose in or out."""
    rng = block.site.rng
    for at in np.arange(s[0] + 1.5, s[1] - 1.2, 2.7):
        if rng.uniform() < share:
            block.site.park(
                car(rng), CAR, at, block.d(offset), height=0.12, along=0.0, across=float(rng.choice([-1, 1]))
            )
