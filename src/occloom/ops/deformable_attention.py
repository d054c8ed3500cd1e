"""Deformable attention, in the plane and with depth, without the tensor of sampled values.

Each head of a query looks at a few places of a feature map and sums what it finds there (Zhu et al., "Deformable
DETR", ICLR 2021, section 4.1, multi-scale form). With depth, the value at a pixel and a depth is the feature of the
pixel times the probability of that depth there, sampled trilinearly (Li et al., "DFA3D", ICCV 2023).

The gathered functions take any pairs of an image and a query. They go through them in chunks, forward and backward,
and keep only their inputs in between. Their dense twins take every query in every image: static shapes, much memory.

Locations are fractions of the image (u, v) and of the depth planes: 0 and 1 are the outer borders of the first and the
last cell, so cell j of n has its centre at (j + 0.5) / n. Outside is zero.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.nn import functional as F

from occloom.geometry.sampling import sample_fractions, sample_volume_fractions
from occloom.ops.row_sums import (
    CHUNK_ELEMENTS,
    add_row_sums_gradient,
    cells_around,
    pad_pixels,
    pixel_corners,
    row_sums,
)


def deformable_attention(
    values: tuple[Float[Tensor, "M C _ _"], ...],
    image_index: Int64[Tensor, " P"],
    locations: Float[Tensor, "P heads levels points 2"],
    weights: Float[Tensor, "P heads levels points"],
) -> Float[Tensor, "P C"]:
    """Weighted sums of bilinear samples. Half-precision inputs are summed in float32.

    Args:
        values: Projected maps, one a level; C = heads * channels a head, in this order.
        image_index: The image that each pair looks at.
        locations: (u, v), see the module.
        weights: Of the samples, such as their softmax over levels and points.
    """
    levels = _levels(values, [0] * len(values))
    return _attend(values, None, levels, image_index, locations, weights)


def deformable_attention_3d(
    values: tuple[Float[Tensor, "M C _ _"], ...],
    depths: tuple[Float[Tensor, "M _ _ _"], ...],
    image_index: Int64[Tensor, " P"],
    locations: Float[Tensor, "P heads levels points 3"],
    weights: Float[Tensor, "P heads levels points"],
) -> Float[Tensor, "P C"]:
    """Weighted sums of trilinear samples of feature times depth probability, in float32 or finer.

    Args:
        values: Projected maps, one a level; C = heads * channels a head, in this order.
        depths: Probability of the depth planes "M D h w" at the pixels of each level.
        image_index: The image that each pair looks at.
        locations: (u, v, depth), see the module.
        weights: Of the samples, such as their softmax over levels and points.
    """
    levels = _levels(values, [depth.shape[1] for depth in depths])
    # A plane of zeros before the first and after the last.
    planes = torch.cat([F.pad(pad_pixels(depth), (1, 1)).flatten() for depth in depths])
    return _attend(values, planes, levels, image_index, locations, weights)


def dense_deformable_attention(
    values: tuple[Float[Tensor, "M C _ _"], ...],
    locations: Float[Tensor, "M Q heads levels points 2"],
    weights: Float[Tensor, "M Q heads levels points"],
) -> Float[Tensor, "M Q C"]:
    """`deformable_attention` of every query in every image, with static shapes; holds all samples of a level."""
    sums = []
    for level, value in enumerate(values):
        places, shares = _split_heads(locations, level), _split_heads(weights, level)
        sums.append(_sum_samples(sample_fractions(_fold_heads(value, weights.shape[2]), places), shares))
    return _unfold_heads(torch.stack(sums).sum(dim=0), len(locations))


def dense_deformable_attention_3d(
    values: tuple[Float[Tensor, "M C _ _"], ...],
    depths: tuple[Float[Tensor, "M _ _ _"], ...],
    locations: Float[Tensor, "M Q heads levels points 3"],
    weights: Float[Tensor, "M Q heads levels points"],
) -> Float[Tensor, "M Q C"]:
    """`deformable_attention_3d` of every query in every image, with static shapes; holds feature times depth."""
    sums = []
    for level, (value, depth) in enumerate(zip(values, depths, strict=True)):
        places, shares = _split_heads(locations, level), _split_heads(weights, level)
        volume = _fold_heads(value[:, :, None] * depth[:, None], weights.shape[2])
        sums.append(_sum_samples(sample_volume_fractions(volume, places), shares))
    return _unfold_heads(torch.stack(sums).sum(dim=0), len(locations))


def _fold_heads(value_MC: Tensor, heads: int) -> Tensor:
    """Heads as images: "M C ..." to "M*heads c ..."."""
    return value_MC.unflatten(1, (heads, -1)).flatten(0, 1)


def _split_heads(samples_MQHLP: Tensor, level: int) -> Tensor:
    """One level of "M Q heads levels points ..." as "M*heads Q points ..."."""
    return samples_MQHLP[:, :, :, level].transpose(1, 2).flatten(0, 1)


def _sum_samples(samples_NCS: Tensor, weights_NQP: Tensor) -> Tensor:
    return (samples_NCS.unflatten(-1, weights_NQP.shape[1:]) * weights_NQP[:, None]).sum(dim=-1)


def _unfold_heads(sums_NCQ: Tensor, images: int) -> Tensor:
    return sums_NCQ.unflatten(0, (images, -1)).flatten(1, 2).transpose(1, 2)


@dataclass(frozen=True)
class _Level:
    """Where a level lies in the tables of all levels."""

    size: tuple[int, int]
    """h and w, before padding."""
    pixels: int
    """Of an image, padded."""
    planes: int
    """0 without depth."""
    first_pixel: int
    first_plane: int


def _levels(values: tuple[Tensor, ...], planes: list[int]) -> tuple[_Level, ...]:
    levels, pixel, plane = [], 0, 0
    for value, count in zip(values, planes, strict=True):
        images, _, height, width = value.shape
        level = _Level((height, width), (height + 2) * (width + 2), count, pixel, plane)
        levels.append(level)
        pixel += images * level.pixels
        plane += images * level.pixels * (count + 2)
    return tuple(levels)


def _attend(
    values: tuple[Tensor, ...],
    planes: Tensor | None,
    levels: tuple[_Level, ...],
    image_index: Tensor,
    locations: Tensor,
    weights: Tensor,
) -> Tensor:
    heads = weights.shape[1]
    # A row is what one head sees at one pixel.
    table = torch.cat([pad_pixels(value).reshape(-1, value.shape[1] // heads) for value in values])
    dtype = torch.promote_types(torch.promote_types(table.dtype, weights.dtype), torch.float32)
    planes = None if planes is None else planes.to(dtype)
    return _Attention.apply(  # pyright: ignore[reportReturnType]
        table.to(dtype), planes, image_index, locations.to(dtype), weights.to(dtype), levels
    )


@dataclass(frozen=True)
class _Samples:
    """What the samples of a chunk read: four corners each, and two depth planes a corner."""

    rows: Tensor
    """Of the table: "P heads levels points 4"."""
    shares: Tensor
    """Bilinear, of the same shape."""
    plane_rows: Tensor | None
    """The plane before each corner's depth, in the list of all planes' probabilities; None without depth."""
    fractions: Tensor | None
    """Share of the plane after it: "P heads levels points 1"."""


def _find_samples(image_index_P: Tensor, locations_PHLK: Tensor, levels: tuple[_Level, ...]) -> _Samples:
    heads = locations_PHLK.shape[1]
    head = torch.arange(heads, device=locations_PHLK.device)[:, None, None]
    rows, shares, plane_rows, fractions = [], [], [], []
    for number, level in enumerate(levels):
        place, (height, width) = locations_PHLK[:, :, number], level.size
        pixel, share = pixel_corners(place[..., 0] * width - 0.5, place[..., 1] * height - 0.5, level.size)
        pixel = pixel + (image_index_P * level.pixels)[:, None, None, None]
        rows.append((pixel + level.first_pixel) * heads + head)
        shares.append(share)
        if level.planes:
            before, fraction = cells_around(place[..., 2] * level.planes - 0.5, level.planes)
            plane_rows.append(pixel * (level.planes + 2) + (before + level.first_plane)[..., None])
            fractions.append(fraction[..., None])
    return _Samples(
        rows=_join_levels(rows),
        shares=_join_levels(shares),
        plane_rows=_join_levels(plane_rows) if plane_rows else None,
        fractions=_join_levels(fractions) if fractions else None,
    )


def _join_levels(parts: list[Tensor]) -> Tensor:
    """Levels as one axis, "P heads points n" to "P heads levels points n"; a single one is not copied."""
    return parts[0].unsqueeze(2) if len(parts) == 1 else torch.stack(parts, dim=2)


def _planes_around(planes_R: Tensor | None, samples: _Samples) -> list[Tensor]:
    """Probabilities of the planes before and after each corner's depth; none without depth."""
    if planes_R is None or samples.plane_rows is None:
        return []
    before = samples.plane_rows.flatten()
    return [planes_R.index_select(0, rows).view_as(samples.plane_rows) for rows in (before, before + 1)]


