import numpy as np
import pytest

from occloom.data.occ3d_labels import OCC3D, OCC3D_GRID
from occloom.town.exact_labels import exact_labels
from occloom.town.lidar import cast_scan_at, hdl32
from occloom.town.mesh import World
from occloom.town.nuscenes_rig import LIDAR_TOP
from occloom.town.occ3d_ids import to_occ3d_ids
from occloom.town.scene_cloud import SceneCloud
from occloom.town.scene_rays import WorldRays

NOW = 1.0
CAR, MANMADE = OCC3D.names.index("car"), OCC3D.names.index("manmade")


@pytest.fixture(scope="module")
def rays(plain_world: World) -> WorldRays:
    return WorldRays(plain_world)


@pytest.fixture(scope="module")
def labels(rays: WorldRays) -> np.ndarray:
    """Of scans over two seconds, at the moment in their middle."""
    cloud = SceneCloud(rays.world)
    for k in range(21):
        time = 0.1 * k
        pose = rays.world.ego.pose(time) @ LIDAR_TOP.ego_from_sensor
        rng = np.random.default_rng(k)
        cloud.add(cast_scan_at(rays, lidar=hdl32(), time=time, world_from_lidar=pose, rng=rng), pose, time)
    return cloud.labels(NOW, np.linalg.inv(rays.world.ego.pose(NOW)), OCC3D_GRID)


def test_labels_are_mostly_those_of_the_true_surfaces(rays: WorldRays, labels: np.ndarray) -> None:
    ego_from_world = np.linalg.inv(rays.world.ego.pose(NOW))
    exact = to_occ3d_ids(exact_labels(rays.mesh(NOW), ego_from_world, OCC3D_GRID))
    filled = labels != OCC3D.empty
    assert filled.sum() > 5000
    assert (labels[filled] == exact[filled]).mean() > 0.97
    assert ((labels == MANMADE).any(axis=(1, 2))).mean() > 0.9  # the wall, ahead and behind


def test_what_moves_leaves_no_tube(labels: np.ndarray) -> None:
    # Now the mover reaches from 12 m to 16 m of the world, and the ego car's rear axle is at 5 m.
    beside = labels[:, 100:, :] == CAR
    x = 0.4 * np.flatnonzero(beside.any(axis=(1, 2))) - 40
    assert x.min() > 12 - 5 - 0.5
    assert x.max() < 16 - 5 + 0.1
    assert x.max() - x.min() > 2.5
