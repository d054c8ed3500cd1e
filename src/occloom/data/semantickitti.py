"""SemanticKITTI's semantic scene completion, read from the official layout.

Also reads the same layout written by `occloom town`, and accumulated labels in `voxels_derived/*.npz` where official
ones are missing. Documentation: docs/datasets/semantickitti.md.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal
from zipfile import BadZipFile

import numpy as np
import torch
from jaxtyping import Bool, Float64, Int64, UInt8, UInt16
from torch import Tensor

from occloom.cache import Cache
from occloom.data.image_label_cache import image_label_entry, load_image_labels, open_image_labels
from occloom.data.image_truth import image_labels, true_depth
from occloom.data.kitti_files import (
    Calibration,
    KittiFrame,
    read_calibration,
    read_image_size,
    read_poses,
    read_times,
    read_voxel_bits,
    read_voxel_labels,
    require_row,
    velodyne_poses,
)
from occloom.data.label_spaces import IGNORED, OCCUPANCY, SEMANTIC_KITTI, SEMANTIC_KITTI_GRID, to_train_ids
from occloom.data.mask_cache import MaskPicture, load_masks, open_masks
from occloom.data.packed_volumes import PSEUDO_VOXELS, QUERIES, VolumeKind, open_volumes
from occloom.data.pictures import ImageFit, PictureFit
from occloom.data.sample_parts import (
    LabelReduction,
    TimedScan,
    augment,
    load_depth,
    load_pictures,
    load_points,
    require_depth,
    target_of,
    usable_frames,
)
from occloom.data.teacher_feature_cache import load_teacher_volume, open_teacher_features, teacher_feature_entry
from occloom.data.voxel_release import require_present_release
from occloom.errors import InputError
from occloom.grid import LabelSpace, VoxelGrid
from occloom.interfaces import Needs, Split
from occloom.scene import Cameras, Points, Sample, Scene, Target

CameraName = Literal["image_2", "image_3"]


@dataclass(frozen=True)
class SemanticKittiConfig:
    """SemanticKITTI on disk, and how to read it."""

    root: Path
    """Folder that holds `sequences`."""
    image_size: tuple[int, int] = (370, 1220)
    """Height and width of the pictures a model sees."""
    image_fit: ImageFit = "resize"
    """"resize" scales each axis to image_size; "crop" keeps the upper left part (MonoScene and VoxFormer: 370 1220);
    "width" scales to the width, then keeps the lowest rows or adds black ones on top (VoxDet: 384 1280);
    "released-width" does so bicubically, for VoxDet's published weights."""
    cameras: tuple[CameraName, ...] = ("image_2",)
    """Left (image_2) and right (image_3) colour camera, in the order the sample holds them."""
    frames: tuple[int, ...] = (0,)
    """Scans to read, relative to now: 0 first, then older ones, such as 0 -3 -6."""
    train: tuple[str, ...] = ("00", "01", "02", "03", "04", "05", "06", "07", "09", "10")
    """Sequences of the training split."""
    train_frames: Literal["voxels", "pictures"] = "voxels"
    """Frames of the training split: those with voxels (each fifth scan), or all with a picture and what the model needs
    besides; where such a frame has no voxel labels, no voxel of its target is observed."""
    val: tuple[str, ...] = ("08",)
    """Sequences of the validation split."""
    test: tuple[str, ...] = ("11", "12", "13", "14", "15", "16", "17", "18", "19", "20", "21")
    """Sequences of the test split."""
    depth: Path | None = None
    """Prepared depth of image_2: a name under <root>/depth (stereo-sgbm), or a folder that holds `sequences`."""
    image_labels: Path | None = None
    """Prepared classes of pixels: a name under <root>/image_labels (`occloom prepare image-labels`), or a folder. None
    for those of the present scan alone."""
    label_sweeps: tuple[int, ...] = (0,)
    """Scans that `image_labels` were made of; a folder made of others is refused."""
    teacher_features: Path | None = None
    """Prepared features of a teacher: a name under <root>/teacher_features (`occloom prepare teacher-features`), or a
    folder."""
    teacher_weights: Path | None = None
    """Weights (.safetensors) of the teacher that `teacher_features` must be of; None for any."""
    masks: Path | None = None
    """Prepared pseudo masks: a name under <root>/masks (`occloom prepare masks`), or a folder."""
    pseudo_voxels: Path | None = None
    """Prepared pseudo voxels: a name under <root>/pseudo_voxels (stereo-sgbm), or a folder of them."""
    queries: Path | None = None
    """Prepared queries: a name under <root>/queries (raw-stereo-sgbm), or a folder of them."""
    camera_offset: bool = True
    """Whether P2's fourth column moves the camera (exact), or is left out as in the MonoScene family."""
    label_scale: Literal[1, 2, 4, 8] = 1
    """Edge of a label voxel in voxels of 0.2 m."""
    label_reduction: LabelReduction = "majority"
    """Rule for label_scale above 1: LMSCNet's or MonoScene's."""
    classes: Literal["all", "occupancy"] = "all"
    """"occupancy" joins all classes but empty into one, after the labels are reduced."""
    flip_probability: float = 0.5
    """Share of training samples that are mirrored left to right."""
    colour_jitter: float = 0.4
    """Largest relative change of brightness, contrast and saturation in training samples."""

    def __post_init__(self) -> None:
        descending = all(a > b for a, b in zip(self.frames, self.frames[1:], strict=False))
        if not self.frames or self.frames[0] != 0 or not descending:
            raise InputError(f"frames is {self.frames}", rule="0 comes first, then older scans, as in 0 -3 -6")
        if min(self.image_size) < 1:
            raise InputError(f"image_size is {self.image_size}", rule="height and width are at least 1")
        if not self.cameras:
            raise InputError("cameras is empty", rule="it names image_2, image_3 or both")

    def build(self, split: Split, needs: Needs) -> "SemanticKitti":
        """Open a split, loading of each sample only what is needed.

        Raises:
            InputError: If files are missing, damaged, or of the release of before August 2020.
        """
        return SemanticKitti(self, split, needs)

    @property
    def grid(self) -> VoxelGrid:
        """Of the labels, at their scale."""
        return SEMANTIC_KITTI_GRID.coarsen((self.label_scale, self.label_scale, self.label_scale))

    @property
    def label_space(self) -> LabelSpace:
        """Of the labels."""
        return OCCUPANCY if self.classes == "occupancy" else SEMANTIC_KITTI

    @property
    def num_frames(self) -> int:
        """T."""
        return len(self.frames)

    @property
    def num_cameras(self) -> int:
        """N."""
        return len(self.cameras)

    @property
    def depth_folder(self) -> Path | None:
        """Where the prepared depth lies."""
        return self._prepared("depth", self.depth)

    @property
    def image_label_folder(self) -> Path | None:
        """Where the prepared classes of pixels lie."""
        return self._prepared("image_labels", self.image_labels)

    @property
    def teacher_feature_folder(self) -> Path | None:
        """Where the prepared features of a teacher lie."""
        return self._prepared("teacher_features", self.teacher_features)

    def _prepared(self, kind: str, named: Path | None) -> Path | None:
        """A folder by its name among those of a kind, or any folder."""
        return self.root / kind / named if named is not None and len(named.parts) == 1 else named


