"""PanoOcc: voxel queries that look around and into the pictures, fused over time (Wang et al., CVPR 2024).

Images -> trunk and a pyramid of five levels -> a learned query a voxel, three layers (`view_layers`: attention within
the horizontal slice, into the cameras that see the voxel, a small network) -> volumes of past frames, moved to the
present ego frame, fused with the present one -> a decoder that doubles the volume up to the grid -> classes. The base
of ProtoOcc (reference protoocc 1), without the branches of detection and of "occupied". See docs/models/panoocc.md.

Suffixes: B batch, C channels, X Y Z voxels of the grid, x y z voxels of the queries, Q = x * y * z queries.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from occloom.backbones.pretrained import load_trunk
from occloom.errors import InputError
from occloom.geometry.precision import full_precision
from occloom.geometry.rigid import invert
from occloom.grid import LabelSpace, Shape, VoxelGrid
from occloom.interfaces import Needs, OccupancyModel, Outputs
from occloom.lifting.cross_attention import ReferencePoints
from occloom.losses.cross_entropy import cross_entropy
from occloom.losses.lovasz import lovasz_softmax
from occloom.models.view_layers import (
    QUERY_STD,
    FrameView,
    ImageBranch,
    ImageBranchConfig,
    Pictures,
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


class TemporalFuser(nn.Module):
    """The volumes of all frames side by side, then one residual bottleneck of 3D convolutions."""

    def __init__(self, channels: int, frames: int) -> None:
        super().__init__()
        joined = frames * channels
        self.reduce = nn.Sequential(nn.Conv3d(joined, channels, 1, bias=False), nn.BatchNorm3d(channels))
        self.mix = nn.Sequential(Conv3x3x3(channels, channels), nn.BatchNorm3d(channels))
        self.restore = nn.Sequential(nn.Conv3d(channels, channels, 1, bias=False), nn.BatchNorm3d(channels))
        self.shortcut = nn.Sequential(nn.Conv3d(joined, channels, 1, bias=False), nn.BatchNorm3d(channels))

    def forward(self, volumes: list[Tensor]) -> Float[Tensor, "B C X Y Z"]:
        """Fuse volumes "B C X Y Z" of the present ego frame, the oldest first."""
        joined = torch.cat(volumes, dim=1)
        inner = F.relu(self.mix(F.relu(self.reduce(joined), inplace=True)), inplace=True)
        return F.relu(self.restore(inner) + self.shortcut(joined), inplace=True)


class ViewTransformation(nn.Module):
    """What the paper counts by this name: a learned query a voxel, the layers, and the fusion over time.

    It has no `forward`, so that its cost is the sum of all three (`engine/benchmark.py`).
    """

    def __init__(self, config: ViewConfig, channels: int, *, shape: Shape, levels: int, frames: int) -> None:
        """Make it.

        Args:
            config: Sizes.
            channels: C, of queries and maps.
            shape: X, Y and Z of the queries' volume.
            levels: Of the pictures' maps.
            frames: That are fused, the present one included.
        """
        super().__init__()
        self.shape = shape
        self.queries = nn.Parameter(torch.empty(shape[0] * shape[1] * shape[2], channels).normal_(std=QUERY_STD))
        self.summary = config.looking.build_summary(channels)
        self.layers = nn.ModuleList(ViewLayer(channels, config, levels=levels) for _ in range(config.layers))
        self.fuser = TemporalFuser(channels, frames)

    def encode(
        self,
        pictures: Pictures,
        references: ReferencePoints,
        position: Float[Tensor, "Q C"],
        motion: Float[Tensor, "B 1 C"] | None,
    ) -> "Encoded":
        """One frame's volume.

        Args:
            pictures: The frame's.
            references: Where the voxels' centres lie in them.
            position: Of the voxels.
            motion: What the queries are told of the car's motion; None where nothing.
        """
        queries = self.queries.expand(references.visible.shape[0], -1, -1)
        queries = queries if motion is None else queries + motion
        summary = None if self.summary is None else self.summary(pictures)
        view, record = FrameView(position, self.shape, references, pictures, summary), None
        for layer in self.layers:
            queries, record = layer(queries, view)
        return Encoded(queries.transpose(1, 2).unflatten(2, self.shape), record)


@dataclass(frozen=True)
class Encoded:
    """One frame, seen by the queries."""

    volume: Float[Tensor, "B C X Y Z"]
    """In the frame's own ego frame."""
    record: object
    """Of the last layer's look into the pictures, see `Looked`."""


