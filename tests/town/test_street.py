"""The street's map and courses on it, held against finite differences."""

import numpy as np
import pytest

from occloom.town.street import Course, Street


@pytest.fixture(scope="module")
def winding() -> Street:
    bends = np.array([[6.0, 0.02, 0.3], [1.0, 0.06, 1.0]])
    return Street(bends=bends, rises=np.array([[1.5, 0.03, 0.2]]), banks=np.array([2.0, -1.0]))


def test_frame_is_a_rotation_along_the_street(winding: Street) -> None:
    for s, d, along, across in [
        (0.0, 0.0, 1.0, 0.0),
        (33.0, -1.7, -1.0, 0.0),
        (70.0, 6.0, 0.5, 2.0),
        (-20.0, 3.0, 0.0, -1.0),
    ]:
        pose = winding.frame(s, d, 0.1, along=along, across=across)
        np.testing.assert_allclose(pose[:3, :3] @ pose[:3, :3].T, np.eye(3), atol=1e-12)
        assert np.linalg.det(pose[:3, :3]) == pytest.approx(1.0)
        assert pose[2, 2] > 0.9
        step = 1e-4
        near = winding.points(np.array([s + step * along]), np.array([d + step * across]), np.array([0.1]))[0]
        way = (near - pose[:3, 3]) / np.linalg.norm(near - pose[:3, 3])
        if across == 0.0:
            np.testing.assert_allclose(pose[:3, 0], way, atol=1e-4)
        else:
            assert pose[:3, 0] @ way > 0.97  # across the street the frame's axis has unit speed, the map nearly so


def test_upright_stays_vertical(winding: Street) -> None:
    pose = winding.upright(50.0, 9.0, 0.12, 0.4)
    np.testing.assert_array_equal(pose[:3, 2], [0.0, 0.0, 1.0])
    np.testing.assert_allclose(np.linalg.det(pose[:3, :3]), 1.0)


def test_banks_spare_the_street_and_rise_beside_it(winding: Street) -> None:
    s = np.zeros(4)
    d = np.array([-13.9, 13.9, -80.0, 80.0])
    bank = winding.bank(s, d)
    np.testing.assert_array_equal(bank[:2], 0.0)
    assert bank[2] > 1.0
    assert bank[3] < -0.5


def test_a_course_points_along_its_motion_and_never_jumps(winding: Street) -> None:
    course = Course(winding, (0.0, -1.7, 0.0), 8.0, 0.0, 3.0, 0.4, 1.0)
    times = np.arange(0.0, 10.0, 0.01)
    places = np.array([course.pose(float(t))[:3, 3] for t in times])
    velocity = np.diff(places, axis=0) / 0.01
    assert np.abs(np.diff(velocity, axis=0)).max() < 0.1  # under 10 m/s2 in any direction
    for k in (0, 333, 800):
        forward = course.pose(float(times[k]) + 0.005)[:3, 0]
        np.testing.assert_allclose(forward, velocity[k] / np.linalg.norm(velocity[k]), atol=1e-3)
