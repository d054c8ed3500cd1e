"""The records that travel from disk to model: what may be seen (`Scene`) and what is true (`Target`).

Axis letters: B batch, T time (index 0 is now, then older), N cameras, H W image, X Y Z voxels, P points, F features.
A single sample is a batch of one. Conventions: docs/conventions.md.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import TypeVar, cast

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor

Record = TypeVar("Record", bound="TensorRecord")


@dataclass(frozen=True)
class TensorRecord:
    """A frozen dataclass of tensors and of other records."""

    def map(self: Record, function: Callable[[Tensor], Tensor]) -> Record:
        """The record with `function` applied to every tensor in it."""
        changes: dict[str, object] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Tensor):
                changes[field.name] = function(value)
            elif isinstance(value, TensorRecord):
                changes[field.name] = value.map(function)
        return replace(self, **changes)

    def to(self: Record, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Record:
        """The record on another device; `dtype` is given to its floating-point tensors only."""

        def move(tensor: Tensor) -> Tensor:
            return tensor.to(device=device, dtype=dtype if tensor.is_floating_point() else None)

        return self.map(move)

    def pin_memory(self: Record) -> Record:
        """The record in page-locked memory, for asynchronous copies to a GPU."""
        return self.map(lambda tensor: tensor.pin_memory())


def _expect(name: str, value: Tensor, expected: tuple[int, ...]) -> None:
    """Refuse a part whose leading dimensions are not those of the whole."""
    if tuple(value.shape[: len(expected)]) != expected:
        raise ValueError(f"Expected {name} to begin with shape {expected}, got {tuple(value.shape)}.")


@dataclass(frozen=True)
class Cameras(TensorRecord):
    """Pinhole cameras: OpenCV axes, pixel (0, 0) is the centre of the first pixel."""

    intrinsics: Float[Tensor, "B T N 3 3"]
    """Pixels from camera metres, for the images as they are now: resize, crop and flip are already in it."""
    camera_from_ego: Float[Tensor, "B T N 4 4"]
    """From the PRESENT ego frame to each camera at its own exposure: ego motion between the two is already in it."""
    time: Float[Tensor, "B T N"]
    """Exposure of each camera in seconds relative to now (0 or negative)."""


@dataclass(frozen=True)
class Points(TensorRecord):
    """LiDAR points of a whole batch, ragged: the batch index says whose they are."""

    positions: Float[Tensor, "P 3"]
    """In the present ego frame, in metres."""
    features: Float[Tensor, "P F"]
    """Per point; SemanticKITTI has one, the remission in [0, 1]."""
    batch_index: Int64[Tensor, " P"]
    """Which sample of the batch a point belongs to."""
    time: Float[Tensor, " P"]
    """Seconds relative to now (0 or negative)."""


@dataclass(frozen=True)
class Augmentation(TensorRecord):
    """What was done to a sample after it was read; `Cameras` already hold all of it."""

    picture_from_source: Float[Tensor, "B T N 3 3"]
    """From homogeneous pixels of the picture on disk to those of the picture as it is now: scale, crop, flip, turn."""
    ego_from_source: Float[Tensor, "B 4 4"]
    """From the recorded present ego frame to the one in use: mirrored along x, along y, along both, or neither."""


@dataclass(frozen=True)
class DepthPrior(TensorRecord):
    """What a depth model trained on other data says of the present pictures, which for it were only resized.

    The cameras' poses are `Cameras.camera_from_ego` at t = 0.
    """

    depth: Float[Tensor, "B N _ _"]
    """Z-depth in metres, 0 = unknown."""
    intrinsics: Float[Tensor, "B N 3 3"]
    """Pixels of `depth` from camera metres."""
    features: Float[Tensor, "B N F _ _"] | None = None
    """Of the depth model; they cover the whole picture, whatever their resolution."""

    def __post_init__(self) -> None:
        batch, cameras = self.depth.shape[:2]
        _expect("prior.intrinsics", self.intrinsics, (batch, cameras, 3, 3))
        if self.features is not None:
            _expect("prior.features", self.features, (batch, cameras))


@dataclass(frozen=True)
class Scene(TensorRecord):
    """What a model may look at. No label is in here, so no model can peek."""

    cameras: Cameras
    now_from_then: Float[Tensor, "B T 4 4"]
    """Ego motion: from the ego frame of frame t to the present one; the identity at t = 0."""
    time: Float[Tensor, "B T"]
    """Of each frame in seconds relative to now (0 or negative)."""
    frame_valid: Bool[Tensor, "B T"]
    """False where a past frame does not exist; what stands there repeats the nearest one."""
    camera_valid: Bool[Tensor, "B T N"]
    """False where a camera's picture is missing."""
    images: Float[Tensor, "B T N 3 H W"] | None = None
    """RGB in [0, 1]."""
    depth: Float[Tensor, "B T N H W"] | None = None
    """An input estimate (stereo, LiDAR projection, a depth model): z-depth in metres, 0 = unknown."""
    points: Points | None = None
    prior: DepthPrior | None = None
    pseudo_voxels: Bool[Tensor, "B X Y Z"] | None = None
    """Voxels at 0.2 m that a point of several frames' input depth lies in: what a query network corrects."""
    proposals: Bool[Tensor, "B x y z"] | None = None
    """Voxels, twice as large, that a query network found occupied: where VoxFormer's kind begins."""
    augmentation: Augmentation | None = None
    """None where pictures and ego frame are taken as they are."""

    def __post_init__(self) -> None:
        """Check what no single field can: that B, T and N agree between the parts."""
        batch, frames, cameras = self.cameras.intrinsics.shape[:3]
        for name, value, expected in (
            ("now_from_then", self.now_from_then, (batch, frames, 4, 4)),
            ("time", self.time, (batch, frames)),
            ("frame_valid", self.frame_valid, (batch, frames)),
            ("camera_valid", self.camera_valid, (batch, frames, cameras)),
            ("images", self.images, (batch, frames, cameras, 3)),
            ("depth", self.depth, (batch, frames, cameras)),
            ("pseudo_voxels", self.pseudo_voxels, (batch,)),
            ("proposals", self.proposals, (batch,)),
        ):
            if value is not None:
                _expect(name, value, expected)
        if self.prior is not None:
            _expect("prior.depth", self.prior.depth, (batch, cameras))
        if self.augmentation is not None:
            _expect("picture_from_source", self.augmentation.picture_from_source, (batch, frames, cameras, 3, 3))
            _expect("ego_from_source", self.augmentation.ego_from_source, (batch, 4, 4))
        if self.images is not None and self.depth is not None:
            size, depth_size = tuple(self.images.shape[-2:]), tuple(self.depth.shape[-2:])
            if size != depth_size:
                raise ValueError(f"Expected depth of the images' size {size}, got {depth_size}.")

    @property
    def batch_size(self) -> int:
        """B."""
        return self.time.shape[0]

    @property
    def camera_present(self) -> Bool[Tensor, "B N"]:
        """Cameras whose present picture is there."""
        return self.camera_valid[:, 0] & self.frame_valid[:, :1]


