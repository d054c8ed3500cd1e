"""The neck of SECOND (Yan et al., Sensors 2018): brings all levels to one stride and lays them side by side."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from occloom.backbones.resnet import Norm
from occloom.interfaces import FeaturePyramid


def slow_batch_norm(channels: int) -> nn.BatchNorm2d:
    """Batch normalisation as SECOND sets it: its running statistics average some hundred steps."""
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)


class SecondNeck(nn.Module):
    """Feature maps at several strides to one map of `len(in_channels) * channels` channels at `out_stride`."""

    def __init__(
        self,
        *,
        in_channels: tuple[int, ...],
        channels: int = 128,
        strides: tuple[int, ...] = (4, 8, 16, 32),
        out_stride: int = 8,
        norm: Norm = slow_batch_norm,
    ) -> None:
        """Make the neck.

        Args:
            in_channels: Of each level, finest first.
            channels: That each level contributes.
            strides: Of the levels; each divides `out_stride` or is a multiple of it.
            out_stride: Of the map that comes out.
            norm: Makes the normalisation after each convolution.
        """
        super().__init__()
        self.channels = channels * len(in_channels)
        self.strides = strides
        self.out_stride = out_stride
        self.deblocks = nn.ModuleList(
            nn.Sequential(_resize(before, channels, stride, out_stride), norm(channels), nn.ReLU(inplace=True))
            for before, stride in zip(in_channels, strides, strict=True)
        )

    def forward(self, pyramid: FeaturePyramid) -> FeaturePyramid:
        """Bring the levels together.

        A level of a trunk has `ceil(size / stride)` pixels, and so has the map that comes out: finer levels are
        padded with zeros at the bottom and right where their size is no multiple, coarser ones are cut there.
        """
        assert pyramid.strides == self.strides
        padded = [_padded(x, s, self.out_stride) for x, s in zip(pyramid.levels, self.strides, strict=True)]
        maps = [deblock(x) for deblock, x in zip(self.deblocks, padded, strict=True)]
        h, w = min(x.shape[-2] for x in maps), min(x.shape[-1] for x in maps)
        return FeaturePyramid(levels=(torch.cat([x[..., :h, :w] for x in maps], dim=1),), strides=(self.out_stride,))


def _resize(in_channels: int, channels: int, stride: int, out_stride: int) -> nn.Module:
    """A convolution whose kernel and stride are the ratio of the strides; transposed where pixels become more."""
    if stride < out_stride:
        ratio = out_stride // stride
        return nn.Conv2d(in_channels, channels, ratio, ratio, bias=False)
    ratio = stride // out_stride
    return nn.ConvTranspose2d(in_channels, channels, ratio, ratio, bias=False)


def _padded(x: Float[Tensor, "M C h w"], stride: int, out_stride: int) -> Float[Tensor, "M C H W"]:
    """Zeros at the bottom and right, up to a multiple of the pixels that become one."""
    ratio = max(1, out_stride // stride)
    return F.pad(x, (0, -x.shape[-1] % ratio, 0, -x.shape[-2] % ratio))
