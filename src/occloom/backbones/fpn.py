"""Top-down necks (Lin et al., "Feature Pyramid Networks", CVPR 2017): of one level, and of all."""

from typing import Literal

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from occloom.interfaces import FeaturePyramid


class TopDownNeck(nn.Module):
    """Brings the context of coarse levels to the finest one, and returns that one only."""

    def __init__(
        self, *, in_channels: tuple[int, ...], channels: int, enlarging: Literal["bilinear", "nearest"] = "bilinear"
    ) -> None:
        """Make the neck.

        Args:
            in_channels: Of each level, finest first.
            channels: Of the level that comes out.
            enlarging: How coarse levels become finer; the paper's is "nearest".
        """
        super().__init__()
        self.enlarging = enlarging
        self.lateral = nn.ModuleList(nn.Conv2d(c, channels, 1) for c in in_channels)
        self.smooth = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, pyramid: FeaturePyramid) -> FeaturePyramid:
        """Add each level, enlarged, to the next finer one; then smooth."""
        levels = [lateral(level) for lateral, level in zip(self.lateral, pyramid.levels, strict=True)]
        x = levels[-1]
        for finer in reversed(levels[:-1]):
            x = finer + self._enlarged(x, finer)
        return FeaturePyramid(levels=(self.smooth(x),), strides=pyramid.strides[:1])

    def _enlarged(self, coarse: Float[Tensor, "M C h w"], finer: Float[Tensor, "M C H W"]) -> Float[Tensor, "M C H W"]:
        """The coarse level at the size of the finer one."""
        if self.enlarging == "nearest":
            return F.interpolate(coarse, size=finer.shape[-2:], mode="nearest")
        return F.interpolate(coarse, size=finer.shape[-2:], mode="bilinear", align_corners=False)


class PyramidNeck(nn.Module):
    """The whole pyramid: all levels of one width, each with the context of the coarser ones, and coarser ones behind.

    The levels behind the trunk's are strided convolutions of the last level of the pyramid, as DETR's descendants have
    them (reference protoocc 1.3).
    """

    def __init__(self, *, in_channels: tuple[int, ...], channels: int, extra: int = 1) -> None:
        """Make the neck.

        Args:
            in_channels: Of each level, finest first.
            channels: Of all levels that come out.
            extra: Levels behind the trunk's coarsest, each half as large as the one before.
        """
        super().__init__()
        self.lateral = nn.ModuleList(nn.Conv2d(c, channels, 1) for c in in_channels)
        self.smooth = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in in_channels)
        self.behind = nn.ModuleList(nn.Conv2d(channels, channels, 3, 2, padding=1) for _ in range(extra))

    def forward(self, pyramid: FeaturePyramid) -> FeaturePyramid:
        """Add each level, enlarged to the nearest pixel, to the next finer one; smooth; go on behind the last."""
        levels = [lateral(level) for lateral, level in zip(self.lateral, pyramid.levels, strict=True)]
        for i in reversed(range(len(levels) - 1)):
            levels[i] = levels[i] + F.interpolate(levels[i + 1], size=levels[i].shape[-2:], mode="nearest")
        levels = [smooth(level) for smooth, level in zip(self.smooth, levels, strict=True)]
        strides = list(pyramid.strides)
        for conv in self.behind:
            levels.append(conv(F.relu(levels[-1])))
            strides.append(2 * strides[-1])
        return FeaturePyramid(levels=tuple(levels), strides=tuple(strides))
