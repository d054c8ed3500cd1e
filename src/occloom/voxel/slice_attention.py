"""Queries look around within their own horizontal slice, at what is there now and at what was there before.

The temporal self-attention of BEVFormer (Li et al., ECCV 2022, section 3.4), for one slice or for many: PanoOcc (Wang
et al., CVPR 2024) gives each height its own. Reference protoocc 1.5; its released code reads the first X * Y voxels of
the volume as if they were a plane, which this does not.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from occloom.geometry.precision import full_precision
from occloom.grid import Shape
from occloom.ops.deformable_attention import deformable_attention
from occloom.voxel.self_attention import QueueAttention
from occloom.voxel.volume_attention import voxel_fractions


class SliceAttention(QueueAttention):
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
        super().__init__(channels, heads=heads, points=points, axes=2)

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
        told = torch.cat([queries if before is None else before, queries + position], dim=-1)
        size_x, size_y, slices = shape
        with full_precision(queries.device.type):
            told = told.to(torch.promote_types(told.dtype, torch.float32))
            offsets, weights = self.choose(told, told.new_tensor((size_x, size_y)))
            centres = voxel_fractions(shape, dtype=offsets.dtype, device=queries.device)[:, None, None, None, :2]
            # A slice is a picture whose rows run along x and whose columns run along y.
            locations = (centres + offsets).flip(-1)
        now = self._slices(queries, shape)
        past = now if before is None else self._slices(before, shape)
        samples = torch.arange(len(queries), device=queries.device)[:, None] * slices
        image = samples + torch.arange(slices, device=queries.device).repeat(size_x * size_y)
        looked = deformable_attention((past, now), image.flatten(), locations.flatten(0, 1), weights.flatten(0, 1))
        return self.output_proj(looked.unflatten(0, queries.shape[:2]))

    def _slices(self, volume: Float[Tensor, "B Q C"], shape: Shape) -> Float[Tensor, "M C X Y"]:
        """Projected values, slice z of sample b as picture b * Z + z."""
        return self.value_proj(volume).unflatten(1, shape).permute(0, 3, 4, 1, 2).flatten(0, 1)
