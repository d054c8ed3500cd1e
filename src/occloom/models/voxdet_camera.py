"""VoxDet from cameras: depth-guided lifting of images to a volume (paper 4.1, appendix C.2), then dense detection.

Images -> trunk and neck -> depth distribution, corrected by an input depth map -> lift-splat volume; the voxels in
which the input depth lies then ask the images by depth-aware deformable cross-attention. Released structure (reference
voxdet 2 to 4). It looks at the present frame only. See docs/models/voxdet.md.

Suffixes: B batch, N cameras, M = B * N images, C channels, h w feature pixels, D depth planes, V voxels, Q queries.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar, Literal, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from occloom.backbones.pretrained import RESNET50D_IMAGENET, HubFile, load_trunk
from occloom.backbones.resnet import Norm, ResNet, resnet18, resnet50d
from occloom.backbones.second_neck import SecondNeck, slow_batch_norm
from occloom.errors import InputError
from occloom.geometry.rigid import invert
from occloom.grid import LabelSpace, Shape, VoxelGrid
from occloom.interfaces import Needs, OccupancyModel, Outputs
from occloom.lifting.cross_attention import DepthAwareCrossAttention, ReferencePoints, project_references
from occloom.lifting.depth import DepthPlanes
from occloom.lifting.geometry_depth import DepthAndContext, GeometryDepth
from occloom.lifting.lift_splat import frustum_voxels, lift_splat
from occloom.lifting.proposals import depth_proposals, put_rows, ragged_to_padded, take_rows
from occloom.models.voxdet import DenseDetector, DetectionOutputs, DetectorConfig, volume_grid
from occloom.ops.in_place import by_slabs
from occloom.ops.post_norm import PostNormLayer
from occloom.scene import Scene, Target
from occloom.voxel.resnet3d import group_norm


@dataclass(frozen=True)
class ResNet50DTrunk:
    """ResNet-50-D, as released; the paper says ResNet-50."""

    drop_path: float = 0.5
    """Stochastic depth of the last block; depth pre-training has none."""
    imagenet: ClassVar[HubFile | None] = RESNET50D_IMAGENET

    def build(self) -> ResNet:
        """Full width, batch normalisation."""
        return resnet50d(drop_path=self.drop_path)

    def neck_norm(self) -> Norm:
        """Batch normalisation with long averages."""
        return slow_batch_norm


@dataclass(frozen=True)
class SmallTrunk:
    """The baseline's trunk: a narrow ResNet-18 with group normalisation, for the town."""

    width: int = 32
    """Channels of the first stage."""
    imagenet: ClassVar[HubFile | None] = None

    def build(self, *, coarsest_stride: int = 32) -> ResNet:
        """Group normalisation: a step has two or four images, too few for statistics over the batch."""
        return resnet18(width=self.width, coarsest_stride=coarsest_stride, norm=group_norm)

    def neck_norm(self) -> Norm:
        """The trunk's own."""
        return group_norm


@runtime_checkable
class ViewGeometry(Protocol):
    """Where pixels, depth planes and voxels meet."""

    @property
    def planes(self) -> DepthPlanes:
        """Of the depth distribution."""
        ...

    @property
    def camera_eps(self) -> float:
        """Variance below which differences between cameras count little."""
        ...

    def one_hot(self, depth: Float[Tensor, "M H W"], stride: int) -> Float[Tensor, "M D h w"]:
        """The plane of the nearest known depth of each cell, as the depth network is told it."""
        ...

    def voxels(self, scene: Scene, grid: VoxelGrid, size: tuple[int, int], stride: int) -> Int64[Tensor, "B N h w D"]:
        """Flat index of the voxel each feature pixel falls in at each plane; -1 outside the grid."""
        ...

    def references(
        self, scene: Scene, points: Float[Tensor, "B Q R 3"], image_size: tuple[int, int]
    ) -> ReferencePoints:
        """Where points of the ego frame lie in each image."""
        ...

    def proposals(self, scene: Scene, grid: VoxelGrid) -> Bool[Tensor, "B X Y Z"]:
        """The voxels that the input depth maps of the present frame say are occupied."""
        ...

    def camera_vector(self, scene: Scene) -> Float[Tensor, "M 33"]:
        """What the depth network is told of each camera."""
        ...


