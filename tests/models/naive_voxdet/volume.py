"""3D encoder, decoupling, offset field, aggregation, heads: B C X Y Z."""

import torch
import torch.nn.functional as F
from torch import Tensor

from .image import State, batch_norm, conv2d, conv3d, deformable_conv, group_norm

SHARED = "occ_encoder_backbone.local_aggregator"


def encoder(state: State, volume: Tensor, *, blocks: int, name: str) -> list[Tensor]:
    """Three stages of residual blocks at strides 1, 2, 4."""
    levels, x = [], volume
    for stage in range(3):
        for block in range(blocks):
            x = _residual(state, f"{name}.layers.{stage}.{block}", x, 2 if stage > 0 and block == 0 else 1)
        levels.append(x)
    return levels


def _residual(state: State, name: str, x: Tensor, stride: int) -> Tensor:
    y = F.relu(batch_norm(state, f"{name}.conv1.bn", conv3d(state, f"{name}.conv1.conv", x, stride=stride)))
    y = batch_norm(state, f"{name}.conv2.bn", conv3d(state, f"{name}.conv2.conv", y))
    if f"{name}.downsample.conv.weight" in state:
        x = conv3d(state, f"{name}.downsample.conv", x, stride=stride)
        if f"{name}.downsample.gn.weight" in state:
            x = group_norm(state, f"{name}.downsample.gn", x, 32)
        else:
            x = batch_norm(state, f"{name}.downsample.bn", x)
    return F.relu(x + y)


def tpv(state: State, name: str, x: Tensor) -> Tensor:
    """Three planes by learned weights, deformable convolution on each, added back to every voxel."""
    scores = conv3d(state, f"{name}.weights_conv", x)
    total = torch.zeros_like(x)
    for k, (plane, axis) in enumerate((("xy", 4), ("yz", 2), ("zx", 3))):
        weights = scores[:, k : k + 1].softmax(axis)
        flat = (x * weights).sum(axis)
        flat = F.relu(conv2d(state, f"{name}.conv1x1_{plane}", flat))
        offset = conv2d(state, f"{name}.offset_{plane}", flat)
        flat = deformable_conv(flat, offset, state[f"{name}.defconv_{plane}.weight"])
        total = total + F.relu(group_norm(state, f"{name}.gn_{plane}", flat, 32)).unsqueeze(axis)
    return x + F.relu(group_norm(state, f"{name}.fuse_gn", conv3d(state, f"{name}.fuse_conv", total), 32))


def task_pyramid(state: State, levels: list[Tensor], task: str, name: str = f"{SHARED}.local_encoder_neck") -> Tensor:
    """The finest map of a task ("cls" or "reg"): the coarsest level stays as it is, the two finer are decoupled."""
    x = levels[2]
    for i in (1, 0):
        own = tpv(state, f"{name}.sp_tpvs_{task}.{i}", levels[i])
        x = _joined(state, f"{name}.lateral_convs_{task}.{i}", f"{name}.fpn_convs_{task}.{i}", own, x)
    return x


def plain_pyramid(state: State, levels: list[Tensor], name: str = "voxel_neck") -> Tensor:
    """The finest map of the LiDAR's neck."""
    x = levels[2]
    for i in (1, 0):
        x = _joined(state, f"{name}.lateral_convs.{i}", f"{name}.fpn_convs.{i}", levels[i], x)
    return x


def _joined(state: State, lateral: str, smooth: str, own: Tensor, coarser: Tensor) -> Tensor:
    up = F.interpolate(coarser, size=own.shape[2:], mode="trilinear", align_corners=False)
    x = torch.cat([own, up], dim=1)
    for name in (lateral, smooth):
        x = F.relu(group_norm(state, f"{name}.gn", conv3d(state, f"{name}.conv", x), 32))
    return x


def _head(state: State, name: str, x: Tensor) -> Tensor:
    x = F.relu(group_norm(state, f"{name}.1", conv3d(state, f"{name}.0", x), 32))
    return conv3d(state, f"{name}.3", x)


def offset_field(state: State, features: Tensor) -> Tensor:
    """Distances to the borders as fractions of the axes, at half resolution: B 6 X/2 Y/2 Z/2."""
    logits = _head(state, "pts_bbox_head.bbox_convs.0", features)
    return torch.sigmoid(F.interpolate(logits, scale_factor=0.5, mode="trilinear", align_corners=False))


def sampling_grids(offsets: Tensor) -> list[Tensor]:
    """Where the six neighbours of each voxel are read, as `grid_sample` wants it: six of B X Y Z 3.

    As released: the fraction along x is handed over as that of the last axis and the one along z as that of the first,
    and fractions are made for corner-aligned sampling but used without.
    """
    sizes = offsets.shape[2:]
    here = torch.stack(torch.meshgrid(*(torch.arange(n).to(offsets) for n in sizes), indexing="ij"))
    grids = []
    for direction in range(6):
        axis, sign = direction // 2, 1 if direction % 2 == 0 else -1
        place = here[None].repeat(len(offsets), 1, 1, 1, 1)
        moved = place[:, axis] + sign * offsets[:, direction] * (sizes[axis] - 1)
        place[:, axis] = moved.clamp(0, sizes[axis] - 1)
        grids.append(torch.stack([2 * place[:, a] / (sizes[a] - 1) - 1 for a in range(3)], dim=-1))
    return grids


def aggregated(state: State, features: Tensor, grids: list[Tensor], *, layers: int = 4) -> Tensor:
    """Each voxel attends to the six voxels its offsets name, layer after layer."""
    for layer in range(layers):
        name = f"pts_bbox_head.refine_conv.{layer}"

        def project(part: str, x: Tensor, name: str = name) -> Tensor:
            return group_norm(state, f"{name}.{part}_norm", conv3d(state, f"{name}.{part}_conv", x), 32)

        small = F.interpolate(features, scale_factor=0.5, mode="trilinear", align_corners=False)
        query, scores, values = project("query", small), [], []
        for grid in grids:
            near = F.grid_sample(small, grid, align_corners=False)
            scores.append((query * project("key", near)).sum(1) / 128**0.5)
            values.append(project("value", near))
        weights = torch.stack(scores).softmax(0)
        update = sum(w[:, None] * v for w, v in zip(weights, values, strict=True))
        update = F.interpolate(update, size=features.shape[2:], mode="trilinear", align_corners=False)
        features = project("out", update + features)
    return features


def class_scores(state: State, features: Tensor, size: tuple[int, int, int], *, auxiliary: bool = False) -> Tensor:
    """Logits on the full grid: B K X Y Z."""
    name = "pts_bbox_head_aux.occ_convs.0" if auxiliary else "pts_bbox_head.cls_convs.0"
    return F.interpolate(_head(state, name, features), size=size, mode="trilinear", align_corners=False)


def detected(state: State, volume: Tensor, *, blocks: int, name: str, size: tuple[int, int, int]):
    """Offsets and logits of a lifted volume."""
    levels = encoder(state, volume, blocks=blocks, name=name)
    offsets = offset_field(state, task_pyramid(state, levels, "reg"))
    features = aggregated(state, task_pyramid(state, levels, "cls"), sampling_grids(offsets))
    return offsets, class_scores(state, features, size)
