"""MonoOcc: VoxFormer whose volume looks into the picture once more, and whose image branch is supervised by pixels.

Image features and refined volume are VoxFormer's -> all voxels look into the pictures (image-conditioned
cross-attention, Eq. 5 and 6) -> VoxFormer's head. In training a small decoder classifies the image features, and is
compared with the classes of LiDAR points that fall on the picture (2D semantic auxiliary loss, Eq. 7). Zheng et al.,
"MonoOcc", ICRA 2024; structure of the parts as released (reference monoocc 4), without what is built there and never
used. The privileged branch is `monoocc_teacher`, distillation `monoocc_distillation`. See docs/models/monoocc.md.

Suffixes: B batch, N cameras, W views, M = B * N images, C channels, K classes, V voxels.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from occloom.grid import LabelSpace, VoxelGrid
from occloom.heads.normalised import NormalisedScores
from occloom.interfaces import Needs, OccupancyModel, Outputs
from occloom.losses.image_semantics import NO_LABEL, sparse_cross_entropy
from occloom.models.voxformer import (
    RELEASED_LEVELS,
    AttentionConfig,
    SceneLossWeights,
    ViewAttention,
    ViewFeatures,
    ViewPlaces,
    VoxFormer,
    VoxFormerConfig,
    VoxFormerOutputs,
)
from occloom.scene import Scene, Target

CHUNK_VOXELS = 1 << 15
"""Voxels that look into the pictures at a time: their samples then take less memory than the volume."""
DECODER_ENLARGEMENT = 4
"""Cells of the decoder's scores along an image feature."""
DEAD_HEADS = {
    "header.open_mlp_head": 99_328,
    "header.lidar_head": 2_836,
    "header.conv_3d": 16_768,
    "header.downsample": 16_640,
    "mlp": 99_968,
}
"""Parameters of heads that the released model builds and never calls."""
EQUATION_10 = SceneLossWeights(cross_entropy=2.0, semantic_affinity=1.0, geometric_affinity=0.5)
"""Weights of the terms that look at voxels' scores."""


@dataclass(frozen=True)
class MonoOccConfig:
    """MonoOcc on VoxFormer. The defaults are MonoOcc-S as the paper describes it, without its distillation."""

    base: VoxFormerConfig = field(default_factory=lambda: VoxFormerConfig(weights=EQUATION_10))
    """Image branch, volume and head; its weights are three of Eq. 10."""
    pixel_classes: bool = True
    """Whether the image features are supervised by the classes of pixels."""
    pixel_class_weight: float = 4.0
    """Of that loss in Eq. 10."""
    conditioned: bool = True
    """Whether all voxels look into the pictures once more."""
    conditioning: AttentionConfig = field(default_factory=AttentionConfig)
    """Of that attention."""
    decoder_dropout: float = 0.1
    """Between the layers of the decoder of pixels."""

    def build(self, grid: VoxelGrid, label_space: LabelSpace) -> "MonoOcc":
        """Make the model, with random weights."""
        return MonoOcc(self, grid, label_space)


class Enlarge(nn.Module):
    """Twice the size: each feature goes to one pixel of four, a bias to the others; a linear map joins channels."""

    def __init__(self, channels: int, dropout: float) -> None:
        super().__init__()
        self.spread = nn.ConvTranspose2d(channels, channels, 1, stride=2, output_padding=1, groups=channels)
        self.mix = nn.Conv2d(channels, channels, 1, bias=False)
        self.norm = nn.BatchNorm2d(channels)
        self.dropout = nn.Dropout(dropout)

    def forward(self, features: Float[Tensor, "M C h w"]) -> Float[Tensor, "M C H W"]:
        """Enlarge; a cell of the result covers a quarter of the feature's."""
        return self.dropout(F.relu(self.norm(self.mix(self.spread(features)))))


class PixelDecoder(nn.Module):
    """Class scores of image features, four times as fine (the paper's semantic decoder, Eq. 7)."""

    def __init__(self, channels: int, num_classes: int, *, dropout: float) -> None:
        """Make the decoder.

        Args:
            channels: Of the image features.
            num_classes: K.
            dropout: Between its layers.
        """
        super().__init__()
        self.enlarge = nn.Sequential(Enlarge(channels, dropout), Enlarge(channels, dropout))
        self.hidden = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(channels)
        self.dropout = nn.Dropout(dropout)
        self.classify = nn.Conv2d(channels, num_classes, 1)

    def forward(self, features: Float[Tensor, "M C h w"]) -> Float[Tensor, "M K H W"]:
        """Unnormalised class scores."""
        hidden = F.relu(self.norm(self.hidden(self.enlarge(features))))
        return self.classify(self.dropout(hidden))