@dataclass(frozen=True)
class PixelCentres:
    """This library's conventions throughout (docs/conventions.md): pixel centres, depth to the nearest plane, floor."""

    planes: DepthPlanes = field(default_factory=DepthPlanes)
    """Of the depth distribution."""
    camera_eps: float = 0.01
    """A tenth (of the image, of a metre, of a cosine) counts as one deviation, where all cameras of a data set agree:
    otherwise one a hair different would be out of all range."""

    def one_hot(self, depth: Float[Tensor, "M H W"], stride: int) -> Float[Tensor, "M D h w"]:
        """The plane of the smallest known depth of each cell; all zero where none is known or it lies beyond them."""
        nearest = nearest_depth(depth, stride)
        index = ((nearest - self.planes.nearest) / self.planes.step).floor()
        return planes_one_hot(index, nearest > 0, self.planes.count)

    def voxels(self, scene: Scene, grid: VoxelGrid, size: tuple[int, int], stride: int) -> Int64[Tensor, "B N h w D"]:
        """Features sit at the middle of their cells."""
        cameras = scene.cameras
        return frustum_voxels(cameras.intrinsics[:, 0], cameras.camera_from_ego[:, 0], grid, self.planes, size, stride)

    def references(
        self, scene: Scene, points: Float[Tensor, "B Q R 3"], image_size: tuple[int, int]
    ) -> ReferencePoints:
        """Pixels and depths as shares of the image and of the planes, outer borders at 0 and 1."""
        cameras = scene.cameras
        return project_references(
            points,
            cameras.intrinsics[:, 0],
            cameras.camera_from_ego[:, 0],
            image_size,
            near=self.planes.nearest,
            far=self.planes.farthest,
        )

    def proposals(self, scene: Scene, grid: VoxelGrid) -> Bool[Tensor, "B X Y Z"]:
        """Those in which a pixel of known depth lies, seen from a camera whose picture is there."""
        assert scene.depth is not None, "needs asks for depth"
        valid, cameras = scene.camera_present, scene.cameras
        depth = scene.depth[:, 0] * valid[:, :, None, None]
        return depth_proposals(depth, cameras.intrinsics[:, 0], cameras.camera_from_ego[:, 0], grid)

    def camera_vector(self, scene: Scene) -> Float[Tensor, "M 33"]:
        """Intrinsics as shares of the image, and the pose in metres; what else the released vector knows is neutral."""
        assert scene.depth is not None, "needs asks for depth"
        height, width = scene.depth.shape[-2:]
        intrinsics = scene.cameras.intrinsics[:, 0].flatten(0, 1)
        ego_from_camera = invert(scene.cameras.camera_from_ego[:, 0].flatten(0, 1))
        fx, cx = intrinsics[:, 0, 0] / width, intrinsics[:, 0, 2] / width
        fy, cy = intrinsics[:, 1, 1] / height, intrinsics[:, 1, 2] / height
        # No fourth column of a projection matrix; no resize or crop besides the intrinsics; no warp of the volume.
        neutral = intrinsics.new_tensor([0, 0, 0, 1, 0, 0, 0, 1, 0, 1, 0, 0, 1, 1, 0, 0, 0])
        return torch.cat(
            [
                torch.stack([fx, fy, cx, cy], dim=1),
                neutral.expand(len(intrinsics), -1),
                ego_from_camera[:, :3].flatten(1),
            ],
            dim=1,
        )


def nearest_depth(depth: Float[Tensor, "M H W"], stride: int) -> Float[Tensor, "M h w"]:
    """Smallest known depth of each block of `stride` squared pixels, 0 where none is known; the last may be cut."""
    height, width = depth.shape[-2:]
    known = torch.where(depth > 0, -depth, -torch.inf)
    padded = F.pad(known, (0, -width % stride, 0, -height % stride), value=-torch.inf)
    nearest = -F.max_pool2d(padded[:, None], stride)[:, 0]
    return torch.where(nearest.isfinite(), nearest, 0)


def planes_one_hot(index: Float[Tensor, "M h w"], known: Bool[Tensor, "M h w"], count: int) -> Float[Tensor, "M D h w"]:
    """1 at the plane of each pixel; all zero where it is unknown or there is no such plane."""
    valid = known & (index >= 0) & (index < count)
    hot = F.one_hot(torch.where(valid, index, 0).long(), count).to(index.dtype) * valid[..., None]
    return hot.movedim(-1, 1)


