"""3x3x3 convolution with a quarter of the products: Winograd's minimal filtering along two of the three axes.

Along one axis, four neighbouring outputs of a filter of three taps come from the product of two polynomials, of which
six values say all: six products instead of 12 (Winograd, "Arithmetic Complexity of Computations", 1980; for networks
Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", CVPR 2016, F(4, 3)). Done along X and Y, 36
products stand for 144; the taps along Z stay. The values are taken at 0, +-3/4, +-3/2 and infinity: of all that were
tried, these lose least to rounding (the largest error is 3e-6 of the largest output of 128 channels), and their squares
are exact.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from occloom.ops.in_place import may_overwrite

NEAR, FAR = 0.75, 1.5
"""Where, besides 0 and infinity, the polynomials are looked at, on both sides of 0."""
TILE = 4
"""Outputs of a tile along X and along Y; it reads two voxels more."""
CHUNK_NUMBERS = 2**18
"""Of a matrix that is multiplied at a time: many enough for fast products, few enough to stay in the cache."""
FEWEST_PRODUCTS = 10**8
"""Of a tap, all voxels and channels: below, a plain convolution is as fast."""


class Conv3x3x3(nn.Conv3d):
    """A 3x3x3 convolution of stride 1 that keeps the size.

    Large ones on a CPU in float32 that no gradient follows go by `winograd_conv3d`, twice as fast there.
    """

    def __init__(self, in_channels: int, out_channels: int, *, bias: bool = False) -> None:
        """Make the convolution."""
        super().__init__(in_channels, out_channels, 3, padding=1, bias=bias)

    def forward(self, input: Float[Tensor, "B C X Y Z"]) -> Float[Tensor, "B Co X Y Z"]:
        """Equal up to rounding whichever way it goes."""
        if not self._by_values(input):
            return super().forward(input)
        y = winograd_conv3d(input, self.weight)
        return y if self.bias is None else y.add_(self.bias[:, None, None, None])

    def overwriting(self, x: Float[Tensor, "B C X Y Z"]) -> Float[Tensor, "B Co X Y Z"]:
        """The same; where that saves time, the answer stands in the memory of `x`."""
        if self.bias is None and self._by_values(x) and may_overwrite(x):
            return winograd_conv3d(x, self.weight, overwrite=True)
        return self(x)

    def _by_values(self, x: Tensor) -> bool:
        """Whether `winograd_conv3d` is allowed and pays."""
        plain = torch.is_grad_enabled() or torch.is_autocast_enabled("cpu")
        products = x[0, 0].numel() * self.in_channels * self.out_channels
        return not plain and x.device.type == "cpu" and x.dtype == torch.float32 and products >= FEWEST_PRODUCTS


def winograd_conv3d(
    x: Float[Tensor, "B C X Y Z"], weight: Float[Tensor, "Co C 3 3 3"], *, overwrite: bool = False
) -> Float[Tensor, "B Co X Y Z"]:
    """Convolve, padded with zeros; without gradients.

    Args:
        x: Volume.
        weight: Filters.
        overwrite: Whether the memory of `x` may be used for the answer; it is where channels and sizes allow.

    Returns:
        The volume in the memory format `torch.channels_last_3d`.
    """
    batch, channels, width, depth, height = x.shape
    outputs = len(weight)
    across, along = -(-width // TILE), -(-depth // TILE)  # tiles along X and Y
    voxels = x.permute(0, 2, 3, 4, 1)
    fits = outputs == channels and width % TILE == depth % TILE == 0
    y = voxels if overwrite and fits else x.new_empty(batch, TILE * across, TILE * along, height, outputs)
    filters = _filters(weight)
    most = min(across, max(1, CHUNK_NUMBERS // (along * height * max(channels, outputs))))
    # Zeros where a tile reaches over the border along Y; between them every chunk writes anew.
    values_x = x.new_zeros(6, most, TILE * along + 2, height, channels)
    values_xy = x.new_empty(6, 6, most, along, height, channels)
    halves = x.new_empty(6, most, along, TILE, height, outputs)
    for sample in range(batch):
        before = x.new_zeros(1, depth, height, channels)
        for start in range(0, across, most):
            tiles = min(most, across - start)
            last = TILE * (start + tiles)
            slab = torch.cat([before, voxels[sample, TILE * start : last + 1]])
            slab = F.pad(slab, (0, 0, 0, 0, 0, 0, 0, last + 1 - width)) if last >= width else slab
            before = slab[-2:-1]  # which may be overwritten below
            _values(_steps(slab, 0, tiles), [v[:tiles, 1 : depth + 1] for v in values_x])
            _values(_steps(values_x[:, :tiles], 2, along), [v[:, :tiles] for v in values_xy])
            for i in range(6):
                products = [
                    F.conv2d(values_xy[j, i, :tiles].permute(0, 3, 1, 2), filters[i, j], padding=(0, 1))
                    for j in range(6)
                ]
                _outputs([p.permute(0, 2, 3, 1) for p in products], halves[i, :tiles].unbind(2))
            whole = y[sample, TILE * start : TILE * (start + tiles)].unflatten(0, (tiles, TILE))
            _outputs(halves[:, :tiles].flatten(2, 3).unbind(0), whole.unbind(1))
    return y[:, :width, :depth].permute(0, 4, 1, 2, 3).contiguous(memory_format=torch.channels_last_3d)


def _filters(weight: Float[Tensor, "Co C 3 3 3"]) -> Float[Tensor, "6 6 Co C 1 3"]:
    """Values of the filter's polynomials, each over the product of the differences of its point to the others."""
    near, far = NEAR**2, FAR**2
    points = (0.0, NEAR, -NEAR, FAR, -FAR)
    scales = (near * far, *[2 * near * (near - far)] * 2, *[2 * far * (far - near)] * 2)
    rows = [[1 / s, p / s, p * p / s] for p, s in zip(points, scales, strict=True)]
    one = torch.tensor([*rows, [0, 0, 1]], dtype=torch.float64)
    both = torch.kron(one, one).to(weight)  # "36 9"
    taps = weight.permute(2, 3, 0, 4, 1)  # 3 3 Co 3 C
    return (both @ taps.reshape(9, -1)).view(6, 6, *taps.shape[2:]).permute(0, 1, 2, 4, 3)[:, :, :, :, None]


