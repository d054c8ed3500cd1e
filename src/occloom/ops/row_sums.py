"""Weighted sums of a few rows of a table: what every deformable operation is made of.

A feature map is a table with one row a pixel; a bilinear sample is a weighted sum of four of its rows. Summed in one
pass, the rows are never held. Sums and gradients are the same on a CPU whatever the number of threads.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

CHUNK_ELEMENTS = 1 << 21
"""Numbers that the rows or indices of a chunk may hold (8 MiB in float32, which stays in the cache of a CPU)."""


def pixel_corners(
    x: Float[Tensor, "*b"], y: Float[Tensor, "*b"], size: tuple[int, int]
) -> tuple[Int64[Tensor, "*b 4"], Float[Tensor, "*b 4"]]:
    """The four pixels around each place and their bilinear shares.

    Args:
        x: Along the width; 0 is the centre of the first pixel, 1 that of the second.
        y: Along the height.
        size: H and W.

    Returns:
        `row * W + column` of the pixels, and the shares. A pixel outside has share 0, so outside the map is zero.
    """
    height, width = size
    columns, column_shares = _neighbours(x, width)
    rows, row_shares = _neighbours(y, height)
    index = [row * width + column for row in rows for column in columns]
    shares = [row * column for row in row_shares for column in column_shares]
    return torch.stack(index, dim=-1), torch.stack(shares, dim=-1)


def _neighbours(place: Tensor, count: int) -> tuple[list[Tensor], list[Tensor]]:
    """The cells before and after a place along one axis, kept within it, and their linear shares."""
    # One step outside both shares are zero already: clamping keeps far, infinite and huge places countable.
    place = place.clamp(-1, count)
    before = place.detach().floor()
    fraction = place - before
    cells, shares = [], []
    for cell, share in ((before, 1 - fraction), (before + 1, fraction)):
        cells.append(cell.clamp(0, count - 1).long())
        shares.append(torch.where((cell >= 0) & (cell < count), share, 0))
    return cells, shares


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
