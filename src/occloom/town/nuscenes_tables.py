"""The tables of nuScenes and Occ3D's annotations.json for the town's scenes.

The rows of a scene are kept in a file of its own, and the tables are put together from all of them, so that scenes can
be made side by side and added later. Facts: reference datasets_and_metrics 3 and 4.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64

from occloom.town.nuscenes_rig import CAMERAS, LIDAR_TOP, CameraMounting, Mounting, quaternion_of

VERSION_FOLDER = "v1.0-trainval"
SCENES = "scenes"
"""Folder with the rows of each scene, `<split>/<scene>.json`, from which the tables are made."""
SENSORS: tuple[Mounting, ...] = (*CAMERAS, LIDAR_TOP)
Row = dict[str, Any]

_SCENE_TABLES = ("log", "scene", "sample", "sample_data", "ego_pose", "calibrated_sensor")
_CATEGORIES = (
    "human.pedestrian.adult",
    "movable_object.barrier",
    "movable_object.debris",
    "movable_object.trafficcone",
    "vehicle.bicycle",
    "vehicle.bus.rigid",
    "vehicle.car",
    "vehicle.construction",
    "vehicle.motorcycle",
    "vehicle.trailer",
    "vehicle.truck",
)
_VISIBILITIES = ("v0-40", "v40-60", "v60-80", "v80-100")


@dataclass(frozen=True)
class Recording:
    """One file of one sensor.

    Attributes:
        channel: nuScenes' name of the sensor.
        timestamp: microseconds.
        filename: below the data set's folder.
        sample: number of the keyframe within the scene, for a sweep that of the next one.
        is_key_frame: whether it is no sweep.
        world_from_ego: where the car was.
    """

    channel: str
    timestamp: int
    filename: str
    sample: int
    is_key_frame: bool
    world_from_ego: Float64[np.ndarray, "4 4"]


def token(*parts: object) -> str:
    """Thirty-two hexadecimal digits that depend on the parts alone."""
    return hashlib.md5("/".join(map(str, parts)).encode(), usedforsecurity=False).hexdigest()


def sample_token(seed: int, scene: str, sample: int) -> str:
    """The token of a keyframe."""
    return token(seed, scene, "sample", sample)


def labels_path(scene: str, sample: str) -> str:
    """Where the labels of a sample lie, below the data set's folder."""
    return f"gts/{scene}/{sample}/labels.npz"


def scene_rows(
    seed: int,
    scene: str,
    recordings: Sequence[Recording],
    image_size: tuple[int, int],
    description: str,
) -> dict[str, Any]:
    """All rows of one scene: a list a table, and its entry in annotations.json."""
    files = _sample_data(seed, scene, recordings, image_size)
    times = {one.sample: one.timestamp for one in recordings if one.channel == LIDAR_TOP.channel and one.is_key_frame}
    tokens = [sample_token(seed, scene, k) for k in range(len(times))]
    around = ["", *tokens, ""]
    samples = [
        {
            "token": tokens[k],
            "timestamp": times[k],
            "prev": around[k],
            "next": around[k + 2],
            "scene_token": token(seed, scene),
        }
        for k in range(len(times))
    ]
    poses = [_ego_pose(row["token"], one) for row, one in zip(files, recordings, strict=True)]
    log = token(seed, scene, "log")
    tables = {
        "log": [{"token": log, "logfile": f"town-{scene}", "vehicle": "town", "date_captured": "", "location": "town"}],
        "scene": [
            {
                "token": token(seed, scene),
                "log_token": log,
                "nbr_samples": len(samples),
                "first_sample_token": tokens[0],
                "last_sample_token": tokens[-1],
                "name": scene,
                "description": description,
            }
        ],
        "sample": samples,
        "sample_data": files,
        "ego_pose": poses,
        "calibrated_sensor": [_calibrated_sensor(seed, scene, sensor, image_size) for sensor in SENSORS],
    }
    return {"tables": tables, "infos": _scene_infos(scene, tables)}


def write_tables(root: Path) -> None:
    """Puts the tables and annotations.json together from the rows of all scenes that are there."""
    splits = {split: sorted((root / SCENES / split).glob("*.json")) for split in ("train", "val")}
    paths = sorted([path for found in splits.values() for path in found], key=lambda path: path.name)
    scenes = [json.loads(path.read_text()) for path in paths]
    tables = {name: [row for scene in scenes for row in scene["tables"][name]] for name in _SCENE_TABLES}
    tables |= _common_tables([row["token"] for row in tables["log"]])
    for name, rows in tables.items():
        write_json(root / VERSION_FOLDER / f"{name}.json", rows)
    names = {f"{split}_split": [path.stem for path in found] for split, found in splits.items()}
    infos = {path.stem: scene["infos"] for path, scene in zip(paths, scenes, strict=True)}
    write_json(root / "annotations.json", {**names, "scene_infos": infos})


