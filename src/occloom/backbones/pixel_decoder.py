"""Image levels that look at one another: the encoder of Deformable DETR (Zhu et al., ICLR 2021, section 4.1).

Mask2Former and MaskDINO call it pixel decoder, and Symphonies takes its features.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from occloom.interfaces import FeaturePyramid
from occloom.lifting.cross_attention import DeformableCrossAttention, ReferencePoints
from occloom.lifting.cross_view import sine_positions
from occloom.ops.post_norm import PostNormLayer


class PixelLayer(PostNormLayer):
    """Every cell looks around its place in all levels; a small network; each added and normalised afterwards."""

    def __init__(
        self, channels: int, *, levels: int, heads: int, points: int, feedforward: int, dropout: float
    ) -> None:
        super().__init__(channels, hidden=feedforward, dropout=dropout)
        self.attention = DeformableCrossAttention(channels, heads=heads, points=points, levels=levels)

    def forward(
        self,
        cells: Float[Tensor, "M Q C"],
        positions: Float[Tensor, "Q C"],
        references: ReferencePoints,
        sizes: tuple[tuple[int, int], ...],
    ) -> Float[Tensor, "M Q C"]:
        """The cells of all levels, one behind the other, after they have looked."""
        values = tuple(level[:, None] for level in as_levels(cells, sizes))
        update = self.attention(cells + positions, references, values)
        return self.settled(cells, update)


class PixelDecoder(nn.Module):
    """Projects levels to one width, makes one more of half the size, and lets their cells look at one another."""

    def __init__(
        self,
        *,
        in_channels: tuple[int, ...],
        channels: int,
        layers: int,
        heads: int,
        points: int,
        feedforward: int,
        groups: int,
        dropout: float = 0.0,
    ) -> None:
        """Make the decoder.

        Args:
            in_channels: Of each level, finest first.
            channels: C of all levels that come out.
            layers: One behind the other.
            heads: Of their attention.
            points: That a head samples in each level.
            feedforward: Hidden channels of the network behind each attention.
            groups: Of the normalisation of projected levels.
            dropout: Behind each attention and in the network.

        Raises:
            InputError: If 4 or the heads do not divide the channels.
        """
        super().__init__()

        def projection(inputs: int, kernel: int, stride: int) -> nn.Module:
            conv = nn.Conv2d(inputs, channels, kernel, stride, padding=kernel // 2)
            return nn.Sequential(conv, nn.GroupNorm(groups, channels))

        self.project = nn.ModuleList(projection(inputs, 1, 1) for inputs in in_channels)
        self.project_further = projection(in_channels[-1], 3, 2)
        levels = len(in_channels) + 1
        self.level_embedding = nn.Parameter(torch.randn(levels, channels))
        self.layers = nn.ModuleList(
            PixelLayer(channels, levels=levels, heads=heads, points=points, feedforward=feedforward, dropout=dropout)
            for _ in range(layers)
        )

    def forward(self, pyramid: FeaturePyramid) -> FeaturePyramid:
        """The given levels, refined; the one made besides is dropped."""
        levels = [project(level) for project, level in zip(self.project, pyramid.levels, strict=True)]
        levels.append(self.project_further(pyramid.levels[-1]))
        sizes = tuple((level.shape[-2], level.shape[-1]) for level in levels)
        images, channels, device = len(levels[0]), levels[0].shape[1], levels[0].device
        cells = torch.cat([level.flatten(2).transpose(1, 2) for level in levels], dim=1)
        positions = torch.cat(
            [
                sine_positions(size, channels, normalised=True, device=device).flatten(1).T + embedding
                for size, embedding in zip(sizes, self.level_embedding, strict=True)
            ]
        )
        references = cell_centres(sizes, images, device=device)
        for layer in self.layers:
            cells = layer(cells, positions, references, sizes)
        return FeaturePyramid(as_levels(cells, sizes)[:-1], pyramid.strides)


def as_levels(cells: Float[Tensor, "M Q C"], sizes: tuple[tuple[int, int], ...]) -> tuple[Tensor, ...]:
    """Cells of levels one behind the other as maps "M C h w"."""
    parts = cells.split([height * width for height, width in sizes], dim=1)
    return tuple(part.transpose(1, 2).unflatten(2, size) for part, size in zip(parts, sizes, strict=True))


def cell_centres(
    sizes: tuple[tuple[int, int], ...], images: int, *, device: torch.device | str = "cpu"
) -> ReferencePoints:
    """Each cell as a query of its own image, at its centre."""
    centres = []
    for height, width in sizes:
        v, u = ((torch.arange(n, device=device) + 0.5) / n for n in (height, width))
        centres.append(torch.stack(torch.meshgrid(u, v, indexing="xy"), dim=-1).flatten(0, 1))
    places = torch.cat(centres)
    places = torch.cat([places, torch.zeros_like(places[:, :1])], dim=1)[None, None, :, None]
    visible = torch.ones(places.shape[:-1], dtype=torch.bool, device=device)
    return ReferencePoints(places.expand(images, -1, -1, -1, -1), visible.expand(images, -1, -1, -1))
