"""Weighted sums of a few rows of a table: what every deformable operation is made of.

A feature map is a table with one row a pixel; a bilinear sample is a weighted sum of four of its rows. Summed in one
pass, the rows are never held. Sums and gradients are the same on a CPU whatever the number of threads.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

CHUNK_ELEMENTS = 1 << 21
"""Numbers that the rows or indices of a chunk may hold (8 MiB in float32, which stays in the cache of a CPU)."""


def pad_pixels(maps: Float[Tensor, "M C h w"]) -> Float[Tensor, "M H W C"]:
    """Maps with channels last and a border of one pixel of zeros: what `pixel_corners` finds the pixels of."""
    return F.pad(maps.permute(0, 2, 3, 1), (0, 0, 1, 1, 1, 1))


def pixel_corners(
    x: Float[Tensor, "*b"], y: Float[Tensor, "*b"], size: tuple[int, int]
) -> tuple[Int64[Tensor, "*b 4"], Float[Tensor, "*b 4"]]:
    """The four pixels around each place and their bilinear shares. Far outside, all four are of the border of zeros.

    Args:
        x: Along the width; 0 is the centre of the first pixel, 1 that of the second.
        y: Along the height.
        size: h and w, before padding.

    Returns:
        `row * (w + 2) + column` of the pixels of the padded map (see `pad_pixels`), and the shares.
    """
    height, width = size
    column, right = cells_around(x, width)
    row, down = cells_around(y, height)
    first = row * (width + 2) + column
    index = [first, first + 1, first + (width + 2), first + (width + 3)]
    left, up = 1 - right, 1 - down
    return torch.stack(index, dim=-1), torch.stack([up * left, up * right, down * left, down * right], dim=-1)


def cells_around(place: Float[Tensor, "*b"], count: int) -> tuple[Int64[Tensor, "*b"], Float[Tensor, "*b"]]:
    """Along one axis: the padded cell before each place, and the share of the cell after it.

    Args:
        place: 0 is the centre of the first cell, 1 that of the second.
        count: Cells before padding; one of zeros follows on either side.
    """
    padded = (place + 1).clamp(0, count + 1)
    # Clamped as a whole number, a place that is no number has a cell too; its share is no number, and so is the sum.
    before = padded.detach().long().clamp(0, count)
    return before, padded - before


def row_sums(
    table: Float[Tensor, "R C"], index: Int64[Tensor, "G K"], shares: Float[Tensor, "G K"]
) -> Float[Tensor, "G C"]:
    """Sum `shares[g, k] * table[index[g, k]]` over k."""
    return F.embedding_bag(index, table, mode="sum", per_sample_weights=shares)


def add_row_sums_gradient(
    table: Float[Tensor, "R C"],
    index: Int64[Tensor, "G K"],
    shares: Float[Tensor, "G K"],
    grad: Float[Tensor, "G C"],
    grad_table: Float[Tensor, "R C"],
) -> Float[Tensor, "G K"]:
    """Gradient of `row_sums` to the shares; the one to the table is added to `grad_table` in place.

    Args:
        table: As given to `row_sums`.
        index: As given to `row_sums`.
        shares: As given to `row_sums`.
        grad: Gradient to the sums.
        grad_table: Changed.
    """
    (groups, count), channels = index.shape, table.shape[1]
    rows = table.index_select(0, index.reshape(-1)).view(groups, count, channels)
    grad_rows = shares[:, :, None] * grad[:, None, :]
    grad_table.index_add_(0, index.reshape(-1), grad_rows.view(-1, channels))
    return (rows * grad[:, None, :]).sum(dim=-1)


def scatter_rows(
    rows: Float[Tensor, "G C"], index: Int64[Tensor, "G K"], shares: Float[Tensor, "G K"], count: int
) -> Float[Tensor, "{count} C"]:
    """A table to whose row `index[g, k]` each `shares[g, k] * rows[g]` was added: `row_sums` the other way round.

    What is added is never held at once, nor its gradient.

    Args:
        rows: To add.
        index: Rows of the table.
        shares: What of a row of `rows` goes there.
        count: Rows of the table.
    """
    table = _ScatterRows.apply(rows, index, shares, count)
    assert isinstance(table, Tensor)
    return table


class _ScatterRows(torch.autograd.Function):
    """`scatter_rows`, some rows at a time."""

    @staticmethod
    def forward(ctx: FunctionCtx, rows: Tensor, index: Tensor, shares: Tensor, count: int) -> Tensor:
        ctx.save_for_backward(rows, index, shares)
        table = rows.new_zeros(count, rows.shape[1])
        for row, into, share in _chunks(rows, index, shares):
            added = share[:, :, None] * row[:, None, :]
            table.index_add_(0, into.reshape(-1), added.flatten(0, 1))
        return table

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        rows, index, shares = ctx.saved_tensors
        grad_shares = [
            (grad.index_select(0, into.reshape(-1)).unflatten(0, into.shape) @ row[:, :, None])[..., 0]
            for row, into, _ in _chunks(rows, index, shares)
        ]
        return row_sums(grad, index, shares), None, torch.cat(grad_shares), None


def _chunks(rows: Tensor, index: Tensor, shares: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """The same groups of all three, so few that their rows in the table fit a chunk."""
    groups = max(1, CHUNK_ELEMENTS // max(1, index.shape[1] * rows.shape[1]))
    return zip(rows.split(groups), index.split(groups), shares.split(groups), strict=True)
