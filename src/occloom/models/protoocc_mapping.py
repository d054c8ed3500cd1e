"""ProtoOcc's prototype mapping: clusters of pixel features that voxel queries are compared with (section 3.2.1).

Pixel features are grouped into clusters that start as a regular grid; their means are the prototypes of a picture. Each
layer projects them, collects the queries that a picture sees by their likeness to each prototype (Eq. 1a), and hands
what was collected back to the queries (Eq. 1b), which then choose where to look. Numbers that the paper leaves open are
those of reference protoocc 2.1 to 2.3.

Suffixes: M pictures of all samples and cameras, C channels, P prototypes, K queries that a picture sees, h w pixels.
"""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from occloom.errors import InputError
from occloom.geometry.precision import full_precision

PAPER_GRIDS = {2: (28, 50), 4: (14, 25), 6: (9, 16), 8: (7, 13)}
"""Clusters along height and width by the paper's r, of 56x100 cells: 1400 (printed as 1440), 350, 144 and 91."""
LEAST_WEIGHT = 1e-6
"""Of a mean over nothing."""


@dataclass(frozen=True)
class ClusterConfig:
    """How pixel features become prototypes."""

    grid: tuple[int, int] = PAPER_GRIDS[4]
    """Clusters along height and width, P in all: the paper's r = 4. Where there are fewer pixels, each begins one."""
    iterations: int = 3
    """Times that pixels are assigned anew."""
    temperature: float = 0.07
    """Of the softmax of cosines by which a pixel is shared out over the clusters around it."""

    def __post_init__(self) -> None:
        if min(self.grid) < 1 or self.iterations < 0 or self.temperature <= 0:
            raise InputError(
                f"clusters.grid is {self.grid}, iterations {self.iterations}, temperature {self.temperature}",
                rule="the grid is 1 1 or more, iterations are 0 or more, the temperature is above 0",
            )


def cluster(features: Float[Tensor, "M C h w"], config: ClusterConfig) -> Float[Tensor, "M P C"]:
    """The prototypes of pictures: means of the cells of a grid, then of the pixels that resemble them.

    A pixel is shared out over the clusters of its own cell and the eight around it, by its cosine with their
    prototypes; a prototype becomes the mean of the pixels by their shares. In float32 or finer.
    """
    height, width = features.shape[2:]
    grid = (min(config.grid[0], height), min(config.grid[1], width))
    with full_precision(features.device.type):
        pixels, counts = _by_cell(features.to(torch.promote_types(features.dtype, torch.float32)), grid)
        inside = _around(torch.ones(1, *grid, 1, dtype=torch.bool, device=features.device))[..., 0]
        prototypes = pixels.sum(dim=3) / counts.sum(dim=-1)[..., None]
        directions = F.normalize(pixels, dim=-1)
        for _ in range(config.iterations):
            cosines = directions @ _around(F.normalize(prototypes, dim=-1)).transpose(-1, -2)
            cosines = cosines.masked_fill(~inside[:, :, :, None], -torch.inf)
            shares = (cosines / config.temperature).softmax(dim=-1) * counts[..., None]
            weights = _collected(shares.sum(dim=3)[..., None])
            prototypes = _collected(shares.transpose(-1, -2) @ pixels) / weights.clamp(min=LEAST_WEIGHT)
    return prototypes.flatten(1, 2)


def _by_cell(
    features: Float[Tensor, "M C h w"], grid: tuple[int, int]
) -> tuple[Float[Tensor, "M a b N C"], Float[Tensor, "a b N"]]:
    """The N pixels of each of the a x b cells, and 1 for each, 0 for what only fills up a smaller cell."""
    (rows, rows_there), (columns, columns_there) = (
        _members(length, count, features.device) for length, count in zip(features.shape[2:], grid, strict=True)
    )
    cut = features.index_select(2, rows.flatten()).index_select(3, columns.flatten())
    cells = cut.unflatten(3, columns.shape).unflatten(2, rows.shape).permute(0, 2, 4, 3, 5, 1).flatten(3, 4)
    there = rows_there[:, None, :, None] & columns_there[None, :, None, :]
    counts = there.flatten(2).to(features.dtype)
    return cells * counts[..., None], counts


