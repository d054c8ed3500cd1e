"""ResNet image trunks (He et al., CVPR 2016; stride in the 3x3 convolution), with torchvision's and timm's keys."""

from collections.abc import Callable
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from occloom.backbones.weight_files import fill_trunk, of_trunk, read_tensors
from occloom.interfaces import FeaturePyramid
from occloom.ops.drop_path import drop_path

Norm = Callable[[int], nn.Module]
"""Makes the normalisation of a number of channels."""

IMAGE_MEAN = (0.485, 0.456, 0.406)
"""Of RGB in [0, 1] over ImageNet: what torchvision's weights expect."""
IMAGE_STD = (0.229, 0.224, 0.225)
STRIDES = (4, 8, 16, 32)
"""Image pixels a feature pixel behind each stage."""


def projection(in_channels: int, out_channels: int, *, stride: int, norm: Norm) -> nn.Module | None:
    """Shortcut of the paper: a 1x1 convolution where the shape changes, nothing where it does not."""
    if stride == 1 and in_channels == out_channels:
        return None
    return nn.Sequential(nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), norm(out_channels))


def pooled_projection(in_channels: int, out_channels: int, *, stride: int, norm: Norm) -> nn.Module | None:
    """Shortcut of ResNet-D: means of 2x2 pixels before the 1x1 convolution, so that no pixel goes unseen."""
    if stride == 1 and in_channels == out_channels:
        return None
    # Rounds sizes up and leaves the border out of the mean, so that odd sizes fit the strided convolution.
    pool = nn.Identity() if stride == 1 else nn.AvgPool2d(2, stride, ceil_mode=True, count_include_pad=False)
    return nn.Sequential(pool, nn.Conv2d(in_channels, out_channels, 1, bias=False), norm(out_channels))


@runtime_checkable
class Shortcut(Protocol):
    """Makes the way around a residual branch; None stands for the input itself."""

    def __call__(self, in_channels: int, out_channels: int, *, stride: int, norm: Norm) -> nn.Module | None:
        """Make one."""
        ...