@dataclass(frozen=True)
class Target(TensorRecord):
    """What is true: for the loss and the metric only."""

    labels: Int64[Tensor, "B X Y Z"]
    """Dense class ids; the empty id where `observed` is False."""
    observed: Bool[Tensor, "B X Y Z"]
    """Voxels that count (SemanticKITTI: neither ignored nor invalid; Occ3D: the mask in use)."""
    image_labels: Int64[Tensor, "B N H W"] | None = None
    """Sparse 2D class ids of the present images, -1 = none."""
    depth: Float[Tensor, "B N H W"] | None = None
    """Sparse true z-depth of the present images in metres, 0 = none; an estimate that may be seen is `Scene.depth`."""
    pseudo_masks: Int64[Tensor, "B N H W"] | None = None
    """Segment of each pixel of the present images, numbered picture by picture, -1 = none: made, not annotated."""
    teacher_volume: Float[Tensor, "B C _ _ _"] | None = None
    """What a trained model holds in the voxels of its volume, zero where nothing was kept."""

    def __post_init__(self) -> None:
        if self.labels.shape != self.observed.shape:
            raise ValueError(
                f"Expected labels and observed of one shape, got {tuple(self.labels.shape)} "
                f"and {tuple(self.observed.shape)}."
            )
        for name, value in (
            ("image_labels", self.image_labels),
            ("depth", self.depth),
            ("pseudo_masks", self.pseudo_masks),
            ("teacher_volume", self.teacher_volume),
        ):
            if value is not None:
                _expect(name, value, (self.labels.shape[0],))
        if self.image_labels is not None and self.depth is not None and self.image_labels.shape != self.depth.shape:
            size, depth_size = tuple(self.image_labels.shape), tuple(self.depth.shape)
            raise ValueError(f"Expected depth of the image labels' shape {size}, got {depth_size}.")


