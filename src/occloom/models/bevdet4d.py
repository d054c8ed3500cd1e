"""BEVDet4D-stereo-Occ: the present pictures and those before, lifted to one volume (reference drocc 2).

Images -> trunk and neck -> depth distribution, helped by how well each picture agrees with the one before (a plane
sweep) -> lift-splat volumes of two frames in the present ego frame -> 3D encoder -> classes of every voxel. The
baseline of Dr.Occ; `TemporalLifting` is also what Dr.Occ and COTR begin with. See docs/models/bevdet4d.md.

Suffixes: B batch, N cameras, M = B * N images, C channels, h w feature pixels, D depth planes, X Y Z voxels.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from occloom.backbones.fpn import TopDownNeck
from occloom.backbones.pretrained import RESNET50_IMAGENET, HubFile, load_trunk
from occloom.backbones.resnet import ResNet, resnet50
from occloom.errors import InputError
from occloom.geometry.precision import full_precision
from occloom.geometry.rigid import invert
from occloom.grid import LabelSpace, VoxelGrid
from occloom.heads.occupancy import OccupancyHead
from occloom.interfaces import FeaturePyramid, Needs, OccupancyModel, Outputs
from occloom.lifting.depth import DepthPlanes
from occloom.lifting.geometry_depth import DepthAndContext
from occloom.lifting.lift_splat import frustum_voxels, lift_splat
from occloom.lifting.stereo_depth import StereoDepth, matching_probability
from occloom.losses.cross_entropy import BalancedClasses, EqualClasses, cross_entropy
from occloom.losses.depth import depth_cross_entropy
from occloom.models.voxdet_camera import SmallTrunk, nearest_depth
from occloom.scene import Scene, Target
from occloom.voxel.encoder3d import EncoderBlock3d
from occloom.voxel.three_level import LevelSum, ThreeLevelEncoder

MATCHING_STRIDE = 4
"""Image pixels a cell of the maps that are compared between frames: the trunk's first stage."""
CAMERA_NUMBERS = 27
"""That describe a camera to the depth network."""


@dataclass(frozen=True)
class ResNet50Trunk:
    """ResNet-50, as released."""

    imagenet: ClassVar[HubFile | None] = RESNET50_IMAGENET

    def build(self) -> ResNet:
        """Full width, batch normalisation."""
        return resnet50()


@dataclass(frozen=True)
class LiftingConfig:
    """From pictures of several frames to one volume. The defaults are BEVDet4D's full size on 256x704 images."""

    trunk: ResNet50Trunk | SmallTrunk = ResNet50Trunk()
    """Image trunk."""
    image_channels: int = 256
    """Of the image features."""
    feature_stride: int = 16
    """Image pixels a feature pixel."""
    depth_channels: int = 256
    """Inner channels of the depth network."""
    pyramid_channels: int = 96
    """Of each side of its atrous pyramid."""
    planes: DepthPlanes = field(default_factory=lambda: DepthPlanes(near=1.25, step=0.5, count=88))
    """Of the depth distribution: 1 to 45 m."""
    channels: int = 32
    """That each frame contributes to the volume."""
    frames: int = 2
    """Frames that are lifted, the present one included; the one before them is looked at for stereo alone."""

    def __post_init__(self) -> None:
        if self.feature_stride not in (4, 8, 16, 32):
            raise InputError(f"feature_stride is {self.feature_stride}", rule="it is 4, 8, 16 or 32")
        if self.frames < 1:
            raise InputError(f"frames is {self.frames}", rule="the present one is lifted at least")


@dataclass(frozen=True)
class LiftedFrames:
    """All frames in one volume, and what was seen in the present one."""

    volume: Float[Tensor, "B C X Y Z"]
    """Of the present ego frame; the oldest frame's channels come first."""
    features: Float[Tensor, "B N F h w"]
    """Of the present pictures."""
    depth: Float[Tensor, "B N D h w"]
    """Probability of each depth plane of the present pictures."""
    stride: int
    """Image pixels a feature pixel."""
    valid: Bool[Tensor, "B N"]
    """Cameras whose present picture is there."""


