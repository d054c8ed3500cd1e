"""Deformable 2D convolution: each kernel point reads where a learned offset sends it.

Version 1 (Dai et al., "Deformable Convolutional Networks", ICCV 2017, equation 2): no modulation, one offset group,
no bias. The sampled columns (9 times the input for a 3x3 kernel) are never held: both passes go through the output in
chunks, and backward computes again what forward did not keep.
"""

import math
from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable

from occloom.errors import InputError
from occloom.geometry.precision import full_precision
from occloom.ops.row_sums import CHUNK_ELEMENTS, add_row_sums_gradient, pad_pixels, pixel_corners, row_sums


def deformable_conv2d(
    x: Float[Tensor, "M C h w"],
    offsets: Float[Tensor, "M _ p q"],
    weight: Float[Tensor, "E c k k"],
    *,
    padding: int,
) -> Float[Tensor, "M E p q"]:
    """Convolve with displaced kernel points at stride 1: bilinear between pixels, zero outside, in float32 or finer.

    Args:
        x: Maps; the number of groups is C / c.
        offsets: Of each of the k * k kernel points, row by row, first down (dy), then right (dx), in pixels:
            channel 2 * point + 0 or 1.
        weight: Kernel, as an ordinary convolution has it.
        padding: As in an ordinary convolution; p and q are its output's height and width.
    """
    (images, channels, height, width), kernel = x.shape, weight.shape[-1]
    (down, right), groups = offsets.shape[-2:], channels // weight.shape[1]
    dtype = torch.promote_types(torch.promote_types(x.dtype, weight.dtype), torch.float32)
    table = pad_pixels(x).reshape(-1, channels).to(dtype)
    point = torch.arange(kernel, dtype=dtype, device=x.device) - padding
    row, column = (torch.arange(count, dtype=dtype, device=x.device) for count in (down, right))
    shifts = offsets.to(dtype).view(images, kernel, kernel, 2, down, right).permute(0, 4, 5, 1, 2, 3)
    y = shifts[..., 0] + (row[:, None, None, None] + point[:, None])
    x_place = shifts[..., 1] + (column[:, None, None] + point)
    places = torch.stack([x_place, y], dim=-1).reshape(-1, kernel * kernel, 2)
    # One matrix a group, its rows ordered as the columns are: kernel point, then channel.
    matrices = weight.to(dtype).unflatten(0, (groups, -1)).flatten(3).permute(0, 3, 2, 1).flatten(1, 2)
    sums = _Convolution.apply(table, places, matrices, (height, width), down * right)
    return sums.view(images, down, right, len(weight)).permute(0, 3, 1, 2)  # pyright: ignore[reportOptionalMemberAccess]


class DeformableConv2d(nn.Module):
    """A deformable convolution of stride 1 that keeps the size; its offsets come from an ordinary convolution."""

    def __init__(self, in_channels: int, out_channels: int, *, kernel_size: int = 3, groups: int = 1) -> None:
        """Make the convolution.

        Args:
            in_channels: C.
            out_channels: Channels of the answer.
            kernel_size: Odd.
            groups: Of the channels; the offsets are the same for all.

        Raises:
            InputError: If the groups cannot share the channels.
        """
        super().__init__()
        if in_channels % groups or out_channels % groups:
            raise InputError(
                f"{groups} groups for {in_channels} channels in and {out_channels} out", rule="groups divide both"
            )
        self.padding = kernel_size // 2
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels // groups, kernel_size, kernel_size))
        self.offset = nn.Conv2d(in_channels, 2 * kernel_size**2, kernel_size, padding=self.padding)
        # As nn.Conv2d starts.
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))

    def forward(self, x: Float[Tensor, "M C h w"]) -> Float[Tensor, "M E h w"]:
        """Convolve where the offsets of the same maps send each kernel point."""
        return deformable_conv2d(x, self.offset(x), self.weight, padding=self.padding)


