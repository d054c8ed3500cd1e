"""Occ3D-nuScenes, read straight from nuScenes' tables and Occ3D's label files; also the town in that layout.

Documentation: docs/datasets/nuscenes.md.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float32, Float64, Int64
from torch import Tensor

from occloom.cache import Cache
from occloom.data.colour_distortion import distort_all
from occloom.data.depth_sources import nearest_points
from occloom.data.mask_cache import MaskPicture, load_masks, open_masks
from occloom.data.nuscenes_files import Keyframe, Recording, Tables, read_lidar, read_tables, scene_names
from occloom.data.occ3d_files import Mask, label_path, read_labels, read_splits
from occloom.data.occ3d_labels import OCC3D, OCC3D_GRID
from occloom.data.packed_volumes import refuse_volumes
from occloom.data.prior_cache import load_prior, open_prior, prior_folder, require_priors
from occloom.data.prior_sources import PriorPicture, keyframe_pictures
from occloom.data.sample_parts import points_of_one_sample, target_of, usable_frames
from occloom.data.surround_augment import (
    PictureChange,
    SurroundAugmentation,
    draw_change,
    exact_change,
    mirror_world,
)
from occloom.errors import InputError
from occloom.geometry.rigid import invert, transform_points
from occloom.grid import LabelSpace, VoxelGrid
from occloom.interfaces import Needs, Split
from occloom.scene import Augmentation, Cameras, Points, Sample, Scene, Target

CameraChannel = Literal["CAM_FRONT_LEFT", "CAM_FRONT", "CAM_FRONT_RIGHT", "CAM_BACK_LEFT", "CAM_BACK", "CAM_BACK_RIGHT"]
CAMERAS: tuple[CameraChannel, ...] = (
    "CAM_FRONT_LEFT",
    "CAM_FRONT",
    "CAM_FRONT_RIGHT",
    "CAM_BACK_LEFT",
    "CAM_BACK",
    "CAM_BACK_RIGHT",
)
"""nuScenes' six cameras in BEVDet's order."""


@dataclass(frozen=True)
class Occ3dConfig:
    """Occ3D-nuScenes on disk, and how to read it."""

    root: Path
    """Folder that holds samples, gts, annotations.json and the tables' folder."""
    version: str = "v1.0-trainval"
    """Name of the tables' folder."""
    image_size: tuple[int, int] = (256, 704)
    """Height and width of the pictures a model sees: scaled to the width, the lowest rows kept."""
    cameras: tuple[CameraChannel, ...] = CAMERAS
    """Cameras in the order the sample holds them."""
    keyframes: tuple[int, ...] = (0, -1, -2)
    """Keyframes to read, relative to now: 0 first, then older ones; half a second lies between two."""
    train: Literal["official"] | tuple[str, ...] = "official"
    """Scenes of the training split, such as scene-0001; "official" for annotations.json's."""
    val: Literal["official"] | tuple[str, ...] = "official"
    """Scenes of the validation split; "official" for annotations.json's."""
    test: Literal["rest"] | tuple[str, ...] = "rest"
    """Scenes of the test split; "rest" for all of the tables that are in neither of the others."""
    label_scale: Literal[1, 2, 4] = 1
    """Edge of a label voxel in voxels of 0.4 m; a coarse voxel has the majority class of its occupied ones."""
    train_mask: Mask = "camera"
    """Voxels of the training split that count: those a camera sees, those the LiDAR observed, or all."""
    val_mask: Mask = "camera"
    """Voxels of the other splits that count; the benchmark's are the camera's."""
    prior: Path | None = None
    """Prepared depth prior: a name under <root>/prior, or a folder (`occloom prepare depth-prior`)."""
    masks: Path | None = None
    """Prepared pseudo masks: a name under <root>/masks, or a folder (`occloom prepare masks`)."""
    augmentation: SurroundAugmentation = field(default_factory=SurroundAugmentation)
    """How far training samples are changed."""

    def __post_init__(self) -> None:
        descending = all(a > b for a, b in zip(self.keyframes, self.keyframes[1:], strict=False))
        if not self.keyframes or self.keyframes[0] != 0 or not descending:
            raise InputError(f"keyframes is {self.keyframes}", rule="0 comes first, then older ones, as in 0 -1 -2")
        if min(self.image_size) < 1:
            raise InputError(f"image_size is {self.image_size}", rule="height and width are at least 1")
        if not self.cameras or len(set(self.cameras)) != len(self.cameras):
            raise InputError(f"cameras is {self.cameras}", rule="it names one camera or more, none of them twice")

    def build(self, split: Split, needs: Needs) -> "Occ3d":
        """Open a split, loading of each sample only what is needed.

        Raises:
            InputError: If files are missing or damaged, or the model needs what nuScenes does not have.
        """
        return Occ3d(self, split, needs)

    @property
    def grid(self) -> VoxelGrid:
        """Of the labels, at their scale."""
        return OCC3D_GRID.coarsen((self.label_scale, self.label_scale, self.label_scale))

    @property
    def label_space(self) -> LabelSpace:
        """Of the labels."""
        return OCC3D

    @property
    def num_frames(self) -> int:
        """T."""
        return len(self.keyframes)

    @property
    def num_cameras(self) -> int:
        """N."""
        return len(self.cameras)

    def scenes(self, split: Split) -> tuple[str, ...]:
        """Names of a split's scenes.

        Raises:
            InputError: If annotations.json is needed and cannot be read.
        """
        named = {"train": self.train, "val": self.val, "test": self.test}[split]
        if not isinstance(named, str):
            return named
        if split != "test":
            return read_splits(self.root)[split]
        others = {*self.scenes("train"), *self.scenes("val")}
        return tuple(name for name in scene_names(self.root, self.version) if name not in others)