@dataclass(frozen=True)
class LiftedFrame:
    """One frame of them."""

    volume: Float[Tensor, "B C X Y Z"]
    features: Float[Tensor, "M F h w"]
    depth: Float[Tensor, "M D h w"]
    matched: Float[Tensor, "M S H W"]
    """Of the trunk's first stage, to compare the next frame with."""


class TemporalLifting(nn.Module):
    """Lifts the present frame and older ones into the present ego frame, each helped by the frame before it."""

    def __init__(self, config: LiftingConfig, grid: VoxelGrid) -> None:
        """Make the lifting.

        Args:
            config: Sizes.
            grid: Of the volume.
        """
        super().__init__()
        self.config, self.grid = config, grid
        self.channels = config.frames * config.channels
        self.trunk = config.trunk.build()
        self.coarser = sum(stride < config.feature_stride for stride in self.trunk.strides)
        self.neck = TopDownNeck(
            in_channels=self.trunk.channels[self.coarser :], channels=config.image_channels, enlarging="nearest"
        )
        self.depth_net = StereoDepth(
            in_channels=config.image_channels,
            channels=config.depth_channels,
            context_channels=config.channels,
            pyramid_channels=config.pyramid_channels,
            planes=config.planes.count,
            camera_numbers=CAMERA_NUMBERS,
            matching_stride=MATCHING_STRIDE,
            stride=config.feature_stride,
        )
        self.refine = EncoderBlock3d(config.channels, stride=1, drop_path=0.0, shortcut_norm=nn.BatchNorm3d)

    def forward(self, scene: Scene) -> LiftedFrames:
        """Lift the frames; cameras whose picture is missing do not contribute.

        Only the present frame's part is learnt from (BEVDet4D, 2022): older ones are lifted without gradient, in
        training with batch statistics like any other.

        Raises:
            InputError: If the scene has too few frames.
        """
        frames, given = self.config.frames, scene.time.shape[1]
        if given <= frames:
            raise InputError(
                f"the samples have {given} frames, the model looks at {frames + 1}",
                rule=f"{frames} frames are lifted, the one before them is their stereo reference",
                remedy="name as many --data.keyframes, such as 0 -1 -2",
            )
        camera = camera_vector(scene)
        with torch.no_grad():
            matched = self.trunk.first_stage(self.pictures(scene, frames))
        lifted: list[LiftedFrame] = []
        for t in reversed(range(frames)):
            with torch.set_grad_enabled(torch.is_grad_enabled() and t == 0):
                lifted.append(self.lift_frame(scene, t, camera, matched))
            matched = lifted[-1].matched
        cameras = (scene.batch_size, -1)
        return LiftedFrames(
            volume=torch.cat([frame.volume for frame in lifted], dim=1),
            features=lifted[-1].features.unflatten(0, cameras),
            depth=lifted[-1].depth.unflatten(0, cameras),
            stride=self.config.feature_stride,
            valid=scene.camera_valid[:, 0],
        )

    def lift_frame(
        self, scene: Scene, t: int, camera: Float[Tensor, "M 27"], older: Float[Tensor, "M S H W"]
    ) -> LiftedFrame:
        """One frame's volume, in the present ego frame.

        Args:
            scene: Its pictures and cameras.
            t: Which frame.
            camera: From `camera_vector`.
            older: `matched` of frame t + 1.
        """
        features, estimate, first = self.estimate(scene, t, camera, older)
        volume = self.refine(self.splat(scene, t, estimate))
        return LiftedFrame(volume=volume, features=features, depth=estimate.depth, matched=first.detach())

    def estimate(
        self, scene: Scene, t: int, camera: Float[Tensor, "M 27"], older: Float[Tensor, "M S H W"]
    ) -> tuple[Float[Tensor, "M F h w"], DepthAndContext, Float[Tensor, "M S H W"]]:
        """Image features, their depth and context, and the trunk's first stage; arguments as `lift_frame`."""
        levels = self.trunk(self.pictures(scene, t))
        first, kept = levels.levels[0], slice(self.coarser, None)
        features = self.neck(FeaturePyramid(levels.levels[kept], levels.strides[kept])).levels[0]
        return features, self.depth_net(features, camera, self.match(scene, t, first, older)), first

    def splat(self, scene: Scene, t: int, estimate: DepthAndContext) -> Float[Tensor, "B C X Y Z"]:
        """Context of a frame where its depth is believed to be, in the present ego frame."""
        cameras = scene.camera_valid.shape[0], scene.camera_valid.shape[2]
        voxels = frustum_voxels(
            scene.cameras.intrinsics[:, t],
            scene.cameras.camera_from_ego[:, t],
            self.grid,
            self.config.planes,
            (estimate.depth.shape[-2], estimate.depth.shape[-1]),
            self.config.feature_stride,
        )
        return lift_splat(
            estimate.context.unflatten(0, cameras),
            self.believed(scene, t, estimate.depth.unflatten(0, cameras)),
            voxels,
            scene.camera_valid[:, t],
            self.grid.shape,
        )

    def pictures(self, scene: Scene, t: int) -> Float[Tensor, "M C H W"]:
        """What the trunk sees of a frame."""
        assert scene.images is not None, "needs asks for images"
        return scene.images[:, t].flatten(0, 1)

    def believed(self, scene: Scene, t: int, estimate: Float[Tensor, "B N D h w"]) -> Float[Tensor, "B N D h w"]:  # noqa: ARG002
        """Where along their rays the features of a frame go: where the depth network estimates them to be."""
        return estimate

    def match(
        self, scene: Scene, t: int, first: Float[Tensor, "M S H W"], older: Float[Tensor, "M S H W"]
    ) -> Float[Tensor, "M D H W"]:
        """How well each plane of frame t agrees with the frame before it; equal where one of the two is missing."""
        cameras = scene.cameras
        with full_precision(first.device.type):
            older_from_camera = cameras.camera_from_ego[:, t + 1] @ invert(cameras.camera_from_ego[:, t])
        return matching_probability(
            first,
            older,
            intrinsics=cameras.intrinsics[:, t].flatten(0, 1),
            other_intrinsics=cameras.intrinsics[:, t + 1].flatten(0, 1),
            other_from_camera=older_from_camera.flatten(0, 1),
            valid=(scene.camera_valid[:, t] & scene.camera_valid[:, t + 1]).flatten(),
            planes=self.config.planes,
            stride=MATCHING_STRIDE,
        )


