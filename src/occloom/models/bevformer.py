"""BEVFormer for occupancy: queries of a plane that remember, and look into the pictures up and down their pillar.

Images -> trunk and a pyramid of four levels -> a learned query a cell of the plane, four layers (`view_layers`:
attention to the plane of now and to that of the frame before, moved to where the car is now; attention into the cameras
that see an anchor of the cell's pillar; a small network) -> channels laid out over the height -> 3D convolutions ->
classes (Li et al., ECCV 2022; the occupancy head of the CVPR 2023 challenge's baseline, reference protoocc 1.10). The
comparison of PanoOcc and ProtoOcc. See docs/models/bevformer.md.

Suffixes: B batch, C channels, X Y Z voxels of the grid, x y cells of the plane, Q = x * y queries.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from occloom.backbones.pretrained import load_trunk
from occloom.errors import InputError
from occloom.geometry.precision import full_precision
from occloom.geometry.rigid import invert
from occloom.grid import LabelSpace, Shape, VoxelGrid
from occloom.interfaces import Needs, OccupancyModel, Outputs
from occloom.losses.cross_entropy import cross_entropy
from occloom.models.panoocc import MotionEmbedding
from occloom.models.view_layers import (
    QUERY_STD,
    FrameView,
    ImageBranch,
    ImageBranchConfig,
    ViewConfig,
    ViewLayer,
    evaluating,
    frame_references,
)
from occloom.ops.winograd_conv3d import Conv3x3x3
from occloom.scene import Scene, Target
from occloom.voxel.alignment import aligned
from occloom.voxel.positions import SummedPositions
from occloom.voxel.three_level import enlarged


@dataclass(frozen=True)
class BevFormerConfig:
    """BEVFormer on Occ3D. The defaults are its full size, a plane of 200x200."""

    images: ImageBranchConfig = field(default_factory=lambda: ImageBranchConfig(finest_stride=8))
    """From pictures to maps."""
    view: ViewConfig = field(default_factory=lambda: ViewConfig(layers=4, slice_points=4))
    """From maps to a plane."""
    coarsening: tuple[int, int] = (1, 1)
    """Edges of a cell in voxels of the grid, along x and y: 1 1 (200x200), 2 2 (100x100), 4 4 (50x50)."""
    anchors: int = 8
    """Reference points of a cell, one above the other."""
    motion: Literal["none", "poses"] = "none"
    """What the queries are told of the car's motion: nothing, or how it moved since the frame before."""
    voxel_channels: int = 32
    """Of the volume that is classified."""
    hidden: int = 64
    """Features of a voxel before its class."""

    def build(self, grid: VoxelGrid, label_space: LabelSpace) -> "BevFormer":
        """Make the model, with random weights."""
        return BevFormer(self, grid, label_space)


@dataclass(frozen=True)
class Memory:
    """The plane of an earlier frame."""

    plane: Float[Tensor, "B C x y 1"]
    """In that frame's ego frame."""
    now_from_then: Float[Tensor, "B 4 4"]
    """From that ego frame to the scene's present one."""
    known: Bool[Tensor, " B"]
    """Samples that have an earlier frame."""


class PlaneTransformation(nn.Module):
    """A learned query a cell, and the layers: what PanoOcc's paper would count as view transformation."""

    def __init__(self, config: ViewConfig, channels: int, *, shape: Shape, levels: int, anchors: int) -> None:
        """Make it.

        Args:
            config: Sizes.
            channels: C, of queries and maps.
            shape: Cells along x and y, and 1.
            levels: Of the pictures' maps.
            anchors: Reference points of a cell.
        """
        super().__init__()
        self.queries = nn.Parameter(torch.empty(shape[0] * shape[1], channels).normal_(std=QUERY_STD))
        self.summary = config.looking.build_summary(channels)
        self.layers = nn.ModuleList(
            ViewLayer(channels, config, levels=levels, references=anchors) for _ in range(config.layers)
        )

    def forward(
        self, view: FrameView, known: Bool[Tensor, " B"], motion: Float[Tensor, "B 1 C"] | None
    ) -> Float[Tensor, "B C x y 1"]:
        """One frame's plane, in its own ego frame.

        Args:
            view: The frame.
            known: Samples in which `view.before` means something; in the others the queries see themselves twice.
            motion: What the queries are told of the car's motion; None where nothing.
        """
        queries = self.queries.expand(len(known), -1, -1)
        queries = queries if motion is None else queries + motion
        view = replace(view, summary=None if self.summary is None else self.summary(view.pictures))
        for layer in self.layers:
            before = None if view.before is None else torch.where(known[:, None, None], view.before, queries)
            queries, _ = layer(queries, replace(view, before=before))
        return queries.transpose(1, 2).unflatten(2, view.shape)


