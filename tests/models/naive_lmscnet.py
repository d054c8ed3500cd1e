"""VoxFormer's query network written down from reference monoocc 2 and 6, in released names, in plain calls."""

import torch
import torch.nn.functional as F
from torch import Tensor

Table = dict[str, tuple[int, ...]]
DILATIONS = (1, 2, 3)


def conv(name: str, out: int, into: int, *kernel: int, bias: bool = True) -> Table:
    return {f"{name}.weight": (out, into, *kernel), **({f"{name}.bias": (out,)} if bias else {})}


def norm(name: str, channels: int) -> Table:
    vectors = ("weight", "bias", "running_mean", "running_var")
    return {**{f"{name}.{key}": (channels,) for key in vectors}, f"{name}.num_batches_tracked": ()}


def released_table(layers: int = 32, widths: tuple[int, ...] = (32, 48, 64, 80), head: int = 8) -> Table:
    """Name and shape of every tensor for pseudo voxels of so many layers of height."""
    table: Table = {}
    for number, (into, out) in enumerate(zip((layers, *widths), widths, strict=False)):
        first = 0 if number == 0 else 1  # a maximum over 2x2 comes first from the second block on
        for place, before in ((first, into), (first + 2, out)):
            table |= conv(f"Encoder_block{number + 1}.{place}", out, before, 3, 3)
    half, quarter, eighth = layers // 2, layers // 4, layers // 8
    table |= conv("conv_out_scale_1_8", eighth, widths[3], 3, 3)
    table |= conv("deconv_1_8__1_2", eighth, eighth, 4, 4) | conv("deconv_1_8__1_1", eighth, eighth, 8, 8)
    table |= conv("deconv1_8", eighth, eighth, 6, 6)
    table |= conv("conv1_4", widths[2], eighth + widths[2], 3, 3) | conv("conv_out_scale_1_4", quarter, widths[2], 3, 3)
    table |= conv("deconv_1_4__1_1", quarter, quarter, 4, 4) | conv("deconv1_4", quarter, quarter, 6, 6)
    table |= conv("conv1_2", widths[1], quarter + widths[1] + eighth, 3, 3)
    table |= conv("conv_out_scale_1_2", half, widths[1], 3, 3)
    table |= conv("seg_head_1_2.conv0", head, 1, 3, 3, 3)
    for part in (1, 2):
        for branch in range(3):
            table |= conv(f"seg_head_1_2.conv{part}.{branch}", head, head, 3, 3, 3, bias=False)
            table |= norm(f"seg_head_1_2.bn{part}.{branch}", head)
    return table | conv("seg_head_1_2.conv_classes", 2, head, 3, 3, 3)


def parameters(table: Table) -> int:
    counted = (torch.Size(shape).numel() for name, shape in table.items() if not statistic(name))
    return sum(counted)


def statistic(name: str) -> bool:
    return name.endswith(("running_mean", "running_var", "num_batches_tracked"))


def random_state(table: Table, seed: int = 0) -> dict[str, Tensor]:
    """Weights that keep values of one size through the network."""
    generator = torch.Generator().manual_seed(seed)
    state: dict[str, Tensor] = {}
    for name, shape in table.items():
        values = torch.randn(shape, generator=generator, dtype=torch.float64)
        if name.endswith("num_batches_tracked"):
            state[name] = torch.zeros(shape, dtype=torch.int64)
        elif name.endswith("running_var"):
            state[name] = values.abs() + 0.5
        elif name.endswith("weight") and len(shape) > 1:
            state[name] = values * (1.6 / torch.Size(shape[1:]).numel()) ** 0.5
        else:
            state[name] = 0.3 * values
    return state


def forward(state: dict[str, Tensor], voxels: Tensor) -> Tensor:
    """Logits "B 2 x y z" of pseudo voxels "B X Y Z", both in float64."""

    def conv2d(name: str, x: Tensor) -> Tensor:
        return F.conv2d(x, state[f"{name}.weight"], state[f"{name}.bias"], padding=1)

    def deconv(name: str, x: Tensor, stride: int, padding: int) -> Tensor:
        return F.conv_transpose2d(x, state[f"{name}.weight"], state[f"{name}.bias"], stride, padding)

    def block(number: int, x: Tensor) -> Tensor:
        places = (0, 2) if number == 1 else (1, 3)
        x = x if number == 1 else F.max_pool2d(x, 2)
        for place in places:
            x = F.relu(conv2d(f"Encoder_block{number}.{place}", x))
        return x

    full = block(1, voxels.permute(0, 3, 1, 2).double())
    half = block(2, full)
    quarter = block(3, half)
    out_eighth = conv2d("conv_out_scale_1_8", block(4, quarter))
    merged = F.relu(conv2d("conv1_4", torch.cat([deconv("deconv1_8", out_eighth, 2, 2), quarter], dim=1)))
    out_quarter = conv2d("conv_out_scale_1_4", merged)
    parts = [deconv("deconv1_4", out_quarter, 2, 2), half, deconv("deconv_1_8__1_2", out_eighth, 4, 0)]
    layers = conv2d("conv_out_scale_1_2", F.relu(conv2d("conv1_2", torch.cat(parts, dim=1))))
    return head(state, layers).permute(0, 1, 3, 4, 2)


def head(state: dict[str, Tensor], layers: Tensor) -> Tensor:
    """Logits "B 2 z x y" of maps "B z x y"."""
    name = "seg_head_1_2"

    def normed(part: int, branch: int, x: Tensor) -> Tensor:
        x = F.conv3d(
            x, state[f"{name}.conv{part}.{branch}.weight"], padding=DILATIONS[branch], dilation=DILATIONS[branch]
        )
        mean, var, weight, bias = (
            state[f"{name}.bn{part}.{branch}.{key}"].view(-1, 1, 1, 1)
            for key in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / (var + 1e-5).sqrt() * weight + bias

    x = F.relu(F.conv3d(layers[:, None], state[f"{name}.conv0.weight"], state[f"{name}.conv0.bias"], padding=1))
    branches = [normed(2, i, F.relu(normed(1, i, x))) for i in range(3)]
    x = F.relu(sum(branches) + x)
    return F.conv3d(x, state[f"{name}.conv_classes.weight"], state[f"{name}.conv_classes.bias"], padding=1)
