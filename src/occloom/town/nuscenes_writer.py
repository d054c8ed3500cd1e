"""One scene of the town, file by file, in the layout of nuScenes with Occ3D's labels.

The drive begins some seconds before the first keyframe and ends as long after the last: ten scans a second of all of it
make the labels. Keyframes are half a second apart; a camera takes its picture when the LiDAR's beam passes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float32, Float64, UInt8
from PIL import Image

from occloom.data.occ3d_labels import OCC3D, OCC3D_GRID
from occloom.labels.observed import Eye, crossed_by_beams, seen_by_cameras
from occloom.town.camera import render_depth, render_image
from occloom.town.exact_labels import exact_labels
from occloom.town.lidar import Scan, cast_scan_at, hdl32
from occloom.town.mesh import World
from occloom.town.nuscenes_rig import CAMERAS, LIDAR_TOP, CameraMounting
from occloom.town.nuscenes_tables import SCENES, Recording, labels_path, sample_token, scene_rows, write_json
from occloom.town.occ3d_ids import to_occ3d_ids
from occloom.town.scene_cloud import SceneCloud
from occloom.town.scene_rays import WorldRays
from occloom.town.semantickitti_writer import LabelRule

Sweeps = Literal["none", "lidar", "all"]
Split = Literal["train", "val"]
TURN = 50_000  # of the LiDAR, microseconds
TURNS_PER_LABEL_SCAN = 2
TURNS_PER_KEYFRAME = 10
PICTURES_PER_KEYFRAME = 6  # twelve a second
SAMPLES_PER_PIXEL = 2  # pictures are made smaller before a network sees them
JPEG_QUALITY = 92
DEPTH = "depth/town-exact"
FIRST_TIMESTAMP = 1_600_000_000_000_000
"""Microseconds, of the beginning of the first scene's drive."""
SCENE_TIMESTAMPS = 1_000_000_000
"""Microseconds from the beginning of one scene's drive to that of the next."""


@dataclass(frozen=True)
class SurroundSettings:
    """All that decides the bytes of a scene, its number aside."""

    seed: int
    """Of the whole town; each scene has its own world."""
    frames: int
    """Keyframes a scene, half a second apart."""
    image_size: tuple[int, int]
    """Height and width of the pictures, pixels."""
    labels: LabelRule
    """`scans`: accumulated LiDAR; `exact`: true surfaces at the moment of the keyframe."""
    label_seconds: float
    """Drive before the first and after the last keyframe, whose scans add to the labels."""
    sweeps: Sweeps
    """Files between the keyframes: none, those of the LiDAR (20 a second), or those of the cameras (12) too."""

    @property
    def first_turn(self) -> int:
        """Turn of the LiDAR at the first keyframe."""
        return round(self.label_seconds * 1e6 / TURN)

    @property
    def last_turn(self) -> int:
        """Turn of the LiDAR at the last keyframe."""
        return self.first_turn + TURNS_PER_KEYFRAME * (self.frames - 1)

    @property
    def stretch(self) -> tuple[float, float]:
        """First and last keyframe, seconds."""
        return self.first_turn * TURN / 1e6, self.last_turn * TURN / 1e6

    @property
    def duration(self) -> float:
        """Seconds of drive."""
        return (self.first_turn + self.last_turn) * TURN / 1e6

    def frame_of(self, turn: int) -> int | None:
        """The keyframe of a turn of the LiDAR, None of a turn between keyframes or outside their stretch."""
        frame, rest = divmod(turn - self.first_turn, TURNS_PER_KEYFRAME)
        return frame if rest == 0 and 0 <= frame < self.frames else None