@dataclass(frozen=True)
class _Moment:
    """One keyframe of a temporal window."""

    keyframe: Keyframe
    valid: bool
    now_from_then: Float64[Tensor, "4 4"]
    seconds: float


class Occ3d:
    """One split: the keyframes of its scenes, scene by scene in the order of time.

    Keyframes without any picture of now (where images are needed) or, in a labelled split, without labels are left out
    and named in `skipped`. A split in which no keyframe has labels is unlabelled: its targets are None. Where only
    some cameras' pictures are there, the keyframe stays, the others are `camera_valid` False and named in `incomplete`.
    """

    def __init__(self, config: Occ3dConfig, split: Split, needs: Needs) -> None:
        """Use `Occ3dConfig.build`."""
        if needs.depth:
            raise InputError(
                "the model needs estimated depth of every picture, which this reader does not have",
                rule="nuScenes has no stereo pair",
                remedy="use a model that estimates depth by itself, or one that takes a depth prior",
            )
        refuse_volumes(needs, config.root)
        self.config, self.split, self.needs = config, split, needs
        self.grid: VoxelGrid = config.grid
        self.label_space: LabelSpace = config.label_space
        self._tables = _read(config, split)
        keyframes = [keyframe for scene in self._tables.scenes.values() for keyframe in scene]
        self.labelled = any(label_path(config.root, keyframe.token).is_file() for keyframe in keyframes)
        self.skipped: Mapping[str, str]
        self._keyframes, self.skipped = usable_frames(keyframes, self._reason_to_skip, split=split, root=config.root)
        self.tokens: tuple[str, ...] = tuple(keyframe.token for keyframe in self._keyframes)
        self.incomplete: Mapping[str, tuple[str, ...]] = self._missing_pictures() if needs.images else {}
        self._prior: Cache | None = None
        if needs.prior_depth or needs.prior_features:
            self._prior = open_prior(None if config.prior is None else prior_folder(config.root, config.prior))
            for index in range(len(self)):
                require_priors(self._prior, self.prior_pictures(index))
        self._masks: Cache | None = None
        if split == "train" and needs.pseudo_masks:
            pictures = [picture for keyframe in self._keyframes for picture in self._mask_pictures(keyframe) if picture]
            self._masks = open_masks(config.root, config.masks, pictures)
        if self._reads_points_now:
            for keyframe in self._keyframes:
                _require_sweep(keyframe)

    def __len__(self) -> int:
        """Number of samples."""
        return len(self._keyframes)

    def sample(self, index: int, rng: np.random.Generator | None = None) -> Sample:
        """One sample as a batch of one; augmented with `rng`, exact without. Calibration is float64.

        Raises:
            InputError: If a file is missing or damaged.
        """
        now, knobs = self._keyframes[index], self.config.augmentation
        changes = [self._change(now.recordings.get(channel), rng) for channel in self.config.cameras]
        scene = self._scene(self._window(now), changes)
        target = self.target(index)
        if target is not None and self._has_true_depth:
            target = replace(target, depth=self._true_depth(now, scene))
        if target is not None and self._masks is not None:
            target = replace(target, pseudo_masks=self._pseudo_masks(self._masks, now, changes))
        if self._prior is not None:
            features = self.needs.prior_features
            scene = replace(scene, prior=load_prior(self._prior, self.prior_pictures(index), features=features))
        if rng is not None and knobs.colours is not None and scene.images is not None:
            scene = replace(scene, images=distort_all(scene.images, scene.frame_valid, rng, knobs.colours))
        sample = Sample(scene=scene, target=target, tokens=(now.token,))
        if rng is None:
            return sample
        along_x, along_y = rng.random() < knobs.flip_x, rng.random() < knobs.flip_y
        return mirror_world(sample, self.grid, along_x=along_x, along_y=along_y)

    def target(self, index: int) -> Target | None:
        """What is true of a sample's voxels; None in an unlabelled split.

        Raises:
            InputError: If a file is missing or damaged.
        """
        if not self.labelled:
            return None
        labels = read_labels(label_path(self.config.root, self.tokens[index]))
        mask = self.config.train_mask if self.split == "train" else self.config.val_mask
        return target_of(labels.counted(mask), OCC3D, scale=self.config.label_scale, reduction="majority")

    def prior_pictures(self, index: int) -> tuple[PriorPicture | None, ...]:
        """What a depth prior of the sample's present pictures is made from; None for a picture that is missing."""
        return keyframe_pictures(self.config.root, self._keyframes[index], self.config.cameras)

    @property
    def _has_true_depth(self) -> bool:
        return self.split == "train" and self.needs.true_depth

    @property
    def _reads_points_now(self) -> bool:
        return self.needs.points or self._has_true_depth

    def _mask_pictures(self, keyframe: Keyframe) -> tuple[MaskPicture | None, ...]:
        """What pseudo masks of a keyframe's pictures are made from; None for a picture that is missing."""
        return mask_pictures(self.config.root, keyframe, self.config.cameras)

    def _pseudo_masks(self, cache: Cache, now: Keyframe, changes: list[PictureChange]) -> Int64[Tensor, "1 N H W"]:
        """The segments of the present pictures, changed as these are."""
        pairs = zip(self._mask_pictures(now), changes, strict=True)
        size = self.config.image_size
        return torch.stack([load_masks(cache, each, change.picture_from_source, size) for each, change in pairs])[None]

    def _reason_to_skip(self, keyframe: Keyframe) -> str:
        """Why a keyframe cannot be used; empty where it can."""
        if self.labelled and not label_path(self.config.root, keyframe.token).is_file():
            return "no labels"
        return "no picture" if self.needs.images and not self._has_picture(keyframe) else ""

    def _pictures(self, keyframe: Keyframe) -> list[Path | None]:
        """Each camera's picture; None where it is missing."""
        recordings = [keyframe.recordings.get(channel) for channel in self.config.cameras]
        return [each.path if each is not None and each.path.is_file() else None for each in recordings]

    def _has_picture(self, keyframe: Keyframe) -> bool:
        """Whether any camera has a picture."""
        return any(path is not None for path in self._pictures(keyframe))

    def _missing_pictures(self) -> dict[str, tuple[str, ...]]:
        """Cameras without a picture of now, by the sample's token."""
        missing = {}
        for keyframe in self._keyframes:
            pictures = zip(self.config.cameras, self._pictures(keyframe), strict=True)
            channels = tuple(channel for channel, path in pictures if path is None)
            if channels:
                missing[keyframe.token] = channels
        return missing

    def _window(self, now: Keyframe) -> list[_Moment]:
        """The keyframes to read; where one does not exist, the nearest one after it stands in."""
        moments = [_Moment(now, True, torch.eye(4, dtype=torch.float64), 0.0)]
        now_from_global = invert(torch.from_numpy(now.lidar.global_from_ego))
        then: Keyframe | None = now
        for offset, later in zip(self.config.keyframes[1:], self.config.keyframes, strict=False):
            for _ in range(later - offset):
                then = self._tables.before(then) if then is not None else None
            if then is None or (self.needs.images and not self._has_picture(then)):
                moments.append(replace(moments[-1], valid=False))
                continue
            now_from_then = now_from_global @ torch.from_numpy(then.lidar.global_from_ego)
            seconds = (then.lidar.timestamp - now.lidar.timestamp) * 1e-6
            moments.append(_Moment(then, True, now_from_then, seconds))
        return moments

    def _change(self, recording: Recording | None, rng: np.random.Generator | None) -> PictureChange:
        """What is done to the pictures of a camera; the same number of draws for each."""
        source, target = self.config.image_size if recording is None else recording.size, self.config.image_size
        if min(source) < 1:
            raise InputError(
                f"{recording.path.name if recording else ''} has height {source[0]} and width {source[1]}",
                where=self._tables.folder / "sample_data.json",
                rule="a camera's row names height and width of its picture",
                remedy="fetch the table again",
            )
        return (
            exact_change(source, target) if rng is None else draw_change(rng, self.config.augmentation, source, target)
        )

    def _scene(self, window: list[_Moment], changes: list[PictureChange]) -> Scene:
        """What the model may see of a window."""
        now_from_then = torch.stack([moment.now_from_then for moment in window])[None]
        times = torch.tensor([[moment.seconds for moment in window]], dtype=torch.float64)
        picture_from_source = torch.stack([change.picture_from_source for change in changes])
        shape = (1, len(window), len(changes))
        images, camera_valid = self._images(window, changes)
        return Scene(
            cameras=self._cameras(window, picture_from_source),
            now_from_then=now_from_then,
            time=times,
            frame_valid=torch.tensor([[moment.valid for moment in window]]),
            camera_valid=camera_valid,
            images=images,
            points=self._points(window) if self.needs.points else None,
            augmentation=Augmentation(
                picture_from_source=picture_from_source.expand(*shape, 3, 3).clone(),
                ego_from_source=torch.eye(4, dtype=torch.float64)[None],
            ),
        )

    def _cameras(self, window: list[_Moment], picture_from_source: Float64[Tensor, "N 3 3"]) -> Cameras:
        """Each camera at each moment, seen from the present ego frame; a camera without a row stands at its origin."""
        shape = (1, len(window), len(self.config.cameras))
        intrinsics = torch.eye(3, dtype=torch.float64).expand(*shape, 3, 3).clone()
        camera_from_ego = torch.eye(4, dtype=torch.float64).expand(*shape, 4, 4).clone()
        times = torch.tensor([moment.seconds for moment in window], dtype=torch.float64)[None, :, None].repeat(
            1, 1, shape[2]
        )
        now = window[0].keyframe.lidar
        for t, moment in enumerate(window):
            for n, channel in enumerate(self.config.cameras):
                recording = moment.keyframe.recordings.get(channel)
                if recording is None:
                    continue
                if recording.intrinsics is None:
                    raise InputError(
                        f"{channel} has no camera_intrinsic",
                        where=self._tables.folder / "calibrated_sensor.json",
                        rule="a camera has a matrix of 3x3",
                        remedy="fetch the table again",
                    )
                intrinsics[0, t, n] = torch.from_numpy(recording.intrinsics)
                camera_from_global = invert(torch.from_numpy(recording.global_from_sensor))
                camera_from_ego[0, t, n] = camera_from_global @ torch.from_numpy(now.global_from_ego)
                times[0, t, n] = (recording.timestamp - now.timestamp) * 1e-6
        return Cameras(intrinsics=picture_from_source @ intrinsics, camera_from_ego=camera_from_ego, time=times)

    def _images(
        self, window: list[_Moment], changes: list[PictureChange]
    ) -> tuple[Float32[Tensor, "1 T N 3 H W"] | None, Bool[Tensor, "1 T N"]]:
        """The window's pictures, black where one is missing, and which are there."""
        shape = (1, len(window), len(changes))
        if not self.needs.images:
            return None, torch.ones(shape, dtype=torch.bool)
        images, valid = torch.zeros(*shape, 3, *self.config.image_size), torch.zeros(shape, dtype=torch.bool)
        for t, moment in enumerate(window):
            if not moment.valid:
                images[:, t], valid[:, t] = images[:, t - 1], valid[:, t - 1]
                continue
            for n, (path, change) in enumerate(zip(self._pictures(moment.keyframe), changes, strict=True)):
                if path is not None:
                    images[0, t, n], valid[0, t, n] = change.image(path), True
        return images, valid

    def _points(self, window: list[_Moment]) -> Points:
        """The LiDAR points of the window's keyframes, in the present ego frame; intensity is scaled to [0, 1]."""
        positions, features, times = [], [], []
        for moment in window:
            if moment.valid and (moment.seconds == 0 or moment.keyframe.lidar.path.is_file()):
                sweep = torch.from_numpy(read_lidar(moment.keyframe.lidar.path))
                now_from_sensor = moment.now_from_then @ torch.from_numpy(moment.keyframe.lidar.ego_from_sensor)
                positions.append(transform_points(now_from_sensor, sweep[:, :3].double()).float())
                features.append(sweep[:, 3:4] / 255)
                times.append(torch.full((len(sweep),), moment.seconds))
        return points_of_one_sample(positions, features, times)

    def _true_depth(self, now: Keyframe, scene: Scene) -> Float32[Tensor, "1 N H W"]:
        """The LiDAR's depth in each present picture, where the car stood at the camera's exposure; nearest ones win."""
        sweep = torch.from_numpy(read_lidar(now.lidar.path)[:, :3]).double()
        points_ego = transform_points(torch.from_numpy(now.lidar.ego_from_sensor), sweep)
        depth = np.zeros((1, len(self.config.cameras), *self.config.image_size), dtype=np.float32)
        for n in torch.nonzero(scene.camera_valid[0, 0]).flatten().tolist():
            points_camera = transform_points(scene.cameras.camera_from_ego[0, 0, n], points_ego).numpy()
            nearest = nearest_points(points_camera, scene.cameras.intrinsics[0, 0, n].numpy(), self.config.image_size)
            hit = nearest >= 0
            depth[0, n][hit] = points_camera[nearest[hit], 2]
        return torch.from_numpy(depth)


