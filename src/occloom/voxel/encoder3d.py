"""A 3D residual encoder that answers at every scale: the shared encoder of VoxDet (paper 4.2; reference voxdet 5)."""

from collections.abc import Callable

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from occloom.ops.drop_path import drop_path
from occloom.ops.in_place import add_enlarged, normalise
from occloom.ops.winograd_conv3d import Conv3x3x3


class EncoderBlock3d(nn.Module):
    """Two 3x3x3 convolutions with batch normalisation around a shortcut."""

    def __init__(
        self,
        channels: int,
        *,
        stride: int,
        drop_path: float,
        shortcut_norm: Callable[[int], nn.Module] | None,
        in_channels: int | None = None,
    ) -> None:
        """Make a block.

        Args:
            channels: Out, and in where `in_channels` is None.
            stride: Of the first convolution.
            drop_path: Probability that a sample of a batch skips the two convolutions in training.
            shortcut_norm: Makes the normalisation behind a 3x3x3 convolution on the shortcut; None for the identity.
            in_channels: In; other than `channels` needs a shortcut.
        """
        super().__init__()
        before = channels if in_channels is None else in_channels
        self.drop_path = drop_path
        self.conv1 = _conv(before, channels, stride)
        self.norm1 = nn.BatchNorm3d(channels)
        self.conv2 = Conv3x3x3(channels, channels)
        self.norm2 = nn.BatchNorm3d(channels)
        self.shortcut = None
        if shortcut_norm is not None:
            self.shortcut = nn.Sequential(_conv(before, channels, stride), shortcut_norm(channels))

    def forward(self, x: Float[Tensor, "B C X Y Z"]) -> Float[Tensor, "B Co x y z"]:
        """Divide the size by the stride, rounding up."""
        # Step by step and in place: a volume of full size has 134 MB, and three of them are held at most.
        y = normalise(self.norm1, self.conv1(x), relu=True)
        y = self.conv2.overwriting(y)
        y = drop_path(normalise(self.norm2, y), self.drop_path, training=self.training)
        if self.shortcut is not None:
            conv, norm = self.shortcut
            x = normalise(norm, conv(x))
        return F.relu(y.add_(x), inplace=True)


def _conv(in_channels: int, channels: int, stride: int) -> nn.Conv3d:
    """A 3x3x3 convolution."""
    if stride == 1:
        return Conv3x3x3(in_channels, channels)
    return nn.Conv3d(in_channels, channels, 3, stride, padding=1, bias=False)


class VolumeEncoder3d(nn.Module):
    """Stages of residual blocks of one width; every stage but the first halves the volume.

    The first block of each stage, also where the stride is 1, has a convolution on its shortcut.
    """

    def __init__(
        self, channels: int, blocks: tuple[int, ...], *, drop_path: float, shortcut_norm: Callable[[int], nn.Module]
    ) -> None:
        """Make the encoder.

        Args:
            channels: Of the volume and of all scales.
            blocks: Residual blocks of each stage.
            drop_path: Probability that grows linearly over the blocks, from 0 at the first towards this.
            shortcut_norm: Makes the normalisation on the shortcuts.
        """
        super().__init__()
        rates = [drop_path * i / sum(blocks) for i in range(sum(blocks))]
        self.stages = nn.ModuleList()
        for stage, count in enumerate(blocks):
            first = EncoderBlock3d(
                channels, stride=1 if stage == 0 else 2, drop_path=rates.pop(0), shortcut_norm=shortcut_norm
            )
            others = [
                EncoderBlock3d(channels, stride=1, drop_path=rates.pop(0), shortcut_norm=None) for _ in range(count - 1)
            ]
            self.stages.append(nn.Sequential(first, *others))

    def forward(self, volume: Float[Tensor, "B C X Y Z"]) -> list[Tensor]:
        """One volume a stage, finest first; each "B C x y z"."""
        levels = []
        for stage in self.stages:
            volume = stage(volume)
            levels.append(volume)
        return levels


class VolumeNeck(nn.Module):
    """Top-down over the scales of an encoder, answering at the finest (the LSS-FPN form: concatenate, 1x1x1, 3x3x3)."""

    def __init__(self, channels: int, levels: int, *, norm: Callable[[int], nn.Module]) -> None:
        """Make the neck.

        Args:
            channels: Of every level and of the answer.
            levels: Number of scales.
            norm: Makes the normalisation.
        """
        super().__init__()
        merging = levels - 1
        # Each sees (level, raised coarser one), concatenated.
        self.reduce = nn.ModuleList(nn.Conv3d(2 * channels, channels, 1, bias=False) for _ in range(merging))
        self.reduce_norm = nn.ModuleList(norm(channels) for _ in range(merging))
        self.smooth = nn.ModuleList(Conv3x3x3(channels, channels) for _ in range(merging))
        self.smooth_norm = nn.ModuleList(norm(channels) for _ in range(merging))

    def forward(self, levels: list[Tensor]) -> Float[Tensor, "B C X Y Z"]:
        """Merge levels "B C x y z", finest first, of any sizes."""
        x = levels[-1]
        for i in reversed(range(len(levels) - 1)):
            x = self.merge(i, levels[i], x)
        return x

    def merge(
        self, i: int, level: Float[Tensor, "B C X Y Z"], coarser: Float[Tensor, "B C x y z"]
    ) -> Float[Tensor, "B C X Y Z"]:
        """Level `i` with what the coarser ones have gathered."""
        reduce = self.reduce[i]
        assert isinstance(reduce, nn.Conv3d), "made above"
        own, other = reduce.weight.chunk(2, dim=1)
        # A 1x1x1 convolution may be split over its inputs and done before enlarging: an eighth of the work for one
        # half, and the concatenation is never made.
        x = add_enlarged(F.conv3d(level, own), F.conv3d(coarser, other))
        smooth = self.smooth[i]
        assert isinstance(smooth, Conv3x3x3), "made above"
        x = smooth.overwriting(normalise(self.reduce_norm[i], x, relu=True))
        return normalise(self.smooth_norm[i], x, relu=True)
