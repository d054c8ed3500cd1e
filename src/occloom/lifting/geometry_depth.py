"""Depth from features, camera and a stereo depth map: the depth net of CGFormer (Yu et al., NeurIPS 2024) and VoxDet.

A distribution over depth planes from the image features (monocular) and one from an input depth map (stereo) look at
each other by neighbourhood attention; a 3D network over (plane, row, column) makes one distribution of the two.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from occloom.backbones.resnet import BasicBlock, Norm
from occloom.errors import InputError
from occloom.ops.deformable_conv2d import DeformableConv2d
from occloom.ops.in_place import by_slabs, may_overwrite, normalise
from occloom.ops.neighbourhood_attention import neighbourhood_attention
from occloom.ops.thin_conv3d import few_to_many, many_to_one, pointwise
from occloom.ops.winograd_conv3d import Conv3x3x3

CAMERA_NUMBERS = 33
"""That describe a camera to the depth network."""


@dataclass(frozen=True)
class DepthAndContext:
    """What lifting needs of each feature pixel."""

    context: Float[Tensor, "M C h w"]
    """Features of what is seen."""
    depth: Float[Tensor, "M D h w"]
    """Probability of each depth plane; sums to 1 over the planes."""


class GeometryDepth(nn.Module):
    """Depth distributions and context features of image feature maps of any size of at least 5 x 5."""

    def __init__(
        self,
        *,
        in_channels: int = 512,
        channels: int = 512,
        context_channels: int = 128,
        planes: int = 112,
        camera_eps: float = 1e-5,
        fusion_channels: int = 32,
    ) -> None:
        """Make the network.

        Args:
            in_channels: Of the features.
            channels: Of the features of the monocular part.
            context_channels: Of the context that comes out.
            planes: D; a multiple of 4.
            camera_eps: Variance below which differences between cameras count little.
            fusion_channels: Of the 3D network; a multiple of 8.

        Raises:
            InputError: If there are not as many planes or fusion channels.
        """
        super().__init__()
        for name, count, unit in (("planes", planes, 4), ("fusion_channels", fusion_channels, 8)):
            if count < unit or count % unit:
                raise InputError(f"{name} is {count}", rule=f"it is a multiple of {unit}")
        self.mono = MonocularDepth(
            in_channels=in_channels,
            channels=channels,
            context_channels=context_channels,
            planes=planes,
            camera_eps=camera_eps,
        )
        self.stereo = StereoEncoder(planes)
        self.fusion = DepthFusion(planes=planes, channels=fusion_channels)

    def forward(
        self,
        features: Float[Tensor, "M C h w"],
        stereo: Float[Tensor, "M D h w"],
        camera: Float[Tensor, "M F"],
    ) -> DepthAndContext:
        """Estimate the depth of each feature pixel.

        Args:
            features: Image features.
            stereo: One-hot plane of the input depth map, zeros where it is unknown.
            camera: Numbers that describe each camera and what was done to its image.
        """
        context, mono = self.mono(features, camera)
        return DepthAndContext(context=context, depth=self.fusion(mono, self.stereo(stereo)))


class MonocularDepth(nn.Module):
    """Context and a depth distribution from features, each gated by the camera (BEVDepth, AAAI 2023, 3.3)."""

    def __init__(
        self, *, in_channels: int, channels: int, context_channels: int, planes: int, camera_eps: float
    ) -> None:
        super().__init__()
        self.reduce = nn.Sequential(
            nn.Conv2d(in_channels, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.ReLU(inplace=True)
        )
        self.camera_norm = BatchNormOfVectors(CAMERA_NUMBERS, eps=camera_eps)
        self.context_mlp = CameraMlp(CAMERA_NUMBERS, channels)
        self.context_gate = Gate(channels)
        self.context_conv = nn.Conv2d(channels, context_channels, 1)
        self.depth_mlp = CameraMlp(CAMERA_NUMBERS, channels)
        self.depth_gate = Gate(channels)
        deformable = DeformableConv2d(planes, planes, kernel_size=3, groups=4)
        for parameter in deformable.offset.parameters():
            nn.init.zeros_(parameter)
        self.depth_conv = nn.Sequential(
            BasicBlock(channels, planes, stride=1, norm=nn.BatchNorm2d, shortcut=wide_projection),
            BasicBlock(planes, planes, stride=1, norm=nn.BatchNorm2d),
            BasicBlock(planes, planes, stride=1, norm=nn.BatchNorm2d),
            AtrousPyramid(planes),
            deformable,
            nn.Conv2d(planes, planes, 1),
        )

    def forward(
        self, features: Float[Tensor, "M C h w"], camera: Float[Tensor, "M F"]
    ) -> tuple[Float[Tensor, "M Cc h w"], Float[Tensor, "M D h w"]]:
        """Context and depth distribution."""
        features = self.reduce(features)
        camera = self.camera_norm(camera)
        context = self.context_conv(self.context_gate(features, self.context_mlp(camera)))
        logits = self.depth_conv(self.depth_gate(features, self.depth_mlp(camera)))
        return context, logits.softmax(dim=1)


class BatchNormOfVectors(nn.BatchNorm1d):
    """Batch normalisation of one vector a sample that also trains on a single sample.

    A batch of one has no variance. There the running statistics normalise, after they have taken the sample in as an
    exponentially weighted mean and variance (West 1979): this keeps the result within sqrt((1 - m) / m) at momentum
    m, 3 at 0.1, from the first step on. With more samples, and in evaluation, it is batch normalisation.
    """

    def forward(self, input: Float[Tensor, "M F"]) -> Float[Tensor, "M F"]:
        """Normalise each feature."""
        if not self.training or len(input) > 1:
            return super().forward(input)
        mean, variance, momentum = self.running_mean, self.running_var, self.momentum
        assert mean is not None
        assert variance is not None
        assert momentum is not None
        with torch.no_grad():
            off = input[0] - mean
            mean += momentum * off
            variance.add_(momentum * off**2).mul_(1 - momentum)
        # Copies: the next step changes the statistics before this step's backward may have run.
        return F.batch_norm(input, mean.clone(), variance.clone(), self.weight, self.bias, eps=self.eps)


class CameraMlp(nn.Module):
    """Two linear layers."""

    def __init__(self, in_features: int, features: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(in_features, features)
        self.fc2 = nn.Linear(features, features)

    def forward(self, x: Float[Tensor, "M F"]) -> Float[Tensor, "M C"]:
        """Embed the camera."""
        return self.fc2(F.relu(self.fc1(x)))


class Gate(nn.Module):
    """Squeeze and excitation whose squeezed vector comes from elsewhere: here from the camera."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv_reduce = nn.Conv2d(channels, channels, 1)
        self.conv_expand = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Float[Tensor, "M C h w"], vector: Float[Tensor, "M C"]) -> Float[Tensor, "M C h w"]:
        """Scale each channel by a number between 0 and 1."""
        return x * self.conv_expand(F.relu(self.conv_reduce(vector[:, :, None, None]))).sigmoid()


