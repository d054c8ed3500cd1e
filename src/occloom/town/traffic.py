"""Who is on the street: parked and moving vehicles, riders and people. No two of them ever meet."""

import numpy as np

from occloom.town.assets_people import cyclist, motorcyclist, walker
from occloom.town.assets_vehicles import bicycle, bus, car, motorcycle, trailer, truck, van
from occloom.town.blocks import CAR, Block
from occloom.town.mesh import Mesh, Mover
from occloom.town.site import KERB_HEIGHT, Site
from occloom.town.street import Course

BICYCLE, BUS, MOTORCYCLE, TRUCK, OTHER_VEHICLE, PERSON, BICYCLIST, MOTORCYCLIST = 11, 13, 15, 18, 20, 30, 31, 32
MOVING_CAR, MOVING_BICYCLIST, MOVING_PERSON, MOVING_MOTORCYCLIST = 252, 253, 254, 255
MOVING_BUS, MOVING_TRUCK, MOVING_OTHER = 257, 258, 259


def park_along(site: Site, block: Block, bays: tuple[float, ...], rare: list[int], drive: tuple[float, float]) -> None:
    """Fills the bays beside the road; classes in `rare` get the first free ones along the `drive`."""
    rng = site.rng
    for s in bays:
        wanted = rare if drive[0] < s < drive[1] else []
        if not wanted and rng.uniform() > 0.6:
            continue
        label = wanted.pop() if wanted and rng.uniform() < 0.6 else CAR
        mesh = {CAR: car, TRUCK: van, OTHER_VEHICLE: trailer}[label](rng)
        way = 1.0 if block.side < 0 else -1.0
        site.park(
            mesh,
            label,
            s,
            block.d(1.12),
            along=way * float(rng.choice([1.0, 1.0, -1.0])),
            across=float(rng.normal(0, 0.015)),
        )


def park_beside(site: Site, gap: tuple[float, float], rare: list[int]) -> None:
    """Vehicles parked along both arms of a side street that runs through `gap`, those in `rare` first."""
    rng = site.rng
    for side in (-1, 1):
        for d in np.arange(site.half + 10.0, site.half + 38.0, 6.6):
            if not rare and rng.uniform() > 0.35:
                continue
            label = rare.pop() if rare else CAR
            mesh = {
                CAR: car,
                TRUCK: truck if rng.uniform() < 0.5 and d < site.half + 11 else van,
                OTHER_VEHICLE: trailer,
            }[label](rng)
            site.park(mesh, label, gap[1] - 1.3, side * d, across=float(rng.choice([-1.0, 1.0])), along=0.0)


def stand_about(site: Site, spots: list[tuple[float, float]], length: float) -> None:
    """People, bicycles, motorcycles and resting riders on the sidewalks, at free `spots` (s, d)."""
    rng = site.rng
    wanted = [
        (BICYCLE, bicycle, 2 + rng.poisson(length / 80)),
        (MOTORCYCLE, motorcycle, 1 + rng.poisson(length / 90)),
        (PERSON, lambda r: walker(r, stride=0.0), 1 + rng.poisson(length / 120)),
        (BICYCLIST, cyclist, int(rng.uniform() < 0.4)),
        (MOTORCYCLIST, motorcyclist, int(rng.uniform() < 0.35)),
    ]
    order = [(label, make) for label, make, count in wanted for _ in range(count)]
    picks = rng.permutation(len(spots))[: len(order)]
    for (label, make), pick in zip(order, picks, strict=False):
        s, d = spots[int(pick)]
        angle = (
            float(rng.uniform(0, 2 * np.pi))
            if label == PERSON
            else float(rng.normal(0, 0.12)) + np.pi * int(rng.integers(2))
        )
        site.park(make(rng), label, s, d, height=KERB_HEIGHT, along=np.cos(angle), across=np.sin(angle))


