"""MobileStereoNet-3D (Shamsafar et al., WACV 2022): the disparity of a rectified stereo pair.

A small trunk gives features at a quarter of the size; their group-wise correlation over the disparities is a volume
that 3D inverted residuals and three hourglasses refine; the disparity is the expectation over a softmax. The names of
the parameters are those of the published weights (1,855,608 parameters).
"""

import itertools
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from occloom.errors import InputError

MAX_DISPARITY = 192
"""Disparities 0 to 191 pixels, as the published weights were trained."""
SIZE_MULTIPLE = 16
"""Pictures must have sides that this divides: features at a quarter, halved twice more by the hourglasses."""
CORRELATION_GROUPS = 40
SLAB_ELEMENTS = 2**24
"""About how many numbers (64 MiB) one piece of a larger intermediate may have in inference."""
WIDTH = 32
WEIGHTS_REMEDY = (
    "download MSNet3D_SF_DS_KITTI2015.ckpt (the row SF + DS + KITTI2015 of 3D-MobileStereoNet at "
    "github.com/cogsys-tuebingen/mobilestereonet) and name it by --weights"
)


class InvertedResidual2d(nn.Module):
    """Expand, filter each channel, project (MobileNetV2); with a shortcut where the shape stays."""

    def __init__(self, in_channels: int, out_channels: int, *, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = in_channels * expansion
        self.shortcut = stride == 1 and in_channels == out_channels
        self.conv = nn.Sequential(
            nn.Conv2d(in_channels, hidden, 1, bias=False),
            nn.BatchNorm2d(hidden),
            nn.ReLU6(inplace=True),
            nn.Conv2d(hidden, hidden, 3, stride, padding=1, groups=hidden, bias=False),
            nn.BatchNorm2d(hidden),
            nn.ReLU6(inplace=True),
            nn.Conv2d(hidden, out_channels, 1, bias=False),
            nn.BatchNorm2d(out_channels),
        )

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B Co h w"]:
        """Halve the size where the stride is 2."""
        return x + self.conv(x) if self.shortcut else self.conv(x)


class SeparableResidual(nn.Module):
    """Two depthwise-separable convolutions (MobileNetV1) around a shortcut."""

    def __init__(self, in_channels: int, out_channels: int, *, stride: int = 1, dilation: int = 1) -> None:
        super().__init__()
        first = _separable(in_channels, out_channels, stride=stride, dilation=dilation)
        self.conv1 = first.append(nn.ReLU6(inplace=True))
        self.conv2 = _separable(out_channels, out_channels, stride=1, dilation=dilation)
        self.downsample = None
        if stride != 1 or in_channels != out_channels:
            self.downsample = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels)
            )

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B Co h w"]:
        """Halve the size where the stride is 2."""
        return self.conv2(self.conv1(x)) + (x if self.downsample is None else self.downsample(x))


def _separable(in_channels: int, out_channels: int, *, stride: int, dilation: int) -> nn.Sequential:
    """Filter each channel, then mix them."""
    return nn.Sequential(
        nn.Conv2d(
            in_channels, in_channels, 3, stride, padding=dilation, dilation=dilation, groups=in_channels, bias=False
        ),
        nn.BatchNorm2d(in_channels),
        nn.ReLU6(inplace=True),
        nn.Conv2d(in_channels, out_channels, 1, bias=False),
        nn.BatchNorm2d(out_channels),
    )


