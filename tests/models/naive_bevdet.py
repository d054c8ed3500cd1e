"""Names and shapes of BEVDet's published state dicts, written down layer by layer."""

import torch

Table = dict[str, tuple[int, ...]]


def conv(name: str, out: int, into: int, *kernel: int, bias: bool = False) -> Table:
    return {f"{name}.weight": (out, into, *kernel), **({f"{name}.bias": (out,)} if bias else {})}


def norm(name: str, channels: int) -> Table:
    vectors = ("weight", "bias", "running_mean", "running_var")
    return {**{f"{name}.{key}": (channels,) for key in vectors}, f"{name}.num_batches_tracked": ()}


def resnet50() -> Table:
    table = {**conv("conv1", 64, 3, 7, 7), **norm("bn1", 64)}
    into = 64
    for stage, blocks in enumerate((3, 4, 6, 3)):
        width = 64 * 2**stage
        for b in range(blocks):
            name = f"layer{stage + 1}.{b}"
            table |= conv(f"{name}.conv1", width, into, 1, 1) | norm(f"{name}.bn1", width)
            table |= conv(f"{name}.conv2", width, width, 3, 3) | norm(f"{name}.bn2", width)
            table |= conv(f"{name}.conv3", 4 * width, width, 1, 1) | norm(f"{name}.bn3", 4 * width)
            if b == 0:
                table |= conv(f"{name}.downsample.0", 4 * width, into, 1, 1) | norm(f"{name}.downsample.1", 4 * width)
            into = 4 * width
    return table


def depth_net(planes: int, context: int, channels: int = 256) -> Table:
    table = conv("reduce_conv.0", channels, 256, 3, 3, bias=True) | norm("reduce_conv.1", channels) | norm("bn", 27)
    for side in ("context", "depth"):
        table |= conv(f"{side}_mlp.fc1", channels, 27, bias=True) | conv(
            f"{side}_mlp.fc2", channels, channels, bias=True
        )
        for layer in ("conv_reduce", "conv_expand"):
            table |= conv(f"{side}_se.{layer}", channels, channels, 1, 1, bias=True)
    table |= conv("context_conv", context, channels, 1, 1, bias=True)
    for i in (0, 2):
        table |= conv(f"cost_volumn_net.{i}", planes, planes, 3, 3, bias=True) | norm(
            f"cost_volumn_net.{i + 1}", planes
        )
    for block, into in enumerate((channels + planes, channels, channels)):
        name = f"depth_conv.{block}"
        table |= conv(f"{name}.conv1", channels, into, 3, 3) | norm(f"{name}.bn1", channels)
        table |= conv(f"{name}.conv2", channels, channels, 3, 3) | norm(f"{name}.bn2", channels)
    table |= conv("depth_conv.0.downsample", channels, channels + planes, 1, 1, bias=True)
    for i, kernel in enumerate((1, 3, 3, 3)):
        name = f"depth_conv.3.aspp{i + 1}"
        table |= conv(f"{name}.atrous_conv", 96, channels, kernel, kernel) | norm(f"{name}.bn", 96)
    pooled = "depth_conv.3.global_avg_pool"
    table |= conv(f"{pooled}.1", 96, channels, 1, 1) | norm(f"{pooled}.2", 96)
    table |= conv("depth_conv.3.conv1", channels, 480, 1, 1) | norm("depth_conv.3.bn1", channels)
    return table | conv("depth_conv.4", planes, channels, 1, 1, bias=True)


def block3d(name: str, out: int, into: int, *, shortcut: bool) -> Table:
    table: Table = {}
    for layer, before in (("conv1", into), ("conv2", out), *([("downsample", into)] if shortcut else [])):
        table |= conv(f"{name}.{layer}.conv", out, before, 3, 3, 3) | norm(f"{name}.{layer}.bn", out)
    return table


def named(prefix: str, table: Table) -> Table:
    return {f"{prefix}.{name}": shape for name, shape in table.items()}


def image_part(planes: int, context: int) -> Table:
    neck = conv("lateral_convs.0.conv", 256, 1024, 1, 1, bias=True) | conv(
        "lateral_convs.1.conv", 256, 2048, 1, 1, bias=True
    )
    neck |= conv("fpn_convs.0.conv", 256, 256, 3, 3, bias=True)
    depth = named("img_view_transformer.depth_net", depth_net(planes, context))
    return named("img_backbone", resnet50()) | named("img_neck", neck) | depth


def occupancy_model() -> Table:
    """Of bevdet-occ-r50-4d-stereo."""
    table = image_part(88, 32) | block3d("pre_process_net.layers.0.0", 32, 32, shortcut=True)
    into = 64
    for stage, (width, blocks) in enumerate(((32, 1), (64, 2), (128, 4))):
        for b in range(blocks):
            name = f"img_bev_encoder_backbone.layers.{stage}.{b}"
            table |= block3d(name, width, into, shortcut=b == 0)
            into = width
    table |= conv("img_bev_encoder_neck.conv.conv", 32, 224, 1, 1, 1) | norm("img_bev_encoder_neck.conv.bn", 32)
    table |= conv("final_conv.conv", 32, 32, 3, 3, 3, bias=True)
    return table | conv("predicter.0", 64, 32, bias=True) | conv("predicter.2", 18, 64, bias=True)


def detector() -> Table:
    """Of bevdet-r50-4d-stereo-cbgs: other planes and context, volumes without height, boxes."""
    table = image_part(118, 80) | conv("pre_process_net.layers.0.0.conv1", 80, 80, 3, 3)
    table |= conv("img_bev_encoder_backbone.layers.0.0.conv1", 160, 160, 3, 3)
    table |= conv("img_bev_encoder_neck.conv.0", 512, 800, 3, 3) | conv("pts_bbox_head.shared_conv.conv", 64, 256, 3, 3)
    return table


def state(table: Table, *, seed: int = 0) -> dict[str, torch.Tensor]:
    """Random weights."""
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.rand(shape, generator=generator) if shape else torch.tensor(7) for name, shape in table.items()}


def without_memory(table: Table) -> dict[str, torch.Tensor]:
    return {
        name: torch.empty(shape, device="meta", dtype=torch.float32 if shape else torch.int64)
        for name, shape in table.items()
    }


def parameters(table: Table) -> int:
    """Numbers that are trained."""
    statistics = ("running_mean", "running_var", "num_batches_tracked")
    return sum(torch.Size(shape).numel() for name, shape in table.items() if not name.endswith(statistics))