def write_scene(
    root: Path,
    number: int,
    world: World,
    settings: SurroundSettings,
    *,
    split: Split,
    after_frame: Callable[[], None],
) -> None:
    """Drives through the world once and writes what the sensors see.

    Args:
        root: the data set's folder.
        number: of the scene.
        world: the world; it must last for `settings.duration`.
        settings: what to write.
        split: which of annotations.json's lists names the scene.
        after_frame: called after each keyframe.

    Raises:
        InputError: If embreex is not installed.
    """
    scene = _Scene(root, number, world, settings)
    scene.drive()
    for frame in range(settings.frames):
        scene.keyframe(frame)
        after_frame()
    name = scene_name(number)
    rows = scene_rows(settings.seed, name, scene.recordings, settings.image_size, "a drive through the town")
    write_json(root / SCENES / split / f"{name}.json", rows)


def scene_name(number: int) -> str:
    """Such as "scene-0007"."""
    return f"scene-{number:04d}"


class _Scene:
    """A drive that is being written."""

    def __init__(self, root: Path, number: int, world: World, settings: SurroundSettings) -> None:
        self.recordings: list[Recording] = []
        self._root, self._number, self._settings = root, number, settings
        self._rays = WorldRays(world)
        self._cloud = SceneCloud(world)
        self._scans: dict[int, Scan] = {}

    def drive(self) -> None:
        """Casts all scans, for the labels and the files."""
        lidar, settings = hdl32(), self._settings
        first, last = settings.first_turn, settings.last_turn
        for turn in range(first + last + 1):
            written = settings.frame_of(turn) is not None or (settings.sweeps != "none" and first <= turn <= last)
            votes = (turn - first) % TURNS_PER_LABEL_SCAN == 0
            if not written and not votes:
                continue
            seconds = turn * TURN / 1e6
            pose = self._world_from_ego(seconds) @ LIDAR_TOP.ego_from_sensor
            rng = self._generator(turn * TURN, len(CAMERAS))
            scan = cast_scan_at(self._rays, lidar=lidar, time=seconds, world_from_lidar=pose, rng=rng)
            if votes:
                self._cloud.add(scan, pose, seconds)
            if written:
                self._write_scan(scan, turn)

    def keyframe(self, frame: int) -> None:
        """Writes pictures, their exact depth, labels and masks of a keyframe, and camera sweeps after it."""
        settings = self._settings
        start = (settings.first_turn + TURNS_PER_KEYFRAME * frame) * TURN
        eyes = []
        for index, camera in enumerate(CAMERAS):
            stem = self._write_picture(index, start, frame, is_key_frame=True)
            eyes.append(self._eye(camera, start))
            _write_depth(self._root / DEPTH / camera.channel / f"{stem}.npy", eyes[-1].depth)
        self._write_labels(frame, start, eyes)
        if settings.sweeps == "all" and frame + 1 < settings.frames:
            for k in range(1, PICTURES_PER_KEYFRAME):
                moment = start + round(k * TURNS_PER_KEYFRAME * TURN / PICTURES_PER_KEYFRAME)
                for index in range(len(CAMERAS)):
                    self._write_picture(index, moment, frame + 1, is_key_frame=False)

    def _write_labels(self, frame: int, start: int, eyes: list[Eye]) -> None:
        """labels.npz: semantics and both masks; the masks follow the scans under either rule."""
        seconds = start / 1e6
        ego_from_world = np.linalg.inv(self._world_from_ego(seconds))
        semantics = self._cloud.labels(seconds, ego_from_world, OCC3D_GRID)
        filled = semantics != OCC3D.empty
        observed = filled | self._crossed(frame)
        seen = seen_by_cameras(observed, filled, eyes, OCC3D_GRID)
        if self._settings.labels == "exact":
            semantics = to_occ3d_ids(exact_labels(self._rays.mesh(seconds), ego_from_world, OCC3D_GRID))
        sample = sample_token(self._settings.seed, scene_name(self._number), frame)
        path = self._root / labels_path(scene_name(self._number), sample)
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(
            path, semantics=semantics, mask_lidar=observed.astype(np.uint8), mask_camera=seen.astype(np.uint8)
        )

    def _crossed(self, frame: int) -> Bool[np.ndarray, "X Y Z"]:
        """Voxels that the beams of the keyframe's own scan cross."""
        ego_from_lidar = LIDAR_TOP.ego_from_sensor
        points = self._scans[frame].points[:, :3] @ ego_from_lidar[:3, :3].T + ego_from_lidar[:3, 3]
        return crossed_by_beams(ego_from_lidar[:3, 3], points, OCC3D_GRID)

    def _eye(self, camera: CameraMounting, start: int) -> Eye:
        """What the camera sees at its own exposure, in the ego frame of the keyframe that starts at `start`."""
        seconds, size = (start + camera.delay) / 1e6, self._settings.image_size
        world_from_camera = self._world_from_ego(seconds) @ camera.ego_from_sensor
        depth = render_depth(
            self._rays,
            time=seconds,
            intrinsics=camera.intrinsics(size),
            world_from_camera=world_from_camera,
            image_size=size,
        )
        camera_from_ego = np.linalg.inv(world_from_camera) @ self._world_from_ego(start / 1e6)
        return Eye(camera.intrinsics(size), camera_from_ego, depth)

    def _write_picture(self, index: int, moment: int, sample: int, *, is_key_frame: bool) -> str:
        """One picture of a camera, exposed `delay` after a moment in microseconds; returns its name without suffix."""
        camera, size = CAMERAS[index], self._settings.image_size
        instant = moment + camera.delay
        seconds = instant / 1e6
        picture = render_image(
            self._rays,
            time=seconds,
            intrinsics=camera.intrinsics(size),
            world_from_camera=self._world_from_ego(seconds) @ camera.ego_from_sensor,
            image_size=size,
            rng=self._generator(moment, index),
            samples_per_pixel=SAMPLES_PER_PIXEL,
        )
        path = self._record(camera.channel, instant, sample, ".jpg", is_key_frame=is_key_frame)
        _write_jpeg(path, picture)
        return path.stem

    def _write_scan(self, scan: Scan, turn: int) -> None:
        """x, y, z, intensity 0 to 255, and the ring, 0 the lowest."""
        frame = self._settings.frame_of(turn)
        sample = -(-(turn - self._settings.first_turn) // TURNS_PER_KEYFRAME)  # that of a sweep is the next one
        path = self._record(LIDAR_TOP.channel, turn * TURN, sample, ".pcd.bin", is_key_frame=frame is not None)
        intensity, ring = np.round(255 * scan.points[:, 3]), np.float32(31) - scan.beam
        np.column_stack([scan.points[:, :3], intensity, ring]).astype("<f4").tofile(path)
        if frame is not None:
            self._scans[frame] = scan

    def _record(self, channel: str, instant: int, sample: int, suffix: str, *, is_key_frame: bool) -> Path:
        """Notes a file, `instant` microseconds after the start of the drive, and says where it goes."""
        timestamp = FIRST_TIMESTAMP + SCENE_TIMESTAMPS * self._number + instant
        folder = "samples" if is_key_frame else "sweeps"
        name = f"{folder}/{channel}/town-{scene_name(self._number)}__{channel}__{timestamp}{suffix}"
        pose = self._world_from_ego(instant / 1e6)
        self.recordings.append(Recording(channel, timestamp, name, sample, is_key_frame, pose))
        path = self._root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def _world_from_ego(self, seconds: float) -> Float64[np.ndarray, "4 4"]:
        """On the ground under the rear axle."""
        return self._rays.world.ego.pose(seconds)

    def _generator(self, moment: int, sensor: int) -> np.random.Generator:
        """The randomness of one sensor at one moment."""
        return np.random.default_rng((self._settings.seed, self._number, moment, sensor))


def _write_jpeg(path: Path, picture: UInt8[np.ndarray, "H W 3"]) -> None:
    Image.fromarray(picture).save(path, quality=JPEG_QUALITY, subsampling=0)


def _write_depth(path: Path, depth: Float32[np.ndarray, "H W"]) -> None:
    """Metres as float16, 0 for sky."""
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, depth.astype(np.float16))
