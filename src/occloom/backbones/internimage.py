"""InternImage (Wang et al., CVPR 2023): a trunk of deformable convolutions (DCNv3), with the released names.

Blocks are a transformer's with DCNv3 in the place of attention; maps have their channels last. Sizes and structure:
reference monoocc 5. See docs/models/internimage.md.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from occloom.backbones.resnet import IMAGE_MEAN, IMAGE_STD, STRIDES
from occloom.backbones.weight_files import HubFile, fill_trunk, of_trunk, read_tensors
from occloom.errors import InputError
from occloom.interfaces import FeaturePyramid
from occloom.ops.deformable_conv_v3 import deformable_conv_v3
from occloom.ops.drop_path import drop_path

GROUP_CHANNELS = 16
"""Of each group of DCNv3, in every stage of every size."""
KERNEL_POINTS = 9
PREFIXES = ("backbone.", "img_backbone.")
"""Of the trunk's tensors in files of segmenters and detectors; in those of classifiers they have none."""
CLASSIFIER = ("conv_head.", "head.")
"""Tensors of classifiers that are no trunk's."""


class ChannelsLast(nn.Module):
    """From "M C h w" to "M h w C"."""

    def forward(self, x: Float[Tensor, "M C h w"]) -> Float[Tensor, "M h w C"]:
        """A view."""
        return x.permute(0, 2, 3, 1)


class ChannelsFirst(nn.Module):
    """From "M h w C" to "M C h w"."""

    def forward(self, x: Float[Tensor, "M h w C"]) -> Float[Tensor, "M C h w"]:
        """A view."""
        return x.permute(0, 3, 1, 2)


def layer_norm(channels: int) -> nn.LayerNorm:
    """Over the last axis, with the released epsilon."""
    return nn.LayerNorm(channels, eps=1e-6)


class DeformableConvV3(nn.Module):
    """DCNv3 with a 3x3 kernel: a small depthwise network tells offsets and weights of each pixel's kernel points."""

    def __init__(self, channels: int, *, offset_scale: float) -> None:
        """Make the layer; it starts as a mean of nine pixels.

        Args:
            channels: C, a multiple of `GROUP_CHANNELS`.
            offset_scale: Pixels between neighbouring kernel points before they are moved.
        """
        super().__init__()
        self.groups, self.offset_scale = channels // GROUP_CHANNELS, offset_scale
        self.dw_conv = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, groups=channels),
            nn.Sequential(ChannelsLast(), layer_norm(channels)),
            nn.GELU(),
        )
        self.offset = nn.Linear(channels, self.groups * KERNEL_POINTS * 2)
        self.mask = nn.Linear(channels, self.groups * KERNEL_POINTS)
        self.input_proj = nn.Linear(channels, channels)
        self.output_proj = nn.Linear(channels, channels)

    def initialise(self) -> None:
        """No offsets, equal weights, and projections that keep the variance."""
        for layer in (self.offset, self.mask):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        for layer in (self.input_proj, self.output_proj):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Float[Tensor, "M h w C"]) -> Float[Tensor, "M h w C"]:
        """Offsets and weights come from the input itself, the values from its projection."""
        told = self.dw_conv(x.permute(0, 3, 1, 2))
        offsets = self.offset(told).unflatten(3, (self.groups, KERNEL_POINTS, 2))
        weights = self.mask(told).unflatten(3, (self.groups, KERNEL_POINTS)).softmax(dim=-1)
        sums = deformable_conv_v3(self.input_proj(x), offsets, weights, offset_scale=self.offset_scale)
        return self.output_proj(sums.to(x.dtype))