class HeightHead(nn.Module):
    """Lays the channels of a plane out over the height, and classifies the voxels."""

    def __init__(self, channels: int, voxel_channels: int, num_classes: int, *, height: int, hidden: int) -> None:
        """Make the head.

        Args:
            channels: Of the plane.
            voxel_channels: Of the volume.
            num_classes: K.
            height: Voxels along z.
            hidden: Features of a voxel before its class.

        Raises:
            InputError: If the height does not divide the channels.
        """
        super().__init__()
        if channels % height:
            raise InputError(
                f"{channels} channels over {height} voxels of height",
                rule="each height has the same number of channels",
                remedy=f"set model.images.channels to a multiple of {height}",
            )
        self.height = height
        self.convs = nn.Sequential(
            Conv3x3x3(channels // height, voxel_channels),
            nn.BatchNorm3d(voxel_channels),
            nn.ReLU(inplace=True),
            Conv3x3x3(voxel_channels, voxel_channels),
            nn.BatchNorm3d(voxel_channels),
            nn.ReLU(inplace=True),
        )
        self.classify = nn.Sequential(nn.Linear(voxel_channels, hidden), nn.Softplus(), nn.Linear(hidden, num_classes))

    def forward(self, plane: Float[Tensor, "B C x y 1"], size: Shape) -> Float[Tensor, "B K X Y Z"]:
        """Class scores, in float32 also within mixed precision; a plane coarser than `size` is enlarged first."""
        volume = plane.squeeze(-1).unflatten(1, (-1, self.height)).movedim(2, -1)
        voxels = self.convs(enlarged(volume, size)).permute(0, 2, 3, 4, 1)
        logits = self.classify(voxels).permute(0, 4, 1, 2, 3)
        return logits.to(torch.promote_types(logits.dtype, torch.float32))


@dataclass(frozen=True)
class BevFormerOutputs:
    """What BEVFormer answers."""

    logits: Float[Tensor, "B K X Y Z"]
    """Unnormalised class scores on the full grid."""


class BevFormer(OccupancyModel):
    """BEVFormer: occupancy from the present pictures and, frame after frame, those before."""

    needs = Needs(images=True)
    class_weights: Tensor

    def __init__(self, config: BevFormerConfig, grid: VoxelGrid, label_space: LabelSpace) -> None:
        """Make the model.

        Raises:
            InputError: If sizes do not fit together.
        """
        super().__init__()
        self.config, self.grid, self.label_space = config, grid, label_space
        self.plane_grid, channels = grid.with_fewer_voxels((*config.coarsening, grid.shape[2])), config.images.channels
        self.image_branch = ImageBranch(config.images)
        self.positions = SummedPositions(channels, self.plane_grid.shape)
        self.motion = MotionEmbedding(channels) if config.motion == "poses" else None
        self.view_transformation = PlaneTransformation(
            config.view,
            channels,
            shape=self.plane_grid.shape,
            levels=self.image_branch.levels,
            anchors=config.anchors,
        )
        self.head = HeightHead(
            channels, config.voxel_channels, label_space.num_classes, height=grid.shape[2], hidden=config.hidden
        )
        # Fixed by the label space, so neither trained nor saved.
        self.register_buffer("class_weights", torch.ones(label_space.num_classes), persistent=False)

    def forward(self, scene: Scene) -> BevFormerOutputs:
        """Answer the present frame; cameras whose picture is missing do not contribute.

        Past frames come one after the other, the oldest first, each with the memory of the one before it; without
        gradient and as in evaluation. A frame that does not exist is passed over.
        """
        memory = None
        for t in reversed(range(1, scene.time.shape[1])):
            with torch.no_grad(), evaluating(self):
                memory = self.remember(scene, t, self.encode(scene, t, memory), memory)
        return BevFormerOutputs(self.head(self.encode(scene, 0, memory), self.grid.shape))

    def encode(self, scene: Scene, t: int, memory: Memory | None) -> Float[Tensor, "B C x y 1"]:
        """The plane of frame t of a scene, in its own ego frame."""
        assert scene.images is not None, "needs asks for images"
        pictures, before, known = self.image_branch(scene.images[:, t]), None, torch.ones_like(scene.frame_valid[:, 0])
        if memory is not None:
            with full_precision(scene.time.device.type):
                moved = invert(scene.now_from_then[:, t]) @ memory.now_from_then
            before = aligned(memory.plane, moved, self.plane_grid).flatten(2).transpose(1, 2)
            known = memory.known
        view = FrameView(
            position=self.positions(),
            shape=self.plane_grid.shape,
            references=frame_references(scene, t, self.plane_grid, pictures.size, self.config.anchors),
            pictures=pictures,
            summary=None,
            before=before,
        )
        motion = None if self.motion is None else self.motion(scene, t)
        return self.view_transformation(view, known, motion)

    def remember(self, scene: Scene, t: int, plane: Float[Tensor, "B C x y 1"], memory: Memory | None) -> Memory:
        """What is known after frame t: its plane where the frame exists, what was known before where it does not."""
        exists = scene.frame_valid[:, t]
        if memory is None:
            return Memory(plane, scene.now_from_then[:, t], exists)
        return Memory(
            torch.where(exists[:, None, None, None, None], plane, memory.plane),
            torch.where(exists[:, None, None], scene.now_from_then[:, t], memory.now_from_then),
            exists | memory.known,
        )

    def loss(self, outputs: Outputs, target: Target) -> dict[str, Float[Tensor, ""]]:
        """Cross-entropy of the voxels that count."""
        return {"cross_entropy": cross_entropy(outputs.logits, target.labels, target.observed, self.class_weights)}

    def load_trunk_weights(self, source: Path | Literal["imagenet"]) -> None:
        """Fill the trunk with weights of a file, or with those published for ImageNet.

        Raises:
            InputError: If they cannot be had, or are of another trunk.
        """
        load_trunk(self.image_branch.trunk, source, imagenet=self.config.images.trunk.imagenet)
