"""The sensors of nuScenes' car: six cameras around, and a 32-beam LiDAR on the roof.

The numbers are those of one real car (scene-0523's calibrated_sensor.json). The ego frame lies on the ground under the
rear axle, x forward, y left, z up; cameras have x right, y down, z forward; the LiDAR x right, y forward, z up.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

FULL_SIZE = (900, 1600)
"""Height and width of the pictures that the numbers below belong to."""


@dataclass(frozen=True)
class Mounting:
    """One sensor on the car.

    Attributes:
        channel: nuScenes' name.
        translation: ego_from_sensor, metres.
        rotation: ego_from_sensor, quaternion w, x, y, z.
        delay: microseconds from the LiDAR's time to this sensor's; the LiDAR turns clockwise past the cameras, and each
            takes its picture as the beam passes.
    """

    channel: str
    translation: tuple[float, float, float]
    rotation: tuple[float, float, float, float]
    delay: int

    @property
    def ego_from_sensor(self) -> Float64[np.ndarray, "4 4"]:
        """The pose on the car."""
        pose = np.eye(4)
        pose[:3, :3] = rotation_of(np.array(self.rotation))
        pose[:3, 3] = self.translation
        return pose


@dataclass(frozen=True)
class CameraMounting(Mounting):
    """A camera, `focal` and `centre` (u, v) in pixels of a full-size picture."""

    focal: float
    centre: tuple[float, float]

    def intrinsics(self, image_size: tuple[int, int]) -> Float64[np.ndarray, "3 3"]:
        """For pictures resized as a whole to a height and width: u' = (u + 0.5) s - 0.5."""
        v, u = (size / full for size, full in zip(image_size, FULL_SIZE, strict=True))
        cu, cv = self.centre
        return np.array(
            [
                [self.focal * u, 0.0, (cu + 0.5) * u - 0.5],
                [0.0, self.focal * v, (cv + 0.5) * v - 0.5],
                [0.0, 0.0, 1.0],
            ]
        )


LIDAR_TOP = Mounting(
    "LIDAR_TOP",
    (0.985793, 0.0, 1.84019),
    (0.706749235646644, -0.015300993788500868, 0.01739745181256607, -0.7070846669051719),
    0,
)

CAMERAS = (
    CameraMounting(
        "CAM_FRONT_LEFT",
        (1.5752559464, 0.500519383135, 1.50696032589),
        (0.6812088525125634, -0.6687507165046241, 0.2101702448905517, -0.21108161122114324),
        -46000,
        1257.8625342125129,
        (827.2410631095686, 450.915498205774),
    ),
    CameraMounting(
        "CAM_FRONT",
        (1.72200568478, 0.00475453292289, 1.49491291905),
        (0.5077241387638071, -0.4973392230703816, 0.49837167536166627, -0.4964832014373754),
        -38000,
        1252.8131021185304,
        (826.588114781398, 469.9846626224581),
    ),
    CameraMounting(
        "CAM_FRONT_RIGHT",
        (1.58082565783, -0.499078711449, 1.51749368405),
        (0.20335173766558642, -0.19146333228946724, 0.6785710044972951, -0.6793609166212989),
        -30000,
        1256.7485116440405,
        (817.7887570959712, 451.9541780095127),
    ),
    CameraMounting(
        "CAM_BACK_LEFT",
        (1.04852047718, 0.483058131052, 1.56210154484),
        (0.7048620297871717, -0.6907306801461466, -0.11209091960167808, 0.11617345743327073),
        -4000,
        1254.9860565800168,
        (829.5769333630991, 467.1680561863987),
    ),
    CameraMounting(
        "CAM_BACK",
        (0.05524611077, 0.0107882366898, 1.56794286957),
        (0.5067997344989889, -0.4977567019405021, -0.4987849934090844, 0.496594225837321),
        -13000,
        796.8910634503094,
        (857.7774326863696, 476.8848988407415),
    ),
    CameraMounting(
        "CAM_BACK_RIGHT",
        (1.05945173053, -0.46720294852, 1.55050857555),
        (0.13819187705364147, -0.13796718183628456, -0.6893329941542625, 0.697630335509333),
        -22000,
        1249.9629280788233,
        (825.3768045375984, 462.54816385708756),
    ),
)


def rotation_of(quaternion: Float64[np.ndarray, "4"]) -> Float64[np.ndarray, "3 3"]:
    """The rotation of a quaternion w, x, y, z of any length but 0."""
    w, x, y, z = quaternion / np.linalg.norm(quaternion)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )


def quaternion_of(rotation: Float64[np.ndarray, "3 3"]) -> Float64[np.ndarray, "4"]:
    """The unit quaternion w, x, y, z of a rotation, w not negative.

    It is the eigenvector of the largest eigenvalue of Bar-Itzhack's symmetric matrix, which no rotation makes singular.
    """
    (xx, xy, xz), (yx, yy, yz), (zx, zy, zz) = rotation
    matrix = np.array(
        [
            [xx + yy + zz, zy - yz, xz - zx, yx - xy],
            [zy - yz, xx - yy - zz, xy + yx, xz + zx],
            [xz - zx, xy + yx, yy - xx - zz, yz + zy],
            [yx - xy, xz + zx, yz + zy, zz - xx - yy],
        ]
    )
    quaternion = np.linalg.eigh(matrix)[1][:, -1]
    return quaternion if quaternion[0] >= 0 else -quaternion
