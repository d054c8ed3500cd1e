"""A student of MonoOcc that learns the volume of a frozen privileged branch (section III-D, Eq. 9).

The student looks at the present frame alone. In training the teacher's volume comes from a teacher that runs beside it
on all frames, or from features that were prepared (`occloom prepare teacher-features`); they are compared in the voxels
that are labelled occupied. The teacher is no part of the checkpoint, and nothing of it runs in evaluation.

Suffixes: B batch, C channels, x y z voxels of the volume.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from occloom.backbones.weight_files import fill_trunk, read_tensors
from occloom.errors import InputError
from occloom.grid import LabelSpace, Shape, VoxelGrid
from occloom.interfaces import OccupancyModel, Outputs
from occloom.losses.distillation import ChannelDivergence, FeatureDivergence, mean_divergence
from occloom.models.monoocc import MonoOccConfig, MonoOccOutputs
from occloom.models.monoocc_teacher import MonoOccTeacher, MonoOccTeacherConfig
from occloom.scene import Scene, Target

_REMEDY = "train monoocc-teacher-* first, and name its checkpoint folder with --model.checkpoint"


@dataclass(frozen=True)
class MonoOccDistillationConfig:
    """A student with its teacher. The defaults are the paper's MonoOcc-S with a teacher of the same trunk."""

    student: MonoOccConfig = field(default_factory=MonoOccConfig)
    """What is trained."""
    teacher: MonoOccTeacherConfig = field(default_factory=MonoOccTeacherConfig)
    """What it learns from; its sizes are those that it was trained with."""
    checkpoint: Path | None = None
    """Of the trained teacher: a checkpoint folder (step-000250) or a .safetensors file. Only training asks for it."""
    cached: bool = False
    """Whether the teacher's volumes are read from `teacher_features` of the data, so that no teacher runs."""
    divergence: FeatureDivergence = field(default_factory=ChannelDivergence)
    """How features are compared."""
    weight: float = 3.0
    """Of that loss in Eq. 10."""

    def __post_init__(self) -> None:
        student, teacher = self.student.base, self.teacher.branch.base
        for name in ("channels", "volume_coarsening"):
            if getattr(student, name) != getattr(teacher, name):
                raise InputError(
                    f"{name} is {getattr(student, name)} for the student and {getattr(teacher, name)} for the teacher",
                    rule="volumes are compared voxel by voxel and channel by channel",
                )

    def build(self, grid: VoxelGrid, label_space: LabelSpace) -> "MonoOccDistillation":
        """Make the student, with random weights; the teacher is made when training first asks for it.

        Raises:
            InputError: If sizes do not fit together.
        """
        return MonoOccDistillation(self, grid, label_space)


class FrozenTeacher:
    """A trained privileged branch that answers volumes. No module: it is neither trained, averaged nor saved."""

    def __init__(self, config: MonoOccDistillationConfig, grid: VoxelGrid, label_space: LabelSpace) -> None:
        """Remember what to load; nothing is read yet."""
        self._config, self._grid, self._label_space = config, grid, label_space
        self._model: MonoOccTeacher | None = None

    @torch.no_grad()
    def volume(self, scene: Scene) -> Float[Tensor, "B C x y z"]:
        """The teacher's final volume.

        Raises:
            InputError: If no checkpoint is named, or it is not that of such a teacher.
        """
        if self._model is None:
            self._model = self._load(scene.time.device)
        return self._model(scene).volume

    def _load(self, device: torch.device) -> MonoOccTeacher:
        path = self._config.checkpoint
        if path is None:
            raise InputError(
                "no teacher is named", rule="a distilled student learns from a trained teacher", remedy=_REMEDY
            )
        file = teacher_weights(path)
        state = read_tensors(file, remedy=_REMEDY)
        with torch.random.fork_rng():
            model = self._config.teacher.build(self._grid, self._label_space)
        fill_trunk(model, state, file, remedy="name the checkpoint of a teacher of --model.teacher's sizes")
        return model.eval().requires_grad_(False).to(device)