@dataclass(frozen=True)
class _Sequence:
    """What a sequence's samples share."""

    calibration: Calibration
    poses: Float64[np.ndarray, "N 4 4"]
    """Velodyne of each frame in that of the first; empty where only the present frame is read."""
    times: Float64[np.ndarray, " M"]
    """One a row of times.txt; seconds."""
    picture_size: tuple[int, int] | None
    """Height and width on disk, where there is a picture."""


@dataclass(frozen=True)
class _Moment:
    """One frame of a temporal window."""

    frame: KittiFrame
    valid: bool
    now_from_then: Float64[np.ndarray, "4 4"]
    seconds: float


class SemanticKitti:
    """One split: every frame that has voxels (each fifth scan), or in training those of `train_frames`, in order.

    Frames without a picture of now (where images are needed) or, in a labelled split, without labels are left out and
    named in `skipped`. A split in which no frame has labels is unlabelled: its targets are None.
    """

    def __init__(self, config: SemanticKittiConfig, split: Split, needs: Needs) -> None:
        """Use `SemanticKittiConfig.build`."""
        self.config, self.split, self.needs = config, split, needs
        self.grid: VoxelGrid = config.grid
        self.label_space: LabelSpace = config.label_space
        names = {"train": config.train, "val": config.val, "test": config.test}[split]
        self._every_picture = split == "train" and config.train_frames == "pictures"
        listed_by = config.cameras[0] if self._every_picture else "voxels"
        frames = [frame for name in names for frame in _frames_with(listed_by, config.root, name)]
        self.labelled = self._every_picture or any(_label_file(frame) is not None for frame in frames)
        # Opened before frames are chosen: where nothing is prepared, that is said, not that no frame is left.
        self._volumes = [
            open_volumes(kind, config.root, named)
            for kind, named, needed in (
                (PSEUDO_VOXELS, config.pseudo_voxels, needs.pseudo_voxels),
                (QUERIES, config.queries, needs.proposals),
            )
            if needed
        ]
        self.skipped: Mapping[str, str]
        self._frames, self.skipped = usable_frames(frames, self._reason_to_skip, split=split, root=config.root)
        self.tokens: tuple[str, ...] = tuple(frame.token for frame in self._frames)
        self._sequences = {name: self._open(name) for name in dict.fromkeys(f.sequence for f in self._frames)}
        self._check_releases()
        self._image_labels = self._open_image_labels()
        self._masks: Cache | None = None
        if split == "train" and needs.pseudo_masks:
            pictures = [each for frame in self._frames for each in self._mask_pictures(frame) if each is not None]
            self._masks = open_masks(config.root, config.masks, pictures)
        self._teacher_features = self._open_teacher_features()
        self._depth_cache: Cache | None = None
        if needs.depth:
            read = [moment.frame for frame in self._frames for moment in self._window(frame)]
            folder, cameras = config.depth_folder, config.cameras
            self._depth_cache = require_depth(folder, self._frames, read, cameras=cameras, left="image_2")
        for volumes in self._volumes:
            volumes.require(self._frames)

    def __len__(self) -> int:
        """Number of samples."""
        return len(self._frames)

    def sample(self, index: int, rng: np.random.Generator | None = None) -> Sample:
        """One sample as a batch of one; augmented with `rng`, exact without. Calibration is float64.

        Raises:
            InputError: If a file is missing or damaged.
        """
        frame = self._frames[index]
        window = self._window(frame)
        sample = Sample(scene=self._scene(frame, window), target=self.target(index), tokens=(frame.token,))
        if rng is None:
            return sample
        return augment(
            sample,
            rng,
            self.grid,
            width=self.config.image_size[1],
            flip_probability=self.config.flip_probability,
            colour_jitter=self.config.colour_jitter,
        )

    def target(self, index: int) -> Target | None:
        """What is true of a sample; None in an unlabelled split.

        Raises:
            InputError: If a file is missing or damaged.
        """
        if not self.labelled:
            return None
        frame = self._frames[index]
        target = target_of(
            _train_labels(frame),
            SEMANTIC_KITTI,
            scale=self.config.label_scale,
            reduction=self.config.label_reduction,
        )
        if self.config.classes == "occupancy":
            target = replace(target, labels=(target.labels != SEMANTIC_KITTI.empty).long())
        return self._with_image_truth(target, frame) if self.split == "train" else target

    def _with_image_truth(self, target: Target, frame: KittiFrame) -> Target:
        """The target with the depth and the classes of the pictures' pixels, where a loss asks for them."""
        sequence = self._sequences[frame.sequence]
        fit, cameras = self._fit(sequence), [int(camera[-1]) for camera in self.config.cameras]
        if self.needs.true_depth:
            depths = [true_depth(frame, sequence.calibration, camera, fit) for camera in cameras]
            target = replace(target, depth=torch.stack(depths)[None])
        if self.needs.image_labels:
            target = replace(target, image_labels=self._pixel_classes(frame, sequence.calibration, fit))
        if self._masks is not None:
            target = replace(target, pseudo_masks=self._pseudo_masks(self._masks, frame, fit))
        if self._teacher_features is not None:
            target = replace(target, teacher_volume=load_teacher_volume(self._teacher_features, frame))
        return target

    def _pixel_classes(self, frame: KittiFrame, calibration: Calibration, fit: PictureFit) -> Int64[Tensor, "1 N H W"]:
        """Prepared ones, or those of the present scan."""
        cameras, cache = self.config.cameras, self._image_labels
        if cache is not None:
            return torch.stack([load_image_labels(cache, frame, camera, fit) for camera in cameras])[None]
        return torch.stack([image_labels(frame, calibration, int(camera[-1]), fit) for camera in cameras])[None]

    def _mask_pictures(self, frame: KittiFrame) -> list[MaskPicture | None]:
        """What pseudo masks of a frame's pictures are made from; None for a picture that is missing."""
        paths = [frame.file(camera, ".png") for camera in self.config.cameras]
        return [
            MaskPicture(frame.root, frame.token, path.parent.name, path) if path.is_file() else None for path in paths
        ]

    def _pseudo_masks(self, cache: Cache, frame: KittiFrame, fit: PictureFit) -> Int64[Tensor, "1 N H W"]:
        """The segments of the present pictures, fitted as these are."""
        picture_from_source = fit.intrinsics(torch.eye(3, dtype=torch.float64))
        pictures = self._mask_pictures(frame)
        return torch.stack([load_masks(cache, each, picture_from_source, fit.target) for each in pictures])[None]

    def _open_image_labels(self) -> Cache | None:
        """The prepared classes of pixels with an entry for each picture; None where none are asked for or named."""
        folder = self.config.image_label_folder
        if folder is None or self.split != "train" or not self.needs.image_labels:
            return None
        cache = open_image_labels(folder, self.config.label_sweeps)
        for frame in self._frames:
            for camera in self.config.cameras:
                cache.require_whole(image_label_entry(frame, camera))
        return cache

    def _open_teacher_features(self) -> Cache | None:
        """The prepared features of a teacher with an entry for each frame; None where none are asked for."""
        if self.split != "train" or not self.needs.teacher_features:
            return None
        cache = open_teacher_features(self.config.teacher_feature_folder, self.config.teacher_weights)
        for frame in self._frames:
            cache.require_whole(teacher_feature_entry(frame))
        return cache

    def _fit(self, sequence: _Sequence) -> PictureFit:
        """How the sequence's pictures become those that a model sees."""
        return PictureFit(
            sequence.picture_size or self.config.image_size, self.config.image_size, self.config.image_fit
        )

    def _reason_to_skip(self, frame: KittiFrame) -> str:
        """Why a frame cannot be used; empty where it can."""
        if self.labelled and not self._every_picture and _label_file(frame) is None:
            return "no voxel labels"
        if self.needs.images and not self._has_picture(frame):
            return "no picture"
        if not frame.left.is_file() and any(volumes.path(frame) is None for volumes in self._volumes):
            return "no picture to prepare pseudo voxels of"
        from_scan = self.needs.image_labels and self.config.image_labels is None
        image_truth = self.split == "train" and (self.needs.true_depth or from_scan)
        if (self.needs.points or image_truth) and not frame.file("velodyne", ".bin").is_file():
            return "no scan"
        if image_truth and from_scan and not frame.file("labels", ".label").is_file():
            return "no point labels"
        return ""

    def _has_picture(self, frame: KittiFrame) -> bool:
        """Whether any camera has a picture."""
        return any(frame.file(camera, ".png").is_file() for camera in self.config.cameras)

    def _exists(self, past: KittiFrame) -> bool:
        """Whether a past frame is there: its picture where pictures are read, else its scan."""
        return self._has_picture(past) if self.needs.images else past.file("velodyne", ".bin").is_file()

    def _open(self, name: str) -> _Sequence:
        """Read what a sequence's samples share."""
        folder = self.config.root / "sequences" / name
        calibration = read_calibration(folder / "calib.txt")
        temporal = len(self.config.frames) > 1
        poses = velodyne_poses(read_poses(folder / "poses.txt"), calibration) if temporal else np.zeros((0, 4, 4))
        times = read_times(folder / "times.txt") if temporal else np.zeros(0)
        first = next(iter(sorted((folder / self.config.cameras[0]).glob("*.png"))), None)
        size = None
        if first is not None:
            size = read_image_size(first)
        return _Sequence(calibration=calibration, poses=poses, times=times, picture_size=size)

    def _check_releases(self) -> None:
        """Refuse voxels of the old release."""
        with_voxels = [frame for frame in reversed(self._frames) if frame.file("voxels", ".bin").is_file()]
        for frame in {frame.sequence: frame for frame in with_voxels}.values():
            require_present_release(frame, SEMANTIC_KITTI_GRID)

    def _window(self, now: KittiFrame) -> list[_Moment]:
        """The frames to read; where one does not exist, the nearest one after it stands in."""
        sequence = self._sequences[now.sequence]
        moments = [_Moment(frame=now, valid=True, now_from_then=np.eye(4), seconds=0.0)]
        present = int(now.name)
        for offset in self.config.frames[1:]:
            then = present + offset
            frame = KittiFrame(now.root, now.sequence, f"{then:06d}")
            if then < 0 or not self._exists(frame):
                nearest = moments[-1]
                moments.append(_Moment(nearest.frame, False, nearest.now_from_then, nearest.seconds))
                continue
            for file, rows in (("poses.txt", sequence.poses), ("times.txt", sequence.times)):
                require_row(rows, now.folder / file, now.name)
            now_from_then = np.linalg.inv(sequence.poses[present]) @ sequence.poses[then]
            seconds = float(sequence.times[then] - sequence.times[present])
            moments.append(_Moment(frame=frame, valid=True, now_from_then=now_from_then, seconds=seconds))
        return moments

    def _scene(self, now: KittiFrame, window: list[_Moment]) -> Scene:
        """What the model may see of a window."""
        sequence = self._sequences[now.sequence]
        fit = self._fit(sequence)
        now_from_then = torch.from_numpy(np.stack([moment.now_from_then for moment in window]))
        times = torch.tensor([[moment.seconds for moment in window]], dtype=torch.float64)
        images, camera_valid = self._images(window, fit)
        return Scene(
            cameras=self._cameras(sequence.calibration, fit, now_from_then, times),
            now_from_then=now_from_then[None],
            time=times,
            frame_valid=torch.tensor([[moment.valid for moment in window]]),
            camera_valid=camera_valid,
            images=images,
            depth=self._depth(window, fit) if self.needs.depth else None,
            points=_points(window) if self.needs.points else None,
            pseudo_voxels=self._volume(PSEUDO_VOXELS, now),
            proposals=self._volume(QUERIES, now),
        )

    def _cameras(self, calibration: Calibration, fit: PictureFit, now_from_then: Tensor, times: Tensor) -> Cameras:
        """Each camera at each moment, seen from the present ego frame."""
        numbers = [int(camera[-1]) for camera in self.config.cameras]
        intrinsics = torch.stack([fit.intrinsics(torch.from_numpy(calibration.intrinsics(n))) for n in numbers])
        from_velodyne = [calibration.camera_from_velodyne(n) for n in numbers]
        if not self.config.camera_offset:
            # The whole rig moves by P2's offset: image_2 then stands in camera 0, and the stereo baseline stays.
            shift = calibration.camera0_from_velodyne[:3, 3] - calibration.camera_from_velodyne(2)[:3, 3]
            for transform in from_velodyne:
                transform[:3, 3] += shift
        then_from_now = torch.linalg.inv(now_from_then)
        camera_from_ego = torch.from_numpy(np.stack(from_velodyne)) @ then_from_now[:, None]
        frames, cameras = camera_from_ego.shape[:2]
        return Cameras(
            intrinsics=intrinsics.expand(1, frames, cameras, 3, 3).clone(),
            camera_from_ego=camera_from_ego[None],
            time=times[..., None].expand(1, frames, cameras).clone(),
        )

    def _images(self, window: list[_Moment], fit: PictureFit) -> tuple[Tensor | None, Bool[Tensor, "1 T N"]]:
        """The window's pictures, black where one camera's is missing, and which are there."""
        shape = (1, len(window), len(self.config.cameras))
        if not self.needs.images:
            return None, torch.ones(shape, dtype=torch.bool)
        paths = [[moment.frame.file(camera, ".png") for camera in self.config.cameras] for moment in window]
        return load_pictures(paths, fit)

    def _depth(self, window: list[_Moment], fit: PictureFit) -> Tensor:
        """Depth of image_2 at each moment; unknown (0) for the other camera."""
        folder, frames = self.config.depth_folder, [moment.frame for moment in window]
        return load_depth(folder, self._depth_cache, frames, fit, cameras=self.config.cameras, left="image_2")

    def _volume(self, kind: VolumeKind, now: KittiFrame) -> Bool[Tensor, "1 X Y Z"] | None:
        """The frame's pseudo voxels or queries, where they are needed."""
        opened = next((volumes for volumes in self._volumes if volumes.kind == kind), None)
        return None if opened is None else opened.read(now)


