"""A small top-down neck (Lin et al., "Feature Pyramid Networks", CVPR 2017)."""

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
