"""Laws of the traffic on a flat street: who keeps to which side, that nobody meets, that the seed decides."""

import numpy as np
import pytest

from occloom.town.blocks import Block
from occloom.town.mesh import Mover
from occloom.town.site import KERB_HEIGHT, Site
from occloom.town.street import Course, Street
from occloom.town.traffic import OTHER_VEHICLE, TRUCK, moving, park_along, park_beside, stand_about

LANE = 3.4
HALF = LANE + 0.25
DURATION = 6.0
WALKS = [(-30.0, 30.0, -5.0), (-30.0, 30.0, 5.0), (40.0, 90.0, -5.0), (40.0, 90.0, 5.0)]
GAPS = [(31.0, 38.0), (91.0, 98.0)]
SEEDS = range(6)
TIMES = np.arange(0.0, DURATION, 0.05)


def drive(street: Street) -> Course:
    return Course(street, (0.0, -0.5 * LANE, 0.0), 8.0, 0.0, 2.0, 0.4, 0.0)


def movers_of(street: Street, seed: int) -> tuple[Mover, ...]:
    site = Site(street, np.random.default_rng(seed), half=HALF)
    return moving(site, drive(street), DURATION, 0.5 * LANE, WALKS, GAPS)


@pytest.fixture(scope="module")
def drives(flat_street: Street) -> list[tuple[Mover, ...]]:
    return [movers_of(flat_street, seed) for seed in SEEDS]


@pytest.fixture
def site(flat_street: Street) -> Site:
    return Site(flat_street, np.random.default_rng(1), half=HALF)


def assert_apart(bounds: np.ndarray) -> None:
    """No two boxes (N, 2, 3) meet in plan."""
    low, high = bounds[:, 0, :2], bounds[:, 1, :2]
    gap = np.maximum(low[:, None] - high[None], low[None] - high[:, None]).max(axis=-1)
    assert (gap[~np.eye(len(bounds), dtype=bool)] > 0).all()


def corners_of_box(bounds: np.ndarray) -> np.ndarray:
    """The eight corners of the box between two points (2, 3)."""
    bits = (np.arange(8)[:, None] >> np.arange(3)) & 1
    return np.where(bits == 1, bounds[1], bounds[0])


def is_person(mover: Mover) -> bool:
    return int(mover.mesh.label[0]) == 254


def test_moving_traffic_is_a_function_of_its_seed(drives, flat_street: Street, assert_same) -> None:
    again = movers_of(flat_street, 2)
    assert len(again) == len(drives[2])
    for one, two in zip(again, drives[2], strict=True):
        assert_same(one.mesh, two.mesh)
        np.testing.assert_array_equal(one.world_from_object(1.7), two.world_from_object(1.7))
    assert [mover.course.start for mover in again] != [mover.course.start for mover in drives[3]]


def test_movers_never_meet_each_other_or_the_ego_car(drives, flat_street: Street) -> None:
    """Boxes around their triangles stay apart, also between the tenths of a second that were looked at."""
    ego = drive(flat_street)
    body = corners_of_box(np.array([[-2.3, -0.95, 0.0], [2.3, 0.95, 1.6]]))
    for movers in drives:
        bodies = [corners_of_box(np.stack([m.mesh.vertices.min(axis=0), m.mesh.vertices.max(axis=0)])) for m in movers]
        for time in TIMES:
            poses = [ego.pose(float(time)), *(mover.world_from_object(float(time)) for mover in movers)]
            places = [b @ pose[:3, :3].T + pose[:3, 3] for b, pose in zip([body, *bodies], poses, strict=True)]
            assert_apart(np.array([[place.min(axis=0), place.max(axis=0)] for place in places]))


def test_vehicles_keep_to_the_right_and_head_where_they_go(drives) -> None:
    oncoming = 0
    for movers in drives:
        for mover in movers:
            first, last = (mover.world_from_object(time) for time in (1.0, 1.01))
            way = (last[:3, 3] - first[:3, 3]) / np.linalg.norm(last[:3, 3] - first[:3, 3])
            np.testing.assert_allclose(first[:3, 0], way, atol=1e-3)
            if not is_person(mover):
                left_of_travel = mover.course.place(1.0)[1] * np.sign(way[0])
                assert -HALF < left_of_travel < 0
                assert first[2, 3] == 0.0
                oncoming += way[0] < 0
    assert oncoming > len(drives)


def test_labels_are_of_moving_classes_and_each_mover_has_its_own_number(drives) -> None:
    for movers in drives:
        for mover in movers:
            assert mover.mesh.label.min() == mover.mesh.label.max() >= 252
            assert mover.mesh.instance.min() == mover.mesh.instance.max() > 0
        numbers = [int(mover.mesh.instance[0]) for mover in movers]
        assert len(set(numbers)) == len(numbers)