class MotionEmbedding(nn.Module):
    """What the queries are told of the car: how far and how long it moved since the frame before, from its poses.

    It stands for the CAN-bus vector of the released code, most of whose 18 numbers are no poses.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(5, channels // 2),
            nn.ReLU(inplace=True),
            nn.Linear(channels // 2, channels),
            nn.ReLU(inplace=True),
            nn.LayerNorm(channels),
        )

    def forward(self, scene: Scene, t: int) -> Float[Tensor, "B 1 C"]:
        """To be added to all queries of frame t."""
        return self.layers(motion_numbers(scene, t))[:, None]


def motion_numbers(scene: Scene, t: int) -> Float[Tensor, "B 5"]:
    """Motion between frame t + 1 and frame t of a scene: metres along x, y, z, radians of yaw, seconds.

    All 0 where the scene has no frame before t.
    """
    if t + 1 >= scene.time.shape[1]:
        return scene.time.new_zeros(scene.batch_size, 5)
    with full_precision(scene.time.device.type):
        moved = invert(scene.now_from_then[:, t + 1]) @ scene.now_from_then[:, t]
    yaw = torch.atan2(moved[:, 1, 0], moved[:, 0, 0])
    return torch.cat([moved[:, :3, 3], yaw[:, None], (scene.time[:, t] - scene.time[:, t + 1])[:, None]], dim=1)


class VoxelDecoder(nn.Module):
    """Transposed convolutions that double the axes of the volume until it is as fine as the grid."""

    def __init__(self, in_channels: int, channels: int, factors: Shape) -> None:
        """Make the decoder.

        Args:
            in_channels: Of the volume, and of all but the last convolution.
            channels: Of the answer.
            factors: By which x, y and z are enlarged: powers of two, one of them above 1.

        Raises:
            InputError: If the factors are others.
        """
        super().__init__()
        if max(factors) < 2 or any(f < 1 or f & (f - 1) for f in factors):
            raise InputError(f"coarsening is {factors}", rule="powers of two, such as 2 2 1, at least one above 1")
        steps = max(factors).bit_length() - 1
        self.steps = nn.ModuleList()
        for step in range(steps):
            # An axis with fewer doublings has them first.
            doubled = [factor >> (step + 1) > 0 for factor in factors]
            last = step == steps - 1
            conv = nn.ConvTranspose3d(
                in_channels,
                channels if last else in_channels,
                kernel_size=tuple(4 if double else 1 for double in doubled),  # pyright: ignore[reportArgumentType]
                stride=tuple(2 if double else 1 for double in doubled),  # pyright: ignore[reportArgumentType]
                padding=tuple(int(double) for double in doubled),  # pyright: ignore[reportArgumentType]
            )
            nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
            assert conv.bias is not None
            nn.init.zeros_(conv.bias)
            self.steps.append(nn.Sequential(conv, nn.BatchNorm3d(conv.out_channels), nn.ReLU(inplace=True)))

    def forward(self, volume: Float[Tensor, "B C x y z"], size: Shape) -> Float[Tensor, "B Co X Y Z"]:
        """Enlarge to `size`, which is not the volume's times the factors where these do not divide it."""
        for step in self.steps:
            volume = step(volume)
        return enlarged(volume, size)


@dataclass(frozen=True)
class PanoOccConfig:
    """PanoOcc on Occ3D. The defaults are its full size, "Base"."""

    images: ImageBranchConfig = field(default_factory=ImageBranchConfig)
    """From pictures to maps."""
    view: ViewConfig = field(default_factory=ViewConfig)
    """From maps to a volume."""
    coarsening: Shape = (2, 2, 1)
    """Edges of a query's voxel in voxels of the grid: 2 2 1 (Base), 4 4 1 (Small), 4 4 4 (Tiny)."""
    frames: int = 4
    """That are fused, the present one included; a scene may have fewer."""
    motion: Literal["none", "poses"] = "none"
    """What the queries are told of the car's motion: nothing, or how it moved since the frame before."""
    voxel_channels: int = 32
    """Of the volume that is classified."""
    hidden: int = 128
    """Features of a voxel between the head's layers."""
    class_weight: float = 10.0
    """Of the cross-entropy."""
    lovasz_weight: float = 1.0
    """Of the Lovasz-softmax loss."""

    def __post_init__(self) -> None:
        if self.frames < 1:
            raise InputError(f"frames is {self.frames}", rule="the present one is fused at least")

    def build(self, grid: VoxelGrid, label_space: LabelSpace) -> "PanoOcc":
        """Make the model, with random weights."""
        return PanoOcc(self, grid, label_space)


@dataclass(frozen=True)
class PanoOccOutputs:
    """What PanoOcc answers."""

    logits: Float[Tensor, "B K X Y Z"]
    """Unnormalised class scores on the full grid."""


