"""DCNv3, the operator of InternImage: each pixel adds up what its learned kernel points read, by learned weights.

Wang et al., "InternImage: Exploring Large-Scale Vision Foundation Models with Deformable Convolutions", CVPR 2023,
equation 2. Unlike a convolution it has no kernel matrix: every point of every group has a weight of its own at every
pixel. What is sampled (9 times the input) is never held: both passes go through the maps in chunks, and backward
samples each chunk once more.

Groups have few channels and places many points, where PyTorch's sampling is five times as fast in backward as the sums
of table rows that the other deformable operations are made of (one thread, 64 to 128 channels).
"""

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from occloom.geometry.precision import full_precision
from occloom.geometry.sampling import sample_features
from occloom.ops.row_sums import CHUNK_ELEMENTS


def deformable_conv_v3(
    values: Float[Tensor, "M h w C"],
    offsets: Float[Tensor, "M h w G K 2"],
    weights: Float[Tensor, "M h w G K"],
    *,
    offset_scale: float = 1.0,
) -> Float[Tensor, "M h w C"]:
    """Sum weighted samples at stride 1: bilinear between pixels, zero outside, in float32 or finer.

    Kernel point k of pixel p reads at `p + offset_scale * (p_k + offset)`.

    Args:
        values: Maps, channels last; each of the G groups has C / G channels in a row.
        offsets: (x, y): to the right, down. The K points are those of a square kernel **column by column**, x slow and
            y fast: the first is the upper left one, the second lies below it.
        weights: Of the samples, such as their softmax over K.
        offset_scale: Stretches the kernel and its offsets alike; in pixels.
    """
    images, height, width, channels = values.shape
    groups = weights.shape[3]
    dtype = torch.promote_types(torch.promote_types(values.dtype, offsets.dtype), torch.float32)
    with full_precision(values.device.type):
        rows, columns = (torch.arange(count, dtype=dtype, device=values.device) for count in (height, width))
        pixels_hw2 = torch.stack(torch.meshgrid(columns, rows, indexing="xy"), dim=-1)
        shifts = offset_scale * (kernel_points(weights.shape[4], dtype=dtype, device=values.device) + offsets.to(dtype))
        places = pixels_hw2[:, :, None, None] + shifts
        # A map is what one group sees of one image.
        maps = values.to(dtype).unflatten(3, (groups, -1)).permute(0, 3, 4, 1, 2).flatten(0, 1)
        sums = _Convolution.apply(maps, _by_group(places), _by_group(weights.to(dtype)))
    return sums.view(images, channels, height * width).mT.unflatten(1, (height, width))  # pyright: ignore[reportOptionalMemberAccess]


def kernel_points(count: int, *, dtype: torch.dtype, device: torch.device) -> Float[Tensor, "K 2"]:
    """(x, y) of the points of a square kernel of odd edge around its middle, x slow and y fast, in pixels."""
    edge = round(count**0.5)
    assert edge**2 == count, "a kernel is square"
    assert edge % 2, "a kernel has a middle"
    axis = torch.arange(edge, dtype=dtype, device=device) - edge // 2
    return torch.stack(torch.meshgrid(axis, axis, indexing="ij"), dim=-1).flatten(0, 1)


def _by_group(x_MhwGK: Tensor) -> Tensor:
    """Images and groups as one axis: "M h w G K ..." to "M*G h*w K ..."."""
    return x_MhwGK.movedim(3, 1).flatten(2, 3).flatten(0, 1)


def _sums(maps_Nchw: Tensor, places_NPK2: Tensor, weights_NPK: Tensor) -> Tensor:
    """What the places of each map add up: "N c P"."""
    samples = sample_features(maps_Nchw, places_NPK2.flatten(1, 2), 1).unflatten(2, weights_NPK.shape[1:])
    return (samples * weights_NPK[:, None]).sum(dim=-1)


def _chunks(weights_NPK: Tensor, channels: int) -> Iterator[tuple[slice, slice]]:
    """Maps, and places of these, whose samples stay below `CHUNK_ELEMENTS`: several whole maps or parts of one."""
    maps, places, points = weights_NPK.shape
    a_place = max(1, channels * points)
    some = max(1, CHUNK_ELEMENTS // (a_place * max(1, places)))
    part = max(1, CHUNK_ELEMENTS // a_place) if some == 1 else max(1, places)
    for first in range(0, maps, some):
        for start in range(0, places, part):
            yield slice(first, first + some), slice(start, start + part)


class _Convolution(torch.autograd.Function):
    """Keeps its inputs only and samples each chunk once more in backward."""

    @staticmethod
    def forward(ctx: FunctionCtx, maps_Nchw: Tensor, places_NPK2: Tensor, weights_NPK: Tensor) -> Tensor:
        ctx.save_for_backward(maps_Nchw, places_NPK2, weights_NPK)
        sums_NcP = maps_Nchw.new_empty(*maps_Nchw.shape[:2], weights_NPK.shape[1])
        for maps, places in _chunks(weights_NPK, maps_Nchw.shape[1]):
            sums_NcP[maps, :, places] = _sums(maps_Nchw[maps], places_NPK2[maps, places], weights_NPK[maps, places])
        return sums_NcP

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_NcP: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        maps_Nchw, places_NPK2, weights_NPK = ctx.saved_tensors
        grad_maps = torch.zeros_like(maps_Nchw)
        grad_places, grad_weights = torch.empty_like(places_NPK2), torch.empty_like(weights_NPK)
        with full_precision(maps_Nchw.device.type):
            for maps, places in _chunks(weights_NPK, maps_Nchw.shape[1]):
                chosen = maps_Nchw[maps], places_NPK2[maps, places], weights_NPK[maps, places]
                inputs = [part.detach().requires_grad_() for part in chosen]
                with torch.enable_grad():
                    sums = _sums(*inputs)
                grads = torch.autograd.grad(sums, inputs, grad_NcP[maps, :, places])
                grad_maps[maps] += grads[0]
                grad_places[maps, places], grad_weights[maps, places] = grads[1:]
        return grad_maps, grad_places, grad_weights