def camera_vector(scene: Scene) -> Float[Tensor, "M 27"]:
    """What the depth network is told of each present camera, in BEVDet's order and units.

    Focal lengths and centre for the picture on disk, what was done to the picture (upper 2x2 and translation) and to
    the ego frame (its upper 2x2 and z), and the recorded pose. The poses are those of the present frame, for older
    frames too.
    """
    cameras, done = scene.cameras, scene.augmentation
    intrinsics, ego_from_camera = cameras.intrinsics[:, 0], invert(cameras.camera_from_ego[:, 0])
    picture = torch.eye(3, dtype=intrinsics.dtype, device=intrinsics.device).expand_as(intrinsics)
    ego = torch.eye(4, dtype=intrinsics.dtype, device=intrinsics.device).expand_as(ego_from_camera)
    if done is not None:
        picture, ego = done.picture_from_source[:, 0], done.ego_from_source[:, None].expand_as(ego)
        ego_from_camera = invert(ego) @ ego_from_camera
        intrinsics = torch.linalg.inv(picture) @ intrinsics
    numbers = [
        *(intrinsics[..., i, j] for i, j in ((0, 0), (1, 1), (0, 2), (1, 2))),
        *(picture[..., i, j] for i, j in ((0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2))),
        *(ego[..., i, j] for i, j in ((0, 0), (0, 1), (1, 0), (1, 1), (2, 2))),
    ]
    return torch.cat([torch.stack(numbers, dim=-1), ego_from_camera[..., :3, :].flatten(-2)], dim=-1).flatten(0, 1)


@dataclass(frozen=True)
class BevDet4dConfig:
    """BEVDet4D-stereo-Occ. The defaults are its full size."""

    lifting: LiftingConfig = field(default_factory=LiftingConfig)
    """From pictures to a volume."""
    volume_channels: tuple[int, int, int] = (32, 64, 128)
    """Of the 3D encoder at full, half and quarter resolution."""
    volume_blocks: tuple[int, int, int] = (1, 2, 4)
    """Its residual blocks."""
    channels: int = 32
    """Of the volume that is classified."""
    hidden: int = 64
    """Features of a voxel before the last layer."""
    classes: EqualClasses | BalancedClasses = field(default_factory=EqualClasses)
    """How much voxels of each class weigh in the loss."""
    depth_weight: float = 0.05
    """Of the loss of depth."""

    def build(self, grid: VoxelGrid, label_space: LabelSpace) -> "BevDet4d":
        """Make the model, with random weights."""
        return BevDet4d(self, grid, label_space)


