"""Lift-splat pooling: weighted sums of pixel features in voxels, without the frustum volume.

Each pixel feature lands in one voxel a depth bin, weighted by the probability of that bin (Philion and Fidler,
"Lift, Splat, Shoot", ECCV 2020, section 3.1-3.2). The outer product of features and depth (P D C) is never held:
both passes go through the bins in chunks, and backward computes again what forward did not keep.
"""

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

CHUNK_ELEMENTS = 1 << 21
"""Numbers a chunk of the outer product may hold (8 MiB in float32, which stays in the cache of a CPU)."""


def voxel_pooling(
    features: Float[Tensor, "P C"], weights: Float[Tensor, "P D"], voxels: Int64[Tensor, "P D"], num_voxels: int
) -> Float[Tensor, "V C"]:
    """Sum `weights[p, d] * features[p]` over all (p, d) that lie in a voxel.

    The sums are exact and, on a CPU, the same whatever the number of threads. Half-precision inputs are summed in
    float32.

    Args:
        features: One feature vector a pixel.
        weights: Of each depth bin, such as its probability.
        voxels: Flat index of the voxel that bin d of pixel p lies in, from 0 to `num_voxels - 1`; -1 = in none.
        num_voxels: V, over the whole batch: samples are kept apart by their voxel indices.
    """
    dtype = torch.promote_types(features.dtype, torch.float32)
    return _VoxelPooling.apply(features.to(dtype), weights.to(dtype), voxels, num_voxels)  # pyright: ignore[reportReturnType]


def _bins_a_chunk(features: Tensor) -> int:
    """Depth bins whose products stay below `CHUNK_ELEMENTS`, at least one."""
    return max(1, CHUNK_ELEMENTS // max(1, features.numel()))


class _VoxelPooling(torch.autograd.Function):
    """Keeps features, weights and indices only."""

    @staticmethod
    def forward(
        ctx: FunctionCtx, features_PC: Tensor, weights_PD: Tensor, voxels_PD: Tensor, num_voxels: int
    ) -> Tensor:
        ctx.save_for_backward(features_PC, weights_PD, voxels_PD)
        channels, step = features_PC.shape[1], _bins_a_chunk(features_PC)
        # Row V collects what lies in no voxel: cheaper than selecting the rest.
        sums_VC = features_PC.new_zeros(num_voxels + 1, channels)
        for weights, voxels in zip(weights_PD.split(step, dim=1), voxels_PD.split(step, dim=1), strict=True):
            rows = weights[:, :, None] * features_PC[:, None, :]
            sums_VC.index_add_(0, voxels.remainder(num_voxels + 1).reshape(-1), rows.reshape(-1, channels))
        return sums_VC[:num_voxels]

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_VC: Tensor) -> tuple[Tensor, Tensor, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        features_PC, weights_PD, voxels_PD = ctx.saved_tensors
        (pixels, channels), step = features_PC.shape, _bins_a_chunk(features_PC)
        grad_VC = torch.cat([grad_VC, grad_VC.new_zeros(1, channels)])
        grad_features, grad_weights = torch.zeros_like(features_PC), torch.empty_like(weights_PD)
        start = 0
        for weights, voxels in zip(weights_PD.split(step, dim=1), voxels_PD.split(step, dim=1), strict=True):
            bins = voxels.shape[1]
            index = voxels.remainder(len(grad_VC)).reshape(-1)
            grad_PDC = grad_VC.index_select(0, index).view(pixels, bins, channels)
            grad_weights[:, start : start + bins] = torch.bmm(grad_PDC, features_PC[:, :, None])[:, :, 0]
            grad_features += torch.bmm(weights[:, None, :], grad_PDC)[:, 0]
            start += bins
        return grad_features, grad_weights, None, None
