"""Depth pre-training of VoxDet's image branch: true depth and classes in the pixels that the LiDAR has hit.

Images -> trunk and neck -> depth network, all under the names they have in `models/voxdet_camera.py`, so that
`train.start_from` hands them over; beside it a head that classifies every pixel, which is left behind (reference voxdet
9, released structure). See docs/models/voxdet.md.

Suffixes: B batch, N cameras, M = B * N images, C channels, h w feature pixels, D depth planes, K classes, P points.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from occloom.backbones.pretrained import load_trunk
from occloom.errors import InputError
from occloom.geometry.precision import full_precision
from occloom.geometry.projection import project
from occloom.geometry.rigid import transform_points
from occloom.grid import LabelSpace, VoxelGrid
from occloom.interfaces import Needs, OccupancyModel, Outputs
from occloom.lifting.depth import DepthPlanes
from occloom.losses.depth import depth_divergence
from occloom.models.voxdet_camera import (
    PixelCentres,
    ResNet50DTrunk,
    SmallTrunk,
    ViewGeometry,
    estimate_depth,
    image_parts,
    nearest_depth,
)
from occloom.scene import Scene, Target

SLAB_VOXELS = 1 << 17
"""Voxels that are looked up at once: 10 MiB for 20 classes."""


@dataclass(frozen=True)
class VoxDetPretrainConfig:
    """Sizes of the pre-trained parts, which must be those of the `VoxDetConfig` that starts from them."""

    trunk: ResNet50DTrunk | SmallTrunk = field(default_factory=lambda: ResNet50DTrunk(drop_path=0.0))
    """Image trunk; pre-training has no stochastic depth."""
    neck_channels: int = 128
    """That each of the trunk's four levels contributes to the image features."""
    feature_stride: int = 8
    """Image pixels a feature pixel."""
    depth_channels: int = 512
    """Inner channels of the depth network."""
    fusion_channels: int = 32
    """Of the 3D network that fuses estimated and given depth."""
    geometry: ViewGeometry = field(default_factory=PixelCentres)
    """Where pixels, depth planes and voxels meet."""
    channels: int = 128
    """Of the context features."""
    segmentation_channels: tuple[int, ...] = (128, 64, 32)
    """Of the segmentation head after each doubling of the size; as many as lead from features to pixels."""
    depth_std: float = 0.5
    """Of the depth target, in metres."""
    depth_weight: float = 1.0
    """Of the depth term."""
    segmentation_weight: float = 1.0
    """Of the segmentation term."""

    def __post_init__(self) -> None:
        if self.feature_stride not in (4, 8, 16, 32):
            raise InputError(f"feature_stride is {self.feature_stride}", rule="it is 4, 8, 16 or 32")
        if 2 ** len(self.segmentation_channels) != self.feature_stride:
            raise InputError(
                f"segmentation_channels has {len(self.segmentation_channels)} numbers",
                rule=f"each doubles the size, and together they lead over a feature_stride of {self.feature_stride}",
            )
        if self.depth_std <= 0:
            raise InputError(f"depth_std is {self.depth_std}", rule="it is above 0")

    def build(self, grid: VoxelGrid, label_space: LabelSpace) -> "VoxDetPretrain":
        """Make the model, with random weights."""
        return VoxDetPretrain(self, grid, label_space)