class PanoOcc(OccupancyModel):
    """PanoOcc: occupancy from the present pictures and those before."""

    needs = Needs(images=True)
    class_weights: Tensor

    def __init__(self, config: PanoOccConfig, grid: VoxelGrid, label_space: LabelSpace) -> None:
        """Make the model.

        Raises:
            InputError: If sizes do not fit together.
        """
        super().__init__()
        self.config, self.grid, self.label_space = config, grid, label_space
        self.query_grid, channels = grid.with_fewer_voxels(config.coarsening), config.images.channels
        self.image_branch = ImageBranch(config.images)
        self.positions = SummedPositions(channels, self.query_grid.shape)
        self.motion = MotionEmbedding(channels) if config.motion == "poses" else None
        self.view_transformation = ViewTransformation(
            config.view,
            channels,
            shape=self.query_grid.shape,
            levels=self.image_branch.levels,
            frames=config.frames,
        )
        self.decoder = VoxelDecoder(channels, config.voxel_channels, config.coarsening)
        self.head = nn.Sequential(
            nn.Linear(config.voxel_channels, config.hidden),
            nn.Softplus(),
            nn.Linear(config.hidden, config.hidden),
            nn.Softplus(),
            nn.Linear(config.hidden, config.voxel_channels),
            nn.Linear(config.voxel_channels, label_space.num_classes),
        )
        for layer in self.head:
            if isinstance(layer, nn.Linear):
                # From PyTorch's own start four layers would leave hardly a difference between voxels.
                nn.init.xavier_uniform_(layer.weight)
        # Fixed by the label space, so neither trained nor saved.
        self.register_buffer("class_weights", torch.ones(label_space.num_classes), persistent=False)

    def forward(self, scene: Scene) -> PanoOccOutputs:
        """Answer the present frame; cameras whose picture is missing do not contribute."""
        return PanoOccOutputs(self.decode(self.fuse(scene, self.encode(scene, 0).volume)))

    def encode(self, scene: Scene, t: int) -> Encoded:
        """Frame t of a scene by itself, in its own ego frame."""
        assert scene.images is not None, "needs asks for images"
        pictures = self.image_branch(scene.images[:, t])
        motion = None if self.motion is None else self.motion(scene, t)
        references = frame_references(scene, t, self.query_grid, pictures.size)
        return self.view_transformation.encode(pictures, references, self.positions(), motion)

    def fuse(self, scene: Scene, present: Float[Tensor, "B C x y z"]) -> Float[Tensor, "B C x y z"]:
        """The present frame's volume fused with those of the past.

        Past frames are encoded one by one, without gradient, as in evaluation. One that does not exist has the volume
        of the frame after it.

        Raises:
            InputError: If the scene has more frames than are fused.
        """
        frames, given = self.config.frames, scene.time.shape[1]
        if given > frames:
            raise InputError(
                f"the samples have {given} frames, the model fuses {frames}",
                rule="it takes fewer, then the oldest one stands in, but not more",
                remedy="name fewer --data.keyframes, or set model.frames",
            )
        volumes = [present]
        for t in range(1, given):
            with torch.no_grad(), evaluating(self):
                past = aligned(self.encode(scene, t).volume, scene.now_from_then[:, t], self.query_grid)
            valid = scene.frame_valid[:, t, None, None, None, None]
            volumes.append(torch.where(valid, past, volumes[-1]))
        volumes += [volumes[-1]] * (frames - given)
        return self.view_transformation.fuser(volumes[::-1])

    def decode(self, volume: Float[Tensor, "B C x y z"]) -> Float[Tensor, "B K X Y Z"]:
        """Class scores of a fused volume, in float32 also within mixed precision: the loss sums over all voxels."""
        voxels = self.decoder(volume, self.grid.shape).permute(0, 2, 3, 4, 1)
        logits = self.head(voxels).permute(0, 4, 1, 2, 3)
        return logits.to(torch.promote_types(logits.dtype, torch.float32))

    def loss(self, outputs: Outputs, target: Target) -> dict[str, Float[Tensor, ""]]:
        """The weighted terms: cross-entropy of the voxels that count, Lovasz-softmax of the occupied ones of these."""
        labels, observed, config = target.labels, target.observed, self.config
        occupied = observed & (labels != self.label_space.empty)
        return {
            "cross_entropy": config.class_weight * cross_entropy(outputs.logits, labels, observed, self.class_weights),
            "lovasz": config.lovasz_weight * lovasz_softmax(outputs.logits, labels, occupied),
        }

    def load_trunk_weights(self, source: Path | Literal["imagenet"]) -> None:
        """Fill the trunk with weights of a file, or with those published for ImageNet.

        Raises:
            InputError: If they cannot be had, or are of another trunk.
        """
        load_trunk(self.image_branch.trunk, source, imagenet=self.config.images.trunk.imagenet)