def mask_pictures(root: Path, keyframe: Keyframe, channels: Sequence[str]) -> tuple[MaskPicture | None, ...]:
    """The pictures of a keyframe's cameras as pseudo masks are made from them; None where one is missing."""
    recordings = [keyframe.recordings.get(channel) for channel in channels]
    return tuple(
        MaskPicture(root, keyframe.token, channel, each.path) if each is not None and each.path.is_file() else None
        for channel, each in zip(channels, recordings, strict=True)
    )


def _read(config: Occ3dConfig, split: Split) -> Tables:
    """The tables' part that a split reads."""
    names = config.scenes(split)
    tables = read_tables(config.root, config.version, scenes=names, channels=config.cameras)
    missing = [name for name in names if name not in tables.scenes]
    if missing or not names:
        there = scene_names(config.root, config.version)
        raise InputError(
            f"no scene {missing[0]} ({len(missing)} of {len(names)} are missing)"
            if missing
            else f"{split} has no scene",
            where=tables.folder,
            rule=f"the tables there hold {len(there)} scenes, such as {', '.join(there[:3]) or 'none'}",
            remedy=f"check root and version, or name scenes that are there with --data.{split}",
        )
    return tables


def _require_sweep(keyframe: Keyframe) -> None:
    """Refuse a keyframe whose LiDAR sweep is missing."""
    if not keyframe.lidar.path.is_file():
        raise InputError(
            f"no LiDAR sweep for {keyframe.token}",
            where=keyframe.lidar.path,
            rule="the model reads points, or is trained with their depth",
            remedy="complete the download of samples/LIDAR_TOP",
        )