@dataclass(frozen=True)
class VoxDetConfig:
    """Sizes of VoxDet from cameras. The defaults are the paper's full size on 384x1280 images."""

    trunk: ResNet50DTrunk | SmallTrunk = ResNet50DTrunk()
    """Image trunk."""
    neck_channels: int = 128
    """That each of the trunk's four levels contributes to the image features."""
    feature_stride: int = 8
    """Image pixels a feature pixel."""
    depth_channels: int = 512
    """Inner channels of the depth network."""
    fusion_channels: int = 32
    """Of the 3D network that fuses estimated and given depth."""
    geometry: ViewGeometry = PixelCentres()
    """Where pixels, depth planes and voxels meet."""
    channels: int = 128
    """C: of the lifted volume."""
    volume_coarsening: Shape = (2, 2, 2)
    """Voxels of the grid in a voxel of the volume, along x, y, z."""
    attention_layers: int = 3
    """Layers of depth-aware deformable cross-attention."""
    heads: int = 8
    """Of the attention."""
    points: int = 8
    """That a head samples."""
    feedforward: int = 256
    """Hidden channels behind each attention."""
    dropout: float = 0.1
    """In the attention layers."""
    detector: DetectorConfig = field(default_factory=DetectorConfig)
    """Encoder, predictor and losses."""

    def __post_init__(self) -> None:
        if self.feature_stride not in (4, 8, 16, 32):
            raise InputError(f"feature_stride is {self.feature_stride}", rule="it is 4, 8, 16 or 32")
        if min(self.attention_layers, self.heads, self.points) < 1:
            raise InputError(
                f"attention_layers is {self.attention_layers}, heads {self.heads} and points {self.points}",
                rule="all are at least 1",
            )
        if self.channels % self.heads:
            raise InputError(f"channels is {self.channels} and heads {self.heads}", rule="heads divides channels")

    def build(self, grid: VoxelGrid, label_space: LabelSpace) -> "VoxDet":
        """Make the model, with random weights."""
        return VoxDet(self, grid, label_space)


def image_parts(
    trunk: ResNet50DTrunk | SmallTrunk,
    geometry: ViewGeometry,
    *,
    neck_channels: int,
    feature_stride: int,
    depth_channels: int,
    fusion_channels: int,
    channels: int,
) -> tuple[ResNet, SecondNeck, GeometryDepth]:
    """Trunk, neck and depth network; the arguments are the fields of `VoxDetConfig`.

    Raises:
        InputError: If the depth network cannot have these sizes.
    """
    made = trunk.build()
    neck = SecondNeck(
        in_channels=made.channels,
        channels=neck_channels,
        strides=made.strides,
        out_stride=feature_stride,
        norm=trunk.neck_norm(),
    )
    depth_net = GeometryDepth(
        in_channels=neck.channels,
        channels=depth_channels,
        context_channels=channels,
        planes=geometry.planes.count,
        camera_eps=geometry.camera_eps,
        fusion_channels=fusion_channels,
    )
    return made, neck, depth_net


def estimate_depth(
    scene: Scene, trunk: ResNet, neck: SecondNeck, depth_net: GeometryDepth, geometry: ViewGeometry
) -> tuple[DepthAndContext, int]:
    """Depth and context of the M = B * N present pictures, and the image pixels a feature pixel."""
    assert scene.images is not None, "needs asks for images"
    assert scene.depth is not None, "needs asks for depth"
    features = neck(trunk(scene.images[:, 0].flatten(0, 1)))
    stride = features.strides[0]
    given = geometry.one_hot(scene.depth[:, 0].flatten(0, 1), stride)
    return depth_net(features.levels[0], given, geometry.camera_vector(scene)), stride


class LiftingLayer(PostNormLayer):
    """Depth-aware deformable cross-attention, then a small network; each added and normalised afterwards."""

    def __init__(self, config: VoxDetConfig) -> None:
        channels = config.channels
        super().__init__(channels, hidden=config.feedforward, dropout=config.dropout)
        self.attention = DepthAwareCrossAttention(channels, heads=config.heads, points=config.points)

    def forward(
        self,
        queries: Float[Tensor, "B Q C"],
        references: ReferencePoints,
        values: Float[Tensor, "B N C h w"],
        depths: Float[Tensor, "B N D h w"],
        where: Bool[Tensor, "B Q"],
    ) -> Float[Tensor, "B Q C"]:
        """The queries after they have seen the images."""
        update = self.attention(queries, references, (values,), (depths,), where)
        return self.settled(queries, update)


