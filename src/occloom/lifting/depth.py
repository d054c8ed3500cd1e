"""Distributions over depth bins, from image features and an input depth map."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


@dataclass(frozen=True)
class DepthBins:
    """Depth bins that grow linearly with distance, as the error of a camera's depth does (CaDDN, CVPR 2021, 3.1)."""

    near: float = 2.0
    """Near edge of the first bin: z-depth in metres."""
    far: float = 54.0
    """Far edge of the last bin, in metres."""
    count: int = 56
    """D."""

    def edges(self, *, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu") -> Float[Tensor, " E"]:
        """The D + 1 edges, in metres."""
        i = torch.arange(self.count + 1, dtype=dtype, device=device)
        return self.near + (self.far - self.near) * i * (i + 1) / (self.count * (self.count + 1))

    def centres(self, *, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu") -> Float[Tensor, " D"]:
        """Middle of each bin, in metres."""
        edges = self.edges(dtype=dtype, device=device)
        return (edges[1:] + edges[:-1]) / 2


@dataclass(frozen=True)
class DepthPlanes:
    """Depth planes of equal distance; each stands for the depths up to half a step before and behind it."""

    near: float = 2.0
    """z-depth of the first plane, in metres."""
    step: float = 0.5
    """Distance between planes, in metres."""
    count: int = 112
    """D."""

    @property
    def nearest(self) -> float:
        """Where the first plane's depths begin, in metres."""
        return self.near - self.step / 2

    @property
    def farthest(self) -> float:
        """Where the last plane's depths end, in metres."""
        return self.nearest + self.step * self.count

    def centres(self, *, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu") -> Float[Tensor, " D"]:
        """The planes, in metres."""
        return self.near + self.step * torch.arange(self.count, dtype=dtype, device=device)


def depth_histogram(depth: Float[Tensor, "M H W"], bins: DepthBins, stride: int) -> Float[Tensor, "M E h w"]:
    """What an input depth map says in each cell of `stride` x `stride` pixels.

    Args:
        depth: z-depth in metres, 0 = unknown.
        bins: Nearer depths count in the first bin, farther ones in the "beyond" channel.
        stride: Pixels a cell; cells at the border may be cut.

    Returns:
        D + 2 channels: the shares of the cell's known pixels in the D bins and beyond them (summing to 1, or all 0
        where nothing is known), then the share of its pixels that are known.
    """
    (images, height, width), channels = depth.shape, bins.count + 2
    h, w = -(-height // stride), -(-width // stride)
    # Unknown pixels fall in channel D + 1 and are dropped from it afterwards.
    channel = torch.bucketize(depth.contiguous(), bins.edges(dtype=depth.dtype, device=depth.device)[1:], right=True)
    channel = torch.where(depth > 0, channel, channels - 1)
    row = torch.arange(height, device=depth.device) // stride
    column = torch.arange(width, device=depth.device) // stride
    image = torch.arange(images, device=depth.device)
    cell = (image[:, None, None] * h + row[:, None]) * w + column
    counts = depth.new_zeros(images * h * w * channels)
    counts.index_add_(0, (cell * channels + channel).reshape(-1), torch.ones_like(depth).reshape(-1))
    counts = counts.view(images, h, w, channels).permute(0, 3, 1, 2)
    known = counts[:, :-1].sum(dim=1, keepdim=True)
    return torch.cat([counts[:, :-1] / known.clamp(min=1), known / (known + counts[:, -1:])], dim=1)


class DepthHead(nn.Module):
    """Depth distribution of each feature pixel; an input depth map helps where it is known."""

    def __init__(self, *, channels: int, bins: DepthBins) -> None:
        """Make the head.

        Args:
            channels: Of the image features.
            bins: Depth bins; one more class, "beyond", takes sky and far things and is not returned.
        """
        super().__init__()
        self.bins = bins
        self.mix = nn.Sequential(
            nn.Conv2d(channels + bins.count + 2, channels, 3, padding=1), nn.GroupNorm(8, channels), nn.ReLU()
        )
        self.classify = nn.Conv2d(channels, bins.count + 1, 1)
        # e^5 is about three times the weight of 50 undecided bins: the map is trusted at first, but not alone.
        self.gain = nn.Parameter(torch.tensor(5.0))

    def forward(
        self, features: Float[Tensor, "M C h w"], depth: Float[Tensor, "M H W"], stride: int
    ) -> Float[Tensor, "M D h w"]:
        """Probabilities of the D bins; they sum to 1 less the probability of "beyond".

        Args:
            features: Image features.
            depth: Input depth map, z-depth in metres, 0 = unknown.
            stride: Image pixels a feature pixel.
        """
        histogram = depth_histogram(depth, self.bins, stride).to(features.dtype)
        logits = self.classify(self.mix(torch.cat([features, histogram], dim=1)))
        return F.softmax(logits + self.gain * histogram[:, :-1], dim=1)[:, :-1]
