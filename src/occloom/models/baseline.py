"""The baseline: a plain lift-splat model, the control row of every comparison. See docs/models/baseline.md.

Images -> trunk and neck -> depth distribution (helped by an input depth map) -> lift-splat pooling -> small 3D
residual network -> factorised head. It looks at the present frame only and ignores older ones.

Suffixes: B batch, N cameras, C channels, h w feature pixels, D depth bins, X Y Z voxels of the coarse volume.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from occloom.backbones.fpn import TopDownNeck
from occloom.backbones.resnet import resnet18
from occloom.errors import InputError
from occloom.grid import LabelSpace, Shape, VoxelGrid
from occloom.heads.factorised import FactorisedHead, FactorisedScores
from occloom.interfaces import Needs, OccupancyModel, Outputs
from occloom.lifting.depth import DepthBins, DepthHead
from occloom.lifting.lift_splat import frustum_voxels, lift_splat
from occloom.losses.affinity import geometric_affinity, semantic_affinity
from occloom.losses.factorised import factorised_losses
from occloom.scene import Scene, Target
from occloom.voxel.resnet3d import ResidualUNet3d, group_norm


@dataclass(frozen=True)
class BaselineConfig:
    """Sizes of the baseline. The defaults are those of the town: 96x320 images, 256x256x32 voxels of 0.2 m."""

    trunk_width: int = 32
    """Channels of the first stage of the ResNet-18 trunk; 64 is full width."""
    image_channels: int = 64
    """Of the image features that depth and volume are made from."""
    feature_stride: int = 4
    """Image pixels a feature pixel: 4, 8, 16 or 32."""
    depth_bins: int = 56
    """Number of depth bins between the near and the far edge; they grow with distance."""
    near: float = 2.0
    """Near edge of the first depth bin, in metres."""
    far: float = 54.0
    """Far edge of the last depth bin, in metres."""
    volume_coarsening: Shape = (4, 4, 4)
    """Voxels of the grid in a voxel of the volume, along x, y, z."""
    class_coarsening: Shape = (2, 2, 2)
    """Voxels of the grid that share their class scores, along x, y, z; occupancy is always at full resolution."""
    volume_channels: tuple[int, ...] = (32, 64, 96)
    """Of the 3D network at each of its scales, finest first."""
    volume_blocks: tuple[int, ...] = (1, 2, 2)
    """Residual blocks of each scale."""

    def __post_init__(self) -> None:
        sizes = {name: value for name, value in vars(self).items() if name not in ("near", "far")}
        for name, value in sizes.items():
            if min(value if isinstance(value, tuple) else (value,), default=0) < 1:
                raise InputError(f"{name} is {value}", rule="it must be at least 1")
        if self.feature_stride not in (4, 8, 16, 32):
            raise InputError(f"feature_stride is {self.feature_stride}", rule="it is 4, 8, 16 or 32")
        if not 0 <= self.near < self.far:
            raise InputError(f"near is {self.near} and far {self.far}", rule="0 <= near < far")
        if len(self.volume_channels) != len(self.volume_blocks):
            raise InputError(
                f"volume_channels has {len(self.volume_channels)} scales, volume_blocks {len(self.volume_blocks)}",
                rule="both have one number a scale",
            )

    def build(self, grid: VoxelGrid, label_space: LabelSpace) -> "Baseline":
        """Make the model, with random weights."""
        return Baseline(self, grid, label_space)


@dataclass(frozen=True)
class BaselineOutputs:
    """What the baseline answers."""

    scores: FactorisedScores

    @property
    def logits(self) -> Float[Tensor, "B K X Y Z"]:
        """Log-probabilities on the full grid; `scores` holds the same in a twentieth of the memory."""
        return self.scores.logits


class CoordinateBias(nn.Module):
    """A learned feature for each x, y and z: what tends to stand where, seen from the sensor."""

    def __init__(self, channels: int, shape: Shape) -> None:
        super().__init__()
        nx, ny, nz = shape
        self.along_x = nn.Parameter(torch.randn(channels, nx, 1, 1) * 0.1)
        self.along_y = nn.Parameter(torch.randn(channels, 1, ny, 1) * 0.1)
        self.along_z = nn.Parameter(torch.randn(channels, 1, 1, nz) * 0.1)

    def forward(self, volume: Float[Tensor, "B C X Y Z"]) -> Float[Tensor, "B C X Y Z"]:
        """Add the three to each voxel."""
        return volume + (self.along_x + self.along_y + self.along_z)


class Baseline(OccupancyModel):
    """Lift-splat occupancy from images and an input depth map."""

    needs = Needs(images=True, depth=True)
    class_weights: Tensor

    def __init__(self, config: BaselineConfig, grid: VoxelGrid, label_space: LabelSpace) -> None:
        """Make the model.

        Raises:
            ValueError: If the coarsenings do not divide the grid, or one another.
        """
        super().__init__()
        self.config, self.grid, self.label_space = config, grid, label_space
        self.volume_grid = grid.coarsen(config.volume_coarsening)
        self.bins = DepthBins(config.near, config.far, config.depth_bins)
        # Group normalisation throughout: a step has two or four images, too few for statistics over the batch.
        self.trunk = resnet18(width=config.trunk_width, finest_stride=config.feature_stride, norm=group_norm)
        self.neck = TopDownNeck(in_channels=self.trunk.channels, channels=config.image_channels)
        self.depth = DepthHead(channels=config.image_channels, bins=self.bins)
        self.context = nn.Conv2d(config.image_channels, config.volume_channels[0], 1)
        self.normalise = group_norm(config.volume_channels[0])
        self.place = CoordinateBias(config.volume_channels[0], self.volume_grid.shape)
        self.volume = ResidualUNet3d(channels=config.volume_channels, blocks=config.volume_blocks)
        self.head = FactorisedHead(
            channels=config.volume_channels[0],
            num_classes=label_space.num_classes,
            empty=label_space.empty,
            factors=config.volume_coarsening,
            class_factors=_ratio(config.volume_coarsening, config.class_coarsening),
        )
        # Fixed by the label space, so neither trained nor saved.
        self.register_buffer(
            "class_weights", label_space.class_weights(device=torch.get_default_device()), persistent=False
        )

    def forward(self, scene: Scene) -> BaselineOutputs:
        """Answer the present frame; cameras whose picture is missing do not contribute."""
        assert scene.images is not None, "Baseline.needs asks for images"
        assert scene.depth is not None, "Baseline.needs asks for depth"
        images, depth = scene.images[:, 0], scene.depth[:, 0]
        batch, cameras = images.shape[:2]
        features = self.neck(self.trunk(images.flatten(0, 1)))
        features_MChw, stride = features.levels[0], features.strides[0]
        depth_MDhw = self.depth(features_MChw, depth.flatten(0, 1), stride)
        voxels_BNhwD = frustum_voxels(
            scene.cameras.intrinsics[:, 0],
            scene.cameras.camera_from_ego[:, 0],
            self.volume_grid,
            self.bins,
            (features_MChw.shape[-2], features_MChw.shape[-1]),
            stride,
        )
        volume_BCXYZ = lift_splat(
            self.context(features_MChw).unflatten(0, (batch, cameras)),
            depth_MDhw.unflatten(0, (batch, cameras)),
            voxels_BNhwD,
            scene.camera_present,
            self.volume_grid.shape,
        )
        volume_BCXYZ = self.volume(self.place(self.normalise(volume_BCXYZ)))
        return BaselineOutputs(scores=self.head(volume_BCXYZ))

    def loss(self, outputs: Outputs, target: Target) -> dict[str, Float[Tensor, ""]]:
        """Class-weighted cross-entropy and the two scene-class affinities, each with weight 1."""
        assert isinstance(outputs, BaselineOutputs), "outputs must be this model's own"
        cross_entropy, sums = factorised_losses(outputs.scores, target, self.class_weights)
        return {
            "cross_entropy": cross_entropy,
            "semantic_affinity": semantic_affinity(sums),
            "geometric_affinity": geometric_affinity(sums, self.label_space.empty),
        }

    def predict(self, scene: Scene) -> Int64[Tensor, "B X Y Z"]:
        """The most likely class of every voxel: the argmax of `logits`, without making them."""
        return self.forward(scene).scores.argmax()


def _ratio(volume: Shape, classes: Shape) -> Shape:
    """Class voxels in a voxel of the volume.

    Raises:
        ValueError: If it is not a whole number along each axis.
    """
    if any(v % c for v, c in zip(volume, classes, strict=True)):
        raise ValueError(f"Expected class_coarsening to divide volume_coarsening {volume}, got {classes}.")
    x, y, z = (v // c for v, c in zip(volume, classes, strict=True))
    return (x, y, z)