def write_json(path: Path, content: object) -> None:
    """One file, one value a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=0) + "\n")


def _sample_data(seed: int, scene: str, recordings: Sequence[Recording], image_size: tuple[int, int]) -> list[Row]:
    """A row a recording, in their order; each sensor's are linked in the order of time."""
    tokens = [token(seed, scene, one.channel, one.timestamp) for one in recordings]
    before, after = dict.fromkeys(tokens, ""), dict.fromkeys(tokens, "")
    for sensor in SENSORS:
        own = sorted(
            (one.timestamp, name) for one, name in zip(recordings, tokens, strict=True) if one.channel == sensor.channel
        )
        for (_, first), (_, second) in pairwise(own):
            after[first], before[second] = second, first
    rows = []
    for one, name in zip(recordings, tokens, strict=True):
        pictured = one.channel != LIDAR_TOP.channel
        rows.append(
            {
                "token": name,
                "sample_token": sample_token(seed, scene, one.sample),
                "ego_pose_token": name,
                "calibrated_sensor_token": token(seed, scene, one.channel),
                "timestamp": one.timestamp,
                "fileformat": "jpg" if pictured else "pcd",
                "is_key_frame": one.is_key_frame,
                "height": image_size[0] if pictured else 0,
                "width": image_size[1] if pictured else 0,
                "filename": one.filename,
                "prev": before[name],
                "next": after[name],
            }
        )
    return rows


def _ego_pose(name: str, recording: Recording) -> Row:
    pose = recording.world_from_ego
    return {
        "token": name,
        "timestamp": recording.timestamp,
        "rotation": quaternion_of(pose[:3, :3]).tolist(),
        "translation": pose[:3, 3].tolist(),
    }


def _calibrated_sensor(seed: int, scene: str, sensor: Mounting, image_size: tuple[int, int]) -> Row:
    return {
        "token": token(seed, scene, sensor.channel),
        "sensor_token": token("sensor", sensor.channel),
        "translation": list(sensor.translation),
        "rotation": list(sensor.rotation),
        "camera_intrinsic": sensor.intrinsics(image_size).tolist() if isinstance(sensor, CameraMounting) else [],
    }


def _scene_infos(scene: str, tables: Mapping[str, list[Row]]) -> dict[str, Row]:
    """The samples of a scene as annotations.json has them."""
    poses = {row["token"]: row for row in tables["ego_pose"]}
    sensors = {row["token"]: row for row in tables["calibrated_sensor"]}
    keyframes = [row for row in tables["sample_data"] if row["is_key_frame"]]

    def placed(row: Row) -> Row:
        return {"translation": row["translation"], "rotation": row["rotation"]}

    infos = {}
    for sample in tables["sample"]:
        own = [row for row in keyframes if row["sample_token"] == sample["token"]]
        (scan,) = (row for row in own if row["fileformat"] == "pcd")
        infos[sample["token"]] = {
            "timestamp": sample["timestamp"],
            "camera_sensor": {
                row["token"]: {
                    "img_path": row["filename"],
                    "intrinsic": sensors[row["calibrated_sensor_token"]]["camera_intrinsic"],
                    "extrinsic": placed(sensors[row["calibrated_sensor_token"]]),
                    "ego_pose": placed(poses[row["ego_pose_token"]]),
                }
                for row in own
                if row["fileformat"] == "jpg"
            },
            "ego_pose": placed(poses[scan["ego_pose_token"]]),
            "gt_path": labels_path(scene, sample["token"]),
            "next": sample["next"],
            "prev": sample["prev"],
        }
    return infos


def _common_tables(logs: list[str]) -> dict[str, list[Row]]:
    """The tables that are no scene's own; there are no boxes, and the map is no picture."""
    return {
        "sensor": [
            {
                "token": token("sensor", sensor.channel),
                "channel": sensor.channel,
                "modality": "camera" if isinstance(sensor, CameraMounting) else "lidar",
            }
            for sensor in SENSORS
        ],
        "category": [{"token": token(name), "name": name, "description": ""} for name in _CATEGORIES],
        "attribute": [],
        "visibility": [
            {"token": str(k + 1), "level": level, "description": ""} for k, level in enumerate(_VISIBILITIES)
        ],
        "instance": [],
        "sample_annotation": [],
        "map": [{"token": token("map"), "log_tokens": logs, "category": "semantic_prior", "filename": ""}],
    }
