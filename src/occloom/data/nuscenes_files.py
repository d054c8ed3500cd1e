"""nuScenes' tables and LiDAR files, read without its devkit.

Of the tables only what occupancy needs is kept: keyframes of cameras and of the LiDAR on top, their calibration and the
place of the car at each exposure. The tables are read row by row, since the full ones take gigabytes at once.
Reference: datasets_and_metrics 4; documentation: docs/datasets/nuscenes.md.
"""

import json
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from io import TextIOBase
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from jaxtyping import Float, Float32, Float64

from occloom.errors import InputError

LIDAR = "LIDAR_TOP"
POINT_BYTES = 20
"""Of a LiDAR point: x, y, z, intensity and ring as float32."""
CHUNK = 1 << 20
"""Characters of a table that are read at a time."""
LONGEST_ROW = 1 << 24
"""Characters of a row; a longer one is no row of a table."""


@dataclass(frozen=True)
class Recording:
    """What one sensor recorded at one keyframe."""

    path: Path
    timestamp: int
    """Microseconds."""
    ego_from_sensor: Float64[np.ndarray, "4 4"]
    global_from_ego: Float64[np.ndarray, "4 4"]
    """At this very exposure: the sensors of a keyframe differ."""
    intrinsics: Float64[np.ndarray, "3 3"] | None
    """Pixels from camera metres, for the picture as it lies on disk; None for the LiDAR."""
    size: tuple[int, int]
    """Height and width of the picture; (0, 0) for the LiDAR."""

    @property
    def global_from_sensor(self) -> Float64[np.ndarray, "4 4"]:
        """From the sensor to the map's frame."""
        return self.global_from_ego @ self.ego_from_sensor


@dataclass(frozen=True)
class Keyframe:
    """One annotated moment of a scene."""

    sample: str
    """Token in sample.json."""
    scene: str
    """Name of the scene, such as "scene-0061"."""
    timestamp: int
    """Microseconds."""
    previous: str
    """Token of the keyframe before, "" for the first of a scene."""
    recordings: Mapping[str, Recording]
    """By channel, such as "CAM_FRONT"."""

    @property
    def token(self) -> str:
        """What samples are called here: scene and token, such as "scene-0061/ca9a282c9e77460f8360f564131a8af5"."""
        return f"{self.scene}/{self.sample}"

    @property
    def lidar(self) -> Recording:
        """Of the LiDAR on top, whose ego pose is the present ego frame."""
        return self.recordings[LIDAR]


@dataclass(frozen=True)
class Tables:
    """The keyframes of some scenes."""

    folder: Path
    """Holds the tables."""
    keyframes: Mapping[str, Keyframe]
    """By their token in sample.json."""
    scenes: Mapping[str, tuple[Keyframe, ...]]
    """Each scene's keyframes in the order of time, by the scene's name."""

    def keyframe(self, token: str) -> Keyframe:
        """The keyframe of a token.

        Raises:
            InputError: If there is none.
        """
        if token not in self.keyframes:
            raise _unknown(self.folder / "sample.json", token, "a keyframe's prev and a sample's name are tokens there")
        return self.keyframes[token]

    def before(self, keyframe: Keyframe) -> Keyframe | None:
        """The keyframe before, half a second ago; None at the beginning of a scene.

        Raises:
            InputError: If the table names one that it does not hold.
        """
        return self.keyframe(keyframe.previous) if keyframe.previous else None


def scene_names(root: Path, version: str) -> tuple[str, ...]:
    """Names of all scenes of the tables, in their order.

    Raises:
        InputError: If the table is missing or malformed.
    """
    path = root / version / "scene.json"
    return tuple(text_of(row, "name", path) for row in rows_of(path))


def read_tables(root: Path, version: str, *, scenes: Collection[str], channels: Collection[str]) -> Tables:
    """Read the keyframes of some scenes.

    Args:
        root: Holds the tables' folder, `samples` and `sweeps`.
        version: Name of the tables' folder, such as "v1.0-trainval".
        scenes: Names of scenes; those of the tables that are not among them are left out.
        channels: Sensors to read besides the LiDAR on top.

    Raises:
        InputError: If a table is missing or malformed, names a token that another table lacks, or a path outside
            `root`, or a keyframe has no LiDAR recording.
    """
    folder = root / version
    names = {}
    for row in rows_of(folder / "scene.json"):
        if text_of(row, "name", folder / "scene.json") in scenes:
            names[text_of(row, "token", folder / "scene.json")] = row["name"]
    samples: dict[str, dict[str, Any]] = {}
    for row in rows_of(folder / "sample.json"):
        if text_of(row, "scene_token", folder / "sample.json") in names:
            samples[text_of(row, "token", folder / "sample.json")] = row
    recordings = _read_recordings(root, folder, samples, {LIDAR, *channels})
    keyframes = {}
    for token, row in samples.items():
        if LIDAR not in recordings.get(token, {}):
            raise InputError(
                f"keyframe {token} has no recording of {LIDAR}",
                where=folder / "sample_data.json",
                rule="the ego frame of a keyframe is that of its LiDAR",
                remedy="the table is cut: fetch it again",
            )
        keyframes[token] = Keyframe(
            sample=token,
            scene=names[row["scene_token"]],
            timestamp=_whole(row, "timestamp", folder / "sample.json"),
            previous=str(row.get("prev", "")),
            recordings=recordings[token],
        )
    in_time: dict[str, list[Keyframe]] = {}
    for keyframe in sorted(keyframes.values(), key=lambda keyframe: keyframe.timestamp):
        in_time.setdefault(keyframe.scene, []).append(keyframe)
    return Tables(folder, keyframes, {name: tuple(in_time[name]) for name in sorted(in_time)})