def _frames_with(kind: Literal["voxels", "image_2", "image_3"], root: Path, sequence: str) -> list[KittiFrame]:
    """The frames of a sequence that have voxels or a picture."""
    folder = root / "sequences" / sequence
    files, suffixes = (folder / kind).glob("*"), (".bin", ".label") if kind == "voxels" else (".png",)
    names = {path.stem for path in files if path.suffix in suffixes and path.stem.isdigit()}
    if not names:
        parent = root / "sequences"
        there = ", ".join(sorted(p.parent.name for p in parent.glob(f"*/{kind}"))) or "none"
        raise InputError(
            f"no {kind} files" if folder.is_dir() else "no such sequence",
            where=folder,
            rule=f"a split's sequences lie in {parent} (with {kind} there: {there})",
            remedy="check root, or name the sequences that are there in train, val or test",
        )
    return [KittiFrame(root, sequence, name) for name in sorted(names)]


def _label_file(frame: KittiFrame) -> Path | None:
    """The frame's voxel labels: official ones first."""
    for path in (frame.file("voxels", ".label"), frame.file("voxels_derived", ".npz")):
        if path.is_file():
            return path
    return None


def _train_labels(frame: KittiFrame) -> UInt8[np.ndarray, "X Y Z"]:
    """Dense ids at full resolution, `IGNORED` where there is no label, it has no class, or the voxel is invalid."""
    path, shape = _label_file(frame), SEMANTIC_KITTI_GRID.shape
    if path is None:
        return np.full(shape, IGNORED, dtype=np.uint8)
    raw = read_voxel_labels(path, shape) if path.suffix == ".label" else _accumulated_labels(path)
    labels = to_train_ids(raw)
    labels[read_voxel_bits(frame.file("voxels", ".invalid"), shape)] = IGNORED
    return labels


def _accumulated_labels(path: Path) -> UInt16[np.ndarray, "X Y Z"]:
    """The raw ids in a `.npz` file of voxels_derived."""
    try:
        with np.load(path) as archive:
            raw = archive["label"]
    except (OSError, ValueError, EOFError, KeyError, TypeError, BadZipFile) as error:
        raise InputError(
            f"the labels cannot be read ({error})",
            where=path,
            rule="accumulated labels are the array `label` of a .npz archive",
            remedy="the file is damaged: make it again",
        ) from error
    if raw.shape != SEMANTIC_KITTI_GRID.shape or raw.dtype != np.uint16:
        raise InputError(
            f"the labels are {raw.dtype} with shape {raw.shape}",
            where=path,
            rule=f"raw ids are uint16 on {SEMANTIC_KITTI_GRID.shape}",
            remedy="make the file again",
        )
    return raw


def _points(window: list[_Moment]) -> Points:
    """The scan of now and what scans there are of the window's past frames, in the present ego frame."""
    return load_points(
        [
            TimedScan(moment.frame.scan, moment.now_from_then, moment.seconds)
            for t, moment in enumerate(window)
            if t == 0 or (moment.valid and moment.frame.scan.is_file())
        ]
    )
