"""Three short scenes in nuScenes' and Occ3D's layout, made by seed: for what needs neither real nor town data."""

import json
import math
from pathlib import Path

import numpy as np

from occloom.data.kitti_files import write_image
from occloom.data.nuscenes_files import write_lidar
from occloom.data.occ3d_files import Occ3dLabels, label_path, write_labels

SIZE = (72, 128)
"""Of the pictures on disk."""
YAWS = {
    "CAM_FRONT_LEFT": 55.0,
    "CAM_FRONT": 0.0,
    "CAM_FRONT_RIGHT": -55.0,
    "CAM_BACK_LEFT": 110.0,
    "CAM_BACK": 180.0,
    "CAM_BACK_RIGHT": -110.0,
}
"""Degrees to the left that each camera looks."""
SCENES = {"scene-0001": 3, "scene-0002": 2, "scene-0003": 1}
"""Keyframes of each scene; the first is trained on, the second validated on, the third has no labels."""
VERSION = "v1.0-trainval"


def quaternion(yaw: float) -> np.ndarray:
    """w, x, y, z of a turn about z, in radians."""
    return np.array([math.cos(yaw / 2), 0.0, 0.0, math.sin(yaw / 2)])


def product(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Of two quaternions: first b, then a."""
    w, v = a[0] * b[0] - a[1:] @ b[1:], a[0] * b[1:] + b[0] * a[1:] + np.cross(a[1:], b[1:])
    return np.array([w, *v])


CAMERA_AHEAD = np.array([0.5, -0.5, 0.5, -0.5])
"""Ego from a camera (x right, y down, z forward) that looks ahead."""


def place(seconds: float) -> dict[str, list[float]]:
    """Where the car is: a bend to the left at 5 m/s."""
    yaw = 0.3 + 0.12 * seconds
    where = [600.0 + 5 * seconds * math.cos(yaw), 1600.0 + 5 * seconds * math.sin(yaw), 0.0]
    return {"rotation": quaternion(yaw).tolist(), "translation": where}


def write_made_nuscenes(root: Path) -> Path:
    """Write the scenes; the tables hold what a reader of occupancy needs, and one sweep that is no keyframe."""
    rng = np.random.default_rng(0)
    tables: dict[str, list[dict]] = {name: [] for name in ("scene", "sample", "sample_data", "ego_pose")}
    sensors = _sensors()
    for number, (scene, keyframes) in enumerate(SCENES.items()):
        tokens = [f"{scene[-4:]}{index:028d}" for index in range(keyframes)]
        tables["scene"].append({"token": f"token of {scene}", "name": scene, "nbr_samples": keyframes})
        for index, token in enumerate(tokens):
            seconds = 100.0 * number + 0.5 * index
            tables["sample"].append(
                {
                    "token": token,
                    "timestamp": round(1e6 * (1000 + seconds)),
                    "prev": tokens[index - 1] if index else "",
                    "next": tokens[index + 1] if index + 1 < keyframes else "",
                    "scene_token": f"token of {scene}",
                }
            )
            for row in sensors["sensor"]:
                _write_recording(root, tables, row["channel"], token, seconds, rng)
            if scene != "scene-0003":
                _write_labels(label_path(root, f"{scene}/{token}"), rng)
    for name, rows in {**tables, **sensors}.items():
        path = root / VERSION / f"{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(rows, indent=0))
    splits = {"train_split": ["scene-0001"], "val_split": ["scene-0002"], "scene_infos": {}}
    (root / "annotations.json").write_text(json.dumps(splits))
    return root


def _sensors() -> dict[str, list[dict]]:
    """The tables of sensors and of how they are mounted."""
    focal = {channel: 0.79 * SIZE[1] * (0.63 if channel == "CAM_BACK" else 1.0) for channel in YAWS}
    mounted = [
        {
            "token": f"mounted {channel}",
            "sensor_token": f"sensor {channel}",
            "translation": [1.0 + 0.7 * math.cos(math.radians(yaw)), 0.5 * math.sin(math.radians(yaw)), 1.55],
            "rotation": product(quaternion(math.radians(yaw)), CAMERA_AHEAD).tolist(),
            "camera_intrinsic": [[focal[channel], 0, 64.3], [0, focal[channel], 39.1], [0, 0, 1]],
        }
        for channel, yaw in YAWS.items()
    ]
    lidar = {
        "token": "mounted LIDAR_TOP",
        "sensor_token": "sensor LIDAR_TOP",
        "translation": [0.94, 0.0, 1.84],
        "rotation": quaternion(-math.pi / 2).tolist(),
        "camera_intrinsic": [],
    }
    channels = [*YAWS, "LIDAR_TOP"]
    return {
        "calibrated_sensor": [*mounted, lidar],
        "sensor": [{"token": f"sensor {channel}", "channel": channel} for channel in channels],
    }


def _write_recording(
    root: Path, tables: dict[str, list[dict]], channel: str, token: str, seconds: float, rng: np.random.Generator
) -> None:
    """One sensor's file and rows; cameras are up to 50 ms earlier than the LiDAR, each at its own moment."""
    camera = channel != "LIDAR_TOP"
    exposed = seconds - (0.05 - 0.008 * list(YAWS).index(channel) if camera else 0.0)
    name = f"samples/{channel}/{token}.{'png' if camera else 'pcd.bin'}"
    if camera:
        write_image(root / name, np.kron(rng.integers(30, 256, (9, 16, 3)), np.ones((8, 8, 1))).astype(np.uint8))
    else:
        ground = np.stack([rng.uniform(-30, 30, 2500), rng.uniform(-30, 30, 2500), rng.normal(-1.8, 0.02, 2500)], 1)
        walls = np.stack([rng.uniform(-30, 30, 500), np.full(500, 12.0), rng.uniform(-1.8, 4, 500)], 1)
        positions = np.concatenate([ground, walls])
        rest = np.stack([rng.integers(0, 256, 3000), rng.integers(0, 32, 3000)], axis=1)
        write_lidar(root / name, np.concatenate([positions, rest], axis=1).astype(np.float64))
    row = {
        "token": f"{channel} {token}",
        "sample_token": token,
        "ego_pose_token": f"pose {channel} {token}",
        "calibrated_sensor_token": f"mounted {channel}",
        "timestamp": round(1e6 * (1000 + exposed)),
        "is_key_frame": True,
        "filename": name,
        "height": SIZE[0] if camera else 0,
        "width": SIZE[1] if camera else 0,
    }
    sweep = {**row, "token": f"sweep {channel} {token}", "is_key_frame": False, "filename": f"sweeps/{channel}/x"}
    tables["sample_data"] += [row, sweep]
    tables["ego_pose"].append({"token": row["ego_pose_token"], "timestamp": row["timestamp"], **place(exposed)})


def _write_labels(path: Path, rng: np.random.Generator) -> None:
    """Blocks of classes, half of them free, with random masks."""
    blocks = np.where(rng.random((20, 20, 4)) < 0.5, 17, rng.integers(0, 17, (20, 20, 4)))
    semantics = np.kron(blocks, np.ones((10, 10, 4))).astype(np.uint8)
    lidar = np.kron(rng.random((20, 20, 4)) < 0.7, np.ones((10, 10, 4))) > 0
    camera = lidar & (np.kron(rng.random((20, 20, 4)) < 0.7, np.ones((10, 10, 4))) > 0)
    write_labels(path, Occ3dLabels(semantics=semantics, mask_lidar=lidar, mask_camera=camera))