class FeedForward(nn.Module):
    """Two linear layers, the inner one four times as wide."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, 4 * channels)
        self.fc2 = nn.Linear(4 * channels, channels)

    def forward(self, x: Float[Tensor, "M h w C"]) -> Float[Tensor, "M h w C"]:
        """Each pixel by itself."""
        return self.fc2(nn.functional.gelu(self.fc1(x)))


class Block(nn.Module):
    """DCNv3 and a feed-forward network, each normalised, scaled a channel, and added to what came in."""

    def __init__(self, channels: int, *, post_norm: bool, offset_scale: float, layer_scale: float, drop: float) -> None:
        """Make the block.

        Args:
            channels: C.
            post_norm: Normalise what a branch answers, or else what it is given.
            offset_scale: See `DeformableConvV3`.
            layer_scale: Of both branches at the start.
            drop: Rate of stochastic depth.
        """
        super().__init__()
        self.post_norm, self.drop = post_norm, drop
        self.norm1 = nn.Sequential(layer_norm(channels))
        self.dcn = DeformableConvV3(channels, offset_scale=offset_scale)
        self.norm2 = nn.Sequential(layer_norm(channels))
        self.mlp = FeedForward(channels)
        self.gamma1 = nn.Parameter(torch.full((channels,), layer_scale))
        self.gamma2 = nn.Parameter(torch.full((channels,), layer_scale))

    def forward(self, x: Float[Tensor, "M h w C"]) -> Float[Tensor, "M h w C"]:
        """Of the same size."""
        for branch, norm, gamma in ((self.dcn, self.norm1, self.gamma1), (self.mlp, self.norm2, self.gamma2)):
            y = norm(branch(x)) if self.post_norm else branch(norm(x))
            x = x + drop_path(gamma * y, self.drop, training=self.training)
        return x


class Stem(nn.Module):
    """Two 3x3 convolutions of stride 2: a quarter of the size."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, channels // 2, 3, 2, padding=1)
        self.norm1 = nn.Sequential(ChannelsLast(), layer_norm(channels // 2), ChannelsFirst())
        self.conv2 = nn.Conv2d(channels // 2, channels, 3, 2, padding=1)
        self.norm2 = nn.Sequential(ChannelsLast(), layer_norm(channels))

    def forward(self, images: Float[Tensor, "M 3 H W"]) -> Float[Tensor, "M h w C"]:
        """Sizes are rounded up."""
        return self.norm2(self.conv2(nn.functional.gelu(self.norm1(self.conv1(images)))))


class Downsample(nn.Module):
    """A 3x3 convolution of stride 2 that doubles the channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 2 * channels, 3, 2, padding=1, bias=False)
        self.norm = nn.Sequential(ChannelsLast(), layer_norm(2 * channels))

    def forward(self, x: Float[Tensor, "M H W C"]) -> Float[Tensor, "M h w D"]:
        """Sizes are rounded up."""
        return self.norm(self.conv(x.permute(0, 3, 1, 2)))


class Stage(nn.Module):
    """Blocks of one size, and the way to the next stage where there is one."""

    def __init__(self, blocks: list[Block], channels: int, *, post_norm: bool, last: bool) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        # Without it, what unnormalised branches have added up would leave the stage as it is.
        self.norm = None if post_norm else nn.Sequential(layer_norm(channels))
        self.downsample = None if last else Downsample(channels)

    def forward(self, x: Float[Tensor, "M h w C"]) -> Float[Tensor, "M h w C"]:
        """The stage's features; they are not yet smaller."""
        for block in self.blocks:
            x = block(x)
        return x if self.norm is None else self.norm(x)


@dataclass(frozen=True)
class InternImageTrunk:
    """Which InternImage: the public sizes are `INTERNIMAGE_T` to `INTERNIMAGE_XL`; the defaults are XL's."""

    width: int = 192
    """Channels of the first stage, doubled from stage to stage; a multiple of 16."""
    depths: tuple[int, int, int, int] = (5, 5, 24, 5)
    """Blocks of each stage."""
    post_norm: bool = True
    """Normalise what a branch answers, or else (T) what it is given."""
    offset_scale: float = 2.0
    """Pixels between neighbouring kernel points of DCNv3 before they are moved."""
    layer_scale: float = 1.0
    """Of all branches at the start; the public classifiers of S and larger began with 1e-5."""
    drop_path: float = 0.4
    """Stochastic depth of the last block of all four stages; it rises linearly from 0 at the first."""

    def __post_init__(self) -> None:
        if self.width < 1 or self.width % GROUP_CHANNELS:
            raise InputError(f"width is {self.width}", rule=f"it is a multiple of {GROUP_CHANNELS}")
        if min(self.depths) < 1:
            raise InputError(f"depths is {self.depths}", rule="each stage has one block or more")
        if not 0 <= self.drop_path < 1:
            raise InputError(f"drop_path is {self.drop_path}", rule="it is at least 0 and below 1")

    def build(self, *, coarsest_stride: int = STRIDES[-1]) -> "InternImage":
        """Random weights; stages behind a stride are neither built nor run."""
        return InternImage(self, coarsest_stride=coarsest_stride)

    @property
    def imagenet(self) -> HubFile | None:
        """The public classifier of this size."""
        return PUBLISHED.get((self.width, self.depths))

    @property
    def left_out(self) -> dict[str, int]:
        """The released detectors build and run the last stage, and use nothing of it."""
        with torch.device("meta"):
            whole, ours = (self.build(coarsest_stride=stride) for stride in (32, 16))
        counts = [sum(p.numel() for p in trunk.parameters()) for trunk in (whole, ours)]
        return {"images.trunk.levels.3, images.trunk.levels.2.downsample": counts[0] - counts[1]}


INTERNIMAGE_T = InternImageTrunk(width=64, depths=(4, 4, 18, 4), post_norm=False, offset_scale=1.0, drop_path=0.2)
INTERNIMAGE_S = InternImageTrunk(width=80, depths=(4, 4, 21, 4), offset_scale=1.0, drop_path=0.3)
INTERNIMAGE_B = InternImageTrunk(width=112, depths=(4, 4, 21, 4), offset_scale=1.0)
INTERNIMAGE_L = InternImageTrunk(width=160, depths=(5, 5, 22, 5))
INTERNIMAGE_XL = InternImageTrunk()
PUBLISHED = {
    (size.width, size.depths): HubFile(repository="OpenGVLab/InternImage", name=name)
    for size, name in (
        (INTERNIMAGE_T, "internimage_t_1k_224.pth"),
        (INTERNIMAGE_S, "internimage_s_1k_224.pth"),
        (INTERNIMAGE_B, "internimage_b_1k_224.pth"),
        (INTERNIMAGE_L, "internimage_l_22k_192to384.pth"),
        (INTERNIMAGE_XL, "internimage_xl_22k_192to384.pth"),
    )
}
"""Classifiers trained on ImageNet-1k or -22k by the authors; MIT."""


class InternImage(nn.Module):
    """Images to features at strides 4, 8, 16 and 32, or at the finer ones of these."""

    mean: Tensor
    std: Tensor

    def __init__(self, config: InternImageTrunk, *, coarsest_stride: int) -> None:
        """Make a trunk with random weights.

        Args:
            config: Sizes.
            coarsest_stride: Of the last stage that is built: 4, 8, 16 or 32.
        """
        super().__init__()
        built = STRIDES.index(coarsest_stride) + 1
        self.strides = STRIDES[:built]
        self.channels = tuple(config.width * 2**stage for stage in range(built))
        self.patch_embed = Stem(config.width)
        drops = _rising(config.drop_path, sum(config.depths))
        self.levels = nn.ModuleList(
            Stage(
                [_block(channels, config, drop=next(drops)) for _ in range(depth)],
                channels,
                post_norm=config.post_norm,
                last=stage == built - 1,
            )
            for stage, (channels, depth) in enumerate(zip(self.channels, config.depths, strict=False))
        )
        # Not saved, so that the keys stay the released ones.
        self.register_buffer("mean", torch.tensor(IMAGE_MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGE_STD).view(3, 1, 1), persistent=False)
        self.apply(_initialise_linear)
        self.apply(_initialise_convolution)

    def forward(self, images: Float[Tensor, "M 3 H W"]) -> FeaturePyramid:
        """Encode RGB images in [0, 1] of any size; a level has `ceil(size / stride)` pixels."""
        x, levels = self.patch_embed((images - self.mean) / self.std), []
        for stage in self.levels:
            assert isinstance(stage, Stage)
            x = stage(x)
            levels.append(x.permute(0, 3, 1, 2))
            if stage.downsample is not None:
                x = stage.downsample(x)
        return FeaturePyramid(levels=tuple(levels), strides=self.strides)


def _rising(rate: float, blocks: int) -> Iterator[float]:
    """Rates of stochastic depth, from 0 at the first of all blocks."""
    return (rate * i / max(1, blocks - 1) for i in range(blocks))


def _block(channels: int, config: InternImageTrunk, *, drop: float) -> Block:
    return Block(
        channels,
        post_norm=config.post_norm,
        offset_scale=config.offset_scale,
        layer_scale=config.layer_scale,
        drop=drop,
    )


def _initialise_linear(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)


def _initialise_convolution(module: nn.Module) -> None:
    if isinstance(module, DeformableConvV3):
        module.initialise()


def load_internimage_weights(trunk: InternImage, path: Path, *, published: HubFile | None) -> None:
    """Load weights as the authors released them: of a classifier, segmenter or detector; or of a trained model.

    What is no trunk's, and stages that this trunk does not have, are left out.

    Args:
        trunk: Receives the weights.
        path: `.safetensors` file, or one that `torch.save` wrote, whole checkpoint or state dict.
        published: The public file for a trunk of this size, named in the error.

    Raises:
        InputError: If the file is missing, unreadable, or of another size.
    """
    remedy = "name weights of an InternImage of this width and these depths with --train.trunk-weights PATH"
    if published is not None:
        remedy = f"{published.by_hand}; segmenters (upernet_internimage_*.pth) serve as well"
    loaded = of_trunk(read_tensors(path, remedy=remedy))
    for prefix in PREFIXES:
        if any(key.startswith(prefix) for key in loaded):
            loaded = {key.removeprefix(prefix): value for key, value in loaded.items() if key.startswith(prefix)}
    state = {key: value for key, value in loaded.items() if _is_built(key, len(trunk.levels))}
    fill_trunk(trunk, state, path, remedy=remedy)


def _is_built(key: str, stages: int) -> bool:
    """Whether a trunk of that many stages has a tensor of the released trunk or classifier."""
    if key.startswith(CLASSIFIER):
        return False
    first, stage, part, *_ = (*key.split("."), "", "")
    if first != "levels" or not stage.isdigit():
        return True
    return int(stage) < stages and not (int(stage) == stages - 1 and part == "downsample")