class StereoTrunk(nn.Module):
    """Features of one picture at a quarter of its size: the last three stages beside each other, 320 channels."""

    def __init__(self) -> None:
        super().__init__()
        self.firstconv = nn.Sequential(
            InvertedResidual2d(3, 32, stride=2, expansion=3),
            InvertedResidual2d(32, 32, stride=1, expansion=3),
            InvertedResidual2d(32, 32, stride=1, expansion=3),
        )
        self.layer1 = nn.Sequential(*(SeparableResidual(32, 32) for _ in range(3)))
        self.layer2 = nn.Sequential(
            SeparableResidual(32, 64, stride=2), *(SeparableResidual(64, 64) for _ in range(15))
        )
        self.layer3 = nn.Sequential(SeparableResidual(64, 128), *(SeparableResidual(128, 128) for _ in range(2)))
        self.layer4 = nn.Sequential(*(SeparableResidual(128, 128, dilation=2) for _ in range(3)))

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 320 h w"]:
        """Encode normalised pictures."""
        second = self.layer2(self.layer1(self.firstconv(images)))
        third = self.layer3(second)
        return torch.cat([second, third, self.layer4(third)], dim=1)


class InvertedResidual3d(nn.Module):
    """Expand, filter each channel, project, over a volume; without a shortcut, as the published weights expect.

    Without gradients it works through slabs of disparities: the expanded volume of a KITTI pair would take 690 MB for
    each of the steps on it.
    """

    def __init__(self, in_channels: int, out_channels: int, *, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = in_channels * expansion
        self.stride, self.out_channels = stride, out_channels
        self.conv = nn.Sequential(
            nn.Conv3d(in_channels, hidden, 1, bias=False),
            nn.BatchNorm3d(hidden),
            nn.ReLU6(inplace=True),
            nn.Conv3d(hidden, hidden, 3, stride, padding=1, groups=hidden, bias=False),
            nn.BatchNorm3d(hidden),
            nn.ReLU6(inplace=True),
            nn.Conv3d(hidden, out_channels, 1, bias=False),
            nn.BatchNorm3d(out_channels),
        )

    def forward(self, x: Float[Tensor, "B C D H W"]) -> Float[Tensor, "B Co d h w"]:
        """Halve the size of all three axes where the stride is 2."""
        return self.conv(x) if self.training or torch.is_grad_enabled() else self._by_slabs(x)

    def _by_slabs(self, x: Float[Tensor, "B C D H W"]) -> Float[Tensor, "B Co d h w"]:
        """The same numbers with only some disparities expanded at a time."""
        expand, filtering, project = self.conv[:3], self.conv[3], self.conv[4:]
        assert isinstance(filtering, nn.Conv3d)
        batch, _, depth, height, width = x.shape
        depth_out, height_out, width_out = (-(-size // self.stride) for size in (depth, height, width))
        output = _empty_volume((batch, self.out_channels, depth_out, height_out, width_out), x)
        hidden = filtering.in_channels * batch * height * width
        step = max(1, SLAB_ELEMENTS // (hidden * self.stride))
        for start in range(0, depth_out, step):
            stop = min(start + step, depth_out)
            first = max(start - 1, 0)
            slab = filtering(expand(x[:, :, self.stride * first : self.stride * stop + 1]))
            # The slab's own padding spoils its first and last disparity, unless it is the volume's.
            output[:, :, start:stop] = project(slab[:, :, start - first : stop - first])
        return output


class Hourglass(nn.Module):
    """Two halvings and back, with a shortcut at each size."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = InvertedResidual3d(channels, 2 * channels, stride=2, expansion=2)
        self.conv2 = InvertedResidual3d(2 * channels, 2 * channels, stride=1, expansion=2)
        self.conv3 = InvertedResidual3d(2 * channels, 4 * channels, stride=2, expansion=2)
        self.conv4 = InvertedResidual3d(4 * channels, 4 * channels, stride=1, expansion=2)
        self.conv5 = _doubling(4 * channels, 2 * channels)
        self.conv6 = _doubling(2 * channels, channels)
        self.redir1 = InvertedResidual3d(channels, channels, stride=1, expansion=2)
        self.redir2 = InvertedResidual3d(2 * channels, 2 * channels, stride=1, expansion=2)

    def forward(self, x: Float[Tensor, "B C D H W"]) -> Float[Tensor, "B C D H W"]:
        """Refine a volume whose sides 4 divides."""
        half = self.conv2(self.conv1(x))
        quarter = self.conv4(self.conv3(half))
        half = (self.conv5(quarter) + self.redir2(half)).relu_()
        return (self.conv6(half) + self.redir1(x)).relu_()


def _doubling(in_channels: int, out_channels: int) -> nn.Sequential:
    """A transposed convolution to twice the size."""
    return nn.Sequential(
        nn.ConvTranspose3d(in_channels, out_channels, 3, stride=2, padding=1, output_padding=1, bias=False),
        nn.BatchNorm3d(out_channels),
    )


def _classifier(channels: int) -> nn.Sequential:
    """One score a disparity and pixel."""
    return nn.Sequential(
        nn.Sequential(nn.Conv3d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm3d(channels)),
        nn.ReLU(inplace=True),
        nn.Conv3d(channels, 1, 3, padding=1, bias=False),
    )


class MobileStereoNet3d(nn.Module):
    """Left and right picture to the left one's disparity.

    The first three of the four heads supervise training, which happens elsewhere; published weights hold them.
    """

    def __init__(self) -> None:
        super().__init__()
        self.feature_extraction = StereoTrunk()
        self.dres0 = nn.Sequential(
            InvertedResidual3d(CORRELATION_GROUPS, WIDTH, stride=1, expansion=3),
            InvertedResidual3d(WIDTH, WIDTH, stride=1, expansion=3),
        )
        self.dres1 = nn.Sequential(*(InvertedResidual3d(WIDTH, WIDTH, stride=1, expansion=3) for _ in range(2)))
        self.encoder_decoder1, self.encoder_decoder2, self.encoder_decoder3 = (Hourglass(WIDTH) for _ in range(3))
        self.classif0, self.classif1, self.classif2, self.classif3 = (_classifier(WIDTH) for _ in range(4))

    def forward(self, left: Float[Tensor, "B 3 H W"], right: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B H W"]:
        """Disparity in pixels, in [0, 191], of normalised pictures with sides that `SIZE_MULTIPLE` divides."""
        volume = self._matched(left, right)
        for hourglass in (self.encoder_decoder1, self.encoder_decoder2, self.encoder_decoder3):
            volume = hourglass(volume)
        return expected_disparity(self.classif3(volume).squeeze(1), MAX_DISPARITY, (left.shape[-2], left.shape[-1]))

    def _matched(self, left: Tensor, right: Tensor) -> Float[Tensor, "B C D h w"]:
        """The first refinement of the correlation volume, at a quarter of the size."""
        volume = group_correlation(
            self.feature_extraction(left),
            self.feature_extraction(right),
            disparities=MAX_DISPARITY // 4,
            groups=CORRELATION_GROUPS,
        )
        volume = self.dres0(volume)
        return volume + self.dres1(volume)


def group_correlation(
    left: Float[Tensor, "B C h w"], right: Float[Tensor, "B C h w"], *, disparities: int, groups: int
) -> Float[Tensor, "B G D h w"]:
    """How well the left features match the right ones d pixels further left: the mean product within each group.

    Zero where the right picture ends. Besides the volume, one disparity's products at a time are kept.
    """
    batch, channels, height, width = left.shape
    volume = _empty_volume((batch, groups, disparities, height, width), left).zero_()
    for d in range(min(disparities, width)):
        product = left[..., d:] * right[..., : width - d]
        volume[:, :, d, :, d:] = product.unflatten(1, (groups, channels // groups)).mean(2)
    return volume


def _empty_volume(shape: tuple[int, int, int, int, int], like: Tensor) -> Tensor:
    """Channels last in memory: slabs of it are whole pieces, and blocks take less than half the time on CPUs."""
    return torch.empty(shape, dtype=like.dtype, device=like.device, memory_format=torch.channels_last_3d)


def expected_disparity(
    scores: Float[Tensor, "B D h w"], disparities: int, size: tuple[int, int]
) -> Float[Tensor, "B H W"]:
    """The mean disparity under the softmax of trilinearly enlarged scores.

    Linear enlargement goes axis by axis: the rows first, so that only some of them are ever at full size in all axes.

    Args:
        scores: one a coarse disparity and pixel.
        disparities: their number at full size.
        size: height and width in pixels.
    """
    height, width = size
    batch, coarse = scores.shape[:2]
    scores_BDHw = F.interpolate(scores, (height, scores.shape[-1]), mode="bilinear")
    rows = scores_BDHw.permute(0, 2, 1, 3).reshape(batch * height, 1, coarse, -1)
    values = torch.arange(disparities, dtype=scores.dtype, device=scores.device)
    step = max(1, SLAB_ELEMENTS // (disparities * width))
    means = [
        torch.einsum("d,rdw->rw", values, F.interpolate(some, (disparities, width), mode="bilinear")[:, 0].softmax(1))
        for some in rows.split(step)
    ]
    return torch.cat(means).reshape(batch, height, width)


def load_mobile_stereonet(path: Path) -> MobileStereoNet3d:
    """The network with published weights, ready for inference: batch normalisation is folded into the convolutions.

    Args:
        path: `.safetensors` file, or a `.ckpt` or `.pth` file: a state dict, or one under the key `model` or
            `state_dict`. Keys may start with `module.` or `model.`; counts of batches may be missing.

    Raises:
        InputError: If the file is missing, unreadable, or of another network.
    """
    network = MobileStereoNet3d()
    read_weights(network, path)
    _fold_norms(network.eval())
    return network.requires_grad_(False)


def read_weights(network: MobileStereoNet3d, path: Path) -> None:
    """Fill a network from a file, as `load_mobile_stereonet` says."""
    require_weights(path)
    try:
        loaded = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    except (OSError, RuntimeError, SafetensorError, UnpicklingError, EOFError) as error:
        raise InputError(
            f"cannot be read as weights ({type(error).__name__})", where=path, remedy=WEIGHTS_REMEDY
        ) from error
    state = _unwrapped(loaded)
    own = network.state_dict()
    missing = [key for key in own if key not in state and not key.endswith("num_batches_tracked")]
    surplus = [key for key in state if key not in own]
    misshapen = [key for key in own if key in state and state[key].shape != own[key].shape]
    for what, keys in (("lacks", missing), ("has the unknown key", surplus), ("has another shape for", misshapen)):
        if keys:
            more = f" and {len(keys) - 1} more" if len(keys) > 1 else ""
            raise InputError(
                f"{what} {keys[0]}{more}",
                where=path,
                rule="weights must be MobileStereoNet-3D's",
                remedy=WEIGHTS_REMEDY,
            )
    network.load_state_dict(state, strict=False)


def require_weights(path: Path) -> None:
    """Refuse a file of weights that is not there."""
    if not path.is_file():
        raise InputError(
            "no such weights file", where=path, rule="stereo-msnet3d has weights of its own", remedy=WEIGHTS_REMEDY
        )


def _unwrapped(loaded: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors of a checkpoint by the network's own names."""
    for key in ("model", "state_dict"):
        if isinstance(loaded.get(key), Mapping):
            loaded = loaded[key]
    while loaded and all(key.startswith(("module.", "model.")) for key in loaded):
        loaded = {key.partition(".")[2]: value for key, value in loaded.items()}
    return dict(loaded)


def _fold_norms(network: nn.Module) -> None:
    """Fold each batch normalisation into the convolution before it; the network must be in evaluation."""
    for sequence in [module for module in network.modules() if isinstance(module, nn.Sequential)]:
        for index, (layer, norm) in enumerate(itertools.pairwise(list(sequence))):
            if isinstance(norm, nn.BatchNorm2d | nn.BatchNorm3d):
                assert isinstance(layer, nn.Conv2d | nn.Conv3d | nn.ConvTranspose3d)
                sequence[index] = fuse_conv_bn_eval(layer, norm, transpose=isinstance(layer, nn.ConvTranspose3d))
                sequence[index + 1] = nn.Identity()
