"""Features of several views enrich one another before they are lifted: two cross-view transformers.

`JointViewTransformer` flattens all views' cells into one sequence (Wei et al., "SurroundDepth", CoRL 2022, 3.2),
`WindowedPairTransformer` lets two views look at each other in windows (Xu et al., "GMFlow", CVPR 2022, 3.1).
MonoOcc (Zheng et al., ICRA 2024, section III-C) names the first and ships the second (reference monoocc 4d, 4e). Both
take maps of any size.
"""

import math
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Shaped
from torch import Tensor, nn

from occloom.errors import InputError

TEMPERATURE = 1e4
"""Ratio of the longest wavelength of sine positions to the shortest."""
MASKED = -100.0
"""Added to the score of a key that a query must not see."""


@runtime_checkable
class CrossView(Protocol):
    """Makes a module that takes views "B V C h w", the older ones first, and returns them enriched."""

    def build(self, channels: int) -> nn.Module:
        """Make it for features of some width."""
        ...


@dataclass(frozen=True)
class JointViews:
    """All views' cells as one sequence: the paper's."""

    reduction: int = 2
    """Factor by which the maps shrink before they are flattened."""
    blocks: int = 3
    """Of the transformer."""
    heads: int = 8
    """Of its attention."""

    def build(self, channels: int) -> "JointViewTransformer":
        """Make it.

        Raises:
            InputError: If heads or 4 do not divide the channels.
        """
        return JointViewTransformer(channels, reduction=self.reduction, blocks=self.blocks, heads=self.heads)


@dataclass(frozen=True)
class WindowedPairs:
    """Two views in windows: the released code's."""

    blocks: int = 6
    """Of the transformer; every other one has its windows shifted."""
    windows: int = 2
    """Into which each axis of a map is cut."""

    def build(self, channels: int) -> "WindowedPairTransformer":
        """Make it.

        Raises:
            InputError: If 4 does not divide the channels.
        """
        return WindowedPairTransformer(channels, blocks=self.blocks, windows=self.windows)


def enrich_neighbours(transformer: nn.Module, frames: Float[Tensor, "B T C h w"]) -> Float[Tensor, "B T C h w"]:
    """Give each pair of neighbours to a transformer, one after the other, each frame as the pair before left it.

    Args:
        transformer: Of a `CrossView`.
        frames: In the order of time, older or newer first.
    """
    enriched = list(frames.unbind(dim=1))
    for before in range(len(enriched) - 1):
        pair = transformer(torch.stack(enriched[before : before + 2], dim=1))
        enriched[before : before + 2] = pair.unbind(dim=1)
    return torch.stack(enriched, dim=1)


