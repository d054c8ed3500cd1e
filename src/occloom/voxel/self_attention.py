"""All voxels of a volume look at the volume: VoxFormer's deformable self-attention (Li et al., CVPR 2023, section 3.4).

Two forms. The released models lay the voxels out as a picture and attend in its plane; the later one ("deform3D")
samples in the volume. Otherwise they are the same: the layer of BEVFormer's temporal attention (Li et al., ECCV 2022,
section 3.4) with the present volume in both places of its queue, so that each head samples twice, with two softmaxes,
and takes the mean. Voxels are rows in C order; layers go through them in chunks, so nothing that all voxels sample is
ever held at once.

Suffixes: B batch, V voxels, Q voxels of a chunk, C channels, h w rows and columns of the picture.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from occloom.errors import InputError
from occloom.geometry.precision import full_precision
from occloom.grid import Shape
from occloom.ops.deformable_attention import deformable_attention
from occloom.ops.deformable_attention_volume import deformable_attention_volume
from occloom.ops.post_norm import PostNormLayer

CHUNK_VOXELS = 1 << 15
"""That a layer updates at a time."""
QUEUE = 2
"""Places of the queue, both of which hold the present volume."""


def picture_size(shape: Shape) -> tuple[int, int]:
    """Rows and columns of a volume laid out as a picture, as nearly square as can be and not higher than wide.

    Each x makes the same number of rows, and a row holds whole columns of voxels: 128x128x16 are 512x512, four rows for
    each x, of 32 places along y each.
    """
    x, y, z = shape
    parts = [n for n in range(1, y + 1) if y % n == 0 and x * n <= y // n * z]
    rows = x * max(parts, default=1)
    return rows, x * y * z // rows


class FlattenedPositions(nn.Module):
    """Learned positions of the voxels in the picture: half of the channels for the column, half for the row."""

    def __init__(self, channels: int, shape: Shape) -> None:
        """Make both tables.

        Raises:
            InputError: If the number of channels is odd.
        """
        super().__init__()
        if channels % 2:
            raise InputError(f"{channels} channels for positions", rule="2 divides them")
        rows, columns = picture_size(shape)
        self.rows = nn.Parameter(torch.randn(rows, channels // 2))
        self.columns = nn.Parameter(torch.randn(columns, channels // 2))

    def forward(self, index: Int64[Tensor, " Q"]) -> Float[Tensor, "Q C"]:
        """Of the voxels with these flat indices."""
        columns = len(self.columns)
        return torch.cat(
            [self.columns.index_select(0, index % columns), self.rows.index_select(0, index // columns)], dim=1
        )


class QueueAttention(nn.Module):
    """Projections of attention to a queue of two volumes; at first each head looks in its own direction."""

    def __init__(self, channels: int, *, heads: int, points: int, axes: int) -> None:
        super().__init__()
        if min(heads, points) < 1 or channels % heads:
            raise InputError(
                f"{channels} channels for {heads} heads of {points} points",
                rule="heads and points are at least 1, heads divide the channels",
                remedy="choose numbers that divide",
            )
        self.layout = (heads, QUEUE, points)
        samples = heads * QUEUE * points
        self.sampling_offsets = nn.Linear(2 * channels, samples * axes)
        self.attention_weights = nn.Linear(2 * channels, samples)
        self.value_proj = nn.Linear(channels, channels)
        self.output_proj = nn.Linear(channels, channels)
        nn.init.zeros_(self.sampling_offsets.weight)
        with torch.no_grad():
            steps = torch.arange(1, points + 1)[:, None]
            starts = _ring(heads, axes)[:, None, None] * steps
            self.sampling_offsets.bias.copy_(starts.expand(-1, QUEUE, -1, -1).flatten())
        nn.init.zeros_(self.attention_weights.weight)
        nn.init.zeros_(self.attention_weights.bias)
        for projection in (self.value_proj, self.output_proj):
            nn.init.xavier_uniform_(projection.weight)
            nn.init.zeros_(projection.bias)

    def choose(
        self, told: Float[Tensor, "*q told"], sizes: Float[Tensor, " axes"]
    ) -> tuple[Float[Tensor, "*q heads 2 points axes"], Float[Tensor, "*q heads 2 points"]]:
        """Offsets as fractions of the volume, which has `sizes` cells along each axis, and weights of the samples."""
        offsets = self.sampling_offsets(told).unflatten(-1, (*self.layout, -1)) / sizes
        return offsets, self.attention_weights(told).unflatten(-1, self.layout).softmax(dim=-1) / QUEUE


class SelfAttention(QueueAttention, ABC):
    """What both forms share: queries with and without their positions choose where to look and how much it counts."""

    def __init__(self, channels: int, shape: Shape, *, heads: int, points: int, axes: int) -> None:
        super().__init__(channels, heads=heads, points=points, axes=axes)
        self.shape = shape

    def values(self, rows: Float[Tensor, "V C"]) -> Tensor:
        """What is sampled of one volume, laid out for `look`."""
        return self.laid_out(self.value_proj(rows))

    def forward(
        self,
        queries: Float[Tensor, "Q C"],
        positions: Float[Tensor, "Q C"],
        index: Int64[Tensor, " Q"],
        values: Tensor,
    ) -> Float[Tensor, "Q C"]:
        """What is to be added to the queries.

        Args:
            queries: Some voxels of the volume.
            positions: Theirs.
            index: Their flat indices.
            values: Of the whole volume, from `values`.
        """
        with full_precision(queries.device.type):
            queries = queries.to(torch.promote_types(queries.dtype, torch.float32))
            told = torch.cat([queries, queries + positions], dim=1)
            places, sizes = self.references(index)
            offsets, weights = self.choose(told, sizes)
            locations = (places[:, None, None, None] + offsets).flatten(2, 3)
        return self.output_proj(self.look(values, locations, weights.flatten(2)))

    @abstractmethod
    def laid_out(self, rows: Float[Tensor, "V C"]) -> Tensor:
        """The rows of a volume as what `look` samples."""

    @abstractmethod
    def references(self, index: Int64[Tensor, " Q"]) -> tuple[Float[Tensor, "Q axes"], Float[Tensor, " axes"]]:
        """Centres of voxels as fractions, and the cells along each axis: offsets are in cells."""

    @abstractmethod
    def look(
        self,
        values: Tensor,
        locations: Float[Tensor, "Q heads samples axes"],
        weights: Float[Tensor, "Q heads samples"],
    ) -> Float[Tensor, "Q C"]:
        """Weighted sums of samples."""


class FlattenedSelfAttention(SelfAttention):
    """In the plane of the picture that the voxels are laid out as: what the released models do."""

    def __init__(self, channels: int, shape: Shape, *, heads: int = 8, points: int = 8) -> None:
        """Make the attention; at first each head looks in its own direction, point i at i + 1 cells.

        Args:
            channels: C.
            shape: Of the volume.
            heads: They share the channels.
            points: That a head samples in each place of the queue.

        Raises:
            InputError: Heads do not divide the channels.
        """
        super().__init__(channels, shape, heads=heads, points=points, axes=2)
        self.size = picture_size(shape)

    def laid_out(self, rows: Float[Tensor, "V C"]) -> Float[Tensor, "1 C h w"]:
        """Row by row."""
        return rows.T.unflatten(1, self.size)[None]

    def references(self, index: Int64[Tensor, " Q"]) -> tuple[Float[Tensor, "Q 2"], Float[Tensor, " 2"]]:
        """(u, v) of the voxels' cells in the picture."""
        height, width = self.size
        sizes = torch.tensor([width, height], dtype=torch.float32, device=index.device)
        return (torch.stack([index % width, index // width], dim=1) + 0.5) / sizes, sizes

    def look(
        self, values: Tensor, locations: Float[Tensor, "Q heads samples 2"], weights: Float[Tensor, "Q heads samples"]
    ) -> Float[Tensor, "Q C"]:
        """Bilinear."""
        picture = torch.zeros(len(locations), dtype=torch.int64, device=locations.device)
        return deformable_attention((values,), picture, locations[:, :, None], weights[:, :, None])


class VolumeSelfAttention(SelfAttention):
    """In the volume itself: VoxFormer's "deform3D"."""

    def __init__(self, channels: int, shape: Shape, *, heads: int = 8, points: int = 8) -> None:
        """Make the attention; at first each head looks in its own horizontal direction, point i at i + 1 voxels.

        Args:
            channels: C.
            shape: Of the volume.
            heads: They share the channels.
            points: That a head samples in each place of the queue.

        Raises:
            InputError: Heads do not divide the channels.
        """
        super().__init__(channels, shape, heads=heads, points=points, axes=3)

    def laid_out(self, rows: Float[Tensor, "V C"]) -> Float[Tensor, "1 C X Y Z"]:
        """As they lie."""
        return rows.T.unflatten(1, self.shape)[None]

    def references(self, index: Int64[Tensor, " Q"]) -> tuple[Float[Tensor, "Q 3"], Float[Tensor, " 3"]]:
        """(x, y, z) of the voxels' centres."""
        _, y, z = self.shape
        sizes = torch.tensor(self.shape, dtype=torch.float32, device=index.device)
        return (torch.stack([index // (y * z), index // z % y, index % z], dim=1) + 0.5) / sizes, sizes

    def look(
        self, values: Tensor, locations: Float[Tensor, "Q heads samples 3"], weights: Float[Tensor, "Q heads samples"]
    ) -> Float[Tensor, "Q C"]:
        """Trilinear."""
        return deformable_attention_volume(values, locations[None], weights[None])[0]


class SelfAttentionLayer(PostNormLayer):
    """Self-attention, then a small network; each added and normalised afterwards."""

    def __init__(self, attention: SelfAttention, channels: int, *, feedforward: int, dropout: float) -> None:
        super().__init__(channels, hidden=feedforward, dropout=dropout)
        self.attention = attention

    def forward(self, rows: Float[Tensor, "B V C"], positions: FlattenedPositions) -> Float[Tensor, "B V C"]:
        """The volume's rows after they have looked at it."""
        return torch.stack([torch.cat(list(self._chunks(volume, positions))) for volume in rows])

    def _chunks(self, rows: Float[Tensor, "V C"], positions: FlattenedPositions) -> Iterator[Float[Tensor, "Q C"]]:
        """Of one volume, some rows at a time."""
        values = self.attention.values(rows)
        indices = torch.arange(len(rows), device=rows.device)
        for queries, index in zip(rows.split(CHUNK_VOXELS), indices.split(CHUNK_VOXELS), strict=True):
            update = self.attention(queries, positions(index), index, values)
            yield self.settled(queries, update)


def _ring(heads: int, axes: int) -> Float[Tensor, "heads axes"]:
    """One direction a head on the border of a square in the first two axes."""
    angles = torch.arange(heads) * (2 * math.pi / heads)
    directions = torch.stack([angles.cos(), angles.sin(), torch.zeros(heads)], dim=-1)[:, :axes]
    return directions / directions.abs().amax(dim=1, keepdim=True)
