"""2D pre-training of an image trunk: classes of all pixels of pictures of roads.

Trunk and neck -> one map at the finest stride -> a small head -> scores of every pixel, compared by cross-entropy
(MonoOcc, section IV-B; the head is this library's, as the paper names none). The trunk has the name it has in
`models/voxformer.py` and in MonoOcc, so that `train.start_from` hands it over; neck and head are left behind. See
docs/models/internimage.md.

Suffixes: B batch, C channels, K classes, h w feature pixels, X Y Z voxels: rows and columns of the picture, and one.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from occloom.backbones.internimage import INTERNIMAGE_XL, InternImageTrunk
from occloom.backbones.pretrained import load_trunk
from occloom.errors import InputError
from occloom.grid import LabelSpace, Shape, VoxelGrid
from occloom.interfaces import Needs, OccupancyModel, Outputs
from occloom.losses.cross_entropy import cross_entropy
from occloom.models.voxdet_camera import SmallTrunk
from occloom.models.voxformer import FrozenResNet50, ImageBranch
from occloom.scene import Scene, Target
from occloom.voxel.resnet3d import group_norm


@dataclass(frozen=True)
class SegmentationPretrainConfig:
    """Which trunk, and the head that is there for pre-training only."""

    trunk: FrozenResNet50 | InternImageTrunk | SmallTrunk = INTERNIMAGE_XL
    """The one of the model that starts from it."""
    strides: tuple[int, ...] = (4, 8, 16)
    """Of the trunk's levels that the neck joins, finest first; stages behind the last are neither built nor run."""
    channels: int = 256
    """Of neck and head; unlike those of the following model, so that it takes over the trunk alone."""

    def __post_init__(self) -> None:
        if (
            not self.strides
            or list(self.strides) != sorted(set(self.strides))
            or not set(self.strides) <= {4, 8, 16, 32}
        ):
            raise InputError(f"strides is {self.strides}", rule="they are some of 4, 8, 16 and 32, finest first")
        if self.channels < 1:
            raise InputError(f"channels is {self.channels}", rule="it is at least 1")

    def build(self, grid: VoxelGrid, label_space: LabelSpace) -> "SegmentationPretrain":
        """Make the model, with random weights."""
        return SegmentationPretrain(self, grid, label_space)


@dataclass(frozen=True)
class PixelScores:
    """Classes of a picture's pixels; its rows and columns are the X and Y of the grid (`data/road_images.py`)."""

    coarse: Float[Tensor, "B K h w"]
    """Unnormalised class scores at the finest stride of the neck."""
    shape: Shape
    """Of the grid."""

    @property
    def logits(self) -> Float[Tensor, "B K X Y Z"]:
        """Scores of every pixel, interpolated bilinearly; all voxels along Z have those of their pixel."""
        pixels = F.interpolate(self.coarse, size=self.shape[:2], mode="bilinear", align_corners=False)
        return pixels[..., None].expand(-1, -1, -1, -1, self.shape[2])


class SegmentationPretrain(OccupancyModel):
    """A trunk with a segmentation head."""

    needs = Needs(images=True)

    def __init__(self, config: SegmentationPretrainConfig, grid: VoxelGrid, label_space: LabelSpace) -> None:
        """Make the model."""
        super().__init__()
        self.config, self.grid, self.label_space = config, grid, label_space
        self.images = ImageBranch(config.trunk, strides=config.strides, channels=config.channels)
        self.classify = nn.Sequential(
            group_norm(config.channels),
            nn.ReLU(),
            nn.Conv2d(config.channels, config.channels, 3, padding=1, bias=False),
            group_norm(config.channels),
            nn.ReLU(),
            nn.Conv2d(config.channels, label_space.num_classes, 1),
        )

    def forward(self, scene: Scene) -> PixelScores:
        """Classes of the present picture of the first camera; there is no other."""
        assert scene.images is not None, "needs asks for images"
        features = self.images(scene.images[:, :1, :1]).values[:, 0]
        return PixelScores(self.classify(features), self.grid.shape)

    def loss(self, outputs: Outputs, target: Target) -> dict[str, Float[Tensor, ""]]:
        """Unweighted cross-entropy of the pixels that count."""
        assert isinstance(outputs, PixelScores), "outputs must be this model's own"
        equal = torch.ones(self.label_space.num_classes, device=target.labels.device)
        logits = outputs.logits.float()
        return {"cross_entropy": cross_entropy(logits, target.labels, target.observed, equal)}

    def load_trunk_weights(self, source: Path | Literal["imagenet"]) -> None:
        """Fill the trunk with weights of a file, or with those published for ImageNet.

        Raises:
            InputError: If they cannot be had, or are of another trunk.
        """
        load_trunk(self.images.trunk, source, imagenet=self.config.trunk.imagenet)