def _total_shares(samples: _Samples, weights_PHLK: Tensor, planes: list[Tensor]) -> Tensor:
    shares = samples.shares * weights_PHLK[..., None]
    if samples.fractions is None:
        return shares
    before, after = planes
    return shares * torch.lerp(before, after, samples.fractions)


def _bags(samples_PHLK4: Tensor) -> Tensor:
    """All samples of a head of a query as one row."""
    return samples_PHLK4.flatten(0, 1).flatten(1)


def _chunks(weights_PHLK: Tensor, channels: int) -> Iterator[slice]:
    """Slices of the pairs whose sampled rows stay below `CHUNK_ELEMENTS`, at least one pair each."""
    step = max(1, CHUNK_ELEMENTS // (4 * math.prod(weights_PHLK.shape[1:]) * channels))
    return (slice(start, start + step) for start in range(0, len(weights_PHLK), step))


class _Attention(torch.autograd.Function):
    """Keeps its inputs only and finds the samples of each chunk of pairs once more in backward."""

    @staticmethod
    def forward(
        ctx: FunctionCtx,
        table_RC: Tensor,
        planes_R: Tensor | None,
        image_index_P: Tensor,
        locations_PHLK: Tensor,
        weights_PHLK: Tensor,
        levels: tuple[_Level, ...],
    ) -> Tensor:
        ctx.save_for_backward(table_RC, planes_R, image_index_P, locations_PHLK, weights_PHLK)  # pyright: ignore[reportArgumentType]
        ctx.levels = levels  # pyright: ignore[reportAttributeAccessIssue]
        (pairs, heads), channels = weights_PHLK.shape[:2], table_RC.shape[1]
        sums_PC = table_RC.new_empty(pairs, heads * channels)
        for chunk in _chunks(weights_PHLK, channels):
            samples = _find_samples(image_index_P[chunk], locations_PHLK[chunk], levels)
            shares = _total_shares(samples, weights_PHLK[chunk], _planes_around(planes_R, samples))
            sums_PC[chunk] = row_sums(table_RC, _bags(samples.rows), _bags(shares)).view(-1, heads * channels)
        return sums_PC

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_PC: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        table_RC, planes_R, image_index_P, *sampling = ctx.saved_tensors
        grad_table, grad_sampling = torch.zeros_like(table_RC), [torch.empty_like(part) for part in sampling]
        grad_planes = None if planes_R is None else torch.zeros_like(planes_R)
        for chunk in _chunks(sampling[1], table_RC.shape[1]):
            inputs = [part[chunk].detach().requires_grad_() for part in sampling]
            with torch.enable_grad():
                samples = _find_samples(image_index_P[chunk], inputs[0], ctx.levels)
                planes = [plane.requires_grad_() for plane in _planes_around(planes_R, samples)]
                shares = _bags(_total_shares(samples, inputs[1], planes))
            grad = grad_PC[chunk].reshape(len(shares), -1)
            grad_shares = add_row_sums_gradient(table_RC, _bags(samples.rows), shares.detach(), grad, grad_table)
            grads = torch.autograd.grad(shares, [*inputs, *planes], grad_shares)
            for whole, part in zip(grad_sampling, grads, strict=False):
                whole[chunk] = part
            if grad_planes is not None and samples.plane_rows is not None:
                for shift, part in enumerate(grads[2:]):
                    grad_planes.index_add_(0, samples.plane_rows.flatten() + shift, part.flatten())
        return grad_table, grad_planes, None, *grad_sampling, None
