"""Trunk, neck and depth net. M images, h w feature pixels, D depth planes."""

import torch
import torch.nn.functional as F
from torch import Tensor

State = dict[str, Tensor]


def batch_norm(state: State, name: str, x: Tensor, eps: float = 1e-5) -> Tensor:
    shape = (1, -1) + (1,) * (x.ndim - 2)
    mean, variance = state[f"{name}.running_mean"].view(shape), state[f"{name}.running_var"].view(shape)
    scaled = (x - mean) / (variance + eps).sqrt()
    return scaled * state[f"{name}.weight"].view(shape) + state[f"{name}.bias"].view(shape)


def group_norm(state: State, name: str, x: Tensor, groups: int) -> Tensor:
    batch, channels = x.shape[:2]
    grouped = x.reshape(batch, groups, -1)
    mean, variance = grouped.mean(-1, keepdim=True), grouped.var(-1, unbiased=False, keepdim=True)
    scaled = ((grouped - mean) / (variance + 1e-5).sqrt()).reshape(x.shape)
    shape = (1, channels) + (1,) * (x.ndim - 2)
    return scaled * state[f"{name}.weight"].view(shape) + state[f"{name}.bias"].view(shape)


def conv2d(state: State, name: str, x: Tensor, *, stride: int = 1, dilation: int = 1) -> Tensor:
    weight = state[f"{name}.weight"]
    padding = dilation * (weight.shape[-1] // 2)
    return F.conv2d(x, weight, state.get(f"{name}.bias"), stride, padding, dilation)


def conv3d(state: State, name: str, x: Tensor, *, stride: int = 1) -> Tensor:
    weight = state[f"{name}.weight"]
    return F.conv3d(x, weight, state.get(f"{name}.bias"), stride, weight.shape[-1] // 2)


def linear(state: State, name: str, x: Tensor) -> Tensor:
    return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]


def deformable_conv(x: Tensor, offset: Tensor, weight: Tensor, groups: int = 1) -> Tensor:
    """DCNv1, 3x3, padding 1: kernel point k reads at its place moved by offset (2k: down, 2k + 1: right)."""
    channels, height, width = x.shape[1:]
    v, u = torch.meshgrid(torch.arange(height).to(x), torch.arange(width).to(x), indexing="ij")
    columns = []
    for k in range(9):
        row = v + (k // 3 - 1) + offset[:, 2 * k]
        column = u + (k % 3 - 1) + offset[:, 2 * k + 1]
        grid = torch.stack([(2 * column + 1) / width - 1, (2 * row + 1) / height - 1], dim=-1)
        columns.append(F.grid_sample(x, grid, align_corners=False))
    taken = torch.stack(columns, dim=2)  # M C 9 h w
    size = channels // groups
    outputs = []
    for g in range(groups):
        part = weight.chunk(groups)[g].flatten(2)  # Co/g C/g 9
        outputs.append(torch.einsum("mckhw,ock->mohw", taken[:, g * size : (g + 1) * size], part))
    return torch.cat(outputs, dim=1)


def backbone(state: State, image: Tensor, name: str = "img_backbone") -> list[Tensor]:
    """ResNet-50-D: features at strides 4, 8, 16, 32."""
    x = F.relu(batch_norm(state, f"{name}.conv1.1", conv2d(state, f"{name}.conv1.0", image, stride=2)))
    x = F.relu(batch_norm(state, f"{name}.conv1.4", conv2d(state, f"{name}.conv1.3", x)))
    x = F.relu(batch_norm(state, f"{name}.norm1", conv2d(state, f"{name}.conv1.6", x)))
    x = F.max_pool2d(x, 3, 2, 1)
    levels = []
    for stage, blocks in enumerate((3, 4, 6, 3)):
        for block in range(blocks):
            stride = 2 if stage > 0 and block == 0 else 1
            x = _bottleneck(state, f"{name}.res_layers.{stage}.{block}", x, stride)
        levels.append(x)
    return levels


def _bottleneck(state: State, name: str, x: Tensor, stride: int) -> Tensor:
    y = F.relu(batch_norm(state, f"{name}.bn1", conv2d(state, f"{name}.conv1", x)))
    y = F.relu(batch_norm(state, f"{name}.bn2", conv2d(state, f"{name}.conv2", y, stride=stride)))
    y = batch_norm(state, f"{name}.bn3", conv2d(state, f"{name}.conv3", y))
    if f"{name}.downsample.1.weight" in state:
        if stride == 2:
            x = F.avg_pool2d(x, 2, 2, ceil_mode=True, count_include_pad=False)
        x = batch_norm(state, f"{name}.downsample.2", conv2d(state, f"{name}.downsample.1", x))
    return F.relu(x + y)


def neck(state: State, levels: list[Tensor], name: str = "img_neck") -> Tensor:
    """SECOND-FPN: all four levels at stride 8, side by side."""
    maps = []
    for i, x in enumerate(levels):
        weight = state[f"{name}.deblocks.{i}.0.weight"]
        y = F.conv2d(x, weight, stride=2) if i == 0 else F.conv_transpose2d(x, weight, stride=weight.shape[-1])
        maps.append(F.relu(batch_norm(state, f"{name}.deblocks.{i}.1", y, eps=1e-3)))
    return torch.cat(maps, dim=1)


def _gated(state: State, name: str, task: str, x: Tensor, camera: Tensor) -> Tensor:
    gate = linear(state, f"{name}.{task}_mlp.fc2", F.relu(linear(state, f"{name}.{task}_mlp.fc1", camera)))
    gate = F.relu(conv2d(state, f"{name}.{task}_se.conv_reduce", gate[:, :, None, None]))
    return x * torch.sigmoid(conv2d(state, f"{name}.{task}_se.conv_expand", gate))


def mono_depth(state: State, features: Tensor, camera: Tensor, name: str = "depth_net.depth_net"):
    """Context (M 128 h w) and the distribution over planes that the picture alone gives (M D h w)."""
    camera = batch_norm(state, f"{name}.bn", camera)
    x = F.relu(batch_norm(state, f"{name}.reduce_conv.1", conv2d(state, f"{name}.reduce_conv.0", features)))
    context = conv2d(state, f"{name}.context_conv", _gated(state, name, "context", x, camera))
    y = _gated(state, name, "depth", x, camera)
    for i in range(3):
        y = _basic_block(state, f"{name}.depth_conv.{i}", y)
    y = _aspp(state, f"{name}.depth_conv.3", y)
    offset = conv2d(state, f"{name}.depth_conv.4.conv_offset", y)
    y = deformable_conv(y, offset, state[f"{name}.depth_conv.4.weight"], groups=4)
    return context, conv2d(state, f"{name}.depth_conv.5", y).softmax(1)


def _basic_block(state: State, name: str, x: Tensor) -> Tensor:
    y = F.relu(batch_norm(state, f"{name}.bn1", conv2d(state, f"{name}.conv1", x)))
    y = batch_norm(state, f"{name}.bn2", conv2d(state, f"{name}.conv2", y))
    shortcut = conv2d(state, f"{name}.downsample", x) if f"{name}.downsample.weight" in state else x
    return F.relu(y + shortcut)


def _aspp(state: State, name: str, x: Tensor) -> Tensor:
    branches = []
    for i, dilation in enumerate((1, 6, 12, 18), start=1):
        y = conv2d(state, f"{name}.aspp{i}.atrous_conv", x, dilation=dilation)
        branches.append(F.relu(batch_norm(state, f"{name}.aspp{i}.bn", y)))
    pooled = conv2d(state, f"{name}.global_avg_pool.1", x.mean((2, 3), keepdim=True))
    pooled = F.relu(batch_norm(state, f"{name}.global_avg_pool.2", pooled))
    joined = torch.cat([*branches, pooled.expand_as(x)], dim=1)
    return F.relu(batch_norm(state, f"{name}.bn1", conv2d(state, f"{name}.conv1", joined)))


def stereo_one_hot(depth: Tensor, planes: int = 112, patch: int = 8) -> Tensor:
    """The nearest known depth of each patch as a one-hot over planes; all zeros outside 2.25 to 58.25 m. M D h w."""
    images, height, width = depth.shape
    hot = torch.zeros(images, planes, height // patch, width // patch)
    for m in range(images):
        for i in range(height // patch):
            for j in range(width // patch):
                known = depth[m, i * patch : (i + 1) * patch, j * patch : (j + 1) * patch]
                known = known[known != 0]
                if len(known) == 0:
                    continue
                channel = int(torch.floor((known.min() - 1.75) / 0.5)) - 1 if known.min() < 1e4 else planes
                if 0 <= channel < planes:
                    hot[m, channel, i, j] = 1
    return hot


def _hourglass(state: State, name: str, x: Tensor) -> Tensor:
    conv, transposed = (conv2d, F.conv_transpose2d) if x.ndim == 4 else (conv3d, F.conv_transpose3d)

    def down(part: str, y: Tensor, stride: int) -> Tensor:
        y = conv(state, f"{name}.{part}.0.0", y, stride=stride)
        return F.relu(group_norm(state, f"{name}.{part}.0.1", y, 2))

    def up(part: str, y: Tensor) -> Tensor:
        y = transposed(y, state[f"{name}.{part}.0.weight"], stride=2, padding=1, output_padding=1)
        return batch_norm(state, f"{name}.{part}.1", y)

    def skip(part: str, y: Tensor) -> Tensor:
        return group_norm(state, f"{name}.{part}.1", conv(state, f"{name}.{part}.0", y), 2)

    half = down("conv2", down("conv1", x, 2), 1)
    quarter = down("conv4", down("conv3", half, 2), 1)
    half = F.relu(up("conv5", quarter) + skip("redir2", half))
    return F.relu(up("conv6", half) + skip("redir1", x))


def stereo_encoder(state: State, one_hot: Tensor, name: str = "depth_net.stereo_volume_encoder") -> Tensor:
    """The distribution over planes that the stereo depth gives: M D h w."""
    x = group_norm(state, f"{name}.stem.1", conv2d(state, f"{name}.stem.0", one_hot), 2)
    return conv2d(state, f"{name}.conv_out", _hourglass(state, f"{name}.Unet.0", x)).softmax(1)


def neighbourhood_attention(state: State, name: str, query: Tensor, other: Tensor) -> Tensor:
    """Each pixel of `query` (M C h w) attends to a 5x5 window of `other`; windows at borders are moved inward."""
    images, channels, height, width = query.shape
    q = linear(state, f"{name}.q", query.permute(0, 2, 3, 1)) * channels**-0.5
    k, v = linear(state, f"{name}.kv", other.permute(0, 2, 3, 1)).split(channels, dim=-1)
    out = torch.zeros(images, height, width, channels)
    for i in range(height):
        for j in range(width):
            top, left = min(max(i - 2, 0), height - 5), min(max(j - 2, 0), width - 5)
            keys = k[:, top : top + 5, left : left + 5].reshape(images, 25, channels)
            values = v[:, top : top + 5, left : left + 5].reshape(images, 25, channels)
            bias = state[f"{name}.rpb"][0, top - i + 4 : top - i + 9, left - j + 4 : left - j + 9].reshape(25)
            weights = ((keys * q[:, i, j, None]).sum(-1) + bias).softmax(-1)
            out[:, i, j] = (weights[:, :, None] * values).sum(1)
    return linear(state, f"{name}.proj", out).permute(0, 3, 1, 2)


def depth_fusion(state: State, mono: Tensor, stereo: Tensor, name: str = "depth_net.depth_aggregation") -> Tensor:
    """The distribution over planes that both give: M D h w."""
    pairs = []
    for part, query, other in (("mono_stereo_attention", mono, stereo), ("stereo_mono_attention", stereo, mono)):
        update = neighbourhood_attention(state, f"{name}.{part}.neighbor_atttention", query, other)
        pairs.append(state[f"{name}.{part}.gamma"] * update + other)
    x = F.relu(conv3d(state, f"{name}.stem", torch.stack(pairs, dim=1)))
    x = _hourglass(state, f"{name}.UNet_3D", x)
    part = f"{name}.channel_attention"
    y = group_norm(state, f"{part}.conv1.2", F.gelu(conv3d(state, f"{part}.conv1.0", x)), 1)
    gate = y.mean((2, 3, 4), keepdim=True)
    for i in (0, 2):
        gate = F.gelu(conv3d(state, f"{part}.conv2.{i}", gate))
    y = F.gelu(conv3d(state, f"{part}.conv.0", y * torch.sigmoid(gate)))
    x = x + state[f"{part}.layer_scale"] * group_norm(state, f"{part}.conv.2", y, 2)
    return conv3d(state, f"{name}.out_conv", x).squeeze(1).softmax(1)
