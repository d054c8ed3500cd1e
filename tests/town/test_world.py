"""The whole drive: the same from the same seed, sound, rich in classes, and free to drive through."""

import numpy as np
import pytest

from occloom.data.label_spaces import SEMANTIC_KITTI, to_train_ids
from occloom.town.lidar import cast_scan, hdl64
from occloom.town.mesh import SENSOR_HEIGHT, dynamic_mesh
from occloom.town.scene_rays import WorldRays
from occloom.town.world import build_world

SEEDS = range(6)
DURATION = 8.0


@pytest.fixture(scope="module")
def rays() -> list[WorldRays]:
    return [WorldRays(build_world(seed=seed, duration=DURATION)) for seed in SEEDS]


def test_a_world_is_a_function_of_its_seed(rays: list[WorldRays]) -> None:
    again, first = build_world(seed=1, duration=DURATION), rays[1].world
    for name in ("vertices", "faces", "label", "instance", "material", "colour"):
        np.testing.assert_array_equal(getattr(again.static, name), getattr(first.static, name))
        np.testing.assert_array_equal(getattr(dynamic_mesh(again, 3.0), name), getattr(dynamic_mesh(first, 3.0), name))
    np.testing.assert_array_equal(again.world_from_ego(5.0), first.world_from_ego(5.0))
    np.testing.assert_array_equal(again.lamps, first.lamps)
    assert not np.array_equal(first.world_from_ego(0.0), rays[2].world.world_from_ego(0.0))


def test_triangles_labels_and_instances_are_sound(rays: list[WorldRays]) -> None:
    for one in rays:
        mesh = one.mesh(1.0)
        corners = mesh.vertices[mesh.faces].astype(np.float64)
        area = 0.5 * np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=-1)
        assert np.isfinite(mesh.vertices).all()
        assert area.min() > 1e-9
        assert len(mesh.faces) < 600_000
        train = to_train_ids(mesh.label)
        assert (train != SEMANTIC_KITTI.empty).all()
        assert (train < SEMANTIC_KITTI.num_classes).all()
        pairs = np.unique(np.stack([mesh.instance, mesh.label])[:, mesh.instance > 0], axis=1)
        assert len(np.unique(pairs[0])) == pairs.shape[1]  # one class an instance
        thing = np.isin(mesh.label, [10, 11, 13, 15, 18, 20, 30, 31, 32]) | (mesh.label >= 252)
        np.testing.assert_array_equal(mesh.instance > 0, thing)


def test_every_class_is_scanned_nearby_in_at_least_half_of_the_drives(rays: list[WorldRays]) -> None:
    seen = np.zeros(SEMANTIC_KITTI.num_classes, int)
    for one in rays:
        labels = [_near_labels(one, time) for time in (0.0, 2.5, 5.0, 7.5)]
        seen[np.unique(to_train_ids(np.concatenate(labels)))] += 1
    names = np.array(SEMANTIC_KITTI.names)
    assert not names[1:][seen[1:] < len(rays) / 2].tolist()


def _near_labels(rays: WorldRays, time: float) -> np.ndarray:
    """Raw ids of the classes with at least five points within 40 m."""
    scan = cast_scan(rays, lidar=hdl64(), time=time, rng=np.random.default_rng(0))
    near = np.linalg.norm(scan.points[:, :3], axis=-1) < 40.0
    ids, count = np.unique((scan.label[near] & 0xFFFF).astype(np.uint16), return_counts=True)
    return ids[count >= 5]


def test_the_ego_car_meets_nothing(rays: list[WorldRays]) -> None:
    # A grid of segments, each as long as the way to the next look, through the body of the car all along the drive.
    y, z = (a.ravel() for a in np.meshgrid(np.linspace(-0.95, 0.95, 7), np.linspace(0.35, 1.9, 6)))
    x = np.linspace(-2.0, 1.0, 4)
    body = np.stack([np.tile(x, len(y)), np.repeat(y, len(x)), np.repeat(z, len(x)) - SENSOR_HEIGHT], axis=-1)
    for one in rays:
        for time in np.arange(0.0, DURATION, 0.25):
            pose = one.world.world_from_ego(float(time))
            start = (body @ pose[:3, :3].T + pose[:3, 3]).astype(np.float32)
            ahead = np.broadcast_to(pose[:3, 0].astype(np.float32), start.shape)
            assert not one.blocked(float(time), start, ahead, np.full(len(start), 3.0, np.float32)).any()


def test_the_ego_car_drives_on_the_right_at_a_town_speed_above_the_road(rays: list[WorldRays]) -> None:
    times = np.arange(0.0, DURATION, 0.1)
    for one in rays:
        poses = np.stack([one.world.world_from_ego(float(t)) for t in times])
        speed = np.linalg.norm(np.diff(poses[:, :3, 3], axis=0), axis=-1) / 0.1
        assert speed.min() > 4.5
        assert speed.max() < 13.0
        for time, pose in zip(times[::10], poses[::10], strict=True):
            hit = one.nearest(float(time), pose[None, :3, 3].astype(np.float32), -pose[None, :3, 2].astype(np.float32))
            np.testing.assert_allclose(hit.distance, SENSOR_HEIGHT, atol=0.04)
            assert one.faces.label[hit.face[0]] in (40, 60)
        assert (np.array([one.world.ego.place(float(t))[1] for t in times]) < -1.0).all()


def test_movers_keep_clear_of_each_other(rays: list[WorldRays]) -> None:
    for one in rays:
        for time in np.arange(0.0, DURATION, 0.5):
            places = np.array([mover.world_from_object(float(time))[:2, 3] for mover in one.world.movers])
            apart = np.linalg.norm(places[:, None] - places[None], axis=-1) + 99.0 * np.eye(len(places))
            assert apart.min() > 0.7


def test_ground_reaches_as_far_as_the_lidar(rays: list[WorldRays]) -> None:
    for one in rays:
        for time in (0.0, DURATION):
            at = one.world.world_from_ego(time)[:3, 3]
            angle = np.linspace(0, 2 * np.pi, 36, endpoint=False)
            over = at + np.stack([80 * np.cos(angle), 80 * np.sin(angle), np.full(36, 60.0)], axis=-1)
            down = np.tile(np.array([0, 0, -1], np.float32), (36, 1))
            assert (one.nearest(time, over.astype(np.float32), down).face >= 0).all()
