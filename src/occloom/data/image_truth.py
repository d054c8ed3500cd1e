"""What a labelled scan says of a picture: true depth and class, in the few pixels that the LiDAR has hit."""

import numpy as np
import torch
from jaxtyping import Float32, Int64, UInt16
from torch import Tensor

from occloom.data.depth_sources import nearest_points
from occloom.data.kitti_files import Calibration, KittiFrame, read_point_labels, read_points
from occloom.data.label_spaces import IGNORED, to_point_ids
from occloom.data.pictures import PictureFit
from occloom.errors import InputError

NO_LABEL = -1
"""In pixels that no point falls on, or whose point's raw id is none of SemanticKITTI's."""


def visible_scan(
    frame: KittiFrame, calibration: Calibration, camera: int, fit: PictureFit
) -> tuple[Float32[np.ndarray, " V"], Int64[np.ndarray, " V"], Int64[np.ndarray, " V"]]:
    """Points of the frame's scan that a fitted picture shows: nearest ones win a pixel.

    The points are projected at the fitted size, each to the pixel it then falls on; nothing is resized. The offset of
    the colour camera is always exact, as the picture's is.

    Args:
        frame: Whose scan is read.
        calibration: Of its sequence.
        camera: 2 or 3.
        fit: How the picture on disk became the one a model sees.

    Returns:
        z-depth in metres, flat pixel index, and index of the point within the scan.

    Raises:
        InputError: If the scan is missing or damaged.
    """
    points = read_points(frame.file("velodyne", ".bin"))[:, :3].astype(np.float64)
    transform = calibration.camera_from_velodyne(camera)
    points_camera = points @ transform[:3, :3].T + transform[:3, 3]
    intrinsics = fit.intrinsics(torch.from_numpy(calibration.intrinsics(camera))).numpy()
    winners = nearest_points(points_camera, intrinsics, fit.target).ravel()
    pixels = np.flatnonzero(winners >= 0)
    return points_camera[winners[pixels], 2].astype(np.float32), pixels, winners[pixels]


def true_depth(frame: KittiFrame, calibration: Calibration, camera: int, fit: PictureFit) -> Float32[Tensor, "H W"]:
    """Sparse true z-depth of a fitted picture in metres, 0 = none. Arguments and errors as `visible_scan`."""
    depth, pixels, _ = visible_scan(frame, calibration, camera, fit)
    image = np.zeros(fit.target, dtype=np.float32)
    image.ravel()[pixels] = depth
    return torch.from_numpy(image)


def image_labels(frame: KittiFrame, calibration: Calibration, camera: int, fit: PictureFit) -> Int64[Tensor, "H W"]:
    """Sparse classes of a fitted picture, `NO_LABEL` = none. Arguments as `visible_scan`.

    Points without a class (raw ids such as 0, 1 and 99) count as id 0, as in VoxDet's pre-training (reference
    voxdet 9): there it is the class of unlabelled surfaces.

    Raises:
        InputError: If the scan or its labels are missing or damaged, or there is not one label a point.
    """
    _, pixels, points = visible_scan(frame, calibration, camera, fit)
    raw = point_labels(frame, int(points.max()) + 1 if len(points) else 0)
    classes = to_point_ids(raw[points]).astype(np.int64)
    image = np.full(fit.target, NO_LABEL, dtype=np.int64)
    image.ravel()[pixels] = np.where(classes == IGNORED, NO_LABEL, classes)
    return torch.from_numpy(image)


def point_labels(frame: KittiFrame, least: int) -> UInt16[np.ndarray, " P"]:
    """Raw ids of the points of a frame's scan.

    Args:
        frame: Whose labels are read.
        least: How many there are at least, since the scan has so many points.

    Raises:
        InputError: If the labels are missing, damaged or fewer.
    """
    path = frame.file("labels", ".label")
    raw, _ = read_point_labels(path)
    if least > len(raw):
        raise InputError(
            f"the file has {len(raw)} labels, fewer than the scan has points",
            where=path,
            rule="there is one label a point",
            remedy="fetch scan and labels again",
        )
    return raw
