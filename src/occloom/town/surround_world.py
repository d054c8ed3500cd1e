"""A drive for the surround rig: the town's world, and whatever of Occ3D's seventeen classes it may lack.

The world itself is that of the other layouts. Roadworks, bins, large vehicles, two-wheelers and people are put on free
ground in sight of the drive, and an oncoming car may become a bus.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from occloom.town.assets_people import walker
from occloom.town.assets_vehicles import bicycle, bus, motorcycle, trailer, truck, van
from occloom.town.assets_works import (
    BARRIER,
    CONSTRUCTION_VEHICLE,
    TRAFFIC_CONE,
    barrier,
    bins,
    digger,
    loader,
    traffic_cone,
)
from occloom.town.free_ground import FreeGround
from occloom.town.mesh import Mesh, Mover, World, concatenate
from occloom.town.site import MARKING, OTHER_GROUND, PARKING, ROAD, SIDEWALK, TERRAIN
from occloom.town.traffic import BICYCLE, BUS, MOTORCYCLE, MOVING_BUS, MOVING_CAR, PERSON, TRUCK
from occloom.town.world import build_world

OTHER_OBJECT, OTHER_VEHICLE = 99, 20
TRIES = 80  # places looked at for each thing
ROW_TRIES = 30  # places looked at for each row of barriers or cones
BUS_ROOM = 10.0  # least distance between the middles of a bus and of the next one in its lane, metres
BUS_REACH = 30.0  # a car that becomes a bus is so near at the middle of the drive, metres
_OFF_ROAD = (PARKING, SIDEWALK, OTHER_GROUND, TERRAIN)
_ROADSIDE = (ROAD, MARKING, PARKING, SIDEWALK, OTHER_GROUND, TERRAIN)

Maker = Callable[[np.random.Generator], Mesh]


@dataclass(frozen=True)
class _Wish:
    """Things of one kind: how many, and how far from the edge of the road (metres, from and to)."""

    label: int
    make: Maker
    count: tuple[int, int]
    offset: tuple[float, float]
    along: bool
    """Whether it stands along the street, rather than any way."""


_WISHES = (
    _Wish(CONSTRUCTION_VEHICLE, lambda r: (digger if r.uniform() < 0.6 else loader)(r), (1, 2), (1.5, 13.0), False),
    _Wish(TRUCK, lambda r: (truck if r.uniform() < 0.6 else van)(r), (1, 1), (1.4, 13.0), True),
    _Wish(OTHER_VEHICLE, trailer, (1, 2), (1.2, 12.0), True),
    _Wish(OTHER_OBJECT, bins, (2, 4), (0.5, 7.0), True),
    _Wish(MOTORCYCLE, motorcycle, (2, 3), (0.4, 7.0), True),
    _Wish(BICYCLE, bicycle, (2, 3), (0.4, 7.0), True),
    _Wish(PERSON, lambda r: walker(r, stride=float(r.choice([0.0, 0.2]))), (3, 6), (0.4, 8.0), False),
)


def build_surround_world(*, seed: int, duration: float, stretch: tuple[float, float]) -> World:
    """The world of one drive with all of Occ3D's classes near it, where there is room.

    Args:
        seed: of everything in it; equal arguments give equal arrays in any process.
        duration: seconds of drive.
        stretch: first and last second of the part in whose sight things are put.

    Raises:
        InputError: If embreex is not installed.
    """
    world = build_world(seed=seed, duration=duration)
    rng = np.random.default_rng([seed, 20200326])
    world = replace(world, movers=_with_a_bus(world, rng, 0.5 * (stretch[0] + stretch[1])))
    site = _Roadside(world, rng, duration, stretch)
    site.rows()
    if not any(mover.mesh.label[0] == MOVING_BUS for mover in world.movers):
        site.grant(_Wish(BUS, bus, (1, 1), (1.6, 13.0), True))
    for wish in _WISHES:
        site.grant(wish)
    return replace(world, static=concatenate([world.static, *site.meshes]))


class _Roadside:
    """Puts things beside the street, and remembers their meshes in the world frame."""

    def __init__(self, world: World, rng: np.random.Generator, duration: float, stretch: tuple[float, float]) -> None:
        self.meshes: list[Mesh] = []
        self._rng, self._street = rng, world.ego.street
        self._half = 0.25 + 2 * abs(world.ego.start[1])  # the ego car drives in the middle of its lane
        self._free = FreeGround(world, np.arange(0.0, duration + 0.05, 0.1))
        self._first, self._last = (world.ego.place(time)[0] for time in stretch)
        self._lookouts = np.stack(
            [world.ego.pose(float(time))[:3, 3] for time in np.linspace(stretch[0], stretch[1], 3)]
        )
        numbers = [world.static.instance.max(initial=0), *(mover.mesh.instance.max() for mover in world.movers)]
        self._number = int(max(numbers))

    def grant(self, wish: _Wish) -> None:
        """Puts up what is wished for, as far as free places are found."""
        for _ in range(int(self._rng.integers(wish.count[0], wish.count[1] + 1))):
            mesh = wish.make(self._rng)
            for _ in range(TRIES):
                side = int(self._rng.choice([-1, 1]))
                yaw = float(self._rng.normal(0.0, 0.1)) if wish.along else float(self._rng.uniform(0, 2 * np.pi))
                s = float(self._rng.uniform(self._first - 14.0, self._last + 24.0))
                offset = float(self._rng.uniform(*wish.offset))
                if self._put(mesh, wish.label, s, side * (self._half + offset), yaw, _OFF_ROAD):
                    break

    def rows(self) -> None:
        """A row of barriers beside the road, perhaps another, and rows of cones at its edge."""
        for label, make, gap, offset, rows in (
            (BARRIER, barrier, 2.4, (0.6, 6.0), int(self._rng.integers(1, 3))),
            (TRAFFIC_CONE, traffic_cone, 2.2, (-0.3, 2.5), 2),
        ):
            for _ in range(rows):
                self._row(label, make, gap, offset)

    def _row(self, label: int, make: Maker, gap: float, offset: tuple[float, float]) -> None:
        """One row along the street at the first place where at least two fit."""
        rng = self._rng
        state = int(rng.integers(1 << 31))
        turn = np.pi / 2 if label == BARRIER else 0.0
        for _ in range(ROW_TRIES):
            side, away = int(rng.choice([-1, 1])), float(rng.uniform(*offset))
            start, count = float(rng.uniform(self._first - 8.0, self._last + 16.0)), int(rng.integers(4, 9))
            standing = 0
            for k in range(count):
                mesh = make(np.random.default_rng(state))  # all of a row are alike
                d = side * (self._half + away) + 0.05 * float(rng.normal())
                standing += self._put(mesh, label, start + gap * k, d, turn, _ROADSIDE)
            if standing >= 2:
                return

    def _put(self, mesh: Mesh, label: int, s: float, d: float, yaw: float, ground: tuple[int, ...]) -> bool:
        """One thing on the ground, if it is free there."""
        pose = self._street.frame(s, d, 0.0, along=float(np.cos(yaw)), across=float(np.sin(yaw)))
        lift = self._free.height(pose[:3, 3])
        if lift is None:
            return False
        pose[2, 3] = lift - 0.005  # soles and tyres touch the ground
        if not self._free.take(mesh, pose, ground=ground, lookouts=self._lookouts):
            return False
        self._number += 1
        self.meshes.append(mesh.named(label, self._number).placed(pose))
        return True


def _with_a_bus(world: World, rng: np.random.Generator, time: float) -> tuple[Mover, ...]:
    """The movers, an oncoming car near the ego car at a time turned into a bus if there is room for one."""
    if any(mover.mesh.label[0] == MOVING_BUS for mover in world.movers):
        return world.movers
    here = world.ego.place(time)
    places = np.array([mover.course.place(time) for mover in world.movers]).reshape(-1, 2)
    for index in np.argsort(np.abs(places[:, 0] - here[0] - 6.0)):
        mover, (s, d) = world.movers[index], places[index]
        if mover.mesh.label[0] != MOVING_CAR or mover.course.speed > 0 or abs(s - here[0]) > BUS_REACH:
            continue
        in_lane = np.abs(places[:, 1] - d) < 1.0
        in_lane[index] = False
        if (np.abs(places[in_lane, 0] - s) < BUS_ROOM).any():
            continue
        changed = list(world.movers)
        changed[index] = Mover(bus(rng).named(MOVING_BUS, int(mover.mesh.instance[0])), mover.course)
        return tuple(changed)
    return world.movers