def _chunks(places_PK2: Tensor, channels: int) -> Iterator[slice]:
    """Slices of the places whose sampled rows stay below `CHUNK_ELEMENTS`, at least one place each."""
    step = max(1, CHUNK_ELEMENTS // (4 * places_PK2.shape[1] * channels))
    return (slice(start, start + step) for start in range(0, len(places_PK2), step))


def _corners(places_PK2: Tensor, first: int, size: tuple[int, int], places_an_image: int) -> tuple[Tensor, Tensor]:
    """Rows of the table at the corners of each kernel point "P*K 4", and their shares; place 0 is number `first`."""
    index, shares = pixel_corners(places_PK2[..., 0], places_PK2[..., 1], size)
    place = torch.arange(first, first + len(places_PK2), device=places_PK2.device)
    index = index + (place // places_an_image * ((size[0] + 2) * (size[1] + 2)))[:, None, None]
    return index.flatten(0, 1), shares.flatten(0, 1)


def _columns(table_RC: Tensor, index: Tensor, shares: Tensor, matrices_GIO: Tensor) -> Tensor:
    """What the kernel points of each place read: "G P K*c"."""
    groups, inputs, _ = matrices_GIO.shape
    points = inputs * groups // table_RC.shape[1]
    columns = row_sums(table_RC, index, shares).view(-1, points, groups, table_RC.shape[1] // groups)
    return columns.permute(2, 0, 1, 3).reshape(groups, -1, inputs)


class _Convolution(torch.autograd.Function):
    """Keeps its inputs only and samples each chunk of places once more in backward."""

    @staticmethod
    def forward(
        ctx: FunctionCtx,
        table_RC: Tensor,
        places_PK2: Tensor,
        matrices_GIO: Tensor,
        size: tuple[int, int],
        places_an_image: int,
    ) -> Tensor:
        ctx.save_for_backward(table_RC, places_PK2, matrices_GIO)
        ctx.layout = size, places_an_image  # pyright: ignore[reportAttributeAccessIssue]
        groups, _, outputs = matrices_GIO.shape
        sums_PE = table_RC.new_empty(len(places_PK2), groups * outputs)
        with full_precision(table_RC.device.type):
            for chunk in _chunks(places_PK2, table_RC.shape[1]):
                corners = _corners(places_PK2[chunk], chunk.start, size, places_an_image)
                sums = torch.bmm(_columns(table_RC, *corners, matrices_GIO), matrices_GIO)
                sums_PE[chunk] = sums.transpose(0, 1).flatten(1)
        return sums_PE

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_PE: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        table_RC, places_PK2, matrices_GIO = ctx.saved_tensors
        groups, points, channels = len(matrices_GIO), places_PK2.shape[1], table_RC.shape[1]
        grad_table, grad_matrices = torch.zeros_like(table_RC), torch.zeros_like(matrices_GIO)
        grad_places = torch.empty_like(places_PK2)
        with full_precision(table_RC.device.type):
            for chunk in _chunks(places_PK2, channels):
                places = places_PK2[chunk].detach().requires_grad_()
                with torch.enable_grad():
                    index, corner_shares = _corners(places, chunk.start, *ctx.layout)
                shares = corner_shares.detach()
                grad = grad_PE[chunk].unflatten(1, (groups, -1)).transpose(0, 1)
                grad_matrices += torch.bmm(_columns(table_RC, index, shares, matrices_GIO).mT, grad)
                grad_columns = torch.bmm(grad, matrices_GIO.mT).unflatten(2, (points, -1)).permute(1, 2, 0, 3)
                grad_samples = grad_columns.reshape(-1, channels)
                grad_shares = add_row_sums_gradient(table_RC, index, shares, grad_samples, grad_table)
                (grad_places[chunk],) = torch.autograd.grad(corner_shares, places, grad_shares)
        return grad_table, grad_places, grad_matrices, None, None