@dataclass(frozen=True)
class LiftedOutputs:
    """What a model that lifts answers, with the depth that it believed."""

    logits: Float[Tensor, "B K X Y Z"]
    """Unnormalised class scores on the full grid."""
    depth: Float[Tensor, "B N D h w"]
    """Probability of each depth plane of the present pictures."""
    stride: int
    """Image pixels a pixel of `depth`."""
    valid: Bool[Tensor, "B N"]
    """Cameras whose present picture is there."""


@runtime_checkable
class SeesDepth(Protocol):
    """Outputs of a model that lifts."""

    @property
    def depth(self) -> Float[Tensor, "B N D h w"]:
        """Probability of each depth plane of the present pictures."""
        ...

    @property
    def stride(self) -> int:
        """Image pixels a pixel of `depth`."""
        ...

    @property
    def valid(self) -> Bool[Tensor, "B N"]:
        """Cameras whose present picture is there."""
        ...


class BevDet4d(OccupancyModel):
    """BEVDet4D-stereo-Occ: occupancy from the present pictures and those before."""

    needs = Needs(images=True, true_depth=True)
    lifts_by: ClassVar[type[TemporalLifting]] = TemporalLifting
    class_weights: Tensor

    def __init__(self, config: BevDet4dConfig, grid: VoxelGrid, label_space: LabelSpace) -> None:
        super().__init__()
        self.config, self.grid, self.label_space = config, grid, label_space
        self.lifting = self.lifts_by(config.lifting, grid)
        self.encoder = ThreeLevelEncoder(
            self.lifting.channels, channels=config.volume_channels, blocks=config.volume_blocks
        )
        self.neck = LevelSum(config.volume_channels, config.channels)
        self.head = OccupancyHead(config.channels, label_space.num_classes, hidden=config.hidden)
        # Fixed by the label space, so neither trained nor saved.
        self.register_buffer("class_weights", config.classes.weights(label_space), persistent=False)

    def forward(self, scene: Scene) -> LiftedOutputs:
        """Answer the present frame; cameras whose picture is missing do not contribute."""
        lifted = self.lift(scene)
        volume = self.neck(self.encoder(lifted.volume), self.grid.shape)
        return LiftedOutputs(logits=self.head(volume), depth=lifted.depth, stride=lifted.stride, valid=lifted.valid)

    def lift(self, scene: Scene) -> LiftedFrames:
        """The volume of all frames."""
        return self.lifting(scene)

    def loss(self, outputs: Outputs, target: Target) -> dict[str, Float[Tensor, ""]]:
        """Cross-entropy of the voxels that count, and of the depth of pixels that LiDAR hit."""
        assert isinstance(outputs, LiftedOutputs), "outputs must be this model's own"
        return {
            "cross_entropy": cross_entropy(outputs.logits, target.labels, target.observed, self.class_weights),
            "depth": self.config.depth_weight * depth_loss(outputs, target, self.config.lifting.planes),
        }

    def load_trunk_weights(self, source: Path | Literal["imagenet"]) -> None:
        """Fill the trunk with weights of a file, or with those published for ImageNet.

        Raises:
            InputError: If they cannot be had, or are of another trunk.
        """
        load_trunk(self.lifting.trunk, source, imagenet=self.config.lifting.trunk.imagenet)


def depth_loss(outputs: SeesDepth, target: Target, planes: DepthPlanes) -> Float[Tensor, ""]:
    """Of the estimated depth where LiDAR hit something; the nearest hit of a cell that lies on a plane counts."""
    assert target.depth is not None, "needs asks for true depth"
    depth = target.depth * outputs.valid[:, :, None, None]
    depth = torch.where((depth >= planes.nearest) & (depth < planes.farthest), depth, 0)
    return depth_cross_entropy(outputs.depth.flatten(0, 1), nearest_depth(depth.flatten(0, 1), outputs.stride), planes)