def teacher_weights(path: Path) -> Path:
    """The file of weights that a path stands for: itself, or of a checkpoint folder the averaged ones.

    Raises:
        InputError: If a folder is no checkpoint.
    """
    if path.suffix == ".safetensors":
        return path
    for name in ("ema.safetensors", "model.safetensors"):
        if (path / name).is_file():
            return path / name
    raise InputError("no weights of a teacher", where=path, rule="a checkpoint folder holds them", remedy=_REMEDY)


@dataclass(frozen=True)
class DistillationOutputs:
    """What the student answers, and in training what the teacher thinks."""

    student: MonoOccOutputs
    taught: Float[Tensor, "B C x y z"] | None
    """The teacher's volume; None in evaluation, and where it was prepared."""

    @property
    def logits(self) -> Float[Tensor, "B K X Y Z"]:
        """Class scores on the full grid; large, made anew at each call."""
        return self.student.logits


class MonoOccDistillation(OccupancyModel):
    """MonoOcc's monocular branch, taught."""

    def __init__(self, config: MonoOccDistillationConfig, grid: VoxelGrid, label_space: LabelSpace) -> None:
        """Make the student.

        Raises:
            InputError: If sizes do not fit together.
        """
        super().__init__()
        self.config, self.grid, self.label_space = config, grid, label_space
        self.student = config.student.build(grid, label_space)
        self.teacher = FrozenTeacher(config, grid, label_space)
        self.needs = replace(self.student.needs, teacher_features=config.cached)
        self.left_out = self.student.left_out

    def forward(self, scene: Scene) -> DistillationOutputs:
        """Answer the present frame by what it shows alone; in training ask the teacher too.

        Raises:
            InputError: If there is no teacher to ask.
        """
        asks = self.training and not self.config.cached
        return DistillationOutputs(self.student(present_frame(scene)), self.teacher.volume(scene) if asks else None)

    def loss(self, outputs: Outputs, target: Target) -> dict[str, Float[Tensor, ""]]:
        """The weighted terms of Eq. 10; in evaluation, where nobody is taught, less that of distillation."""
        assert isinstance(outputs, DistillationOutputs), "outputs must be this model's own"
        losses = self.student.loss(outputs.student, target)
        taught = target.teacher_volume if self.config.cached else outputs.taught
        if taught is not None:
            where = occupied_blocks(target, self.config.student.base.volume_coarsening, self.label_space.empty)
            loss = mean_divergence(self.config.divergence, taught, outputs.student.volume, where)
            losses["distillation"] = self.config.weight * loss
        return losses

    def predict(self, scene: Scene) -> Int64[Tensor, "B X Y Z"]:
        """The most likely class of every voxel: the argmax of `logits`, without making them."""
        return self.student.predict(present_frame(scene))

    def load_trunk_weights(self, source: Path | Literal["imagenet"]) -> None:
        """Fill the student's trunk with weights of a file, or with those published for ImageNet.

        Raises:
            InputError: If they cannot be had, or are of another trunk.
        """
        self.student.load_trunk_weights(source)


def present_frame(scene: Scene) -> Scene:
    """The scene without its past; what has no frames stays."""
    return replace(
        scene,
        cameras=scene.cameras.map(lambda tensor: tensor[:, :1]),
        now_from_then=scene.now_from_then[:, :1],
        time=scene.time[:, :1],
        frame_valid=scene.frame_valid[:, :1],
        camera_valid=scene.camera_valid[:, :1],
        images=None if scene.images is None else scene.images[:, :1],
        depth=None if scene.depth is None else scene.depth[:, :1],
    )


def occupied_blocks(target: Target, factors: Shape, empty: int) -> Bool[Tensor, "B x y z"]:
    """Voxels of the volume in which an observed voxel is labelled occupied.

    At the released factor 2 these are the voxels of the benchmark's 1:2 labels that are neither empty nor ignored: one
    occupied voxel of eight wins there.
    """
    occupied = (target.labels != empty) & target.observed
    return F.max_pool3d(occupied[:, None].float(), factors)[:, 0] > 0