@dataclass(frozen=True)
class Sample(TensorRecord):
    """A batch of scenes with their truth, where known, and their names."""

    scene: Scene
    target: Target | None
    tokens: tuple[str, ...]
    """One name a sample, such as "08/000005"; files are named after it."""

    def __post_init__(self) -> None:
        batch = self.scene.batch_size
        if len(self.tokens) != batch:
            raise ValueError(f"Expected {batch} tokens, one a sample, got {len(self.tokens)}.")
        if self.target is not None:
            _expect("target.labels", self.target.labels, (batch,))


def scene_from_image(
    image: UInt8[np.ndarray, "H W 3"],
    *,
    intrinsics: Float[np.ndarray, "3 3"],
    camera_from_ego: Float[np.ndarray, "4 4"],
    depth: Float[np.ndarray, "H W"] | None = None,
) -> Scene:
    """The scene of one picture of one camera: a batch of one, now, nothing before.

    Args:
        image: RGB, 0 to 255.
        intrinsics: Pixels from camera metres; pixel (0, 0) is the centre of the first pixel.
        camera_from_ego: From the ego frame (x forward, y left, z up; on KITTI the velodyne) to the camera.
        depth: An estimate of z-depth in metres, 0 where unknown, for models that need one.
    """
    cameras = Cameras(
        intrinsics=torch.from_numpy(intrinsics).float()[None, None, None],
        camera_from_ego=torch.from_numpy(camera_from_ego).float()[None, None, None],
        time=torch.zeros(1, 1, 1),
    )
    return Scene(
        cameras=cameras,
        now_from_then=torch.eye(4)[None, None],
        time=torch.zeros(1, 1),
        frame_valid=torch.ones(1, 1, dtype=torch.bool),
        camera_valid=torch.ones(1, 1, 1, dtype=torch.bool),
        images=torch.from_numpy(image.astype(np.float32) / 255).permute(2, 0, 1)[None, None, None],
        depth=None if depth is None else torch.from_numpy(depth).float()[None, None, None],
    )


def collate(samples: Sequence[Sample]) -> Sample:
    """Join samples along the batch; float64 calibration becomes float32 here, and nowhere before.

    Raises:
        ValueError: If some samples have a part (images, depth, points, target) that others lack.
    """
    if not samples:
        raise ValueError("Cannot collate zero samples.")
    scenes = [sample.scene for sample in samples]
    targets = [sample.target for sample in samples if sample.target is not None]
    if len(targets) not in (0, len(samples)):
        raise ValueError("Cannot collate samples with a target and samples without one.")
    return Sample(
        scene=_join(scenes),
        target=_join(targets) if targets else None,
        tokens=tuple(token for sample in samples for token in sample.tokens),
    )


def _join(records: Sequence[Record]) -> Record:
    """Concatenate records field by field along the first dimension, floating-point tensors as float32."""
    first = records[0]
    joined: dict[str, object] = {}
    for field in fields(first):
        values = [getattr(record, field.name) for record in records]
        if any((value is None) != (values[0] is None) for value in values):
            raise ValueError(f"Cannot collate: some samples have {field.name} and others do not.")
        if isinstance(values[0], Points):
            joined[field.name] = _join_points(cast(list[Points], values), cast(list[Scene], records))
        elif isinstance(values[0], TensorRecord):
            joined[field.name] = _join(values)
        elif isinstance(values[0], Tensor):
            joined[field.name] = torch.cat([v.float() if v.is_floating_point() else v for v in values])
        else:
            joined[field.name] = values[0]
    return replace(first, **joined)


def _join_points(parts: Sequence[Points], scenes: Sequence[Scene]) -> Points:
    """Concatenate ragged points, moving each part's batch index behind the samples before it."""
    shifted, start = [], 0
    for points, scene in zip(parts, scenes, strict=True):
        shifted.append(replace(points, batch_index=points.batch_index + start))
        start += scene.batch_size
    return _join_tensors(shifted)


def _join_tensors(parts: Sequence[Points]) -> Points:
    """Concatenate every tensor of the points."""
    return Points(
        positions=torch.cat([p.positions.float() for p in parts]),
        features=torch.cat([p.features.float() for p in parts]),
        batch_index=torch.cat([p.batch_index for p in parts]),
        time=torch.cat([p.time.float() for p in parts]),
    )


for _record in (Cameras, Points, Augmentation, DepthPrior, Scene, Target):
    torch.export.register_dataclass(_record, serialized_type_name=f"occloom.{_record.__name__}")
