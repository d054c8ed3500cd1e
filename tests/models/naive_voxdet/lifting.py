"""From pixels to voxels: frustum, pooling, proposals, depth-aware attention. Geometry in float64."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .image import State, linear


@dataclass
class Camera:
    """One camera as the released loader gives it."""

    intrinsics: Tensor
    """4 4: P2 of the picture on disk in the upper three rows."""
    rotation: Tensor
    """3 3: velodyne from camera."""
    translation: Tensor
    """3: of the same."""
    post_rotation: Tensor
    """3 3: scale of the picture."""
    post_translation: Tensor
    """3: shift of the scaled picture."""

    def vector(self) -> Tensor:
        """The 33 numbers that the depth net is told."""
        k, r, t = self.intrinsics, self.post_rotation, self.post_translation
        pose = torch.cat([self.rotation, self.translation[:, None]], dim=1).flatten()
        numbers = [k[0, 0], k[1, 1], k[0, 2], k[1, 2], k[0, 3], k[1, 3], k[2, 3]]
        numbers += [r[0, 0], r[0, 1], t[0], r[1, 0], r[1, 1], t[1]]
        numbers += [1, 0, 0, 1, 1, 0, 0, 0]
        return torch.tensor([float(n) for n in (*numbers, *pose)])

    def to_velodyne(self, u: Tensor, v: Tensor, d: Tensor) -> Tensor:
        """Points (... 3) of pixels of the fitted picture at depth d."""
        pixels = torch.stack([u, v, torch.ones_like(u)], dim=-1).double() - self.post_translation
        pixels[..., 2] = 1
        pixels = pixels @ self.post_rotation.inverse().T
        seen = torch.stack([pixels[..., 0] * d, pixels[..., 1] * d, d.double()], dim=-1) - self.intrinsics[:3, 3]
        return seen @ self.intrinsics[:3, :3].inverse().T @ self.rotation.T + self.translation

    def to_picture(self, points: Tensor) -> Tensor:
        """(u, v, d) of points (... 3) in the fitted picture."""
        camera = (points - self.translation) @ self.rotation.inverse().T
        seen = camera @ self.intrinsics[:3, :3].T + self.intrinsics[:3, 3]
        depth = seen[..., 2:]
        pixels = torch.cat([seen[..., :2] / depth.clamp(min=1e-5), torch.ones_like(depth)], dim=-1)
        pixels = pixels @ self.post_rotation.T + self.post_translation
        return torch.cat([pixels[..., :2], depth], dim=-1)


@dataclass
class Grid:
    """The volume: corner of the first voxel, voxel size, number of voxels."""

    lower: Tensor
    size: Tensor
    shape: tuple[int, int, int]


def lss_pool(context: Tensor, depth: Tensor, camera: Camera, grid: Grid, image_size: tuple[int, int]) -> Tensor:
    """Sum of context x depth over what falls into each voxel; C X Y Z. context C h w, depth D h w.

    Columns and rows are spread evenly from the first to the last pixel; indices are cut off toward zero, so that what
    lies less than a voxel before the first voxel counts as in it.
    """
    channels, height, width = context.shape
    us = torch.linspace(0, image_size[1] - 1, width, dtype=torch.float64)
    vs = torch.linspace(0, image_size[0] - 1, height, dtype=torch.float64)
    where, what = [], []
    for p in range(depth.shape[0]):
        v, u = torch.meshgrid(vs, us, indexing="ij")
        points = camera.to_velodyne(u, v, torch.full_like(u, 2.0 + 0.5 * p))
        places = (points - grid.lower) / grid.size
        for i in range(height):
            for j in range(width):
                x, y, z = (math.trunc(float(c)) for c in places[i, j])
                if 0 <= x < grid.shape[0] and 0 <= y < grid.shape[1] and 0 <= z < grid.shape[2]:
                    where.append((x * grid.shape[1] + y) * grid.shape[2] + z)
                    what.append(context[:, i, j] * depth[p, i, j])
    volume = torch.zeros(math.prod(grid.shape), channels)
    if where:
        volume = volume.index_add(0, torch.tensor(where), torch.stack(what))
    return volume.T.reshape(channels, *grid.shape)


def proposals(depth: Tensor, camera: Camera, grid: Grid) -> Tensor:
    """Voxels that a pixel of the depth map (H W) falls into, a tenth of a millimetre within the range; X Y Z."""
    height, width = depth.shape
    v, u = torch.meshgrid(torch.arange(height).double(), torch.arange(width).double(), indexing="ij")
    points = camera.to_velodyne(u, v, depth.double()).reshape(-1, 3)
    upper = grid.lower + grid.size * torch.tensor(grid.shape)
    inside = ((points > grid.lower + 1e-4) & (points < upper - 1e-4)).all(-1)
    hit = torch.zeros(grid.shape, dtype=torch.bool)
    for x, y, z in torch.floor((points[inside] - grid.lower) / grid.size).long().tolist():
        hit[x, y, z] = True
    return hit if hit.sum() >= 2 else torch.ones_like(hit)


def mlp(state: State, name: str, x: Tensor) -> Tensor:
    """Linear, layer norm, leaky ReLU, linear over the last axis."""
    y = linear(state, f"{name}.0", x)
    y = F.layer_norm(y, y.shape[-1:], state[f"{name}.1.weight"], state[f"{name}.1.bias"])
    return linear(state, f"{name}.3", F.leaky_relu(y, 0.01))


def centre_references(camera: Camera, grid: Grid, image_size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Fractions (V 3) of picture and depth where each voxel's centre is seen, and whether it is (V)."""
    axes = [(torch.arange(n).double() + 0.5) / n for n in grid.shape]
    unit = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).reshape(-1, 3)
    points = grid.lower + unit * grid.size * torch.tensor(grid.shape)
    u, v, d = camera.to_picture(points).unbind(-1)
    u, v = u / image_size[1], v / image_size[0]
    seen = (d > 1e-5) & (u > 0) & (u < 1) & (v > 0) & (v < 1)
    return torch.stack([u, v, (d - 2.0) / 56.0], dim=-1).float(), seen