def _steps(x: Tensor, axis: int, tiles: int) -> list[Tensor]:
    """The six voxels that each tile along an axis reads, one tensor for the first of all tiles, and so on."""
    return [x.narrow(axis, i, TILE * (tiles - 1) + 1).unfold(axis, 1, TILE)[..., 0] for i in range(6)]


def _values(x: Sequence[Tensor], out: Sequence[Tensor]) -> None:
    """Six values of the six inputs' polynomial: those that convolving transposed needs."""
    near, far = NEAR**2, FAR**2
    even, odd = torch.sub(x[4], x[2], alpha=far), torch.sub(x[3], x[1], alpha=far).mul_(NEAR)
    torch.add(even, odd, out=out[1])
    torch.sub(even, odd, out=out[2])
    torch.sub(x[4], x[2], alpha=near, out=even)
    torch.sub(x[3], x[1], alpha=near, out=odd).mul_(FAR)
    torch.add(even, odd, out=out[3])
    torch.sub(even, odd, out=out[4])
    for i in (0, 5):
        first = i % 4
        torch.add(x[first + 4], x[first], alpha=near * far, out=out[i]).sub_(x[first + 2], alpha=near + far)


def _outputs(values: Sequence[Tensor], out: Sequence[Tensor]) -> None:
    """Four outputs of six products of values."""
    zero, near_plus, near_minus, far_plus, far_minus, infinity = values
    near, far = near_plus + near_minus, far_plus + far_minus
    torch.add(near, far, out=out[0]).add_(zero)
    torch.add(near.mul_(NEAR**2), far, alpha=FAR**2, out=out[2])
    torch.sub(near_plus, near_minus, out=near)
    torch.sub(far_plus, far_minus, out=far)
    torch.add(near.mul_(NEAR), far, alpha=FAR, out=out[1])
    torch.add(near.mul_(NEAR**2), far, alpha=FAR**3, out=out[3]).add_(infinity)
