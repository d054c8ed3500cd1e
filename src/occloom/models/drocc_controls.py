"""Other ways to give BEVDet4D a depth prior, which Dr.Occ found not to help (section 3.4.1), as controls.

Each is the baseline with one change. The prior knows the present pictures alone, so older frames stay as they are.
"""

from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from occloom.backbones.resnet import ResNet
from occloom.geometry.precision import full_precision
from occloom.geometry.projection import feature_pixels, unproject
from occloom.geometry.rigid import invert, transform_points
from occloom.geometry.voxelize import flat_index, voxel_coordinates, voxel_index
from occloom.grid import LabelSpace, VoxelGrid
from occloom.interfaces import Needs
from occloom.models.bevdet4d import BevDet4d, BevDet4dConfig, LiftedFrames, LiftingConfig, TemporalLifting
from occloom.models.voxdet_camera import planes_one_hot
from occloom.scene import DepthPrior, Scene

POINT_FEATURES = 4
"""Of a voxel: logarithm of 1 + its points, and their mean offset from its centre along x, y, z, in voxels."""
DEPTH_MEAN, DEPTH_STD = 20.0, 20.0
"""In metres: what the fourth channel is normalised by, as colours are."""


@dataclass(frozen=True)
class PriorControlConfig:
    """BEVDet4D with a depth prior, used in a way that is not Dr.Occ's."""

    baseline: BevDet4dConfig = field(default_factory=BevDet4dConfig)
    """What is changed."""
    use: Literal["channel", "points", "lift"] = "channel"
    """The prior's depth as a fourth channel of the pictures; its points as features of the voxels they lie in; or its
    depth in place of the one that lifting estimates."""

    def build(self, grid: VoxelGrid, label_space: LabelSpace) -> BevDet4d:
        """Make the model, with random weights."""
        made = {"channel": DepthChannel, "points": PointFeatures, "lift": PriorLift}[self.use]
        return made(self.baseline, grid, label_space)


def prior_in_pictures(scene: Scene, size: tuple[int, int], stride: int) -> Float[Tensor, "B N h w"]:
    """The prior's depth where the features of the present pictures sit, 0 where it is unknown or was not seen.

    A pixel of the picture as it is now, and one of the prior's, show the same if they lie on one ray.

    Args:
        scene: Its prior, and the pictures' intrinsics.
        size: h and w of the features.
        stride: Image pixels a feature pixel; 1 for the pixels themselves.
    """
    assert scene.prior is not None, "needs asks for the prior"
    prior, intrinsics = scene.prior, scene.cameras.intrinsics[:, 0]
    with full_precision(intrinsics.device.type):
        pixels = feature_pixels(size, stride, dtype=intrinsics.dtype, device=intrinsics.device).flatten(0, 1)
        homogeneous = F.pad(pixels, (0, 1), value=1.0)
        prior_from_picture = prior.intrinsics @ torch.linalg.inv(intrinsics)
        u, v = (homogeneous @ prior_from_picture.mT)[..., :2].round().unbind(-1)
        height, width = prior.depth.shape[-2:]
        inside = (u >= 0) & (u < width) & (v >= 0) & (v < height) & scene.camera_present[..., None]
        index = torch.where(inside, v * width + u, 0).long()
        depth = prior.depth.flatten(2).gather(2, index)
        known = inside & depth.isfinite() & (depth > 0)
        return torch.where(known, depth, 0).unflatten(2, size)


# --- depth as a fourth channel ---------------------------------------------------------------------------------------


class FourChannelLifting(TemporalLifting):
    """The trunk sees depth beside colour; 0, as where it is unknown, in older frames."""

    def __init__(self, config: LiftingConfig, grid: VoxelGrid) -> None:
        super().__init__(config, grid)
        add_depth_channel(self.trunk)

    def pictures(self, scene: Scene, t: int) -> Float[Tensor, "M C H W"]:
        """Colour and depth."""
        colour = super().pictures(scene, t)
        size = (colour.shape[-2], colour.shape[-1])
        depth = prior_in_pictures(scene, size, 1).flatten(0, 1) if t == 0 else colour.new_zeros(len(colour), *size)
        return torch.cat([colour, depth[:, None].to(colour.dtype)], dim=1)