def read_lidar(path: Path) -> Float32[np.ndarray, "P 5"]:
    """A `.pcd.bin` file: x, y, z in metres in the sensor's frame, intensity in [0, 255] and ring.

    Raises:
        InputError: If the file is missing or does not hold whole points.
    """
    if not path.is_file():
        raise InputError(
            "no such LiDAR sweep", where=path, remedy="complete the download of samples/LIDAR_TOP of this scene"
        )
    size = path.stat().st_size
    if size % POINT_BYTES:
        raise InputError(
            f"the sweep has {size} bytes",
            where=path,
            rule=f"a sweep has {POINT_BYTES} bytes a point",
            remedy="the file is truncated: fetch it again",
        )
    return np.fromfile(path, dtype="<f4").reshape(-1, 5).astype(np.float32, copy=False)


def write_lidar(path: Path, points: Float[np.ndarray, "P 5"]) -> None:
    """Write a `.pcd.bin` file from x, y, z, intensity, ring."""
    path.parent.mkdir(parents=True, exist_ok=True)
    points.astype("<f4").tofile(path)


def rotation_matrix(quaternion: Float64[np.ndarray, " 4"]) -> Float64[np.ndarray, "3 3"]:
    """The rotation of a quaternion w, x, y, z, which is normalised first."""
    w, x, y, z = quaternion / np.linalg.norm(quaternion)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )


def _read_recordings(
    root: Path, folder: Path, samples: Collection[str], channels: Collection[str]
) -> dict[str, dict[str, Recording]]:
    """Recordings of some keyframes by the keyframe's token and the channel."""
    sensors = _read_sensors(folder, channels)
    table = folder / "sample_data.json"
    wanted: list[dict[str, Any]] = []
    for row in rows_of(table):
        if not row.get("is_key_frame") or row.get("sample_token") not in samples:
            continue
        if text_of(row, "calibrated_sensor_token", table) not in sensors:
            raise _unknown(table, row["calibrated_sensor_token"], "it is a token of calibrated_sensor.json")
        if sensors[row["calibrated_sensor_token"]] is not None:
            wanted.append(row)
    poses = _read_poses(folder, {text_of(row, "ego_pose_token", table) for row in wanted})
    recordings: dict[str, dict[str, Recording]] = {}
    for row in wanted:
        sensor = sensors[row["calibrated_sensor_token"]]
        if row["ego_pose_token"] not in poses:
            raise _unknown(table, row["ego_pose_token"], "it is a token of ego_pose.json")
        if sensor is None:
            continue
        recordings.setdefault(row["sample_token"], {})[sensor.channel] = Recording(
            path=file_within(root, text_of(row, "filename", table), table),
            timestamp=_whole(row, "timestamp", table),
            ego_from_sensor=sensor.ego_from_sensor,
            global_from_ego=poses[row["ego_pose_token"]],
            intrinsics=sensor.intrinsics,
            size=(_whole(row, "height", table), _whole(row, "width", table)),
        )
    return recordings


@dataclass(frozen=True)
class _Sensor:
    """A sensor as it was mounted."""

    channel: str
    ego_from_sensor: Float64[np.ndarray, "4 4"]
    intrinsics: Float64[np.ndarray, "3 3"] | None


def _read_sensors(folder: Path, channels: Collection[str]) -> dict[str, _Sensor | None]:
    """Mounted sensors by token; None for those of other channels."""
    path = folder / "sensor.json"
    channel_of = {text_of(row, "token", path): text_of(row, "channel", path) for row in rows_of(path)}
    path = folder / "calibrated_sensor.json"
    sensors: dict[str, _Sensor | None] = {}
    for row in rows_of(path):
        token, sensor_token = text_of(row, "token", path), text_of(row, "sensor_token", path)
        if sensor_token not in channel_of:
            raise _unknown(path, sensor_token, "it is a token of sensor.json")
        channel = channel_of[sensor_token]
        if channel not in channels:
            sensors[token] = None
            continue
        matrix = row.get("camera_intrinsic") or None
        intrinsics = None if matrix is None else _numbers(row, "camera_intrinsic", (3, 3), path)
        sensors[token] = _Sensor(channel, _placed(row, path), intrinsics)
    return sensors


