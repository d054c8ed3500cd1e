"""Deformable attention in a volume of voxels, without the tensor of sampled values.

Each head of a query looks at a few places of its sample's volume and sums what it finds there, interpolated
trilinearly (Zhu et al., "Deformable DETR", ICLR 2021, section 4.1, with a third axis). The work is done in chunks of
queries, forward and backward; only the inputs are kept in between.

Locations are fractions (x, y, z) of the volume along its axes X, Y, Z: 0 and 1 are the outer borders of the first and
the last voxel, so voxel i of n has its centre at (i + 0.5) / n. Outside is zero.
"""

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.nn import functional as F

from occloom.grid import Shape
from occloom.ops.row_sums import CHUNK_ELEMENTS, add_row_sums_gradient, cells_around, row_sums


def deformable_attention_volume(
    volumes: Float[Tensor, "B C X Y Z"],
    locations: Float[Tensor, "B Q heads points 3"],
    weights: Float[Tensor, "B Q heads points"],
) -> Float[Tensor, "B Q C"]:
    """Weighted sums of trilinear samples. Half-precision inputs are summed in float32.

    Args:
        volumes: Projected values, one volume a sample; C = heads * channels a head, in this order.
        locations: (x, y, z), see the module.
        weights: Of the samples, such as their softmax over the points.
    """
    size, (batch, queries, heads) = (volumes.shape[2], volumes.shape[3], volumes.shape[4]), weights.shape[:3]
    # A row is what one head sees at one voxel; a border of zeros lies around each volume.
    padded = F.pad(volumes.permute(0, 2, 3, 4, 1), (0, 0, 1, 1, 1, 1, 1, 1))
    table = padded.reshape(-1, volumes.shape[1] // heads)
    dtype = torch.promote_types(torch.promote_types(table.dtype, weights.dtype), torch.float32)
    sample = torch.arange(batch, device=weights.device).repeat_interleave(queries)
    sums = _Attention.apply(
        table.to(dtype), sample, locations.flatten(0, 1).to(dtype), weights.flatten(0, 1).to(dtype), size
    )
    return sums.unflatten(0, (batch, queries))  # pyright: ignore[reportOptionalMemberAccess]


def _find_samples(sample_P: Tensor, locations_PHK3: Tensor, size: Shape) -> tuple[Tensor, Tensor]:
    """Rows of the table that each place reads, eight corners a place, and their trilinear shares: "PH 8K"."""
    heads = locations_PHK3.shape[1]
    rows, shares = sample_P[:, None, None, None], torch.ones_like(locations_PHK3[..., :1])
    for axis, count in enumerate(size):
        before, after = cells_around(locations_PHK3[..., axis] * count - 0.5, count)
        cells = torch.stack([before, before + 1], dim=-1)
        rows = (rows[..., :, None] * (count + 2) + cells[..., None, :]).flatten(-2)
        shares = (shares[..., :, None] * torch.stack([1 - after, after], dim=-1)[..., None, :]).flatten(-2)
    head = torch.arange(heads, device=rows.device)[:, None, None]
    return (rows * heads + head).flatten(0, 1).flatten(1), shares


def _chunks(weights_PHK: Tensor, channels: int) -> Iterator[slice]:
    """Slices of the queries whose sampled rows stay below `CHUNK_ELEMENTS`, at least one query each."""
    step = max(1, CHUNK_ELEMENTS // max(1, 8 * weights_PHK.shape[1] * weights_PHK.shape[2] * channels))
    return (slice(start, start + step) for start in range(0, len(weights_PHK), step))


class _Attention(torch.autograd.Function):
    """Keeps its inputs only and finds the samples of each chunk of queries once more in backward."""

    @staticmethod
    def forward(
        ctx: FunctionCtx,
        table_RC: Tensor,
        sample_P: Tensor,
        locations_PHK3: Tensor,
        weights_PHK: Tensor,
        size: Shape,
    ) -> Tensor:
        ctx.save_for_backward(table_RC, sample_P, locations_PHK3, weights_PHK)
        ctx.size = size  # pyright: ignore[reportAttributeAccessIssue]
        (queries, heads), channels = weights_PHK.shape[:2], table_RC.shape[1]
        sums_PC = table_RC.new_empty(queries, heads * channels)
        for chunk in _chunks(weights_PHK, channels):
            rows, shares = _find_samples(sample_P[chunk], locations_PHK3[chunk], size)
            weighted = (shares * weights_PHK[chunk][..., None]).flatten(0, 1).flatten(1)
            sums_PC[chunk] = row_sums(table_RC, rows, weighted).view(-1, heads * channels)
        return sums_PC

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_PC: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        table_RC, sample_P, *sampling = ctx.saved_tensors
        grad_table, grad_sampling = torch.zeros_like(table_RC), [torch.empty_like(part) for part in sampling]
        for chunk in _chunks(sampling[1], table_RC.shape[1]):
            inputs = [part[chunk].detach().requires_grad_() for part in sampling]
            with torch.enable_grad():
                rows, shares = _find_samples(sample_P[chunk], inputs[0], ctx.size)
                weighted = (shares * inputs[1][..., None]).flatten(0, 1).flatten(1)
            grad = grad_PC[chunk].reshape(len(weighted), -1)
            grad_weighted = add_row_sums_gradient(table_RC, rows, weighted.detach(), grad, grad_table)
            for whole, part in zip(grad_sampling, torch.autograd.grad(weighted, inputs, grad_weighted), strict=True):
                whole[chunk] = part
        return grad_table, None, *grad_sampling, None