def wide_projection(in_channels: int, out_channels: int, *, stride: int, norm: Norm) -> nn.Module:  # noqa: ARG001
    """A shortcut of one biased 3x3 convolution, not normalised."""
    return nn.Conv2d(in_channels, out_channels, 3, stride, padding=1)


class AtrousPyramid(nn.Module):
    """Convolutions with growing gaps, and the mean of the image, side by side (DeepLab v3, 2017, 3.3)."""

    def __init__(self, channels: int, *, inner: int | None = None) -> None:
        """Make the pyramid.

        Args:
            channels: In and out.
            inner: Of each of the five sides; None for as many.
        """
        super().__init__()
        inner = channels if inner is None else inner
        self.branches = nn.ModuleList(AtrousBranch(channels, inner, dilation) for dilation in (1, 6, 12, 18))
        self.pooled_conv = nn.Conv2d(channels, inner, 1, bias=False)
        self.pooled_norm = BatchNormOfVectors(inner)
        self.conv = nn.Conv2d(5 * inner, channels, 1, bias=False)
        self.norm = nn.BatchNorm2d(channels)
        self.dropout = nn.Dropout(0.5)

    def forward(self, x: Float[Tensor, "M C h w"]) -> Float[Tensor, "M C h w"]:
        """Mix what is seen at several scales."""
        pooled = self.pooled_conv(x.mean(dim=(2, 3), keepdim=True))
        pooled = F.relu(self.pooled_norm(pooled[:, :, 0, 0]))[:, :, None, None]
        sides = [*(branch(x) for branch in self.branches), pooled.expand(-1, -1, *x.shape[2:])]
        return self.dropout(F.relu(self.norm(self.conv(torch.cat(sides, dim=1)))))


