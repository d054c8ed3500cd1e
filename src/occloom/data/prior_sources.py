"""Where depth priors come from, one picture at a time: files, projected LiDAR, the town's exact depth made worse.

A depth model is one more source, in `moge_prior`. `occloom prepare depth-prior` writes the answers to a cache
(`prior_cache`); docs/depth.md has the figures.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32, Float64

from occloom.cache import CacheOrigin
from occloom.data.depth_noise import NoiseConfig, noisy_depth
from occloom.data.depth_sources import render_points
from occloom.data.kitti_files import read_image_size
from occloom.data.nuscenes_files import Keyframe, read_lidar
from occloom.data.pictures import read_depth
from occloom.errors import InputError

TOWN_DEPTH = Path("depth") / "town-exact"
"""Folder of the town's exact depth below its root."""


@dataclass(frozen=True)
class PriorScan:
    """The LiDAR's sweep of a picture's keyframe."""

    path: Path
    """It need not be there, but for a LiDAR's prior."""
    camera_from_lidar: Float64[np.ndarray, "4 4"]
    """From the LiDAR at its own time to the camera at its exposure."""


@dataclass(frozen=True)
class PriorPicture:
    """One camera's picture of a keyframe."""

    root: Path
    """The data set's folder."""
    token: str
    """Of the sample: `<scene>/<sample token>`."""
    camera: str
    """Such as CAM_FRONT."""
    path: Path
    """Of the picture."""
    intrinsics: Float64[np.ndarray, "3 3"]
    """Pixels of the picture on disk from camera metres."""
    scan: PriorScan


@dataclass(frozen=True)
class PriorMaps:
    """What a source says of a picture that was resized at most."""

    depth: Float32[np.ndarray, "H W"]
    """Z-depth in metres; 0, or no finite number, where unknown."""
    features: Float32[np.ndarray, "F h w"] | None = None
    """They cover the whole picture."""


@runtime_checkable
class PriorSource(Protocol):
    """One way to know the depth of a picture."""

    @property
    def origin(self) -> CacheOrigin:
        """Name, settings and code version: what a cache of its answers is keyed by."""
        ...

    def inputs(self, picture: PriorPicture) -> tuple[Path, ...]:
        """The files that the answer depends on, the picture among them."""
        ...

    def prior(self, picture: PriorPicture) -> PriorMaps:
        """Answer a picture.

        Raises:
            InputError: If a file it needs is missing or damaged.
        """
        ...


@dataclass(frozen=True)
class FilePrior:
    """Depth that another program wrote: `<folder>/<scene>/<sample token>/<CAMERA>.npy`, metres, 0 = unknown.

    Features may stand beside it as `<CAMERA>.features.npy` (F h w); either all pictures have some, or none.
    """

    folder: Path
    """Holds a folder a scene."""

    @property
    def origin(self) -> CacheOrigin:
        """No settings: the files' contents are compared entry by entry."""
        return CacheOrigin(source="file", settings={}, code_version=1)

    def inputs(self, picture: PriorPicture) -> tuple[Path, ...]:
        """The picture, the depth, and the features if there are any."""
        depth, features = self._paths(picture)
        return (picture.path, depth, features) if features.is_file() else (picture.path, depth)

    def prior(self, picture: PriorPicture) -> PriorMaps:
        """The files' maps, checked: depth finite, not negative, of the picture's aspect within 2 %."""
        depth_path, features_path = self._paths(picture)
        depth, (height, width) = read_depth(depth_path), read_image_size(picture.path)
        aspect = depth.shape[1] * height / (depth.shape[0] * width)
        if not 0.98 < aspect < 1.02:
            raise InputError(
                f"the depth is {depth.shape[0]}x{depth.shape[1]}, the picture {height}x{width}",
                where=depth_path,
                rule="a prior covers the whole picture, which was resized at most",
                remedy="write the depth without crop or padding",
            )
        return PriorMaps(depth, _read_features(features_path) if features_path.is_file() else None)

    def _paths(self, picture: PriorPicture) -> tuple[Path, Path]:
        """Where depth and features of a picture lie."""
        folder = self.folder / picture.token
        return folder / f"{picture.camera}.npy", folder / f"{picture.camera}.features.npy"


