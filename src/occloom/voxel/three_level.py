"""A 3D encoder whose channels grow as its volumes shrink, and the sum of its levels at any size (reference drocc 2.4).

The volume part of BEVDet4D-Occ, from which Dr.Occ and COTR start too.
"""

from itertools import pairwise

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from occloom.grid import Shape
from occloom.voxel.encoder3d import EncoderBlock3d


class ThreeLevelEncoder(nn.Module):
    """Residual blocks at full, half and quarter resolution; the first block of each level has a 3x3x3 shortcut."""

    def __init__(
        self,
        in_channels: int,
        *,
        channels: tuple[int, int, int] = (32, 64, 128),
        blocks: tuple[int, int, int] = (1, 2, 4),
    ) -> None:
        """Make the encoder.

        Args:
            in_channels: Of the volume.
            channels: Of each level, finest first.
            blocks: Residual blocks of each level.
        """
        super().__init__()
        self.channels = channels
        self.stages = nn.ModuleList()
        for (before, width), count, stride in zip(pairwise((in_channels, *channels)), blocks, (1, 2, 2), strict=True):
            first = EncoderBlock3d(
                width, in_channels=before, stride=stride, drop_path=0.0, shortcut_norm=nn.BatchNorm3d
            )
            others = [EncoderBlock3d(width, stride=1, drop_path=0.0, shortcut_norm=None) for _ in range(count - 1)]
            self.stages.append(nn.Sequential(first, *others))

    def forward(self, volume: Float[Tensor, "B C X Y Z"]) -> list[Tensor]:
        """The three volumes "B C x y z", finest first; sizes are rounded up."""
        levels = []
        for stage in self.stages:
            volume = stage(volume)
            levels.append(volume)
        return levels


class LevelSum(nn.Module):
    """All levels at one size, side by side, then a 1x1x1 convolution: BEVDet's neck, and COTR's towards a coarse size.

    At the size of the finest level it is the neck of BEVDet4D-Occ ("normal"), at a coarser one that of COTR
    ("reverse").
    """

    def __init__(self, channels: tuple[int, ...], out_channels: int) -> None:
        """Make the neck.

        Args:
            channels: Of each level, finest first.
            out_channels: Of the answer.
        """
        super().__init__()
        self.channels = channels
        self.conv = nn.Conv3d(sum(channels), out_channels, 1, bias=False)
        self.norm = nn.BatchNorm3d(out_channels)

    def forward(self, levels: list[Tensor], size: Shape) -> Float[Tensor, "B C X Y Z"]:
        """Bring levels "B C x y z" together.

        Args:
            levels: Finest first.
            size: X, Y and Z of the answer.
        """
        # A 1x1x1 convolution may be split over its inputs and done before enlarging: an eighth of the work and less,
        # and the concatenation is never made.
        weights = self.conv.weight.split(self.channels, dim=1)
        total = None
        for level, weight in zip(levels, weights, strict=True):
            share = enlarged(F.conv3d(shrunk(level, size), weight), size)
            total = share if total is None else total + share
        return F.relu(self.norm(total), inplace=True)


def shrunk(volume: Float[Tensor, "B C X Y Z"], size: Shape) -> Float[Tensor, "B C x y z"]:
    """Means of blocks along the axes that are longer than `size`; the others stay."""
    x, y, z = (min(n, m) for n, m in zip(volume.shape[2:], size, strict=True))
    return volume if (x, y, z) == tuple(volume.shape[2:]) else F.adaptive_avg_pool3d(volume, (x, y, z))


def enlarged(volume: Float[Tensor, "B C x y z"], size: Shape) -> Float[Tensor, "B C X Y Z"]:
    """Trilinear interpolation between block centres to `size`."""
    if tuple(volume.shape[2:]) == size:
        return volume
    return F.interpolate(volume, size=size, mode="trilinear", align_corners=False)