class AtrousBranch(nn.Module):
    """One convolution of a dilation; of a single pixel where the dilation is 1."""

    def __init__(self, in_channels: int, channels: int, dilation: int) -> None:
        super().__init__()
        size, padding = (1, 0) if dilation == 1 else (3, dilation)
        self.conv = nn.Conv2d(in_channels, channels, size, padding=padding, dilation=dilation, bias=False)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x: Float[Tensor, "M C h w"]) -> Float[Tensor, "M Co h w"]:
        """Keep the size."""
        return F.relu(self.norm(self.conv(x)))


class StereoEncoder(nn.Module):
    """A depth distribution from the one-hot planes of an input depth map."""

    def __init__(self, planes: int) -> None:
        super().__init__()
        self.stem = _Normalised(nn.Conv2d(planes, planes, 3, padding=1, bias=False))
        self.unet = UNet(planes, LAYERS_2D)
        self.conv_out = nn.Conv2d(planes, planes, 1)

    def forward(self, stereo: Float[Tensor, "M D h w"]) -> Float[Tensor, "M D h w"]:
        """Spread what is known to where it is not."""
        return self.conv_out(self.unet(self.stem(stereo))).softmax(dim=1)


class _Normalised(nn.Sequential):
    """A convolution, then group normalisation in two groups."""

    def __init__(self, conv: nn.Conv2d | nn.Conv3d) -> None:
        super().__init__(conv, nn.GroupNorm(2, conv.out_channels))

    def forward(self, input: Float[Tensor, "M C *size"]) -> Float[Tensor, "M Co *_"]:
        """Both, and no third copy."""
        conv, norm = self
        return normalise(norm, conv(input))