def depth_attention(state: State, name: str, query: Tensor, reference: Tensor, seen: Tensor, value, depth) -> Tensor:
    """Update of the queries (Q C) from context (C h w) spread along depth (D h w): eight heads, eight points."""
    inner = f"{name}.deformable_attention"
    heads, points, channels = 8, 8, query.shape[1]
    planes, height, width = depth.shape
    projected = linear(state, f"{inner}.value_proj", value.flatten(1).T).T.reshape(heads, -1, 1, height, width)
    spread = projected * depth[None, None]  # heads C/heads D h w
    shift = linear(state, f"{inner}.sampling_offsets", query).view(-1, heads, points, 2)
    deep = linear(state, f"{inner}.sampling_offsets_depth", query).view(-1, heads, points, 1)
    shift = torch.cat([shift, deep], dim=-1) / torch.tensor([width, height, planes]).to(shift)
    weights = linear(state, f"{inner}.attention_weights", query).view(-1, heads, points).softmax(-1)
    grid = (2 * (reference[:, None, None] + shift) - 1).transpose(0, 1)  # heads Q points 3
    taken = F.grid_sample(spread, grid[:, None], align_corners=False)[:, :, 0]  # heads C/heads Q points
    update = (taken * weights.transpose(0, 1)[:, None]).sum(-1)  # heads C/heads Q
    update = update.permute(2, 0, 1).reshape(-1, channels) * seen[:, None]
    return linear(state, f"{name}.output_proj", update)


def cross_attention_layers(
    state: State, query: Tensor, reference: Tensor, seen: Tensor, context: Tensor, depth: Tensor
) -> Tensor:
    """Three layers over the queries (Q C): attention, norm, feed-forward, norm."""
    base = "VoxFormer_head.cross_transformer"
    value = context + (state[f"{base}.cams_embeds"][0] + state[f"{base}.level_embeds"][0])[:, None, None]
    for i in range(3):
        layer = f"{base}.encoder.layers.{i}"
        query = query + depth_attention(state, f"{layer}.attentions.0", query, reference, seen, value, depth)
        query = _layer_norm(state, f"{layer}.norms.0", query)
        hidden = F.relu(linear(state, f"{layer}.ffns.0.layers.0.0", query))
        query = query + linear(state, f"{layer}.ffns.0.layers.1", hidden)
        query = _layer_norm(state, f"{layer}.norms.1", query)
    return query


def _layer_norm(state: State, name: str, x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"])


def lifted(state: State, context, depth, pooled, proposed, camera: Camera, grid: Grid, image_size) -> Tensor:
    """The volume (C X Y Z): attended where proposed (X Y Z), a small network of the pooled volume elsewhere."""
    channels = pooled.shape[0]
    first = mlp(state, "VoxFormer_head.mlp_lss", pooled.flatten(1).T)
    out = mlp(state, "VoxFormer_head.mlp_prior", first)
    reference, seen = centre_references(camera, grid, image_size)
    at = proposed.flatten()
    out[at] = cross_attention_layers(state, first[at], reference[at], seen[at], context, depth)
    return out.T.reshape(channels, *grid.shape)