def sine_positions(
    size: tuple[int, int], channels: int, *, normalised: bool, device: torch.device | str = "cpu"
) -> Float[Tensor, "C h w"]:
    """Sines and cosines of row, then of column, each in half of the channels (Vaswani et al., 2017; DETR, 2020).

    Args:
        size: h and w.
        channels: C.
        normalised: Whether the last row and column stand at a full turn; otherwise neighbours are one radian apart.
        device: Where to make them.

    Raises:
        InputError: If 4 does not divide the channels.
    """
    if channels % 4:
        raise InputError(f"{channels} channels for sine positions", rule="4 divides them")
    number = torch.arange(channels // 2, device=device) // 2 * 2
    wavelengths = TEMPERATURE ** (number / (channels // 2))
    waves = []
    for count in size:
        place = torch.arange(1, count + 1, dtype=torch.float32, device=device)
        if normalised:
            place = place / (count + 1e-6) * (2 * math.pi)
        angle = place / wavelengths[:, None]
        waves.append(torch.where((torch.arange(len(angle), device=device) % 2 == 0)[:, None], angle.sin(), angle.cos()))
    rows, columns = waves
    spread = (rows[:, :, None].expand(-1, *size), columns[:, None].expand(-1, *size))
    return torch.cat(spread, dim=0)


class _JointBlock(nn.Module):
    """Self-attention over the cells of all views, then a small network; each normalised before and added."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm = nn.LayerNorm(channels)
        self.query = nn.Linear(channels, channels, bias=False)
        self.key = nn.Linear(channels, channels, bias=False)
        self.value = nn.Linear(channels, channels, bias=False)
        self.project = nn.Linear(channels, channels)
        self.feedforward_norm = nn.LayerNorm(channels)
        self.feedforward = nn.Sequential(
            nn.Linear(channels, 4 * channels), nn.GELU(), nn.Linear(4 * channels, channels)
        )

    def forward(self, cells: Float[Tensor, "B L C"], position: Float[Tensor, "L C"]) -> Float[Tensor, "B L C"]:
        """Cells after they have seen one another."""
        value = self.attention_norm(cells)
        placed = value + position
        heads = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in (self.query(placed), self.key(placed), self.value(value))
        )
        cells = cells + self.project(F.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2))
        return cells + self.feedforward(self.feedforward_norm(cells))


class JointViewTransformer(nn.Module):
    """SurroundDepth's: shrink, attend over all views at once, enlarge, add."""

    def __init__(self, channels: int, *, reduction: int = 2, blocks: int = 3, heads: int = 8) -> None:
        """Make the transformer.

        Args:
            channels: C.
            reduction: Factor of shrinking; sizes that it does not divide are rounded up, and cut afterwards.
            blocks: One behind the other.
            heads: They share the channels.

        Raises:
            InputError: If heads or 4 do not divide the channels.
        """
        super().__init__()
        if channels % heads or channels % 4 or min(reduction, blocks, heads) < 1:
            raise InputError(
                f"{channels} channels, {heads} heads, {blocks} blocks and reduction {reduction}",
                rule="all are at least 1, heads and 4 divide the channels",
            )
        self.shrink = nn.Sequential(
            nn.Conv2d(channels, channels, 1, stride=reduction, groups=channels, bias=False),
            nn.Conv2d(channels, channels, 1, bias=False),
        )
        self.blocks = nn.ModuleList(_JointBlock(channels, heads) for _ in range(blocks))
        self.enlarge = nn.Sequential(
            nn.ConvTranspose2d(channels, channels, 1, stride=reduction, output_padding=reduction - 1, groups=channels),
            nn.Conv2d(channels, channels, 1, bias=False),
        )

    def forward(self, views: Float[Tensor, "B V C h w"]) -> Float[Tensor, "B V C h w"]:
        """The views after they have looked at one another; any number, all have the same positions."""
        batch, count, channels, height, width = views.shape
        small = self.shrink(views.flatten(0, 1))
        size = (small.shape[-2], small.shape[-1])
        position = sine_positions(size, channels, normalised=False, device=views.device).flatten(1).T
        cells = small.unflatten(0, (batch, count)).flatten(3).transpose(2, 3).flatten(1, 2)
        for block in self.blocks:
            cells = block(cells, position.repeat(count, 1).to(cells.dtype))
        maps = cells.unflatten(1, (count, -1)).flatten(0, 1).transpose(1, 2).unflatten(2, size)
        large = self.enlarge(maps)[..., :height, :width]
        return views + large.unflatten(0, (batch, count))


class _WindowAttention(nn.Module):
    """One head of attention from one view's cells to another's, and what is added to the former."""

    def __init__(self, channels: int, *, feedforward: bool) -> None:
        super().__init__()
        self.query = nn.Linear(channels, channels, bias=False)
        self.key = nn.Linear(channels, channels, bias=False)
        self.value = nn.Linear(channels, channels, bias=False)
        self.merge = nn.Linear(channels, channels, bias=False)
        self.norm = nn.LayerNorm(channels)
        if feedforward:
            self.feedforward = nn.Sequential(
                nn.Linear(2 * channels, 8 * channels, bias=False),
                nn.GELU(),
                nn.Linear(8 * channels, channels, bias=False),
            )
            self.feedforward_norm = nn.LayerNorm(channels)
        else:
            self.feedforward = None

    def forward(
        self, cells: Float[Tensor, "S L C"], others: Float[Tensor, "S L C"], mask: Float[Tensor, "S L L"]
    ) -> Float[Tensor, "S L C"]:
        """The cells of windows after they have seen the same windows of the other view."""
        looked = F.scaled_dot_product_attention(
            self.query(cells), self.key(others), self.value(others), attn_mask=mask.to(cells.dtype)
        )
        message = self.norm(self.merge(looked))
        if self.feedforward is not None:
            message = self.feedforward_norm(self.feedforward(torch.cat([cells, message], dim=-1)))
        return cells + message


class _PairBlock(nn.Module):
    """A view looks at itself, then at the other."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.own = _WindowAttention(channels, feedforward=False)
        self.other = _WindowAttention(channels, feedforward=True)

    def forward(
        self, cells: Float[Tensor, "S L C"], others: Float[Tensor, "S L C"], mask: Float[Tensor, "S L L"]
    ) -> Float[Tensor, "S L C"]:
        """The cells afterwards; the others are those of the other view as it was before this block."""
        return self.other(self.own(cells, cells, mask), others, mask)


class WindowedPairTransformer(nn.Module):
    """GMFlow's: both views of a pair look at themselves and at each other within windows."""

    def __init__(self, channels: int, *, blocks: int = 6, windows: int = 2) -> None:
        """Make the transformer.

        Args:
            channels: C.
            blocks: Every other one has its windows shifted by half of one.
            windows: Into which each axis is cut; sizes that it does not divide are padded, and nobody sees the padding.

        Raises:
            InputError: If 4 does not divide the channels.
        """
        super().__init__()
        if channels % 4 or min(blocks, windows) < 1:
            raise InputError(
                f"{channels} channels, {blocks} blocks and {windows} windows",
                rule="all are at least 1, and 4 divides the channels",
            )
        self.windows = windows
        self.blocks = nn.ModuleList(_PairBlock(channels) for _ in range(blocks))
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)

    def forward(self, views: Float[Tensor, "B 2 C h w"]) -> Float[Tensor, "B 2 C h w"]:
        """The two views after they have looked at each other, block by block, both directions at once."""
        batch, _, channels, height, width = views.shape
        n = self.windows
        padded = F.pad(views, (0, -width % n, 0, -height % n))
        size = (padded.shape[-2] // n, padded.shape[-1] // n)
        position = sine_positions(size, channels, normalised=True, device=views.device).to(views.dtype)
        maps = padded.flatten(0, 1) + position.repeat(1, n, n)
        real = torch.zeros(padded.shape[-2:], dtype=torch.bool, device=views.device)
        real[:height, :width] = True
        for number, block in enumerate(self.blocks):
            shift = (size[0] // 2, size[1] // 2) if number % 2 and n > 1 else (0, 0)
            mask = _window_mask(real, n, shift).repeat(2 * batch, 1, 1)
            others = maps.unflatten(0, (batch, 2)).flip(1).flatten(0, 1)
            cells = block(_windows(maps, n, shift), _windows(others, n, shift), mask)
            maps = _unwindowed(cells, n, size, shift)
        return maps.unflatten(0, (batch, 2))[..., :height, :width]


def _windows(maps: Shaped[Tensor, "M C H W"], n: int, shift: tuple[int, int]) -> Shaped[Tensor, "S L C"]:
    """The cells of each of the S = M n n windows, after everything moved up and left by `shift`, round the border."""
    moved = maps.roll((-shift[0], -shift[1]), dims=(2, 3))
    cut = moved.unflatten(3, (n, -1)).unflatten(2, (n, -1))  # M C n h n w
    return cut.permute(0, 2, 4, 3, 5, 1).flatten(3, 4).flatten(0, 2)


def _unwindowed(
    cells: Float[Tensor, "S L C"], n: int, size: tuple[int, int], shift: tuple[int, int]
) -> Float[Tensor, "M C H W"]:
    """The maps whose windows these are."""
    cut = cells.unflatten(1, size).unflatten(0, (-1, n, n))  # M n n h w C
    return cut.permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3).roll(shift, dims=(2, 3))


def _window_mask(real: Bool[Tensor, "H W"], n: int, shift: tuple[int, int]) -> Float[Tensor, "S L L"]:
    """What is added to scores: `MASKED` between cells that only rolling has made neighbours, and for padded keys."""
    height, width = real.shape
    rows, columns = (torch.arange(count, device=real.device) for count in (height, width))
    # After rolling, the last rows and columns are those that came round the border.
    came_round = (rows >= height - shift[0]).long()[:, None] * 2 + (columns >= width - shift[1]).long()
    region = _windows(came_round[None, None], n, (0, 0))[..., 0]
    key_is_real = _windows(real[None, None], n, shift)[..., 0]
    allowed = (region[:, :, None] == region[:, None]) & key_is_real[:, None]
    return torch.where(allowed, 0.0, MASKED)
