"""Spinning LiDARs: KITTI's with 64 beams and about 120 000 returns a turn, nuScenes' with 32 and about 30 000.

Points are in the frame of the sensor, metres. KITTI's odometry scans come motion-compensated, so one pose serves a
whole turn and movers stand still during it.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Float64, UInt8, UInt32

from occloom.town.materials import Material
from occloom.town.mesh import Mesh
from occloom.town.scene_rays import WorldRays


@dataclass(frozen=True)
class Lidar:
    """What the sensor is like.

    Attributes:
        elevations: angle of each beam above the horizon, radians, highest first.
        num_azimuths: directions a turn.
        max_range: metres.
        range_noise: standard deviation, metres.
        loss: share of returns lost at random.
        far_loss: share of the returns of a white wall that is lost at `max_range`.
    """

    elevations: Float64[np.ndarray, " E"]
    num_azimuths: int = 2000
    max_range: float = 80.0
    range_noise: float = 0.02
    loss: float = 0.02
    far_loss: float = 0.5


@dataclass(frozen=True)
class Scan:
    """One turn of a LiDAR.

    Attributes:
        points: x, y, z in the frame of the sensor, metres, and the remission in [0, 1].
        label: raw ids in the lower 16 bits, instance ids in the upper 16.
        beam: which beam each point belongs to, 0 the highest.
    """

    points: Float32[np.ndarray, "P 4"]
    label: UInt32[np.ndarray, " P"]
    beam: UInt8[np.ndarray, " P"]


def hdl64() -> Lidar:
    """The HDL-64E of KITTI: 32 beams every third of a degree from +2, 32 every half degree down to -24.8."""
    return Lidar(np.radians(np.concatenate([np.linspace(2.0, -8.33, 32), np.linspace(-8.83, -24.8, 32)])))


def hdl32() -> Lidar:
    """The HDL-32E of nuScenes: 32 beams every four thirds of a degree from +10.67 down to -30.67."""
    return Lidar(np.radians(np.linspace(10.67, -30.67, 32)), num_azimuths=1085)


def cast_scan(rays: WorldRays, *, lidar: Lidar, time: float, rng: np.random.Generator) -> Scan:
    """Turns the sensor once in the place of KITTI's velodyne; arguments as for `cast_scan_at`."""
    return cast_scan_at(rays, lidar=lidar, time=time, world_from_lidar=rays.world.world_from_ego(time), rng=rng)


def cast_scan_at(
    rays: WorldRays,
    *,
    lidar: Lidar,
    time: float,
    world_from_lidar: Float64[np.ndarray, "4 4"],
    rng: np.random.Generator,
) -> Scan:
    """Turns the sensor once at a pose.

    Args:
        rays: the world.
        lidar: the sensor; z is its axis.
        time: seconds since the start of the drive.
        world_from_lidar: where the sensor is.
        rng: draws the phase of the turn, noise and losses.
    """
    directions = _directions(lidar, rng)
    towards = (directions @ world_from_lidar[:3, :3].T).astype(np.float32)
    origins = np.broadcast_to(world_from_lidar[:3, 3].astype(np.float32), towards.shape)
    hits = rays.nearest(time, origins, towards)
    near = np.flatnonzero((hits.face >= 0) & (hits.distance < lidar.max_range))
    face, distance = hits.face[near], hits.distance[near]
    facing = np.abs(np.einsum("ij,ij->i", hits.normal[near], towards[near]))
    strength = _reflectivity(rays.faces, face) * (0.5 + 0.5 * facing)
    kept = _returned(strength, distance, facing, lidar, rng)
    count = int(kept.sum())
    measured = distance[kept] + rng.normal(0.0, lidar.range_noise, count)
    remission = np.clip(strength[kept] * rng.normal(1.0, 0.12, count) + rng.normal(0.0, 0.01, count), 0.0, 0.99)
    points = np.column_stack([directions[near[kept]] * measured[:, None], np.round(remission, 2)]).astype(np.float32)
    label = rays.faces.label[face[kept]].astype(np.uint32)
    beam = (near[kept] // lidar.num_azimuths).astype(np.uint8)
    return Scan(points, label | rays.faces.instance[face[kept]].astype(np.uint32) << np.uint32(16), beam)


def _directions(lidar: Lidar, rng: np.random.Generator) -> Float64[np.ndarray, "R 3"]:
    """Unit directions in the frame of the sensor, beam by beam, with the phase of the turn and each firing's wobble."""
    step = 2.0 * np.pi / lidar.num_azimuths
    shape = (len(lidar.elevations), lidar.num_azimuths)
    offset = 0.5 * step * np.arange(shape[0])[:, None] % step  # neighbouring beams do not fire in line
    azimuth = step * (np.arange(shape[1]) + rng.uniform()) + offset + rng.normal(0.0, 0.05 * step, shape)
    elevation = lidar.elevations[:, None] + rng.normal(0.0, 2e-4, shape)
    level = np.cos(elevation)
    return np.stack([level * np.cos(azimuth), level * np.sin(azimuth), np.sin(elevation)], axis=-1).reshape(-1, 3)


def _reflectivity(faces: Mesh, face: np.ndarray) -> Float64[np.ndarray, " H"]:
    """How much of the near-infrared pulse a face sends back at right angles, 0 to 1."""
    table = np.full(256, np.nan)
    for material, value in _NEAR_INFRARED.items():
        table[material] = value
    own = faces.colour[face].mean(axis=1)
    of_material = table[faces.material[face]]
    return np.where(np.isnan(of_material), 0.05 + 0.75 * own, 0.7 * of_material + 0.3 * of_material * (0.5 + own))


_NEAR_INFRARED = {
    Material.ASPHALT: 0.38,
    Material.MARKING: 0.75,
    Material.GRASS: 0.6,
    Material.SOIL: 0.45,
    Material.LEAF: 0.42,
    Material.BARK: 0.42,
    Material.GLASS: 0.06,
    Material.LIT_GLASS: 0.06,
    Material.RUBBER: 0.06,
    Material.METAL: 0.4,
    Material.HEAD_LIGHT: 0.8,
    Material.TAIL_LIGHT: 0.9,
    Material.SIGN: 0.98,
}
"""Where the near infrared differs from what the eye sees: leaves shine, glass is dark, signs throw the light back.

Chosen so that the mean remission of a class is near that of real KITTI scans: road 0.22, vegetation 0.31, terrain
0.34.
"""


def _returned(
    strength: Float64[np.ndarray, " H"],
    distance: Float32[np.ndarray, " H"],
    facing: Float32[np.ndarray, " H"],
    lidar: Lidar,
    rng: np.random.Generator,
) -> Bool[np.ndarray, " H"]:
    """Which pulses come back: fewer from far, dark and grazed surfaces, hardly any from glass."""
    far = lidar.far_loss * (distance / lidar.max_range) ** 2
    weak = np.exp(-strength * 12.0) * np.minimum(distance / 8.0, 1.0)
    grazing = np.where(facing < 0.03, 0.5, 0.0) * np.minimum(distance / 20.0, 1.0)
    stays = (1.0 - lidar.loss) * (1.0 - far) * (1.0 - weak) * (1.0 - grazing)
    return rng.uniform(size=len(strength)) < stays