def _read_poses(folder: Path, tokens: Collection[str]) -> dict[str, Float64[np.ndarray, "4 4"]]:
    """Places of the car on the map, by token."""
    path = folder / "ego_pose.json"
    return {row["token"]: _placed(row, path) for row in rows_of(path) if text_of(row, "token", path) in tokens}


def _placed(row: Mapping[str, Any], path: Path) -> Float64[np.ndarray, "4 4"]:
    """The rigid map of a row's rotation (quaternion) and translation (metres)."""
    matrix = np.eye(4)
    quaternion = _numbers(row, "rotation", (4,), path)
    if not np.linalg.norm(quaternion) > 0.5:
        raise _malformed(row, "rotation", path, "a quaternion w, x, y, z of length 1")
    matrix[:3, :3], matrix[:3, 3] = rotation_matrix(quaternion), _numbers(row, "translation", (3,), path)
    return matrix


def rows_of(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a table, one at a time.

    Raises:
        InputError: If the file is missing, or is no JSON list of objects with closed brackets.
    """
    if not path.is_file():
        raise InputError(
            "no such table",
            where=path,
            rule="scene, sample, sample_data, ego_pose, calibrated_sensor and sensor are read, each a .json",
            remedy="check root and version; the tables come with nuScenes' metadata",
        )
    try:
        with path.open(encoding="utf-8") as file:
            yield from _objects(file)
    except ValueError as error:
        raise InputError(
            f"the table cannot be read ({error})",
            where=path,
            rule="a table is a JSON list of objects",
            remedy="the file is damaged: fetch it again",
        ) from error


def _objects(file: TextIOBase) -> Iterator[dict[str, Any]]:
    """The objects of a JSON list.

    Raises:
        ValueError: If it is none, or ends before its closing bracket.
    """
    decoder, between = json.JSONDecoder(), re.compile(r"[\s,]*")
    buffer = more = file.read(CHUNK)
    while more and not buffer.strip():
        buffer = more = file.read(CHUNK)
    buffer = buffer.lstrip()
    if not buffer.startswith("["):
        raise ValueError("it is no list")
    buffer, place = buffer[1:], 0
    while True:
        gap = between.match(buffer, place)
        place = gap.end() if gap else place
        if buffer.startswith("]", place):
            return
        try:
            row, place = decoder.raw_decode(buffer, place)
        except json.JSONDecodeError:
            # Perhaps the row goes on in the next chunk.
            more = file.read(CHUNK)
            if not more or len(buffer) - place > LONGEST_ROW:
                raise
            buffer, place = buffer[place:] + more, 0
            continue
        if not isinstance(row, dict):
            raise ValueError("an item is no object")
        yield row


def text_of(row: Mapping[str, Any], name: str, path: Path) -> str:
    """A field that is text."""
    if not isinstance(row.get(name), str):
        raise _malformed(row, name, path, "text")
    return row[name]


def _whole(row: Mapping[str, Any], name: str, path: Path) -> int:
    """A field that is a whole number, 0 or more."""
    value = row.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise _malformed(row, name, path, "a whole number, 0 or more")
    return value


def _numbers(row: Mapping[str, Any], name: str, shape: tuple[int, ...], path: Path) -> Float64[np.ndarray, "*shape"]:
    """A field that holds finite numbers."""
    try:
        values = np.array(row.get(name), dtype=np.float64)
    except (TypeError, ValueError):
        values = np.zeros(0)
    if values.shape != shape or not np.isfinite(values).all():
        raise _malformed(row, name, path, f"{'x'.join(map(str, shape))} finite numbers")
    return values


def file_within(root: Path, name: str, path: Path) -> Path:
    """The file of a name relative to the data's root."""
    parts = PurePosixPath(name).parts
    if not parts or PurePosixPath(name).is_absolute() or ".." in parts or "\\" in name:
        raise InputError(
            f"filename is {name!r}",
            where=path,
            rule="files lie below root, such as samples/CAM_FRONT/NAME.jpg",
            remedy="the table is not nuScenes': fetch it again",
        )
    return root.joinpath(*parts)


def _malformed(row: Mapping[str, Any], name: str, path: Path, rule: str) -> InputError:
    """The error for a field that is missing or of another kind."""
    found = repr(row[name]) if name in row else "missing"
    return InputError(
        f"{name} of row {row.get('token', 'without token')} is {found[:80]}",
        where=path,
        rule=f"it is {rule}",
        remedy="the table is damaged: fetch it again",
    )


def _unknown(path: Path, token: str, rule: str) -> InputError:
    """The error for a token that another table lacks."""
    return InputError(f"unknown token {token}", where=path, rule=rule, remedy="the tables are cut: fetch them again")
