"""A small 3D residual network that looks at several scales and answers at the finest."""

from itertools import pairwise

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


def group_norm(channels: int) -> nn.GroupNorm:
    """Groups of at least four channels, at most eight groups: unlike batch statistics, fit for two samples a step."""
    return nn.GroupNorm(
        max(g for g in range(1, 9) if channels % g == 0 and channels // g >= min(4, channels)), channels
    )


class ResidualBlock3d(nn.Module):
    """Two 3x3x3 convolutions around a shortcut."""

    def __init__(self, in_channels: int, channels: int, *, stride: int = 1) -> None:
        super().__init__()
        self.first = nn.Conv3d(in_channels, channels, 3, stride, padding=1, bias=False)
        self.first_norm = group_norm(channels)
        self.second = nn.Conv3d(channels, channels, 3, padding=1, bias=False)
        self.second_norm = group_norm(channels)
        changes = stride != 1 or in_channels != channels
        self.shortcut = nn.Conv3d(in_channels, channels, 1, stride) if changes else nn.Identity()

    def forward(self, x: Float[Tensor, "B C X Y Z"]) -> Float[Tensor, "B Co x y z"]:
        """Halve the size (rounding up) where the stride is 2."""
        y = F.relu(self.first_norm(self.first(x)))
        return F.relu(self.second_norm(self.second(y)) + self.shortcut(x))


class ResidualUNet3d(nn.Module):
    """Residual blocks down to coarser volumes, then sums on the way back up."""

    def __init__(self, *, channels: tuple[int, ...], blocks: tuple[int, ...]) -> None:
        """Make the network.

        Args:
            channels: Of each scale, finest first; the volume has `channels[0]`.
            blocks: Residual blocks of each scale.
        """
        super().__init__()
        self.down = nn.ModuleList()
        before = channels[0]
        for scale, (width, count) in enumerate(zip(channels, blocks, strict=True)):
            first = ResidualBlock3d(before, width, stride=1 if scale == 0 else 2)
            self.down.append(nn.Sequential(first, *(ResidualBlock3d(width, width) for _ in range(count - 1))))
            before = width
        self.up = nn.ModuleList(
            nn.Sequential(nn.Conv3d(coarse, fine, 1, bias=False), group_norm(fine))
            for fine, coarse in pairwise(channels)
        )

    def forward(self, volume: Float[Tensor, "B C X Y Z"]) -> Float[Tensor, "B C X Y Z"]:
        """Same shape in and out; any size."""
        scales = []
        for stage in self.down:
            volume = stage(volume)
            scales.append(volume)
        for finer, project in zip(reversed(scales[:-1]), reversed(self.up), strict=True):
            # Projected before it is enlarged: an eighth of the work.
            raised = F.interpolate(project(volume), size=finer.shape[-3:], mode="trilinear", align_corners=False)
            volume = F.relu(finer + raised)
        return volume
