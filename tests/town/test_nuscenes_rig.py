import json
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from occloom.geometry.augment import resized_intrinsics
from occloom.town.nuscenes_rig import CAMERAS, FULL_SIZE, LIDAR_TOP, CameraMounting, quaternion_of, rotation_of


@pytest.mark.real_data
def test_the_sensors_are_those_of_a_real_car(real_data: Path) -> None:
    folder = real_data / "nuscenes_scene0523" / "v1.0-mini"
    channels = {row["token"]: row["channel"] for row in json.loads((folder / "sensor.json").read_text())}
    rows = json.loads((folder / "calibrated_sensor.json").read_text())
    real = {channels[row["sensor_token"]]: row for row in rows}
    assert set(real) == {sensor.channel for sensor in (*CAMERAS, LIDAR_TOP)}
    for sensor in (*CAMERAS, LIDAR_TOP):
        assert real[sensor.channel]["translation"] == list(sensor.translation)
        assert real[sensor.channel]["rotation"] == list(sensor.rotation)
        if isinstance(sensor, CameraMounting):
            np.testing.assert_allclose(sensor.intrinsics(FULL_SIZE), real[sensor.channel]["camera_intrinsic"])


@pytest.mark.parametrize(
    ("channel", "degrees"),
    [
        ("CAM_FRONT", 0),
        ("CAM_FRONT_LEFT", 55),
        ("CAM_BACK_LEFT", 110),
        ("CAM_BACK", 180),
        ("CAM_BACK_RIGHT", -110),
        ("CAM_FRONT_RIGHT", -55),
    ],
)
def test_cameras_look_where_their_names_say_and_stand_upright(channel: str, degrees: float) -> None:
    (camera,) = (camera for camera in CAMERAS if camera.channel == channel)
    _, down, ahead = camera.ego_from_sensor[:3, :3].T
    yaw = np.degrees(np.arctan2(ahead[1], ahead[0]))
    assert abs((yaw - degrees + 180) % 360 - 180) < 3
    assert abs(ahead[2]) < 0.03
    assert down[2] < -0.99


def test_the_lidar_has_its_y_axis_ahead() -> None:
    right, ahead, up = LIDAR_TOP.ego_from_sensor[:3, :3].T
    np.testing.assert_allclose([right, ahead, up], [[0, -1, 0], [1, 0, 0], [0, 0, 1]], atol=0.05)


def test_intrinsics_are_those_of_pictures_resized_as_a_whole() -> None:
    for size in ((225, 400), (72, 128), (90, 161)):
        full = torch.from_numpy(CAMERAS[0].intrinsics(FULL_SIZE))
        expected = resized_intrinsics(full, from_size=FULL_SIZE, to_size=size)
        np.testing.assert_allclose(CAMERAS[0].intrinsics(size), expected.numpy(), atol=1e-12)


def test_quaternions_agree_with_scipys() -> None:
    turns = Rotation.random(50, rng=np.random.default_rng(3)).as_matrix()
    half_turns = [np.diag([1.0, -1.0, -1.0]), np.diag([-1.0, 1.0, -1.0]), np.diag([-1.0, -1.0, 1.0]), np.eye(3)]
    for rotation in (*turns, *half_turns):
        w, x, y, z = quaternion_of(rotation)
        np.testing.assert_allclose(Rotation.from_quat([x, y, z, w]).as_matrix(), rotation, atol=1e-12)
        np.testing.assert_allclose(rotation_of(np.array([w, x, y, z])), rotation, atol=1e-12)
