"""Features of a depth prior where no depth model's are at hand."""

from itertools import pairwise

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

WIDTH = 16
"""Channels of the first layer; each halving doubles them."""
TYPICAL_DEPTH = 10.0
"""In metres: its logarithm is the zero of what the network sees."""


class StandInFeatures(nn.Module):
    """A small network on the prior's depth, trained along: a stand-in for the features of a depth model.

    A depth model's features also hold what it saw in the picture; these hold no more than the depth does.
    """

    def __init__(self, channels: int, *, halvings: int = 3) -> None:
        """Make the network.

        Args:
            channels: F of the features that come out.
            halvings: How often the size is halved; 3 turn the usual 225x400 into 29x50, where MoGe-2 gives 26x46.
        """
        super().__init__()
        widths = [WIDTH * 2**i for i in range(halvings + 1)]
        self.first = nn.Conv2d(2, WIDTH, 3, padding=1)
        # Without norms, what is felt at a place comes from around it alone; the user's projection normalises.
        self.convs = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1) for a, b in pairwise(widths))
        self.last = nn.Conv2d(widths[-1], channels, 1)

    def forward(self, depth: Float[Tensor, "B N H W"]) -> Float[Tensor, "B N F h w"]:
        """Features that cover the whole picture, h and w being H and W halved and rounded up.

        Args:
            depth: Z-depth in metres, 0 = unknown.
        """
        known = depth > 0
        log_depth = torch.where(known, torch.log(torch.where(known, depth, 1) / TYPICAL_DEPTH), 0)
        x = F.relu(self.first(torch.stack([log_depth, known.to(depth.dtype)], dim=2).flatten(0, 1)))
        for conv in self.convs:
            # Pooling to a size spreads the cells evenly over the picture, whatever its size; strides would not.
            x = F.relu(conv(F.adaptive_avg_pool2d(x, (-(-x.shape[-2] // 2), -(-x.shape[-1] // 2)))))
        return self.last(x).unflatten(0, depth.shape[:2])
