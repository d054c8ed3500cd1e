"""VoxFormer as reference monoocc 3 describes it, on state dicts with released names: loops and plain formulas."""

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F

HEAD = "pts_bbox_head"


def without_memory(table: Path) -> dict[str, torch.Tensor]:
    """Tensors of the names, shapes and types of a table of reference state_dicts, on the meta device."""
    tensors = {}
    for line in table.read_text().splitlines():
        key, shape, kind = line.split("\t")
        sizes = [int(n) for n in shape.strip("[]").split(",") if n.strip()]
        tensors[key] = torch.empty(sizes, dtype=getattr(torch, kind), device="meta")
    return tensors


@dataclass(frozen=True)
class Sizes:
    """Of a small VoxFormer with the released structure."""

    shape: tuple[int, int, int] = (6, 4, 4)
    picture: tuple[int, int] = (6, 16)
    """Rows and columns the voxels are laid out in: their product is that of the shape."""
    channels: int = 16
    heads: int = 2
    points: int = 3
    views: int = 3
    feedforward: int = 24
    classes: int = 5
    axes: int = 2
    """Of the self-attention's offsets: 3 in the later form."""


def released_state(sizes, seed=0):
    """A random state with the released names; scales and offsets are such that no part is without effect."""
    g, c, h, p = torch.Generator().manual_seed(seed), sizes.channels, sizes.heads, sizes.points
    voxels = sizes.shape[0] * sizes.shape[1] * sizes.shape[2]
    shapes = {
        "img_neck.lateral_convs.0.conv": (c, 1024, 1, 1),
        "img_neck.fpn_convs.0.conv": (c, c, 3, 3),
        f"{HEAD}.header.mlp_head.0": (c,),
        f"{HEAD}.header.mlp_head.1": (sizes.classes, c),
    }
    for kind, layers, told, samples, axes in (("cross", 3, c, h * p, 2), ("self", 2, 2 * c, 2 * h * p, sizes.axes)):
        for i in range(layers):
            layer = f"{HEAD}.{kind}_transformer.encoder.layers.{i}"
            attention = f"{layer}.attentions.0" + (".deformable_attention" if kind == "cross" else "")
            shapes |= {
                f"{attention}.sampling_offsets": (samples * axes, told),
                f"{attention}.attention_weights": (samples, told),
                f"{attention}.value_proj": (c, c),
                f"{layer}.attentions.0.output_proj": (c, c),
                f"{layer}.ffns.0.layers.0.0": (sizes.feedforward, c),
                f"{layer}.ffns.0.layers.1": (c, sizes.feedforward),
                f"{layer}.norms.0": (c,),
                f"{layer}.norms.1": (c,),
            }
    state = {}
    for name, shape in shapes.items():
        fan = max(1, torch.tensor(shape[1:]).prod().item())
        state[f"{name}.weight"] = torch.randn(shape, generator=g) * fan**-0.5 + (1.0 if len(shape) == 1 else 0.0)
        state[f"{name}.bias"] = torch.randn(shape[0], generator=g) * 0.5
    for name, shape in {
        f"{HEAD}.bev_embed.weight": (voxels, c),
        f"{HEAD}.mask_embed.weight": (1, c),
        f"{HEAD}.positional_encoding.row_embed.weight": (sizes.picture[0], c // 2),
        f"{HEAD}.positional_encoding.col_embed.weight": (sizes.picture[1], c // 2),
        **{f"{HEAD}.{kind}_transformer.level_embeds": (4, c) for kind in ("cross", "self")},
        **{f"{HEAD}.{kind}_transformer.cams_embeds": (sizes.views, c) for kind in ("cross", "self")},
    }.items():
        state[name] = torch.randn(shape, generator=g)
    return {**backbone_state(g), **state}


def backbone_state(g):
    """ResNet-50 with torchvision's names, its last stage included."""
    state = {}

    def conv(name, out, into, k):
        state[f"img_backbone.{name}.weight"] = torch.randn(out, into, k, k, generator=g) * (1.5 / (into * k * k)) ** 0.5

    def norm(name, channels, scale=1.0):
        state[f"img_backbone.{name}.weight"] = scale + 0.1 * torch.randn(channels, generator=g)
        state[f"img_backbone.{name}.bias"] = 0.1 * torch.randn(channels, generator=g)
        state[f"img_backbone.{name}.running_mean"] = 0.1 * torch.randn(channels, generator=g)
        state[f"img_backbone.{name}.running_var"] = 0.5 + torch.rand(channels, generator=g)
        state[f"img_backbone.{name}.num_batches_tracked"] = torch.tensor(7)

    conv("conv1", 64, 3, 7)
    norm("bn1", 64)
    into = 64
    for stage, (blocks, width) in enumerate(((3, 64), (4, 128), (6, 256), (3, 512)), start=1):
        for block in range(blocks):
            name, out = f"layer{stage}.{block}", 4 * width
            conv(f"{name}.conv1", width, into, 1)
            conv(f"{name}.conv2", width, width, 3)
            conv(f"{name}.conv3", out, width, 1)
            norm(f"{name}.bn1", width)
            norm(f"{name}.bn2", width)
            norm(f"{name}.bn3", out, 0.3)
            if block == 0:
                conv(f"{name}.downsample.0", out, into, 1)
                norm(f"{name}.downsample.1", out, 0.7)
            into = out
    return state


def image_features(state, image):
    """C4 of a picture in [0, 1], then a 1x1 and a 3x3 convolution: "C h w"."""

    def convolve(name, x, stride=1, padding=0):
        return F.conv2d(x, state[f"img_backbone.{name}.weight"], stride=stride, padding=padding)

    def norm(name, x):
        weight, bias, mean, var = (
            state[f"img_backbone.{name}.{part}"] for part in ("weight", "bias", "running_mean", "running_var")
        )
        shape = (1, -1, 1, 1)
        return (x - mean.view(shape)) / (var.view(shape) + 1e-5).sqrt() * weight.view(shape) + bias.view(shape)

    mean, std = (torch.tensor(n).view(3, 1, 1) for n in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    x = norm("bn1", convolve("conv1", ((image - mean) / std)[None], 2, 3)).relu()
    x = F.max_pool2d(x, 3, 2, 1)
    for stage, blocks in ((1, 3), (2, 4), (3, 6)):
        for block in range(blocks):
            name, stride = f"layer{stage}.{block}", 2 if stage > 1 and block == 0 else 1
            y = norm(f"{name}.bn1", convolve(f"{name}.conv1", x)).relu()
            y = norm(f"{name}.bn2", convolve(f"{name}.conv2", y, stride, 1)).relu()
            y = norm(f"{name}.bn3", convolve(f"{name}.conv3", y))
            if block == 0:
                x = norm(f"{name}.downsample.1", convolve(f"{name}.downsample.0", x, stride))
            x = (x + y).relu()
    lateral, smooth = "img_neck.lateral_convs.0.conv", "img_neck.fpn_convs.0.conv"
    x = F.conv2d(x, state[f"{lateral}.weight"], state[f"{lateral}.bias"])
    return F.conv2d(x, state[f"{smooth}.weight"], state[f"{smooth}.bias"], padding=1)[0]


def linear(state, name, x):
    return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]


def normalise(state, name, x):
    x = x - x.mean(-1, keepdim=True)
    x = x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    return x * state[f"{name}.weight"] + state[f"{name}.bias"]


def network(state, layer, x):
    """Residual and norms behind an attention."""
    x = normalise(state, f"{layer}.norms.0", x)
    hidden = linear(state, f"{layer}.ffns.0.layers.0.0", x).relu()
    return normalise(state, f"{layer}.norms.1", x + linear(state, f"{layer}.ffns.0.layers.1", hidden))


def projected(points, camera_from_ego, intrinsics, image_size):
    """Fractions of the picture's width and height, and whether they are strictly inside and in front."""
    homogeneous = torch.cat([points, torch.ones(len(points), 1)], dim=1).double()
    lidar2img = torch.eye(4, dtype=torch.float64)
    lidar2img[:3, :3] = intrinsics.double()
    at = homogeneous @ (lidar2img @ camera_from_ego.double()).T
    depth = at[:, 2]
    shares = at[:, :2] / depth.clamp(min=1e-5)[:, None] / torch.tensor([image_size[1], image_size[0]])
    return shares.float(), (depth > 1e-5) & (shares > 0).all(1) & (shares < 1).all(1)


def lifted(state, sizes, features, shares, seen, proposals):
    """Rows of the volume after deformable cross-attention.

    Args:
        state: Released.
        sizes: Of the model.
        features: "C h w" of each view in released order.
        shares: Places "V 2" of all voxels' centres in each view.
        seen: Whether a view sees them.
        proposals: Flat indices of the proposed voxels.
    """
    transformer, heads = f"{HEAD}.cross_transformer", sizes.heads
    rows = state[f"{HEAD}.mask_embed.weight"].repeat(sizes.shape[0] * sizes.shape[1] * sizes.shape[2], 1)
    if not len(proposals):
        return rows
    x = state[f"{HEAD}.bev_embed.weight"][proposals]
    for i in range(3):
        layer = f"{transformer}.encoder.layers.{i}"
        name = f"{layer}.attentions.0.deformable_attention"
        total, views = torch.zeros_like(x), torch.zeros(len(x))
        for view, feature in enumerate(features):
            told = (
                feature
                + (state[f"{transformer}.cams_embeds"][view] + state[f"{transformer}.level_embeds"][0])[:, None, None]
            )
            _, height, width = told.shape
            values = linear(state, f"{name}.value_proj", told.permute(1, 2, 0)).permute(2, 0, 1)
            offsets = linear(state, f"{name}.sampling_offsets", x).view(len(x), heads, sizes.points, 2)
            weights = linear(state, f"{name}.attention_weights", x).view(len(x), heads, sizes.points).softmax(-1)
            places = shares[view][proposals][:, None, None] + offsets / torch.tensor([width, height])
            total_here = sampled(values, places, weights, heads)
            here = seen[view][proposals]
            total, views = total + total_here * here[:, None], views + here
        x = x + linear(state, f"{layer}.attentions.0.output_proj", total / views.clamp(min=1)[:, None])
        x = network(state, layer, x)
    rows[proposals] = x
    return rows


def sampled(values, places, weights, heads):
    """Sums over the points of each head: values "C *size", places "Q heads points axes" as fractions."""
    found = []
    for h in range(heads):
        part = values.chunk(heads)[h][None]
        grid = 2 * places[:, h] - 1
        if places.shape[-1] == 3:
            # grid_sample wants the last axis of the volume first.
            picked = F.grid_sample(part, grid.flip(-1)[None, None], align_corners=False)[0, :, 0]
        else:
            picked = F.grid_sample(part, grid[None], align_corners=False)[0]
        found.append((picked * weights[:, h]).sum(-1).T)
    return torch.cat(found, dim=1)


def refined(state, sizes, rows):
    """Rows of the volume after self-attention."""
    height, width = sizes.picture
    column = state[f"{HEAD}.positional_encoding.col_embed.weight"][None].expand(height, -1, -1)
    row = state[f"{HEAD}.positional_encoding.row_embed.weight"][:, None].expand(-1, width, -1)
    position = torch.cat([column, row], dim=-1).flatten(0, 1)
    size = sizes.picture if sizes.axes == 2 else sizes.shape
    axes = [(torch.arange(n) + 0.5) / n for n in size]
    centres = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).flatten(0, -2)
    scale = torch.tensor(size).float()
    if sizes.axes == 2:
        centres, scale = centres.flip(-1), scale.flip(-1)  # (u, v)
    for i in range(2):
        layer = f"{HEAD}.self_transformer.encoder.layers.{i}"
        name = f"{layer}.attentions.0"
        told = torch.cat([rows, rows + position], dim=1)
        values = linear(state, f"{name}.value_proj", rows).T.unflatten(1, size)
        offsets = linear(state, f"{name}.sampling_offsets", told).view(len(rows), sizes.heads, 2, -1, sizes.axes)
        weights = linear(state, f"{name}.attention_weights", told).view(len(rows), sizes.heads, 2, -1).softmax(-1)
        answers = [
            sampled(values, centres[:, None, None] + offsets[:, :, k] / scale, weights[:, :, k], sizes.heads)
            for k in range(2)
        ]
        rows = network(state, layer, rows + linear(state, f"{name}.output_proj", (answers[0] + answers[1]) / 2))
    return rows


def logits(state, sizes, rows, factor):
    """Class scores "K X Y Z"."""
    volume = rows.T.unflatten(1, sizes.shape)[None]
    size = [n * factor for n in sizes.shape]
    fine = F.interpolate(volume, size=size, mode="trilinear", align_corners=True)[0].permute(1, 2, 3, 0)
    fine = normalise(state, f"{HEAD}.header.mlp_head.0", fine)
    return linear(state, f"{HEAD}.header.mlp_head.1", fine).permute(3, 0, 1, 2)