def test_walkers_stay_on_their_sidewalk_or_cross_at_side_streets(drives) -> None:
    walking = 0
    for movers in drives:
        for course in (mover.course for mover in movers if is_person(mover)):
            places = np.array([course.place(float(time)) for time in TIMES])
            pace = np.linalg.norm(np.diff(places, axis=0), axis=-1) / 0.05
            assert 0.1 < pace.min() <= pace.max() < 2.0
            if course.drift == 0.0:
                assert any(
                    low <= places[:, 0].min() and places[:, 0].max() <= high and (places[:, 1] == d).all()
                    for low, high, d in WALKS
                )
                assert course.start[2] == KERB_HEIGHT
                walking += 1
            else:
                assert any(low < places[0, 0] < high for low, high in GAPS)
                assert places[:, 1].min() < 0 < places[:, 1].max()
    assert walking > 5


@pytest.mark.parametrize("side", [-1, 1])
def test_parked_vehicles_fill_their_bays_and_leave_the_road_free(site: Site, side: int, extents) -> None:
    bays = tuple(np.arange(10.0, 200.0, 6.1))
    rare = [TRUCK, OTHER_VEHICLE]
    park_along(site, Block(site, side, 0.0, 210.0), bays, rare, (60.0, 150.0))
    mesh = site.mesh()
    bounds = extents(mesh)
    assert len(bays) / 4 < len(bounds) < len(bays)
    assert_apart(bounds)
    assert (side * mesh.vertices[:, 1]).min() > HALF - 0.15  # mirrors may look over the line
    middle = bounds[..., 0].mean(axis=1)
    assert (np.abs(middle[:, None] - bays).min(axis=1) < 0.7).all()
    assert rare == []
    for label in (TRUCK, OTHER_VEHICLE):
        place = mesh.vertices[mesh.faces[mesh.label == label]][..., 0]
        assert 55.0 < place.min() < place.max() < 155.0


def test_bays_away_from_the_drive_get_cars_alone(site: Site) -> None:
    rare = [TRUCK, OTHER_VEHICLE]
    park_along(site, Block(site, 1, 0.0, 110.0), tuple(np.arange(10.0, 100.0, 6.1)), rare, (200.0, 300.0))
    assert set(site.mesh().label.tolist()) == {10}
    assert rare == [TRUCK, OTHER_VEHICLE]
    before = len(site.mesh().faces)
    park_along(site, Block(site, 1, 0.0, 110.0), (), rare, (0.0, 300.0))
    assert len(site.mesh().faces) == before


def test_vehicles_in_side_streets_stand_in_line_off_the_main_road(flat_street: Street, extents) -> None:
    for seed in range(4):
        site = Site(flat_street, np.random.default_rng(seed), half=HALF)
        rare = [TRUCK, OTHER_VEHICLE]
        park_beside(site, (20.0, 27.0), rare)
        mesh = site.mesh()
        assert rare == []
        assert set(mesh.label.tolist()) >= {TRUCK, OTHER_VEHICLE}
        assert np.abs(mesh.vertices[:, 1]).min() > HALF + 4.0
        assert 20.0 < mesh.vertices[:, 0].min() < mesh.vertices[:, 0].max() < 27.2
        low, high = mesh.vertices.min(axis=0), mesh.vertices.max(axis=0)
        assert low[0] > 23.5  # the other half of the side street is free
        assert max(-low[1], high[1]) < HALF + 45.0
        assert_apart(extents(mesh))


def test_people_and_cycles_stand_at_free_spots_one_at_each(flat_street: Street, extents) -> None:
    spots = [(3.0 * k, side * 6.0) for k in range(40) for side in (-1.0, 1.0)]
    for seed in range(4):
        site = Site(flat_street, np.random.default_rng(seed), half=HALF)
        stand_about(site, spots, 120.0)
        mesh = site.mesh()
        assert {11, 15, 30} <= set(mesh.label.tolist()) <= {11, 15, 30, 31, 32}
        bounds = extents(mesh)
        assert_apart(bounds)
        np.testing.assert_allclose(bounds[:, 0, 2], KERB_HEIGHT, atol=0.07)
        near = np.linalg.norm(bounds[:, None, :, :2].mean(axis=2) - np.array(spots), axis=-1)
        assert (near.min(axis=1) < 0.6).all()
        assert len(np.unique(near.argmin(axis=1))) == len(bounds)


def test_no_more_stand_about_than_there_are_spots(site: Site, extents) -> None:
    stand_about(site, [(3.0, 6.0), (9.0, 6.0)], 500.0)
    assert len(extents(site.mesh())) == 2
    stand_about(site, [], 500.0)
    assert len(extents(site.mesh())) == 2