@dataclass(frozen=True)
class SurfaceScores:
    """Depth and classes of pictures, and the voxels that they show.

    The volume has no parameters and no loss. It tells how far pre-training has come: a voxel is as occupied as its
    depth is likely in the pixel it falls on, measured against the likeliest depth there, and has that pixel's classes.
    What lies behind the visible surface stays empty.
    """

    depth: Float[Tensor, "B N D h w"]
    """Probability of each depth plane."""
    image_logits: Float[Tensor, "B N K H W"]
    """Unnormalised class scores of each pixel."""
    intrinsics: Float[Tensor, "B N 3 3"]
    camera_from_ego: Float[Tensor, "B N 4 4"]
    valid: Bool[Tensor, "B N"]
    """Cameras that have a picture."""
    planes: DepthPlanes
    stride: int
    """Image pixels a feature pixel."""
    grid: VoxelGrid
    empty: int
    """Id of the empty class; a pixel may have it too, as that of things without a class."""

    @property
    def logits(self) -> Float[Tensor, "B K X Y Z"]:
        """Log-probabilities on the full grid."""
        return torch.cat([scores.clamp(min=1e-6).log() for scores in self.slabs()], dim=2)

    def argmax(self) -> Int64[Tensor, "B X Y Z"]:
        """The most likely class of every voxel, without making `logits`."""
        return torch.cat([scores.argmax(dim=1) for scores in self.slabs()], dim=1)

    def slabs(self) -> Iterator[Float[Tensor, "B K x Y Z"]]:
        """Class probabilities of the grid, cut along x."""
        with full_precision(self.depth.device.type):
            depth_BND = self.depth.float()
            occupied = (depth_BND / depth_BND.amax(dim=2, keepdim=True)).flatten(2)
            classes = self.image_logits.float().softmax(dim=2).flatten(3)
            centres = self.grid.centres(device=self.depth.device)
            for slab in centres.split(max(1, SLAB_VOXELS // centres[0, ..., 0].numel())):
                yield self._scores(occupied, classes, slab.flatten(0, 2)).unflatten(2, slab.shape[:3])

    def _scores(
        self, occupied: Float[Tensor, "B N cells"], classes: Float[Tensor, "B N K pixels"], points: Float[Tensor, "P 3"]
    ) -> Float[Tensor, "B K P"]:
        """Class probabilities at points of the ego frame; several cameras share a point by their certainty."""
        height, width = self.image_logits.shape[-2:]
        cell_height, cell_width = self.depth.shape[-2:]
        points_camera = transform_points(self.camera_from_ego, points.expand(*self.valid.shape, -1, -1))
        pixels, depth = project(points_camera, self.intrinsics)
        column, row = pixels.round().unbind(-1)
        plane = ((depth - self.planes.nearest) / self.planes.step).floor()
        seen = (row >= 0) & (row < height) & (column >= 0) & (column < width) & self.valid[..., None]
        seen &= (depth > 0) & (plane >= 0) & (plane < self.planes.count)
        column, row, plane = (torch.where(seen, index, 0).long() for index in (column, row, plane))
        cell = (plane * cell_height + row // self.stride) * cell_width + column // self.stride
        certainty_BNP = occupied.gather(2, cell) * seen
        pixel_BNKP = (row * width + column)[:, :, None].expand(-1, -1, classes.shape[2], -1)
        scores_BKP = (classes.gather(3, pixel_BNKP) * certainty_BNP[:, :, None]).sum(dim=1)
        scores_BKP = scores_BKP / certainty_BNP.sum(dim=1).clamp(min=1)[:, None]
        scores_BKP[:, self.empty] += 1 - scores_BKP.sum(dim=1)
        return scores_BKP


class SegmentationHead(nn.Module):
    """Class scores of every pixel: doublings of the size by transposed convolutions, then one of a single pixel."""

    def __init__(self, *, in_channels: int, channels: tuple[int, ...], num_classes: int) -> None:
        """Make the head.

        Args:
            in_channels: Of the features.
            channels: After each doubling.
            num_classes: K.
        """
        super().__init__()
        layers: list[nn.Module] = []
        for before, after in zip((in_channels, *channels), channels, strict=False):
            layers += [
                nn.ConvTranspose2d(before, after, 2, 2, bias=False),
                nn.BatchNorm2d(after),
                nn.ReLU(inplace=True),
            ]
        self.enlarge = nn.Sequential(*layers)
        self.classify = nn.Conv2d(channels[-1], num_classes, 1)

    def forward(self, features: Float[Tensor, "M C h w"]) -> Float[Tensor, "M K H W"]:
        """Scores at the stride of the pixels."""
        return self.classify(self.enlarge(features))


class VoxDetPretrain(OccupancyModel):
    """Trunk, neck and depth network of VoxDet, with a head that is there for pre-training only."""

    needs = Needs(images=True, depth=True, true_depth=True, image_labels=True)

    def __init__(self, config: VoxDetPretrainConfig, grid: VoxelGrid, label_space: LabelSpace) -> None:
        """Make the model.

        Raises:
            InputError: If the depth network cannot have the sizes that the config names.
        """
        super().__init__()
        self.config, self.grid, self.label_space = config, grid, label_space
        self.trunk, self.neck, self.depth_net = image_parts(
            config.trunk,
            config.geometry,
            neck_channels=config.neck_channels,
            feature_stride=config.feature_stride,
            depth_channels=config.depth_channels,
            fusion_channels=config.fusion_channels,
            channels=config.channels,
        )
        self.segmentation = SegmentationHead(
            in_channels=config.channels,
            channels=config.segmentation_channels,
            num_classes=label_space.num_classes,
        )

    def forward(self, scene: Scene) -> SurfaceScores:
        """Depth and classes of the present pictures."""
        assert scene.images is not None, "needs asks for images"
        batch, _, cameras, _, height, width = scene.images.shape
        estimate, stride = estimate_depth(scene, self.trunk, self.neck, self.depth_net, self.config.geometry)
        image_logits = self.segmentation(estimate.context)[..., :height, :width]
        return SurfaceScores(
            depth=estimate.depth.unflatten(0, (batch, cameras)),
            image_logits=image_logits.unflatten(0, (batch, cameras)),
            intrinsics=scene.cameras.intrinsics[:, 0],
            camera_from_ego=scene.cameras.camera_from_ego[:, 0],
            valid=scene.camera_present,
            planes=self.config.geometry.planes,
            stride=stride,
            grid=self.grid,
            empty=self.label_space.empty,
        )

    def loss(self, outputs: Outputs, target: Target) -> dict[str, Float[Tensor, ""]]:
        """Divergence of the depth planes and unweighted cross-entropy of the pixels, where the LiDAR has hit.

        The nearest true depth of a feature's pixels counts, as for the depth that the network is given.
        """
        assert isinstance(outputs, SurfaceScores), "outputs must be this model's own"
        assert target.depth is not None, "needs asks for true depth"
        assert target.image_labels is not None, "needs asks for image labels"
        pictured = outputs.valid[..., None, None]
        depth = nearest_depth((target.depth * pictured).flatten(0, 1), outputs.stride)
        labels = torch.where(pictured, target.image_labels, -1).flatten(0, 1)
        logits = outputs.image_logits.flatten(0, 1).float()
        divergence = depth_divergence(outputs.depth.flatten(0, 1), depth, outputs.planes, std=self.config.depth_std)
        entropy = F.cross_entropy(logits, labels, ignore_index=-1, reduction="sum") / (labels >= 0).sum().clamp(min=1)
        return {
            "depth": self.config.depth_weight * divergence,
            "segmentation": self.config.segmentation_weight * entropy,
        }

    def predict(self, scene: Scene) -> Int64[Tensor, "B X Y Z"]:
        """The most likely class of every voxel of the visible surface; empty elsewhere."""
        return self.forward(scene).argmax()

    def load_trunk_weights(self, source: Path | Literal["imagenet"]) -> None:
        """Fill the trunk with weights of a file, or with those published for ImageNet.

        Raises:
            InputError: If they cannot be had, or are of another trunk.
        """
        load_trunk(self.trunk, source, imagenet=self.config.trunk.imagenet)