class PointwiseConv3d(nn.Conv3d):
    """A convolution of single voxels, without bias."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, 1, bias=False)

    def forward(self, input: Float[Tensor, "M C D h w"]) -> Float[Tensor, "M Co D h w"]:
        """Keep the size."""
        return pointwise(input, self.weight)


@dataclass(frozen=True)
class Layers:
    """What a U-net is made of."""

    conv: type[nn.Conv2d] | type[nn.Conv3d]
    same: Callable[[int, int], nn.Conv2d | nn.Conv3d]
    """Of 3x3 or 3x3x3, keeps the size, without bias."""
    deconv: type[nn.ConvTranspose2d] | type[nn.ConvTranspose3d]
    pointwise: Callable[[int, int], nn.Conv2d | nn.Conv3d]
    norm: type[nn.BatchNorm2d] | type[nn.BatchNorm3d]


LAYERS_2D = Layers(
    nn.Conv2d,
    partial(nn.Conv2d, kernel_size=3, padding=1, bias=False),
    nn.ConvTranspose2d,
    partial(nn.Conv2d, kernel_size=1, bias=False),
    nn.BatchNorm2d,
)
LAYERS_3D = Layers(nn.Conv3d, Conv3x3x3, nn.ConvTranspose3d, PointwiseConv3d, nn.BatchNorm3d)


class UNet(nn.Module):
    """Two halvings and back, over two or three axes; the size stays, whatever it is.

    A halving rounds up, and the way back takes the size of the map it joins: of an odd size 2 n - 1, n remains, and
    the transposed convolution leaves out the last row that padding would add.
    """

    def __init__(self, channels: int, layers: Layers) -> None:
        super().__init__()
        conv, deconv, narrow, middle, wide = layers.conv, layers.deconv, channels, 2 * channels, 4 * channels
        self.conv1 = _Normalised(conv(narrow, middle, 3, 2, padding=1, bias=False))
        self.conv2 = _Normalised(layers.same(middle, middle))
        self.conv3 = _Normalised(conv(middle, wide, 3, 2, padding=1, bias=False))
        self.conv4 = _Normalised(layers.same(wide, wide))
        self.conv5 = deconv(wide, middle, 3, 2, padding=1, bias=False)
        self.norm5 = layers.norm(middle)
        self.conv6 = deconv(middle, narrow, 3, 2, padding=1, bias=False)
        self.norm6 = layers.norm(narrow)
        self.skip1 = _Normalised(layers.pointwise(narrow, narrow))
        self.skip2 = _Normalised(layers.pointwise(middle, middle))

    def forward(self, x: Float[Tensor, "M C *size"]) -> Float[Tensor, "M C *size"]:
        """See further; keep the detail through the skips."""
        half = F.relu(self.conv2(F.relu(self.conv1(x), inplace=True)), inplace=True)
        y = F.relu(self.conv4(F.relu(self.conv3(half), inplace=True)), inplace=True)
        y = normalise(self.norm5, self.conv5(y, output_size=list(half.shape[2:])))
        y = F.relu(y.add_(self.skip2(half)), inplace=True)
        y = normalise(self.norm6, self.conv6(y, output_size=list(x.shape[2:])))
        return F.relu(y.add_(self.skip1(x)), inplace=True)


class DepthFusion(nn.Module):
    """One distribution of two, by attention between them and a 3D network over both."""

    def __init__(self, *, planes: int, channels: int) -> None:
        super().__init__()
        self.mono_asks = NeighbourhoodCrossAttention(planes)
        self.stereo_asks = NeighbourhoodCrossAttention(planes)
        self.stem = nn.Conv3d(2, channels, 3, padding=1)
        self.unet = UNet(channels, LAYERS_3D)
        self.channel_attention = ChannelAttention(channels)
        self.conv_out = nn.Conv3d(channels, 1, 3, padding=1)

    def forward(self, mono: Float[Tensor, "M D h w"], stereo: Float[Tensor, "M D h w"]) -> Float[Tensor, "M D h w"]:
        """Probability of each plane; at first, the attention adds nothing to either distribution."""
        both = torch.stack([self.mono_asks(mono, stereo), self.stereo_asks(stereo, mono)], dim=1)
        # From here to the end in the memory format channels_last_3d: transposed and strided convolutions are 2 to 3
        # times faster in it on a CPU.
        volume = self.unet(F.relu(few_to_many(both, self.stem.weight, self.stem.bias), inplace=True))
        logits = many_to_one(self.channel_attention(volume), self.conv_out.weight, self.conv_out.bias)
        return logits.softmax(dim=1)


class NeighbourhoodCrossAttention(nn.Module):
    """A map asks the 5x5 neighbourhood in another and adds what it learns to the other; nothing before training."""

    def __init__(self, channels: int, *, kernel: int = 5) -> None:
        super().__init__()
        self.scale = channels**-0.5
        self.q = nn.Linear(channels, channels)
        self.kv = nn.Linear(channels, 2 * channels)
        self.proj = nn.Linear(channels, channels)
        self.bias = nn.Parameter(nn.init.trunc_normal_(torch.empty(2 * kernel - 1, 2 * kernel - 1), std=0.02))
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, asking: Float[Tensor, "M C h w"], asked: Float[Tensor, "M C h w"]) -> Float[Tensor, "M C h w"]:
        """Return `asked` and what was learnt about it."""
        key, value = self.kv(asked.permute(0, 2, 3, 1)).chunk(2, dim=-1)
        query = self.q(asking.permute(0, 2, 3, 1)) * self.scale
        answer = self.proj(neighbourhood_attention(query, key, value, self.bias))
        return asked + self.gamma * answer.permute(0, 3, 1, 2)


class ChannelAttention(nn.Module):
    """A residual branch whose channels are weighted by their means; it adds nothing before training."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Sequential(Conv3x3x3(channels, channels, bias=True), nn.GELU(), nn.GroupNorm(1, channels))
        squeezed = channels // 8
        self.squeeze = nn.Conv3d(channels, squeezed, 1)
        self.expand = nn.Conv3d(squeezed, channels, 1)
        self.conv2 = nn.Sequential(Conv3x3x3(channels, channels, bias=True), nn.GELU(), nn.GroupNorm(2, channels))
        self.layer_scale = nn.Parameter(torch.zeros(1))

    def forward(self, x: Float[Tensor, "M C D h w"]) -> Float[Tensor, "M C D h w"]:
        """Refine each voxel."""
        y = _refine(self.conv1, x)
        weight = F.gelu(self.expand(F.gelu(self.squeeze(y.mean(dim=(2, 3, 4), keepdim=True))))).sigmoid()
        y = _refine(self.conv2, by_slabs(lambda slab: slab * weight, y))
        return torch.addcmul(x, self.layer_scale, y, out=y if may_overwrite(y) else None)


def _refine(layers: nn.Sequential, x: Float[Tensor, "M C D h w"]) -> Float[Tensor, "M C D h w"]:
    """`layers(x)`: a convolution, a non-linearity and a normalisation, in the memory of the first."""
    conv, nonlinear, norm = layers
    return normalise(norm, by_slabs(nonlinear, conv(x)))
