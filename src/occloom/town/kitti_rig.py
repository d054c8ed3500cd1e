"""The cameras of the town's car: KITTI's rectified stereo pair of the sequences 04 to 12, at any image size."""

import numpy as np
from jaxtyping import Float64

from occloom.data.kitti_files import Calibration

FULL_SIZE = (370, 1226)  # height and width of the pictures the numbers below belong to
FOCAL = 707.0912
CENTRE = (601.8873, 183.1104)
BASELINE = 0.537  # from camera 2 to camera 3 and from 0 to 1, metres
COLOUR_OFFSET = (0.061, -0.0014, 0.0062)  # of camera 2: adds to a point of camera 0, metres
MOUNTING = (-0.004, -0.076, -0.272)  # of camera 0: adds to a velodyne point turned into camera axes, metres
TILT = (0.0075, -0.0031, 0.0012)  # of camera 0 about its x, y and z axes, radians


def stereo_calibration(image_size: tuple[int, int]) -> Calibration:
    """The calib.txt of a town sequence.

    The projections are those of KITTI's pictures resized to `image_size`: u' = (u + 0.5) s - 0.5, pixel centres being
    whole numbers (docs/conventions.md). Cameras 0 and 1 are the grey pair, 2 and 3 the colour pair, as in KITTI; camera
    2 does not sit in the origin of camera 0, so the fourth column of P2 is not zero.

    Args:
        image_size: height and width, pixels.
    """
    scale_v, scale_u = (size / full for size, full in zip(image_size, FULL_SIZE, strict=True))
    intrinsics = np.array(
        [
            [FOCAL * scale_u, 0.0, (CENTRE[0] + 0.5) * scale_u - 0.5],
            [0.0, FOCAL * scale_v, (CENTRE[1] + 0.5) * scale_v - 0.5],
            [0.0, 0.0, 1.0],
        ]
    )
    right = np.array([-BASELINE, 0.0, 0.0])
    colour = np.array(COLOUR_OFFSET)
    offsets = [np.zeros(3), right, colour, colour + right]
    projections = np.stack([intrinsics @ np.column_stack([np.eye(3), offset]) for offset in offsets])
    camera0_from_velodyne = np.eye(4)
    axes = np.array([[0.0, -1.0, 0.0], [0.0, 0.0, -1.0], [1.0, 0.0, 0.0]])
    camera0_from_velodyne[:3, :3] = _rotation(TILT) @ axes
    camera0_from_velodyne[:3, 3] = MOUNTING
    return Calibration(projections=projections, camera0_from_velodyne=camera0_from_velodyne)


def _rotation(angles: tuple[float, float, float]) -> Float64[np.ndarray, "3 3"]:
    """Turns about x, then y, then z, by angles in radians."""
    (cx, cy, cz), (sx, sy, sz) = np.cos(angles), np.sin(angles)
    about_x = np.array([[1.0, 0.0, 0.0], [0.0, cx, -sx], [0.0, sx, cx]])
    about_y = np.array([[cy, 0.0, sy], [0.0, 1.0, 0.0], [-sy, 0.0, cy]])
    about_z = np.array([[cz, -sz, 0.0], [sz, cz, 0.0], [0.0, 0.0, 1.0]])
    return about_z @ about_y @ about_x
