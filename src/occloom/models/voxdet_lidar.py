"""VoxDet-L: VoxDet from one LiDAR sweep (paper 5.1.2, appendix C.3), then dense detection. See docs/models/voxdet.md.

Points -> a small network on each -> the maximum in each voxel -> 3D residual encoder and neck -> lifted volume V, which
`models/voxdet` answers. Released structure (reference voxdet 10), whose "3D ResNet-50" is a residual network of three
stages. It looks at the present sweep only and opens neither images nor depth.

Suffixes: B batch, C channels, P points, F point features, X Y Z voxels of the volume.
"""

from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from occloom.errors import InputError
from occloom.geometry.voxelize import flat_index, voxel_index
from occloom.grid import LabelSpace, Shape, VoxelGrid
from occloom.interfaces import Needs, OccupancyModel, Outputs
from occloom.models.voxdet import DenseDetector, DetectionOutputs, DetectorConfig, volume_grid
from occloom.scene import Points, Scene, Target
from occloom.voxel.encoder3d import VolumeEncoder3d, VolumeNeck

DETECTOR = DetectorConfig(blocks=(3, 3, 3))
"""Its encoder is deeper than the camera model's."""

POINT_FEATURES = 6
"""Offset from the voxel's centre along x, y, z; x; y; intensity."""


@dataclass(frozen=True)
class VoxDetLConfig:
    """Sizes of VoxDet-L. The defaults are the paper's full size on 256x256x32 voxels of 0.2 m."""

    point_channels: tuple[int, ...] = (64, 128, 256)
    """Hidden layers of the network on each point."""
    channels: int = 128
    """C: of the volume."""
    volume_coarsening: Shape = (2, 2, 2)
    """Voxels of the grid in a voxel of the volume, along x, y, z."""
    blocks: tuple[int, ...] = (2, 2, 2)
    """Residual blocks of each stage between points and lifted volume; each stage but the first halves the volume."""
    drop_path: float = 0.3
    """Stochastic depth of the last of these blocks."""
    detector: DetectorConfig = DETECTOR
    """Encoder, predictor and losses."""

    def __post_init__(self) -> None:
        if min((*self.point_channels, *self.volume_coarsening, self.channels), default=0) < 1:
            raise InputError(
                f"point_channels is {self.point_channels}, channels {self.channels} and volume_coarsening "
                f"{self.volume_coarsening}",
                rule="all are at least 1",
            )
        if len(self.blocks) < 2 or min(self.blocks) < 1:
            raise InputError(f"blocks is {self.blocks}", rule="two or more stages of at least one block")

    def build(self, grid: VoxelGrid, label_space: LabelSpace) -> "VoxDetL":
        """Make the model, with random weights."""
        return VoxDetL(self, grid, label_space)


class PointEncoder(nn.Module):
    """What a network says of each point, as its maximum over the points of a voxel; 0 where there is no point."""

    def __init__(self, hidden: tuple[int, ...], channels: int, grid: VoxelGrid) -> None:
        """Make the encoder.

        Args:
            hidden: Channels of the hidden layers.
            channels: Of the volume.
            grid: Of the volume.
        """
        super().__init__()
        self.grid = grid
        layers: list[nn.Module] = [nn.BatchNorm1d(POINT_FEATURES)]
        for before, after in pairwise((POINT_FEATURES, *hidden)):
            layers += [nn.Linear(before, after), nn.BatchNorm1d(after), nn.ReLU(inplace=True)]
        self.network = nn.Sequential(*layers, nn.Linear(hidden[-1], channels))
        self.channels = channels

    def forward(self, points: Points, batch: int) -> Float[Tensor, "B C X Y Z"]:
        """The volume of the present sweep of each sample.

        Args:
            points: Their first feature is the intensity. Older sweeps and points that are not strictly inside the grid
                are left out.
            batch: B; samples may have no point.
        """
        features, voxels = point_features(points, self.grid)
        # Statistics over the batch take two rows, and where several processes train, each must run every layer: zeros
        # stand in for missing points and are dropped behind.
        missing = max(0, 2 - len(features)) if self.training else 0
        said = self.network(F.pad(features, (0, 0, 0, missing)))[: len(features)]
        volume = maximum_of_voxels(said, voxels, batch * self.grid.num_voxels)
        return volume.view(batch, *self.grid.shape, self.channels).permute(0, 4, 1, 2, 3)


