"""Exact segments of pictures of a town that is there: its worlds are built again from what `town.json` records.

A town's pictures do not say which thing a pixel shows; the same settings give the same world, so rays tell it.
"""

import json
import re
from functools import lru_cache
from pathlib import Path

import numpy as np
from jaxtyping import Int64

from occloom.errors import InputError
from occloom.town import surround_write, write
from occloom.town.camera import render_segments
from occloom.town.kitti_rig import stereo_calibration
from occloom.town.nuscenes_rig import CAMERAS
from occloom.town.nuscenes_writer import FIRST_TIMESTAMP, SCENE_TIMESTAMPS, SurroundSettings
from occloom.town.scene_rays import WorldRays
from occloom.town.semantickitti_writer import SCANS_PER_SECOND, TownSettings
from occloom.town.sequences import RECORD, sequence_seed
from occloom.town.surround_world import build_surround_world
from occloom.town.world import build_world

SURROUND_PICTURE = re.compile(r"town-scene-(?P<scene>\d{4})__(?P<camera>CAM_[A-Z_]+)__(?P<timestamp>\d+)")
"""Name of a picture in the layout of nuScenes, without suffix."""


def exact_segments(root: Path, picture: Path) -> Int64[np.ndarray, "H W"]:
    """The segment of each pixel of a town's picture: raw id + 65536 x instance, -1 for sky.

    Args:
        root: The town's folder.
        picture: Of any of its cameras, in the layout of SemanticKITTI or of nuScenes.

    Raises:
        InputError: If there is no town, it is of another version or layout, or the picture is none of its.
    """
    if (found := SURROUND_PICTURE.fullmatch(picture.stem)) is not None:
        return _surround_segments(root, int(found["scene"]), found["camera"], int(found["timestamp"]))
    if picture.parent.name in ("image_2", "image_3") and picture.stem.isdigit():
        return _front_segments(root, picture.parents[1].name, int(picture.parent.name[-1]), int(picture.stem))
    raise InputError("no picture of a town", where=picture, rule="its name says which scene and moment it shows")


def _surround_segments(root: Path, scene: int, channel: str, timestamp: int) -> Int64[np.ndarray, "H W"]:
    """Of one of six cameras, at its own exposure."""
    settings, rays = _surround_world(root, scene)
    camera = next(camera for camera in CAMERAS if camera.channel == channel)
    seconds = (timestamp - FIRST_TIMESTAMP - SCENE_TIMESTAMPS * scene) / 1e6
    return render_segments(
        rays,
        time=seconds,
        intrinsics=camera.intrinsics(settings.image_size),
        world_from_camera=rays.world.ego.pose(seconds) @ camera.ego_from_sensor,
        image_size=settings.image_size,
    )


def _front_segments(root: Path, sequence: str, camera: int, scan: int) -> Int64[np.ndarray, "H W"]:
    """Of camera 2 or 3 at a scan."""
    settings, rays = _front_world(root, sequence)
    calibration, seconds = stereo_calibration(settings.image_size), scan / SCANS_PER_SECOND
    return render_segments(
        rays,
        time=seconds,
        intrinsics=calibration.intrinsics(camera),
        world_from_camera=rays.world.world_from_ego(seconds) @ np.linalg.inv(calibration.camera_from_velodyne(camera)),
        image_size=settings.image_size,
    )


@lru_cache(maxsize=1)
def _surround_world(root: Path, scene: int) -> tuple[SurroundSettings, WorldRays]:
    """A scene's world; the last one stays, since pictures come scene by scene."""
    record = _record(root, {"surround_version": surround_write.VERSION, "layout": "nuscenes"})
    settings = SurroundSettings(**{**record, "image_size": tuple(record["image_size"])})
    world = build_surround_world(
        seed=sequence_seed(settings.seed, scene), duration=settings.duration, stretch=settings.stretch
    )
    return settings, WorldRays(world)


@lru_cache(maxsize=1)
def _front_world(root: Path, sequence: str) -> tuple[TownSettings, WorldRays]:
    """A sequence's world."""
    record = _record(root, {"version": write.VERSION, "layout": None})
    settings = TownSettings(**{**record, "image_size": tuple(record["image_size"])})
    return settings, WorldRays(
        build_world(seed=sequence_seed(settings.seed, int(sequence)), duration=settings.duration)
    )


def _record(root: Path, expected: dict[str, object]) -> dict:
    """The settings that a town records, without what is expected of it; SemanticKITTI's layout goes without saying."""
    path = root / RECORD
    try:
        record = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise InputError(
            f"no town ({error})", where=path, rule="exact segments are of a town that `occloom town` wrote"
        ) from error
    if any(record.pop(name, None) != value for name, value in expected.items()):
        raise InputError(
            "the town is of another version or layout",
            where=path,
            rule=f"its worlds can be built again where {expected}",
            remedy="write the town again",
        )
    return record