def add_depth_channel(trunk: ResNet) -> None:
    """Let the first convolution take a fourth channel; weights of the other three stay."""
    old = trunk.conv1
    assert isinstance(old, nn.Conv2d), "the plain stem"
    trunk.conv1 = nn.Conv2d(4, old.out_channels, 7, 2, padding=3, bias=False)
    with torch.no_grad():
        trunk.conv1.weight[:, :3] = old.weight
    trunk.mean = torch.cat([trunk.mean, trunk.mean.new_full((1, 1, 1), DEPTH_MEAN)])
    trunk.std = torch.cat([trunk.std, trunk.std.new_full((1, 1, 1), DEPTH_STD)])


class DepthChannel(BevDet4d):
    """The prior's depth as a fourth channel of the pictures."""

    needs = Needs(images=True, true_depth=True, prior_depth=True)
    lifts_by: ClassVar[type[TemporalLifting]] = FourChannelLifting


# --- points as features ----------------------------------------------------------------------------------------------


class PointFeatures(BevDet4d):
    """The prior's points as features of the voxels they lie in, added to the lifted volume."""

    needs = Needs(images=True, true_depth=True, prior_depth=True)

    def __init__(self, config: BevDet4dConfig, grid: VoxelGrid, label_space: LabelSpace) -> None:
        super().__init__(config, grid, label_space)
        self.embed_points = nn.Linear(POINT_FEATURES, self.lifting.channels, bias=False)

    def lift(self, scene: Scene) -> LiftedFrames:
        """Both."""
        lifted = super().lift(scene)
        assert scene.prior is not None, "needs asks for the prior"
        prior = replace(scene.prior, depth=torch.where(scene.camera_present[..., None, None], scene.prior.depth, 0))
        points = point_features(prior, scene.cameras.camera_from_ego[:, 0], self.grid)
        return replace(lifted, volume=lifted.volume + self.embed_points(points).movedim(-1, 1))


def point_features(
    prior: DepthPrior, camera_from_ego: Float[Tensor, "B N 4 4"], grid: VoxelGrid
) -> Float[Tensor, "B X Y Z 4"]:
    """What `POINT_FEATURES` says, of the points of all known pixels; all 0 where there are none."""
    batch, cameras, height, width = prior.depth.shape
    depth = prior.depth.flatten(2)
    with full_precision(depth.device.type):
        pixels = feature_pixels((height, width), 1, dtype=depth.dtype, device=depth.device).flatten(0, 1)
        points = unproject(pixels.expand(batch, cameras, -1, 2), depth, prior.intrinsics)
        points = transform_points(invert(camera_from_ego), points)
        index, inside = voxel_index(points, grid)
        offsets = voxel_coordinates(points, grid) - index - 0.5
        usable = inside & (depth > 0)
        first = torch.arange(batch, device=depth.device)[:, None, None] * grid.num_voxels
        flat = (flat_index(index, grid.shape) + first)[usable]
        rows = F.pad(offsets[usable], (1, 0), value=1.0)
        sums = depth.new_zeros(batch * grid.num_voxels, POINT_FEATURES).index_add(0, flat, rows)
        count = sums[:, :1]
        features = torch.cat([count.log1p(), sums[:, 1:] / count.clamp(min=1)], dim=1)
    return features.view(batch, *grid.shape, POINT_FEATURES)


# --- depth in place of the estimate ----------------------------------------------------------------------------------


class PriorLifting(TemporalLifting):
    """Present features go where the prior's depth says; those of unknown depth go nowhere."""

    def believed(self, scene: Scene, t: int, estimate: Float[Tensor, "B N D h w"]) -> Float[Tensor, "B N D h w"]:
        """1 at the plane of the prior's depth."""
        if t > 0:
            return estimate
        planes = self.config.planes
        depth = prior_in_pictures(scene, (estimate.shape[-2], estimate.shape[-1]), self.config.feature_stride)
        index = ((depth - planes.nearest) / planes.step).floor().flatten(0, 1)
        hot = planes_one_hot(index, depth.flatten(0, 1) > 0, planes.count)
        return hot.unflatten(0, depth.shape[:2]).to(estimate.dtype)


class PriorLift(BevDet4d):
    """The prior's depth in place of the one that lifting estimates."""

    needs = Needs(images=True, true_depth=True, prior_depth=True)
    lifts_by: ClassVar[type[TemporalLifting]] = PriorLifting