class DepthGuidedLifting(nn.Module):
    """Image features and their depth distribution to a volume (paper 4.1)."""

    def __init__(self, config: VoxDetConfig, grid: VoxelGrid) -> None:
        """Make the lifting.

        Args:
            config: Sizes.
            grid: Of the volume.
        """
        super().__init__()
        channels = config.channels
        self.grid, self.geometry = grid, config.geometry
        self.embed_volume = nn.Sequential(
            nn.Linear(channels, channels),
            nn.LayerNorm(channels),
            nn.LeakyReLU(inplace=True),
            nn.Linear(channels, channels),
        )
        self.embed_unproposed = nn.Sequential(
            nn.Linear(channels, channels // 2),
            nn.LayerNorm(channels // 2),
            nn.LeakyReLU(inplace=True),
            nn.Linear(channels // 2, channels),
        )
        # One row for all cameras and one for the only level; the released code leaves them uninitialised.
        self.camera_embedding = nn.Parameter(torch.zeros(1, channels))
        self.level_embedding = nn.Parameter(torch.zeros(1, channels))
        self.layers = nn.ModuleList(LiftingLayer(config) for _ in range(config.attention_layers))

    def forward(
        self,
        scene: Scene,
        context: Float[Tensor, "B N C h w"],
        depth: Float[Tensor, "B N D h w"],
        stride: int,
    ) -> Float[Tensor, "B C X Y Z"]:
        """Lift the present frame.

        Args:
            scene: Its cameras, and its input depth, which proposes the queries.
            context: Image features.
            depth: Probability of each depth plane.
            stride: Image pixels a feature pixel.
        """
        assert scene.depth is not None, "needs asks for depth"
        size, valid = (context.shape[-2], context.shape[-1]), scene.camera_present
        splat = lift_splat(context, depth, self.geometry.voxels(scene, self.grid, size, stride), valid, self.grid.shape)
        volume = by_slabs(self.embed_volume, splat.permute(0, 2, 3, 4, 1).flatten(1, 3), axis=1)  # B V C
        proposed = self.geometry.proposals(scene, self.grid).flatten(1)
        index, is_query = ragged_to_padded(proposed)
        queries = take_rows(volume, index)
        unproposed = by_slabs(self.embed_unproposed, volume, axis=1)
        points = self._centres(index)[:, :, None]
        # What the feature map covers: its last cells may reach beyond the picture.
        references = self.geometry.references(scene, points, (size[0] * stride, size[1] * stride))
        references = replace(references, visible=references.visible & valid[:, :, None, None])
        values = context + (self.camera_embedding + self.level_embedding)[..., None, None]
        for layer in self.layers:
            queries = layer(queries, references, values, depth, is_query)
        lifted = put_rows(unproposed, index, is_query, queries)
        return lifted.unflatten(1, self.grid.shape).permute(0, 4, 1, 2, 3)

    def _centres(self, index: Int64[Tensor, "B Q"]) -> Float[Tensor, "B Q 3"]:
        """Centres of voxels in the ego frame, in metres: query i samples at voxel centre i."""
        centres = self.grid.centres(device=index.device).view(-1, 3)
        return centres.index_select(0, index.flatten()).view(*index.shape, 3)


class VoxDet(OccupancyModel):
    """VoxDet from cameras and an input depth map."""

    needs = Needs(images=True, depth=True)

    def __init__(self, config: VoxDetConfig, grid: VoxelGrid, label_space: LabelSpace) -> None:
        """Make the model.

        Raises:
            ValueError: If the coarsening does not divide the grid, or sizes do not fit together.
        """
        super().__init__()
        self.config, self.grid, self.label_space = config, grid, label_space
        self.left_out = {"lifting.level_embedding, rows 1 to 3": 3 * config.channels}
        volume = volume_grid(grid, config.volume_coarsening, config.detector)
        self.trunk, self.neck, self.depth_net = image_parts(
            config.trunk,
            config.geometry,
            neck_channels=config.neck_channels,
            feature_stride=config.feature_stride,
            depth_channels=config.depth_channels,
            fusion_channels=config.fusion_channels,
            channels=config.channels,
        )
        self.lifting = DepthGuidedLifting(config, volume)
        self.detector = DenseDetector(
            config.detector, channels=config.channels, label_space=label_space, factors=config.volume_coarsening
        )

    def forward(self, scene: Scene) -> DetectionOutputs:
        """Answer the present frame; cameras whose picture is missing do not contribute."""
        return self.detector.predict_densely(self.detector.encode(self.lift(scene)))

    def lift(self, scene: Scene) -> Float[Tensor, "B C X Y Z"]:
        """The lifted volume V of the present frame (4.1)."""
        estimate, stride = estimate_depth(scene, self.trunk, self.neck, self.depth_net, self.config.geometry)
        batch, _, cameras = scene.camera_valid.shape
        context, depth = (part.unflatten(0, (batch, cameras)) for part in (estimate.context, estimate.depth))
        return self.lifting(scene, context, depth, stride)

    def loss(self, outputs: Outputs, target: Target) -> dict[str, Float[Tensor, ""]]:
        """The weighted terms of Eq. 8."""
        assert isinstance(outputs, DetectionOutputs), "outputs must be this model's own"
        return self.detector.losses(outputs, target)

    def predict(self, scene: Scene) -> Int64[Tensor, "B X Y Z"]:
        """The most likely class of every voxel: the argmax of `logits`, without making them."""
        return self.forward(scene).scores.argmax()

    def load_trunk_weights(self, source: Path | Literal["imagenet"]) -> None:
        """Fill the trunk with weights of a file, or with those published for ImageNet.

        Raises:
            InputError: If they cannot be had, or are of another trunk.
        """
        load_trunk(self.trunk, source, imagenet=self.config.trunk.imagenet)