def moving(
    site: Site,
    ego: Course,
    duration: float,
    lane: float,
    walks: list[tuple[float, float, float]],
    gaps: list[tuple[float, float]],
) -> tuple[Mover, ...]:
    """All traffic of the drive: a leader and a follower, oncoming vehicles, riders and walkers.

    `walks` lists stretches of sidewalk as (first s, last s, d), `gaps` the side streets. A candidate that would come
    near the ego car or another mover at any tenth of a second is left out.
    """
    rng = site.rng
    times = np.arange(0.0, duration + 0.1, 0.1)
    tracks = [(_track(ego, times), np.array([2.6, 1.05]))]
    movers: list[Mover] = []
    for label, make, course, size in [*_vehicles(rng, ego, duration, lane), *_walkers(rng, ego, duration, walks, gaps)]:
        track = _track(course, times)
        if any((np.abs(track - other) < size + bounds + 0.15).all(axis=-1).any() for other, bounds in tracks):
            continue
        tracks.append((track, size))
        mesh: Mesh = make(rng)
        movers.append(Mover(mesh.named(label, site.number()), course))
    return tuple(movers)


def _vehicles(rng: np.random.Generator, ego: Course, duration: float, lane: float) -> list[tuple]:
    """Candidates (label, maker, course, half length and half width) on the road."""
    kinds = [
        (MOVING_CAR, car, (2.6, 1.0)),
        (MOVING_TRUCK, truck, (4.4, 1.25)),
        (MOVING_BUS, bus, (5.9, 1.28)),
        (MOVING_MOTORCYCLIST, motorcyclist, (1.1, 0.4)),
        (MOVING_BICYCLIST, cyclist, (1.0, 0.35)),
        (MOVING_OTHER, trailer, (3.2, 1.2)),
        (MOVING_TRUCK, van, (3.1, 1.1)),
    ]
    share = np.array([0.87, 0.015, 0.02, 0.03, 0.03, 0.015, 0.02])
    street, s0 = ego.street, ego.place(0.0)[0]
    found: list[tuple] = []
    for first, gap in ((1, 0.0), (1, 24.0), (-1, 0.0)):
        label, make, size = kinds[int(rng.choice(len(kinds) - 2, p=share[:-2] / share[:-2].sum()))]
        ahead = first * (float(rng.uniform(13, 30)) + gap + size[0])
        start = (ego.start[0] + ahead, ego.start[1] - 0.35 * float(size[0] < 1.5), 0.0)
        found.append(
            (label, make, Course(street, start, ego.speed, 0.0, ego.sway, ego.rate, ego.phase), np.array(size))
        )
    speed = float(rng.uniform(5, 10))
    s = s0 - 20.0
    must = [3, 4, 0]
    while s < s0 + (ego.speed + speed) * duration + 70:
        pick = must.pop() if must and s > s0 + 5 else int(rng.choice(len(kinds), p=share))
        label, make, size = kinds[pick]
        s += size[0] + float(rng.uniform(6, 26))
        found.append((label, make, Course(street, (s, lane, 0.0), -speed), np.array(size)))
        s += size[0]
    return found


def _walkers(
    rng: np.random.Generator,
    ego: Course,
    duration: float,
    walks: list[tuple[float, float, float]],
    gaps: list[tuple[float, float]],
) -> list[tuple]:
    """Candidates on the sidewalks, all within their stretch for the whole drive, and some who cross at side streets."""
    found: list[tuple] = []
    for low, high, d in walks:
        for _ in range(int(rng.integers(0, 2))):
            pace = float(rng.uniform(0.9, 1.6) * rng.choice([-1, 1]))
            pace *= min(1.0, 0.7 * (high - low) / (abs(pace) * duration + 1e-6))
            room = (high - low) - abs(pace) * duration
            start = low + float(rng.uniform(0, room)) + (0.0 if pace > 0 else abs(pace) * duration)
            found.append(
                (
                    MOVING_PERSON,
                    lambda r: walker(r, stride=float(r.uniform(0.15, 0.35))),
                    Course(ego.street, (start, d, KERB_HEIGHT), pace),
                    np.array([0.4, 0.4]),
                )
            )
    for low, _ in gaps:
        when = float(rng.uniform(0.1, 0.9)) * duration
        pace = float(rng.choice([-1.3, 1.3]))
        found.append(
            (
                MOVING_PERSON,
                lambda r: walker(r, stride=0.3),
                Course(ego.street, (low + 1.0, -pace * when, 0.0), 0.0, pace),
                np.array([0.6, 0.6]),
            )
        )
    return found


def _track(course: Course, times: np.ndarray) -> np.ndarray:
    return np.array([course.place(float(t)) for t in times])
