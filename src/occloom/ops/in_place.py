"""Steps over large volumes within the memory they stand in, where no gradient follows.

On a CPU a hundred megabytes of fresh memory cost more than what is computed in them: the system hands pages out one by
one. So a prediction overwrites what it no longer needs, slab by slab, each of which stays in the cache. Every function
here equals the plain expression in its docstring; elsewhere (training, GPU, mixed precision, small volumes) it is that
expression. **What is handed in may be overwritten: use what is returned.**
"""

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

SLAB_NUMBERS = 2**18
"""That are worked on at a time: a megabyte, which stays in the cache."""
FEWEST_NUMBERS = 2**21
"""Of a volume; smaller ones are as fast in fresh memory."""


def may_overwrite(x: Tensor) -> bool:
    """Whether a volume is large, on a CPU, in float32 and without gradients: overwriting is allowed, and pays."""
    plain = torch.is_grad_enabled() or torch.is_autocast_enabled("cpu")
    return not plain and x.device.type == "cpu" and x.dtype == torch.float32 and x.numel() >= FEWEST_NUMBERS


def slabs(x: Tensor, axis: int) -> tuple[Tensor, ...]:
    """Views of a volume along an axis, of about `SLAB_NUMBERS` each."""
    return x.split(max(1, SLAB_NUMBERS * x.shape[axis] // max(1, x.numel())), dim=axis)


def by_slabs(function: Callable[[Tensor], Tensor], x: Tensor, axis: int = 2) -> Tensor:
    """`function(x)`, where the function keeps the shape and looks along other axes only."""
    if not may_overwrite(x):
        return function(x)
    for slab in slabs(x, axis):
        slab.copy_(function(slab))
    return x


def normalise(norm: nn.Module, x: Float[Tensor, "B C *size"], *, relu: bool = False) -> Float[Tensor, "B C *size"]:
    """`norm(x)`, and then ReLU if asked; in place for group normalisation and for batch normalisation in evaluation."""
    if isinstance(norm, nn.GroupNorm) and x.ndim == 5 and may_overwrite(x):
        scale, shift = _group_affine(norm, x)
    elif isinstance(norm, nn.BatchNorm3d) and not norm.training and may_overwrite(x):
        assert norm.running_var is not None
        assert norm.running_mean is not None
        scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
        scale, shift = scale[None], (norm.bias - norm.running_mean * scale)[None]
    else:
        x = norm(x)
        return F.relu(x, inplace=True) if relu else x
    scale, shift = scale[:, :, None, None, None], shift[:, :, None, None, None]
    for slab in slabs(x, 2):
        torch.addcmul(shift, slab, scale, out=slab)
        if relu:
            slab.relu_()
    return x


def add_enlarged(x: Float[Tensor, "B C X Y Z"], coarse: Float[Tensor, "B C x y z"]) -> Float[Tensor, "B C X Y Z"]:
    """`x + F.interpolate(coarse, size=x.shape[2:], mode="trilinear", align_corners=False)`."""
    if coarse.shape == x.shape:
        return x.add_(coarse) if may_overwrite(x) else x + coarse
    if not may_overwrite(x) or x.shape[2] % coarse.shape[2]:
        return x + F.interpolate(coarse, size=x.shape[2:], mode="trilinear", align_corners=False)
    start = 0
    for slab in enlarged_slabs(coarse, (x.shape[2], x.shape[3], x.shape[4])):
        x[:, :, start : start + slab.shape[2]] += slab
        start += slab.shape[2]
    return x


def enlarged_slabs(
    coarse: Float[Tensor, "B C x y z"], size: tuple[int, int, int], *, slab: int = 8
) -> Iterator[Float[Tensor, "B C s Y Z"]]:
    """Trilinear interpolation to a size, never all of it at once.

    Args:
        coarse: What is enlarged.
        size: X Y Z; X is a multiple of x.
        slab: Coarse voxels along x that are enlarged at a time.
    """
    count = coarse.shape[2]
    factor = size[0] // count
    for start in range(0, count, slab):
        stop = min(start + slab, count)
        # One neighbour on each side takes part in the interpolation; what is made of it is cut off again.
        before, after = min(start, 1), min(count - stop, 1)
        part = coarse[:, :, start - before : stop + after]
        made = F.interpolate(part, size=(part.shape[2] * factor, *size[1:]), mode="trilinear", align_corners=False)
        yield made[:, :, before * factor : made.shape[2] - after * factor]


def _group_affine(norm: nn.GroupNorm, x: Tensor) -> tuple[Tensor, Tensor]:
    """Scale and shift "B C" that group normalisation amounts to."""
    batch, channels, groups = len(x), x.shape[1], norm.num_groups
    parts = slabs(x, 2)
    means, variances = [], []
    for part in parts:
        # Mean and variance of a slab by an operation that reads it once; what else it makes is dropped.
        part = part.contiguous(memory_format=torch.channels_last_3d)
        sizes = batch, channels, part[0, 0].numel(), groups
        _, mean, inverse = torch.native_group_norm(part, None, None, *sizes, norm.eps)
        means.append(mean.double())
        variances.append(inverse.double() ** -2 - norm.eps)
    share = torch.tensor([part.shape[2] for part in parts], dtype=torch.float64)[:, None, None] / x.shape[2]
    mean = (share * torch.stack(means)).sum(dim=0)
    variance = (share * (torch.stack(variances) + (torch.stack(means) - mean) ** 2)).sum(dim=0)
    inverse = (variance.clamp(min=0) + norm.eps).rsqrt()
    of_channel = [part.repeat_interleave(channels // groups, dim=1) for part in (mean, inverse)]
    scale = of_channel[1] * norm.weight
    return scale.to(x.dtype), (norm.bias - of_channel[0] * scale).to(x.dtype)
