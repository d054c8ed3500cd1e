"""Neighbourhood attention (Hassani et al., CVPR 2023): each pixel attends to the pixels around it."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

TILE = 8
"""Rows and columns of queries that share one block of keys: the speed of a CPU is best around it."""


def neighbourhood_attention(
    query: Float[Tensor, "M h w C"],
    key: Float[Tensor, "M h w C"],
    value: Float[Tensor, "M h w V"],
    bias: Float[Tensor, "R R"],
) -> Float[Tensor, "M h w V"]:
    """Attend to a window of `k` x `k` pixels around each pixel; at the border the window moves inward.

    Works through tiles of queries: a tile sees the block of keys that its windows cover, and what lies outside a
    query's own window is masked, so that most of the work is two matrix products, and no more than the scores of
    one row of tiles is held at once (without gradients).

    Args:
        query: Features of the pixels that ask; no scale is applied here.
        key: Features of the pixels that answer.
        value: What they answer.
        bias: Added to the score by the position of the key relative to the query, row first; R = 2 k - 1, k odd,
            the middle is the query's own position.

    Returns:
        The mean of the values in the window, weighted by the softmax of the scores.

    Raises:
        ValueError: If the map is smaller than the window.
    """
    kernel = (bias.shape[0] + 1) // 2
    height, width = query.shape[1:3]
    if min(height, width) < kernel:
        raise ValueError(f"Expected a map of at least {kernel} x {kernel} pixels, got {height} x {width}.")
    row_keys, row_index = _tiles(height, kernel, query.device)
    column_keys, column_index = _tiles(width, kernel, query.device)
    tiles, span = column_keys.shape
    # One more row and column of -inf: where the index points for keys outside the window.
    table = F.pad(bias, (0, 1, 0, 1), value=-torch.inf)
    table = table.index_select(1, column_index.reshape(-1)).view(-1, *column_index.shape)
    query = F.pad(query, (0, 0, 0, -width % TILE))
    rows = []
    for i in range(len(row_keys)):
        queries = query[:, i * TILE : (i + 1) * TILE]
        count = queries.shape[1]
        keys, values = (x.index_select(1, row_keys[i]).index_select(2, column_keys.reshape(-1)) for x in (key, value))
        scores = _blocks(queries, tiles) @ _blocks(keys, tiles).transpose(-1, -2)
        index = row_index[i, :count]
        biases = table.index_select(0, index.reshape(-1)).view(*index.shape, tiles, TILE, span)
        scores = scores + biases.permute(2, 0, 3, 1, 4).flatten(3, 4).flatten(1, 2)
        answer = scores.softmax(dim=-1) @ _blocks(values, tiles)
        rows.append(answer.unflatten(2, (count, TILE)).transpose(1, 2).flatten(2, 3))
    return torch.cat(rows, dim=1)[:, :, :width]


def _blocks(x: Float[Tensor, "M r c C"], tiles: int) -> Float[Tensor, "M tiles p C"]:
    """A row of tiles that lie side by side, as tiles of pixels."""
    return x.unflatten(2, (tiles, -1)).transpose(1, 2).flatten(2, 3)


def _tiles(
    size: int, kernel: int, device: torch.device
) -> tuple[Int64[Tensor, "tiles span"], Int64[Tensor, "tiles q span"]]:
    """Along one axis, the keys of each tile, and each query's index into the bias for each of them.

    The index is key - query + kernel - 1, or 2 kernel - 1 outside the window. Queries past the end repeat the last.
    """
    first = torch.arange(0, size, TILE, device=device)
    span = min(TILE + kernel - 1, size)
    keys = (first - kernel // 2).clamp(0, size - span)[:, None] + torch.arange(span, device=device)
    queries = (first[:, None] + torch.arange(TILE, device=device)).clamp(max=size - 1)[:, :, None]
    from_start = keys[:, None] - (queries - kernel // 2).clamp(0, size - kernel)
    inside = (from_start >= 0) & (from_start < kernel)
    return keys, torch.where(inside, keys[:, None] - queries + kernel - 1, 2 * kernel - 1)
