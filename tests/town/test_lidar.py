from dataclasses import replace

import numpy as np

from occloom.town.lidar import cast_scan, hdl64
from occloom.town.mesh import World
from occloom.town.scene_rays import WorldRays


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_without_noise_points_lie_on_the_surfaces_their_labels_name(plain_world: World) -> None:
    lidar = replace(hdl64(), range_noise=0.0)
    scan = cast_scan(WorldRays(plain_world), lidar=lidar, time=2.0, rng=generator())
    world_from_ego = plain_world.world_from_ego(2.0)
    points = scan.points[:, :3] @ world_from_ego[:3, :3].T + world_from_ego[:3, 3]
    raw, instance = scan.label & 0xFFFF, scan.label >> 16
    assert set(np.unique(raw)) == {10, 40, 50, 81, 252}
    np.testing.assert_allclose(points[raw == 40, 2], 0.0, atol=1e-3)
    np.testing.assert_allclose(points[raw == 50, 1], 8.05, atol=1e-3)
    np.testing.assert_allclose(points[raw == 81, 0], 30.0, atol=1e-3)
    car = points[raw == 252]
    assert car[:, 0].min() > 10 + 4 * 2 - 2 - 1e-3
    assert car[:, 0].max() < 10 + 4 * 2 + 2 + 1e-3
    assert (instance[raw == 252] == 7).all()
    assert (instance[raw == 10] == 3).all()
    assert (instance[raw == 40] == 0).all()


def test_beams_are_those_of_the_hdl64(plain_world: World) -> None:
    lidar = hdl64()
    degrees = np.degrees(lidar.elevations)
    assert len(degrees) == 64
    assert (np.diff(degrees) < 0).all()
    np.testing.assert_allclose([degrees[0], degrees[-1]], [2.0, -24.8])
    scan = cast_scan(WorldRays(plain_world), lidar=lidar, time=0.0, rng=generator())
    level = np.linalg.norm(scan.points[:, :2], axis=1)
    elevation = np.degrees(np.arctan2(scan.points[:, 2], level))
    assert np.abs(elevation[:, None] - degrees).min(axis=1).max() < 0.1
    assert np.linalg.norm(scan.points[:, :3], axis=1).max() < lidar.max_range + 0.2


def test_range_noise_has_the_stated_spread(plain_world: World) -> None:
    rays = WorldRays(plain_world)
    lidar = replace(hdl64(), range_noise=0.05)
    scan = cast_scan(rays, lidar=lidar, time=0.0, rng=generator())
    wall = scan.points[(scan.label & 0xFFFF) == 50].astype(np.float64)
    distance = np.linalg.norm(wall[:, :3], axis=1)
    exact = 8.05 / (wall[:, 1] / distance)
    assert len(wall) > 1000
    np.testing.assert_allclose(np.std(distance - exact), 0.05, rtol=0.1)


def test_losses_grow_with_range_and_signs_shine(plain_world: World) -> None:
    rays = WorldRays(plain_world)
    every = replace(hdl64(), loss=0.0, far_loss=0.0)
    scan = cast_scan(rays, lidar=hdl64(), time=0.0, rng=generator())
    fuller = cast_scan(rays, lidar=every, time=0.0, rng=generator())

    def kept(low: float, high: float) -> float:
        counts = [
            ((np.linalg.norm(s.points[:, :3], axis=1) >= low) & (np.linalg.norm(s.points[:, :3], axis=1) < high)).sum()
            for s in (scan, fuller)
        ]
        return counts[0] / counts[1]

    assert kept(40, 70) < kept(5, 20) < 1.0
    raw = scan.label & 0xFFFF
    assert scan.points[:, 3].min() >= 0
    assert scan.points[:, 3].max() <= 1
    assert scan.points[raw == 81, 3].mean() > 2 * scan.points[raw == 40, 3].mean()


def test_the_same_generator_gives_the_same_bytes(plain_world: World) -> None:
    first = cast_scan(WorldRays(plain_world), lidar=hdl64(), time=1.0, rng=generator(5))
    rays = WorldRays(plain_world)
    cast_scan(rays, lidar=hdl64(), time=3.0, rng=generator(1))
    again = cast_scan(rays, lidar=hdl64(), time=1.0, rng=generator(5))
    assert first.points.tobytes() == again.points.tobytes()
    assert first.label.tobytes() == again.label.tobytes()
    other = cast_scan(rays, lidar=hdl64(), time=1.0, rng=generator(6))
    assert other.points.tobytes() != first.points.tobytes()


def test_an_empty_sky_gives_an_empty_scan(plain_world: World) -> None:
    from occloom.town.mesh import empty_mesh

    nothing = replace(plain_world, static=empty_mesh(), movers=())
    scan = cast_scan(WorldRays(nothing), lidar=hdl64(), time=0.0, rng=generator())
    assert scan.points.shape == (0, 4)
    assert scan.label.shape == (0,)