def _members(length: int, count: int, device: torch.device) -> tuple[Int64[Tensor, "n r"], Bool[Tensor, "n r"]]:
    """Along one axis: the pixels of each cell, those whose centre lies in it, and which of the entries are some."""
    cells = torch.arange(count + 1, device=device)
    first = -((count - 2 * length * cells) // (2 * count))  # the least i with (i + 1/2) count >= cell length
    index = first[:-1, None] + torch.arange(-(-length // count), device=device)
    return index.clamp(max=length - 1), index < first[1:, None]


def _around(cells: Tensor) -> Tensor:
    """Of each cell "M a b C" those around it, row by row, itself the fifth: "M a b 9 C"; zero outside."""
    (height, width), padded = cells.shape[1:3], F.pad(cells, (0, 0, 1, 1, 1, 1))
    return torch.stack([padded[:, i : i + height, j : j + width] for i in range(3) for j in range(3)], dim=3)


def _collected(given: Float[Tensor, "M a b 9 C"]) -> Float[Tensor, "M a b C"]:
    """What each cell gets if each gives something to the nine around it, in the order of `_around`."""
    height, width = given.shape[1:3]
    padded = given.new_zeros(len(given), height + 2, width + 2, given.shape[-1])
    for place, part in enumerate(given.unbind(3)):
        i, j = divmod(place, 3)
        padded = padded + F.pad(part, (0, 0, j, 2 - j, i, 2 - i))
    return padded[:, 1:-1, 1:-1]


@runtime_checkable
class AffinityForm(Protocol):
    """How likeness decides who takes part in a prototype, and what it gives back."""

    @property
    def starts_as_baseline(self) -> bool:
        """Whether what is handed back starts as nothing, so that training starts where the baseline's does."""
        ...

    def affinity(self, cosines: Float[Tensor, "M P K"]) -> Float[Tensor, "M P K"]:
        """How much each query belongs to each prototype, in (0, 1)."""
        ...

    def dispatch(self, affinity: Float[Tensor, "M P K"]) -> Float[Tensor, "M P K"]:
        """How much of each prototype each query is handed."""
        ...


@dataclass(frozen=True)
class LiteralForm:
    """Equations 1a and 1b as printed.

    The sigmoid of a cosine lies between 0.27 and 0.73, so that all queries belong to all prototypes almost alike, and a
    query is handed the sum of all prototypes, several times as long as itself (reference protoocc 2.3).
    """

    @property
    def starts_as_baseline(self) -> bool:
        """No."""
        return False

    def affinity(self, cosines: Float[Tensor, "M P K"]) -> Float[Tensor, "M P K"]:
        """The sigmoid of the cosine."""
        return cosines.sigmoid()

    def dispatch(self, affinity: Float[Tensor, "M P K"]) -> Float[Tensor, "M P K"]:
        """The affinity."""
        return affinity


@dataclass(frozen=True)
class ScaledForm:
    """The well-scaled form: a steeper sigmoid, and a mean of the prototypes in place of their sum.

    Reference protoocc 2.3 would learn the steepness; it is fixed here, so that the layer counts what the paper's does.
    """

    steepness: float = 5.0
    """Factor of the cosine before the sigmoid."""

    @property
    def starts_as_baseline(self) -> bool:
        """Yes."""
        return True

    def affinity(self, cosines: Float[Tensor, "M P K"]) -> Float[Tensor, "M P K"]:
        """The sigmoid of the cosine, which tells 0.007 from 0.993."""
        return (self.steepness * cosines).sigmoid()

    def dispatch(self, affinity: Float[Tensor, "M P K"]) -> Float[Tensor, "M P K"]:
        """The affinity as shares that sum to 1 over the prototypes."""
        return affinity / affinity.sum(dim=1, keepdim=True).clamp(min=LEAST_WEIGHT)


@dataclass(frozen=True)
class Mapped:
    """What a mapping answers."""

    queries: Float[Tensor, "M K C"]
    """Prototype-aware queries, Eq. 1b."""
    dispatched: Float[Tensor, "M K C"]
    """The prototypes that each query was handed, before the last layer of Eq. 1b."""


class PrototypeMapping(nn.Module):
    """One layer's mapping of prototypes onto queries: three linear layers (Eq. 1a, 1b; reference protoocc 3, 8-9)."""

    def __init__(self, channels: int, form: AffinityForm) -> None:
        super().__init__()
        self.form = form
        self.project = nn.Sequential(
            nn.Linear(channels, channels), nn.ReLU(inplace=True), nn.Linear(channels, channels)
        )
        self.dispatch = nn.Linear(channels, channels)
        if form.starts_as_baseline:
            nn.init.zeros_(self.dispatch.weight)
            nn.init.zeros_(self.dispatch.bias)

    def forward(
        self, prototypes: Float[Tensor, "M P C"], queries: Float[Tensor, "M K C"], seen: Bool[Tensor, "M K"]
    ) -> Mapped:
        """The queries with what the prototypes of their picture hand them.

        Args:
            prototypes: Of each picture.
            queries: Of each picture.
            seen: Which of them the picture sees; the others take no part.
        """
        projected = self.project(prototypes)
        cosines = F.normalize(projected, dim=-1) @ F.normalize(queries, dim=-1).transpose(1, 2)
        affinity = self.form.affinity(cosines) * seen[:, None]
        total = affinity.sum(dim=2, keepdim=True).clamp(min=LEAST_WEIGHT)
        aggregated = (projected + affinity @ queries) / total
        dispatched = self.form.dispatch(affinity).transpose(1, 2) @ aggregated
        return Mapped(queries + self.dispatch(dispatched), dispatched)


class PrototypeGuide:
    """A layer's mapping with the prototypes of the pictures at hand: a `PairGuide` that keeps what it dispatched."""

    def __init__(self, mapping: PrototypeMapping, prototypes: Float[Tensor, "M P C"]) -> None:
        self._mapping, self._prototypes = mapping, prototypes
        self._answer: tuple[Mapped, Tensor] | None = None

    def __call__(self, queries: Float[Tensor, "M K C"], seen: Bool[Tensor, "M K"]) -> Float[Tensor, "M K C"]:
        """The prototype-aware queries."""
        mapped = self._mapping(self._prototypes, queries, seen)
        self._answer = (mapped, seen)
        return mapped.queries

    @property
    def dispatched(self) -> Float[Tensor, "pairs C"]:
        """What each pair of a picture and a query that it sees was handed, in the order of `AttentionMaps`."""
        assert self._answer is not None, "the guide was not called"
        mapped, seen = self._answer
        return mapped.dispatched[seen]
