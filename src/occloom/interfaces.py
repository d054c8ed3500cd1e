"""What the parts promise one another: protocols, and the one base class."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int64
from torch import Tensor, nn

from occloom.errors import InputError
from occloom.grid import LabelSpace, VoxelGrid
from occloom.scene import Sample, Scene, Target

Split = Literal["train", "val", "test"]


@dataclass(frozen=True)
class Needs:
    """What a model looks at, and what its loss compares with besides voxels; a reader loads only that."""

    images: bool = True
    depth: bool = False
    points: bool = False
    true_depth: bool = False
    """`Target.depth`; only the training split has it."""
    image_labels: bool = False
    """`Target.image_labels`; only the training split has them."""
    pseudo_masks: bool = False
    """`Target.pseudo_masks`; only the training split has them."""
    teacher_features: bool = False
    """`Target.teacher_volume`; only the training split has it."""
    prior_depth: bool = False
    """`Scene.prior`, its depth and intrinsics."""
    prior_features: bool = False
    """The features of `Scene.prior` too."""
    pseudo_voxels: bool = False
    """`Scene.pseudo_voxels`."""
    proposals: bool = False
    """`Scene.proposals`."""


@dataclass(frozen=True)
class FeaturePyramid:
    """Image features, finest first; M images, one batch dimension."""

    levels: tuple[Tensor, ...]
    """Each "M C h w"."""
    strides: tuple[int, ...]
    """Image pixels a feature pixel, one a level."""

    def __post_init__(self) -> None:
        """Check each level: a tuple's annotation is only sampled by shape checkers."""
        if len(self.levels) != len(self.strides) or not self.levels:
            raise ValueError(
                f"Expected one stride a level, got {len(self.levels)} levels, {len(self.strides)} strides."
            )
        for level in self.levels:
            if level.ndim != 4 or level.shape[0] != self.levels[0].shape[0]:
                raise ValueError(f"Expected levels of shape (M, C, h, w) with one M, got {tuple(level.shape)}.")


@runtime_checkable
class SceneDataset(Protocol):
    """Samples of one split of a benchmark."""

    grid: VoxelGrid
    label_space: LabelSpace
    tokens: tuple[str, ...]
    """One name a sample, in the order of the indices."""

    def __len__(self) -> int:
        """Number of samples."""
        ...

    def sample(self, index: int, rng: np.random.Generator | None = None) -> Sample:
        """One sample as a batch of one; augmented with `rng`, exact without."""
        ...


@runtime_checkable
class DataConfig(Protocol):
    """A frozen dataclass that names a benchmark on disk; its sizes are known before any file is read."""

    @property
    def root(self) -> Path:
        """Folder of the benchmark."""
        ...

    @property
    def grid(self) -> VoxelGrid:
        """Of the labels."""
        ...

    @property
    def label_space(self) -> LabelSpace:
        """Of the labels."""
        ...

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of the images as the model sees them."""
        ...

    @property
    def num_frames(self) -> int:
        """T: the present frame and the past ones."""
        ...

    @property
    def num_cameras(self) -> int:
        """N."""
        ...

    def build(self, split: Split, needs: Needs) -> SceneDataset:
        """Open a split, loading of each sample only what is needed."""
        ...


@runtime_checkable
class MaskedData(Protocol):
    """Data that can say which voxels count in validation: Occ3D's."""

    @property
    def val_mask(self) -> Literal["camera", "lidar", "none"]:
        """The voxels that a camera sees, those that the LiDAR observed, or all."""
        ...


@runtime_checkable
class Outputs(Protocol):
    """What a model answers: a frozen dataclass of its own that can give logits."""

    @property
    def logits(self) -> Float[Tensor, "B K X Y Z"]:
        """Unnormalised class scores on the full grid."""
        ...


class OccupancyModel(nn.Module, ABC):
    """The only base class: a scene in, a volume of class scores out."""

    grid: VoxelGrid
    label_space: LabelSpace
    needs: Needs
    left_out: Mapping[str, int] = MappingProxyType({})
    """Parameters that the released model has and this one lacks, since nothing uses them: numbers by name."""

    @abstractmethod
    def forward(self, scene: Scene) -> Outputs:
        """Answer a scene; labels never come in here."""

    @abstractmethod
    def loss(self, outputs: Outputs, target: Target) -> dict[str, Float[Tensor, ""]]:
        """Named, already weighted terms; the engine only sums them."""

    def predict(self, scene: Scene) -> Int64[Tensor, "B X Y Z"]:
        """The most likely class of every voxel."""
        return self.forward(scene).logits.argmax(dim=1)

    def load_trunk_weights(self, source: Path | Literal["imagenet"]) -> None:
        """Fill the image trunk with weights of a file, or with those that its authors published for ImageNet.

        Raises:
            InputError: If there are none for this model's trunk, or they cannot be had.
        """
        raise InputError(
            f"{type(self).__name__} takes no trunk weights ({source})",
            rule="its trunk starts from random weights",
            remedy="leave out --train.trunk-weights",
        )


@runtime_checkable
class ModelConfig(Protocol):
    """A frozen dataclass with the knobs a paper varies."""

    def build(self, grid: VoxelGrid, label_space: LabelSpace) -> OccupancyModel:
        """Make the model, with random weights."""
        ...
