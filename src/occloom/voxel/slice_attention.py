"""Queries look around within their own horizontal slice, at what is there now and at what was there before.

The temporal self-attention of BEVFormer (Li et al., ECCV 2022, section 3.4), for one slice or for many: PanoOcc (Wang
et al., CVPR 2024) gives each height its own. Reference protoocc 1.5; its released code reads the first X * Y voxels of
the volume as if they were a plane, which this does not.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from occloom.errors import InputError
from occloom.geometry.precision import full_precision
from occloom.grid import Shape
from occloom.ops.deformable_attention import deformable_attention
from occloom.voxel.volume_attention import voxel_fractions


class SliceAttention(nn.Module):
    """Deformable attention in the plane to a queue of two volumes, slice by slice; the mean of both."""

    def __init__(self, channels: int, *, heads: int = 8, points: int = 8) -> None:
        """Make the attention; at first each head looks in its own direction, point i at i + 1 voxels.

        Args:
            channels: C, of queries and volumes.
            heads: They share the channels.
            points: That a head samples in each of the two volumes.

        Raises:
            InputError: Heads do not divide the channels.
        """
        super().__init__()
        if min(heads, points) < 1 or channels % heads:
            raise InputError(
                f"{channels} channels for {heads} heads of {points} points",
                rule="heads and points are at least 1, heads divide the channels",
                remedy="choose numbers that divide",
            )
        self.layout = (heads, 2, points)
        self.sampling_offsets = nn.Linear(2 * channels, 2 * math.prod(self.layout))
        self.attention_weights = nn.Linear(2 * channels, math.prod(self.layout))
        self.value_proj = nn.Linear(channels, channels)
        self.output_proj = nn.Linear(channels, channels)
        nn.init.zeros_(self.sampling_offsets.weight)
        with torch.no_grad():
            steps = torch.arange(1, points + 1)[:, None]
            start = (_directions(heads)[:, None, None] * steps).expand(-1, 2, -1, -1)
            self.sampling_offsets.bias.copy_(start.flatten())
        nn.init.zeros_(self.attention_weights.weight)
        nn.init.zeros_(self.attention_weights.bias)
        for projection in (self.value_proj, self.output_proj):
            nn.init.xavier_uniform_(projection.weight)
            nn.init.zeros_(projection.bias)

    def forward(
        self,
        queries: Float[Tensor, "B Q C"],
        position: Float[Tensor, "Q C"],
        shape: Shape,
        before: Float[Tensor, "B Q C"] | None = None,
    ) -> Float[Tensor, "B Q C"]:
        """What is to be added to the queries.

        Args:
            queries: One a voxel, in C order; also what is there now.
            position: Of the voxels; tells the queries apart where offsets and weights are made.
            shape: X, Y and Z of the volume, Q voxels.
            before: What was there before, aligned; None where the queue holds the queries twice.
        """
        sides, (size_x, size_y, slices) = (
            torch.cat([queries if before is None else before, queries + position], -1),
            shape,
        )
        with full_precision(queries.device.type):
            sides = sides.to(torch.promote_types(sides.dtype, torch.float32))
            offsets = self.sampling_offsets(sides).unflatten(-1, (*self.layout, 2))
            weights = self.attention_weights(sides).unflatten(-1, self.layout).softmax(dim=-1) / 2
            centres = voxel_fractions(shape, dtype=offsets.dtype, device=queries.device)[:, None, None, None, :2]
            locations = centres + offsets / offsets.new_tensor((size_x, size_y))
            # A slice is a picture whose rows run along x and whose columns run along y.
            locations = locations.flip(-1)
        now = self._slices(queries, shape)
        past = now if before is None else self._slices(before, shape)
        samples = torch.arange(len(queries), device=queries.device)[:, None] * slices
        image = samples + torch.arange(slices, device=queries.device).repeat(size_x * size_y)
        looked = deformable_attention((past, now), image.flatten(), locations.flatten(0, 1), weights.flatten(0, 1))
        return self.output_proj(looked.unflatten(0, queries.shape[:2]))

    def _slices(self, volume: Float[Tensor, "B Q C"], shape: Shape) -> Float[Tensor, "M C X Y"]:
        """Projected values, slice z of sample b as picture b * Z + z."""
        return self.value_proj(volume).unflatten(1, shape).permute(0, 3, 4, 1, 2).flatten(0, 1)


def _directions(heads: int) -> Float[Tensor, "heads 2"]:
    """One direction (x, y) a head, on the border of a square."""
    angles = torch.arange(heads) * (2 * math.pi / heads)
    directions = torch.stack([angles.cos(), angles.sin()], dim=-1)
    return directions / directions.abs().amax(dim=1, keepdim=True)