class BasicBlock(nn.Module):
    """Two 3x3 convolutions around a shortcut: ResNet-18 and -34."""

    expansion = 1

    def __init__(
        self,
        in_channels: int,
        width: int,
        *,
        stride: int,
        norm: Norm,
        shortcut: Shortcut = projection,
        drop_rate: float = 0.0,
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, 3, stride, padding=1, bias=False)
        self.bn1 = norm(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = norm(width)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = shortcut(in_channels, width, stride=stride, norm=norm)
        self.drop_rate = drop_rate

    def forward(self, x: Float[Tensor, "M C H W"]) -> Float[Tensor, "M Co h w"]:
        """Halve the size where the stride is 2."""
        y = self.relu(self.bn1(self.conv1(x)))
        y = drop_path(self.bn2(self.conv2(y)), self.drop_rate, training=self.training)
        return self.relu(y + (x if self.downsample is None else self.downsample(x)))


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 convolutions around a shortcut: ResNet-50."""

    expansion = 4

    def __init__(
        self,
        in_channels: int,
        width: int,
        *,
        stride: int,
        norm: Norm,
        shortcut: Shortcut = projection,
        drop_rate: float = 0.0,
    ) -> None:
        super().__init__()
        out_channels = width * self.expansion
        self.conv1 = nn.Conv2d(in_channels, width, 1, bias=False)
        self.bn1 = norm(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
        self.bn2 = norm(width)
        self.conv3 = nn.Conv2d(width, out_channels, 1, bias=False)
        self.bn3 = norm(out_channels)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = shortcut(in_channels, out_channels, stride=stride, norm=norm)
        self.drop_rate = drop_rate

    def forward(self, x: Float[Tensor, "M C H W"]) -> Float[Tensor, "M Co h w"]:
        """Halve the size where the stride is 2."""
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        y = drop_path(self.bn3(self.conv3(y)), self.drop_rate, training=self.training)
        return self.relu(y + (x if self.downsample is None else self.downsample(x)))


def plain_stem(width: int, _norm: Norm) -> nn.Module:
    """First convolution of the paper: 7x7, half the size."""
    return nn.Conv2d(3, width, 7, 2, padding=3, bias=False)


def deep_stem(width: int, norm: Norm) -> nn.Module:
    """First convolutions of ResNet-D: three of 3x3 instead of one of 7x7, the first halves the size."""
    half = width // 2
    return nn.Sequential(
        nn.Conv2d(3, half, 3, 2, padding=1, bias=False),
        norm(half),
        nn.ReLU(inplace=True),
        nn.Conv2d(half, half, 3, padding=1, bias=False),
        norm(half),
        nn.ReLU(inplace=True),
        nn.Conv2d(half, width, 3, padding=1, bias=False),
    )


class ResNet(nn.Module):
    """Images to features at strides 4, 8, 16 and 32, or at some of these."""

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        block: type[BasicBlock] | type[Bottleneck],
        blocks: tuple[int, int, int, int],
        *,
        width: int = 64,
        finest_stride: int = 4,
        coarsest_stride: int = 32,
        norm: Norm = nn.BatchNorm2d,
        stem: Callable[[int, Norm], nn.Module] = plain_stem,
        shortcut: Shortcut = projection,
        drop_path: float = 0.0,
    ) -> None:
        """Make a trunk with random weights.

        Args:
            block: The residual block.
            blocks: Blocks of each stage.
            width: Channels of the first stage before expansion; 64 in the paper, doubled from stage to stage.
            finest_stride: Of the levels that `forward` returns: 4, 8, 16 or 32.
            coarsest_stride: Of the last stage that is built.
            norm: Makes the normalisation layers; pretrained weights need batch normalisation.
            stem: Makes the first convolution or convolutions, from the width and `norm`.
            shortcut: Makes the way around a block.
            drop_path: Rate of stochastic depth at the last block; it rises linearly from 0 at the first.
        """
        super().__init__()
        self.strides = tuple(stride for stride in STRIDES if finest_stride <= stride <= coarsest_stride)
        built = STRIDES.index(coarsest_stride) + 1
        stage_channels = [width * 2**stage * block.expansion for stage in range(built)]
        self.channels = tuple(stage_channels[-len(self.strides) :])
        self.conv1 = stem(width, norm)
        self.bn1 = norm(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, padding=1)
        in_channels = [width, *stage_channels[:-1]]
        rates = iter([drop_path * i / (sum(blocks) - 1) for i in range(sum(blocks))])

        def stage(index: int) -> nn.Sequential:
            """Blocks of one size; the first changes it."""
            inner, more = width * 2**index, blocks[index] - 1
            inputs = (in_channels[index], *(stage_channels[index] for _ in range(more)))
            strides = (1 if index == 0 else 2, *(1 for _ in range(more)))
            made = [
                block(channels, inner, stride=stride, norm=norm, shortcut=shortcut, drop_rate=next(rates))
                for channels, stride in zip(inputs, strides, strict=True)
            ]
            return nn.Sequential(*made)

        self.layer1 = stage(0)
        self.later_stages = tuple(f"layer{index + 1}" for index in range(1, built))
        for index, name in enumerate(self.later_stages, start=1):
            self.add_module(name, stage(index))
        # Not saved, so that the keys stay torchvision's and timm's.
        self.register_buffer("mean", torch.tensor(IMAGE_MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGE_STD).view(3, 1, 1), persistent=False)
        self.apply(_initialise)

    def forward(self, images: Float[Tensor, "M I H W"]) -> FeaturePyramid:
        """Encode RGB images in [0, 1] of any size; a level has `ceil(size / stride)` pixels."""
        levels = [self.first_stage(images)]
        for name in self.later_stages:
            levels.append(self.get_submodule(name)(levels[-1]))
        return FeaturePyramid(levels=tuple(levels[-len(self.strides) :]), strides=self.strides)

    def first_stage(self, images: Float[Tensor, "M I H W"]) -> Float[Tensor, "M C h w"]:
        """The level of stride 4 alone, for those that look no further."""
        x = (images - self.mean) / self.std
        return self.layer1(self.maxpool(self.relu(self.bn1(self.conv1(x)))))


def _initialise(module: nn.Module) -> None:
    """Keep the variance of the signal through ReLUs (He et al., ICCV 2015)."""
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def resnet18(
    *, width: int = 64, finest_stride: int = 4, coarsest_stride: int = 32, norm: Norm = nn.BatchNorm2d
) -> ResNet:
    """ResNet-18."""
    blocks = (2, 2, 2, 2)
    return ResNet(
        BasicBlock, blocks, width=width, finest_stride=finest_stride, coarsest_stride=coarsest_stride, norm=norm
    )


def resnet34(*, width: int = 64, finest_stride: int = 4, norm: Norm = nn.BatchNorm2d) -> ResNet:
    """ResNet-34."""
    return ResNet(BasicBlock, (3, 4, 6, 3), width=width, finest_stride=finest_stride, norm=norm)


def resnet50(
    *, width: int = 64, finest_stride: int = 4, coarsest_stride: int = 32, norm: Norm = nn.BatchNorm2d
) -> ResNet:
    """ResNet-50."""
    blocks = (3, 4, 6, 3)
    return ResNet(
        Bottleneck, blocks, width=width, finest_stride=finest_stride, coarsest_stride=coarsest_stride, norm=norm
    )


def resnet50d(
    *, width: int = 64, drop_path: float = 0.0, finest_stride: int = 4, norm: Norm = nn.BatchNorm2d
) -> ResNet:
    """ResNet-50-D (He et al., "Bag of Tricks", CVPR 2019, 4.2): deep stem, pooled shortcuts, stochastic depth."""
    return ResNet(
        Bottleneck,
        (3, 4, 6, 3),
        width=width,
        finest_stride=finest_stride,
        norm=norm,
        stem=deep_stem,
        shortcut=pooled_projection,
        drop_path=drop_path,
    )


def load_torchvision_weights(trunk: ResNet, path: Path) -> None:
    """Load weights of the same ResNet as torchvision and timm save them, both by the same keys, or of a trained model.

    Of a model of this library the trunk is taken. The classifier (`fc.`) and stages that the trunk lacks are left out
    where there are any; counts of batches may be missing.

    Args:
        trunk: Receives the weights; torchvision's are of one with batch normalisation.
        path: `.pth` or `.safetensors` file with a state dict.

    Raises:
        InputError: If the file is missing, unreadable, or of another network.
    """
    remedy = "name a state dict of the same ResNet from torchvision or timm (.pth, .safetensors), or a run that has it"
    loaded = of_trunk(read_tensors(path, remedy=remedy))
    stages = {f"layer{index + 1}" for index in range(len(STRIDES))} - {"layer1", *trunk.later_stages}
    state = {key: value for key, value in loaded.items() if key.split(".")[0] not in {"fc"} | stages}
    # Files older than PyTorch 0.4.1 do not count batches.
    uncounted = [key for key in trunk.state_dict() if key.endswith("num_batches_tracked")]
    fill_trunk(trunk, state, path, remedy=remedy, optional=uncounted)