@dataclass(frozen=True)
class LidarPrior:
    """The keyframe's own scan in the picture: exact, and sparse (docs/depth.md says how sparse)."""

    @property
    def origin(self) -> CacheOrigin:
        """No settings."""
        return CacheOrigin(source="lidar", settings={}, code_version=1)

    def inputs(self, picture: PriorPicture) -> tuple[Path, ...]:
        """The picture and the scan."""
        return (picture.path, picture.scan.path)

    def prior(self, picture: PriorPicture) -> PriorMaps:
        """Each pixel's nearest point."""
        scan = picture.scan
        points = read_lidar(scan.path)[:, :3].astype(np.float64)
        points_camera = points @ scan.camera_from_lidar[:3, :3].T + scan.camera_from_lidar[:3, 3]
        return PriorMaps(render_points(points_camera, picture.intrinsics, read_image_size(picture.path)))


@dataclass(frozen=True)
class TownPrior:
    """The town's exact depth with errors like a depth model's: `<root>/depth/town-exact/<CAMERA>/<picture>.npy`."""

    noise: NoiseConfig

    @property
    def origin(self) -> CacheOrigin:
        """Keyed by the amounts of noise."""
        return CacheOrigin(source="town-exact", settings=asdict(self.noise), code_version=1)

    def inputs(self, picture: PriorPicture) -> tuple[Path, ...]:
        """The picture and its exact depth."""
        return (picture.path, self._path(picture))

    def prior(self, picture: PriorPicture) -> PriorMaps:
        """Exact depth made wrong; the picture's name decides the draws."""
        exact = read_depth(self._path(picture))
        return PriorMaps(noisy_depth(exact, self.noise, f"{picture.token}/{picture.camera}"))

    @staticmethod
    def _path(picture: PriorPicture) -> Path:
        """Where `occloom town` wrote the exact depth."""
        return picture.root / TOWN_DEPTH / picture.camera / f"{picture.path.stem}.npy"


def keyframe_pictures(root: Path, keyframe: Keyframe, channels: Sequence[str]) -> tuple[PriorPicture | None, ...]:
    """The pictures of a keyframe's cameras in a given order; None where the tables or the files lack one.

    Args:
        root: The data set's folder.
        keyframe: With its cameras' and its LiDAR's recordings.
        channels: Names of cameras.
    """
    return tuple(_picture(root, keyframe, channel) for channel in channels)


def _picture(root: Path, keyframe: Keyframe, channel: str) -> PriorPicture | None:
    """One camera's picture, if it is there."""
    recording = keyframe.recordings.get(channel)
    if recording is None or recording.intrinsics is None or not recording.path.is_file():
        return None
    camera_from_lidar = np.linalg.inv(recording.global_from_sensor) @ keyframe.lidar.global_from_sensor
    return PriorPicture(
        root=root,
        token=keyframe.token,
        camera=channel,
        path=recording.path,
        intrinsics=recording.intrinsics,
        scan=PriorScan(keyframe.lidar.path, camera_from_lidar),
    )


def _read_features(path: Path) -> Float32[np.ndarray, "F h w"]:
    """Features of a `.npy` file."""
    try:
        features = np.load(path, allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise InputError("the features cannot be read", where=path, remedy="write the file again") from error
    if features.ndim != 3 or features.dtype.kind != "f" or not np.isfinite(features).all():
        raise InputError(
            f"the features are {features.dtype} with shape {features.shape}",
            where=path,
            rule="features are finite floating-point numbers with three axes: channels, height, width",
            remedy="write the file again",
        )
    return features.astype(np.float32, copy=False)
