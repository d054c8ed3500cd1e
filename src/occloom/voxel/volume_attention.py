"""Queries look into a volume: deformable attention with three offsets a point.

The layer on `ops/deformable_attention_volume.py`: Zhu et al., "Deformable DETR", ICLR 2021, section 4.1, in a volume
(COTR: Ma et al., CVPR 2024).
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from occloom.errors import InputError
from occloom.geometry.precision import full_precision
from occloom.grid import Shape
from occloom.ops.deformable_attention_volume import deformable_attention_volume


def voxel_fractions(
    shape: Shape, *, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
) -> Float[Tensor, "V 3"]:
    """The centres of all voxels in C order as fractions (x, y, z): (i + 0.5) / n."""
    axes = [(torch.arange(n, dtype=dtype, device=device) + 0.5) / n for n in shape]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).view(-1, 3)


class DeformableVolumeAttention(nn.Module):
    """Deformable attention of queries with one reference point each to one volume a sample."""

    def __init__(self, channels: int, *, heads: int = 8, points: int = 4) -> None:
        """Make the attention; at first each head looks in its own direction, point i at i + 1 voxels.

        Args:
            channels: C, of queries and volume.
            heads: They share the channels.
            points: That a head samples.

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
        self.layout = (heads, points)
        self.sampling_offsets = nn.Linear(channels, heads * points * 3)
        self.attention_weights = nn.Linear(channels, heads * points)
        self.value_proj = nn.Linear(channels, channels)
        self.output_proj = nn.Linear(channels, channels)
        nn.init.zeros_(self.sampling_offsets.weight)
        with torch.no_grad():
            steps = torch.arange(1, points + 1)[:, None]
            self.sampling_offsets.bias.copy_((_directions(heads)[:, None] * steps).flatten())
        nn.init.zeros_(self.attention_weights.weight)
        nn.init.zeros_(self.attention_weights.bias)
        for projection in (self.value_proj, self.output_proj):
            nn.init.xavier_uniform_(projection.weight)
            nn.init.zeros_(projection.bias)

    def forward(
        self,
        queries: Float[Tensor, "B Q C"],
        references: Float[Tensor, "B Q 3"],
        volume: Float[Tensor, "B C X Y Z"],
    ) -> Float[Tensor, "B Q C"]:
        """What is to be added to the queries.

        Args:
            queries: With their positions added already.
            references: Where they are in the volume, as fractions (x, y, z): 0 and 1 are its outer borders.
            volume: Read through the projection of values.
        """
        with full_precision(queries.device.type):
            queries = queries.to(torch.promote_types(queries.dtype, torch.float32))
            sizes = queries.new_tensor(volume.shape[2:])
            offsets = self.sampling_offsets(queries).unflatten(-1, (*self.layout, 3)) / sizes
            weights = self.attention_weights(queries).unflatten(-1, self.layout).softmax(dim=-1)
            locations = references[:, :, None, None] + offsets
        values = self.value_proj(volume.movedim(1, -1)).movedim(-1, 1)
        return self.output_proj(deformable_attention_volume(values, locations, weights))


def _directions(heads: int) -> Float[Tensor, "heads 3"]:
    """One direction a head around the vertical axis, on the surface of a cube; upwards by the mean of x and y."""
    angles = torch.arange(heads) * (2 * math.pi / heads)
    directions = torch.stack([angles.cos(), angles.sin(), (angles.cos() + angles.sin()) / 2], dim=-1)
    return directions / directions.abs().amax(dim=1, keepdim=True)
