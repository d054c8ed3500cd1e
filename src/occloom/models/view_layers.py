"""What PanoOcc and BEVFormer share: the pictures of one frame, and queries that look around and into them.

Trunk and pyramid of several levels with embeddings of camera and level; layers of attention within the horizontal
slice, deformable attention into the cameras that see a query, and a small network (Li et al., "BEVFormer", ECCV 2022;
Wang et al., "PanoOcc", CVPR 2024; reference protoocc 1.3 to 1.5). How queries look into pictures is a part,
`ViewConfig.looking`, so that ProtoOcc's prototypes can stand there.

Suffixes: B batch, N cameras, M = B * N images, C channels, Q queries.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from occloom.backbones.fpn import PyramidNeck
from occloom.backbones.grid_mask import GridMask
from occloom.errors import InputError
from occloom.geometry.precision import full_precision
from occloom.grid import Shape, VoxelGrid
from occloom.interfaces import FeaturePyramid
from occloom.lifting.cross_attention import DeformableCrossAttention, ReferencePoints, project_references
from occloom.models.bevdet4d import ResNet50Trunk
from occloom.models.voxdet_camera import SmallTrunk
from occloom.ops.post_norm import feedforward
from occloom.scene import Scene
from occloom.voxel.slice_attention import SliceAttention

QUERY_STD = 0.02
"""Of learned queries at first, so that what is learned of a voxel soon outweighs what chance put there."""


@dataclass(frozen=True)
class ImageBranchConfig:
    """From pictures to maps of several levels. The defaults are PanoOcc's full size on 432x800 images."""

    trunk: ResNet50Trunk | SmallTrunk = field(default_factory=ResNet50Trunk)
    """Image trunk."""
    channels: int = 256
    """Of all levels, and of what looks at them."""
    finest_stride: int = 4
    """Of the trunk's levels that are used: 4, 8, 16 or 32."""
    extra_levels: int = 1
    """Behind the trunk's coarsest level."""
    cameras: int = 6
    """Most cameras of a sample; each has an embedding."""
    hide: float = 0.7
    """Share of training steps whose present pictures lose a lattice of squares."""

    def __post_init__(self) -> None:
        if self.finest_stride not in (4, 8, 16, 32):
            raise InputError(f"finest_stride is {self.finest_stride}", rule="it is 4, 8, 16 or 32")
        if not 0 <= self.hide <= 1:
            raise InputError(f"hide is {self.hide}", rule="it is a share, from 0 to 1")


@dataclass(frozen=True)
class Pictures:
    """The maps of one frame's pictures, finest first."""

    levels: tuple[Float[Tensor, "B N C _ _"], ...]
    """As the neck makes them."""
    values: tuple[Float[Tensor, "B N C _ _"], ...]
    """With the embeddings of camera and level added: what queries look at."""
    strides: tuple[int, ...]
    """Image pixels a pixel of each level."""
    size: tuple[int, int]
    """Height and width that the maps cover: the pictures' own, filled up to a multiple of the trunk's last stride."""