class ImageConditioning(nn.Module):
    """All voxels look into the pictures, those that none sees get the same update without a sample (Eq. 6)."""

    def __init__(
        self, channels: int, grid: VoxelGrid, *, views: int, places: ViewPlaces, config: AttentionConfig
    ) -> None:
        """Make the layers.

        Args:
            channels: C, of volume and image features.
            grid: Of the volume.
            views: Most pictures of a sample.
            places: Where voxels lie in the pictures.
            config: Sizes.
        """
        super().__init__()
        self.grid, self.places = grid, places
        self.attention = ViewAttention(channels, views=views, config=config)

    def forward(self, scene: Scene, features: ViewFeatures, rows: Float[Tensor, "B V C"]) -> Float[Tensor, "B V C"]:
        """The voxels after they have looked, some at a time: a voxel's update depends on no other.

        Args:
            scene: Its cameras.
            features: Of its pictures.
            rows: Of all voxels in C order.

        Raises:
            InputError: If there are more views than embeddings.
        """
        centres = self.grid.centres(device=rows.device).view(-1, 3)
        chunks = list(zip(rows.split(CHUNK_VOXELS, dim=1), centres.split(CHUNK_VOXELS), strict=True))
        if len(chunks) > 1 and torch.is_grad_enabled():
            # Samples are found once more in backward.
            looked = [
                checkpoint(self._look, scene, features, *chunk, use_reentrant=False, determinism_check="none")
                for chunk in chunks
            ]
        else:
            looked = [self._look(scene, features, *chunk) for chunk in chunks]
        return torch.cat(looked, dim=1)

    def _look(
        self, scene: Scene, features: ViewFeatures, rows: Float[Tensor, "B v C"], centres: Float[Tensor, "v 3"]
    ) -> Float[Tensor, "B v C"]:
        """Some voxels after they have looked."""
        points = centres.expand(len(rows), -1, -1)
        references = self.places.references(scene, points, features.size, features.stride)
        return self.attention(rows, references, features.values)


@dataclass(frozen=True)
class MonoOccOutputs:
    """What MonoOcc answers. Pixels are classified when the loss asks for them."""

    scores: NormalisedScores
    """Of all voxels."""
    volume: Float[Tensor, "B C x y z"]
    """The final volume, before the head: what is distilled."""
    features: ViewFeatures
    """Of the pictures."""
    decoder: PixelDecoder | None
    """Classifies them; None where pixels are not supervised."""
    present: Bool[Tensor, "B N"]
    """Cameras whose present picture is there."""

    @property
    def logits(self) -> Float[Tensor, "B K X Y Z"]:
        """Class scores on the full grid; large, made anew at each call."""
        return self.scores.logits


class MonoOcc(OccupancyModel):
    """MonoOcc's monocular branch; with frames of the past its privileged one stands on it."""

    def __init__(self, config: MonoOccConfig, grid: VoxelGrid, label_space: LabelSpace) -> None:
        """Make the model.

        Raises:
            ValueError: If the coarsening does not divide the grid.
            InputError: If sizes do not fit together.
        """
        super().__init__()
        self.config, self.grid, self.label_space = config, grid, label_space
        self.needs = Needs(images=True, proposals=True, image_labels=config.pixel_classes)
        channels = config.base.channels
        self.base = VoxFormer(config.base, grid, label_space)
        self.conditioning = None
        if config.conditioned:
            self.conditioning = ImageConditioning(
                channels,
                self.base.volume_grid,
                views=config.base.views,
                places=config.base.places,
                config=config.conditioning,
            )
        self.decoder = None
        if config.pixel_classes:
            self.decoder = PixelDecoder(channels, label_space.num_classes, dropout=config.decoder_dropout)
        self.left_out = _left_out(self.base.left_out, channels, conditioned=config.conditioned)

    def forward(self, scene: Scene) -> MonoOccOutputs:
        """Answer the present frame; pictures that are missing are not looked at."""
        return self.answer(scene, self.base.image_features(scene))

    def answer(self, scene: Scene, features: ViewFeatures) -> MonoOccOutputs:
        """Answer the present frame.

        Args:
            scene: What is seen.
            features: Of its pictures.
        """
        volume = self.base.volume(scene, features)
        if self.conditioning is not None:
            rows = self.conditioning(scene, features, volume.flatten(2).transpose(1, 2))
            volume = self.base.as_volume(rows)
        return MonoOccOutputs(
            scores=self.base.head(volume),
            volume=volume,
            features=features,
            decoder=self.decoder,
            present=scene.camera_present,
        )

    def loss(self, outputs: Outputs, target: Target) -> dict[str, Float[Tensor, ""]]:
        """The weighted terms of Eq. 10, less that of distillation."""
        assert isinstance(outputs, MonoOccOutputs), "outputs must be this model's own"
        losses = self.base.loss(VoxFormerOutputs(outputs.scores), target)
        if outputs.decoder is not None:
            assert target.image_labels is not None, "needs asks for image labels"
            labels = pixel_labels(target.image_labels, outputs.present, self.label_space.empty)
            # The present frame's views come first; past pictures have no labels.
            features = outputs.features.values[:, : labels.shape[1]].flatten(0, 1)
            loss = sparse_cross_entropy(
                outputs.decoder(features), labels.flatten(0, 1), outputs.features.stride // DECODER_ENLARGEMENT
            )
            losses["pixel_classes"] = self.config.pixel_class_weight * loss
        return losses

    def predict(self, scene: Scene) -> Int64[Tensor, "B X Y Z"]:
        """The most likely class of every voxel: the argmax of `logits`, without making them."""
        return self.forward(scene).scores.argmax()

    def load_trunk_weights(self, source: Path | Literal["imagenet"]) -> None:
        """Fill the trunk with weights of a file, or with those published for ImageNet.

        Raises:
            InputError: If they cannot be had, or are of another trunk.
        """
        self.base.load_trunk_weights(source)


def pixel_labels(
    labels: Int64[Tensor, "B N H W"], present: Bool[Tensor, "B N"], empty: int
) -> Int64[Tensor, "B N H W"]:
    """Labels that supervise pixels: none where the picture is missing or a point has no class (`empty`)."""
    return torch.where(present[..., None, None] & (labels != empty), labels, NO_LABEL)


def _left_out(base: Mapping[str, int], channels: int, *, conditioned: bool) -> dict[str, int]:
    """What the released model has besides, at its 128 channels."""
    rows = {"conditioning.attention.level_embedding, rows 1 to 3": (RELEASED_LEVELS - 1) * channels}
    return {**base, **DEAD_HEADS, **(rows if conditioned else {})}