def point_features(points: Points, grid: VoxelGrid) -> tuple[Float[Tensor, "P F"], Int64[Tensor, " P"]]:
    """The features of the points of now that lie strictly inside the grid, and their voxels.

    Returns:
        `POINT_FEATURES` a point, and the flat index of its voxel in the batch's grids one behind the other.
    """
    # A single mask, made before anything else is computed of points far away.
    index, inside = voxel_index(points.positions, grid)
    lower = points.positions.new_tensor(grid.lower)
    kept = (inside & (points.positions > lower).all(dim=1) & (points.time == 0)).nonzero()[:, 0]
    index, positions = index.index_select(0, kept), points.positions.index_select(0, kept)
    centres = lower + (index + 0.5) * positions.new_tensor(grid.voxel_size)
    intensity = points.features[:, :1].index_select(0, kept)
    features = torch.cat([positions - centres, positions[:, :2], intensity], dim=1)
    return features, points.batch_index.index_select(0, kept) * grid.num_voxels + flat_index(index, grid.shape)


def maximum_of_voxels(rows: Float[Tensor, "P C"], voxels: Int64[Tensor, " P"], num_voxels: int) -> Float[Tensor, "V C"]:
    """The maximum of each channel over the points of each voxel, 0 where there is none.

    Points that share the maximum share its gradient. The result does not depend on the order of the points.
    """
    occupied, place = voxels.unique(return_inverse=True)
    largest = rows.new_zeros(len(occupied), rows.shape[1])
    largest = largest.scatter_reduce(0, place[:, None].expand_as(rows), rows, "amax", include_self=False)
    return rows.new_zeros(num_voxels, rows.shape[1]).index_copy(0, occupied, largest)


class VoxDetL(OccupancyModel):
    """VoxDet from one LiDAR sweep."""

    needs = Needs(images=False, depth=False, points=True)

    def __init__(self, config: VoxDetLConfig, grid: VoxelGrid, label_space: LabelSpace) -> None:
        """Make the model.

        Raises:
            ValueError: If the coarsening does not divide the grid, or the stride of the offset field the volume.
        """
        super().__init__()
        self.config, self.grid, self.label_space = config, grid, label_space
        channels = config.channels
        volume = volume_grid(grid, config.volume_coarsening, config.detector)
        self.points = PointEncoder(config.point_channels, channels, volume)
        self.backbone = VolumeEncoder3d(
            channels, config.blocks, drop_path=config.drop_path, shortcut_norm=nn.BatchNorm3d
        )
        self.neck = VolumeNeck(channels, len(config.blocks), norm=partial(nn.GroupNorm, config.detector.groups))
        self.detector = DenseDetector(
            config.detector, channels=channels, label_space=label_space, factors=config.volume_coarsening
        )

    def forward(self, scene: Scene) -> DetectionOutputs:
        """Answer the present sweep."""
        return self.detector(self.lift(scene))

    def lift(self, scene: Scene) -> Float[Tensor, "B C X Y Z"]:
        """The volume V of the present sweep."""
        assert scene.points is not None, "VoxDetL.needs asks for points"
        return self.neck(self.backbone(self.points(scene.points, scene.batch_size)))

    def loss(self, outputs: Outputs, target: Target) -> dict[str, Float[Tensor, ""]]:
        """The weighted terms of Eq. 8."""
        assert isinstance(outputs, DetectionOutputs), "outputs must be this model's own"
        return self.detector.losses(outputs, target)

    def predict(self, scene: Scene) -> Int64[Tensor, "B X Y Z"]:
        """The most likely class of every voxel: the argmax of `logits`, without making them."""
        return self.forward(scene).scores.argmax()
