from pathlib import Path

import numpy as np
import pytest

from occloom.data.kitti_files import Calibration, read_calibration
from occloom.town.kitti_rig import BASELINE, FULL_SIZE, stereo_calibration


def pixel(calibration: Calibration, camera: int, point: np.ndarray) -> np.ndarray:
    """By the definition of calib.txt: P @ Tr @ x."""
    image = calibration.projections[camera] @ calibration.camera0_from_velodyne @ np.append(point, 1.0)
    return image[:2] / image[2]


@pytest.mark.parametrize("size", [(370, 1226), (96, 320), (33, 200)])
def test_pictures_of_another_size_are_resized_kitti_pictures(size: tuple[int, int]) -> None:
    full, small = stereo_calibration(FULL_SIZE), stereo_calibration(size)
    scale = np.array([size[1] / FULL_SIZE[1], size[0] / FULL_SIZE[0]])
    for point in ([9.0, 1.0, -1.0], [40.0, -12.0, 2.0]):
        expected = (pixel(full, 2, np.array(point)) + 0.5) * scale - 0.5
        np.testing.assert_allclose(pixel(small, 2, np.array(point)), expected, atol=1e-9)


def test_disparity_is_focal_times_baseline_over_depth() -> None:
    calibration = stereo_calibration((96, 320))
    point = np.array([20.0, 3.0, 0.5])
    camera = calibration.camera_from_velodyne(2) @ np.append(point, 1.0)
    left, right = pixel(calibration, 2, point), pixel(calibration, 3, point)
    focal = calibration.intrinsics(2)[0, 0]
    np.testing.assert_allclose(left - right, [focal * BASELINE / camera[2], 0.0], atol=1e-9)


def test_the_velodyne_is_turned_rigidly() -> None:
    turn = stereo_calibration(FULL_SIZE).camera0_from_velodyne[:3, :3]
    np.testing.assert_allclose(turn @ turn.T, np.eye(3), atol=1e-12)
    np.testing.assert_allclose(np.linalg.det(turn), 1.0)


@pytest.mark.real_data
def test_the_rig_is_close_to_kittis(real_data: Path) -> None:
    real = read_calibration(real_data / "semantickitti_calib_all" / "08.txt")
    town = stereo_calibration(FULL_SIZE)
    for point in ([8.0, 2.0, -1.5], [30.0, -6.0, 1.0]):
        for camera in (2, 3):
            difference = pixel(town, camera, np.array(point)) - pixel(real, camera, np.array(point))
            assert np.abs(difference).max() < 30
    np.testing.assert_allclose(town.intrinsics(2), real.intrinsics(2), atol=0.01)