class ImageBranch(nn.Module):
    """Trunk, neck, and an embedding for each camera and each level."""

    def __init__(self, config: ImageBranchConfig) -> None:
        super().__init__()
        self.hide = GridMask(probability=config.hide)
        self.trunk = config.trunk.build()
        self.coarser = sum(stride < config.finest_stride for stride in self.trunk.strides)
        kept = self.trunk.channels[self.coarser :]
        self.neck = PyramidNeck(in_channels=kept, channels=config.channels, extra=config.extra_levels)
        self.levels = len(kept) + config.extra_levels
        self.camera_embedding = nn.Parameter(torch.randn(config.cameras, config.channels))
        self.level_embedding = nn.Parameter(torch.randn(self.levels, config.channels))

    def forward(self, images: Float[Tensor, "B N I H W"]) -> Pictures:
        """Maps of pictures of any size.

        Raises:
            InputError: If there are more cameras than embeddings.
        """
        batch, cameras = images.shape[:2]
        if cameras > len(self.camera_embedding):
            raise InputError(
                f"the samples have {cameras} cameras, the model knows {len(self.camera_embedding)}",
                rule="each camera has an embedding",
                remedy="name fewer --data.cameras, or set model.images.cameras",
            )
        filled = self.hide(self._filled(images.flatten(0, 1)), self.trunk.mean)
        found = self.trunk(filled)
        pyramid = self.neck(FeaturePyramid(found.levels[self.coarser :], found.strides[self.coarser :]))
        levels = tuple(level.unflatten(0, (batch, cameras)) for level in pyramid.levels)
        embeddings = self.camera_embedding[:cameras, None] + self.level_embedding
        values = tuple(level + embeddings[:, i, :, None, None] for i, level in enumerate(levels))
        return Pictures(levels, values, pyramid.strides, (filled.shape[-2], filled.shape[-1]))

    def _filled(self, images: Float[Tensor, "M I H W"]) -> Float[Tensor, "M I h w"]:
        """The pictures with the mean colour below and to the right of them, so that the trunk's strides divide them."""
        stride = self.trunk.strides[-1]
        height, width = (-(-n // stride) * stride for n in images.shape[-2:])
        if (height, width) == tuple(images.shape[-2:]):
            return images
        filled = self.trunk.mean.to(images.dtype).expand(len(images), -1, height, width).clone()
        filled[..., : images.shape[-2], : images.shape[-1]] = images
        return filled


@dataclass(frozen=True)
class Looked:
    """What queries found in the pictures."""

    update: Float[Tensor, "B Q C"]
    """To be added to them."""
    record: object | None = None
    """What a loss wants to know of how it was found."""


@runtime_checkable
class Looking(Protocol):
    """How queries look into the pictures: a frozen dataclass of sizes."""

    def build_summary(self, channels: int) -> nn.Module | None:
        """What is made once a frame for all layers; called with its `Pictures`. None where there is nothing to make."""
        ...

    def build_layer(self, channels: int, *, heads: int, points: int, levels: int, references: int) -> nn.Module:
        """One layer's attention; called with (queries "B Q C", `ReferencePoints`, `Pictures`, summary or None).

        It answers `Looked`.
        """
        ...


@dataclass(frozen=True)
class PlainLooking:
    """Deformable attention into the cameras that see a query, and nothing else."""

    def build_summary(self, channels: int) -> nn.Module | None:  # noqa: ARG002
        """Nothing."""
        return None

    def build_layer(self, channels: int, *, heads: int, points: int, levels: int, references: int) -> nn.Module:
        """`DeformableCrossAttention`."""
        return PlainLook(channels, heads=heads, points=points, levels=levels, references=references)


class PlainLook(DeformableCrossAttention):
    """`DeformableCrossAttention` as a layer calls it."""

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, queries: Float[Tensor, "B Q C"], references: ReferencePoints, pictures: Pictures, _summary: object
    ) -> Looked:
        """Look."""
        return Looked(super().forward(queries, references, pictures.values))


@dataclass(frozen=True)
class ViewConfig:
    """The layers in which queries look around and into the pictures. The defaults are PanoOcc's."""

    layers: int = 3
    """One behind the other."""
    heads: int = 8
    """Of both attentions."""
    slice_points: int = 8
    """That a head samples in each of two volumes."""
    image_points: int = 8
    """That a head samples in each level of a picture."""
    feedforward: int = 512
    """Hidden channels of the network behind the attentions."""
    dropout: float = 0.1
    """Behind each attention and in the network."""
    looking: Looking = field(default_factory=PlainLooking)
    """How queries look into the pictures."""


@dataclass(frozen=True)
class FrameView:
    """What a layer is handed of a frame, besides the queries."""

    position: Float[Tensor, "Q C"]
    """Of the queries' voxels."""
    shape: Shape
    """X, Y and Z of the queries' volume."""
    references: ReferencePoints
    """Where the voxels lie in the pictures."""
    pictures: Pictures
    """The frame's."""
    summary: object
    """Of the frame, see `Looking`."""
    before: Float[Tensor, "B Q C"] | None = None
    """What the voxels held before; None where they look at themselves alone."""


class ViewLayer(nn.Module):
    """Attention in the slice, attention into the pictures, a small network; each normalised behind."""

    def __init__(self, channels: int, config: ViewConfig, *, levels: int, references: int = 1) -> None:
        super().__init__()
        self.self_attention = SliceAttention(channels, heads=config.heads, points=config.slice_points)
        self.cross_attention = config.looking.build_layer(
            channels, heads=config.heads, points=config.image_points, levels=levels, references=references
        )
        self.feedforward = feedforward(channels, config.feedforward, config.dropout)
        self.norms = nn.ModuleList(nn.LayerNorm(channels) for _ in range(3))
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, queries: Float[Tensor, "B Q C"], view: FrameView) -> tuple[Float[Tensor, "B Q C"], object]:
        """The queries after they have looked around, and the record of their look into the pictures."""
        # Positions tell voxels apart in their slice alone, as released; the pictures tell them apart by where they lie.
        around = self.self_attention(queries, view.position, view.shape, view.before)
        queries = self.norms[0](queries + self.dropout(around))
        looked = self.cross_attention(queries, view.references, view.pictures, view.summary)
        queries = self.norms[1](queries + self.dropout(looked.update))
        return self.norms[2](queries + self.feedforward(queries)), looked.record


def frame_references(scene: Scene, t: int, grid: VoxelGrid, size: tuple[int, int], anchors: int = 1) -> ReferencePoints:
    """Where the voxels of a grid in the ego frame of frame t lie in its pictures; a missing picture sees nothing.

    Args:
        scene: Its cameras and motion.
        t: Which frame.
        grid: Of the queries.
        size: Height and width that the maps cover; fractions are of that.
        anchors: Reference points of a voxel, one above the other: the centres of as many equal parts of it.
    """
    (x, y, z), (edge_x, edge_y, edge_z) = grid.shape, grid.voxel_size
    parts = VoxelGrid(grid.lower, (edge_x, edge_y, edge_z / anchors), (x, y, z * anchors))
    centres = parts.centres(device=scene.time.device).view(1, grid.num_voxels, anchors, 3)
    with full_precision(scene.time.device.type):
        camera_from_then = scene.cameras.camera_from_ego[:, t] @ scene.now_from_then[:, t, None]
    found = project_references(
        centres.expand(scene.batch_size, -1, -1, -1),
        scene.cameras.intrinsics[:, t],
        camera_from_then,
        size,
        near=0.0,
        far=1.0,
    )
    return replace(found, visible=found.visible & scene.camera_valid[:, t, :, None, None])


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """A module in evaluation mode; afterwards each of its parts is in the mode it was in."""
    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for part, training in modes.items():
            part.training = training
