"""Learned positions of the voxels of a volume, a table an axis: what tells queries apart (COTR and Dr.Occ)."""

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from occloom.errors import InputError
from occloom.grid import Shape


class AxisPositions(nn.Module):
    """Learned positions of voxels: three eighths of the channels for x, three for y, two for z."""

    def __init__(self, channels: int, shape: Shape) -> None:
        """Make a table an axis.

        Raises:
            InputError: If 8 does not divide the channels.
        """
        super().__init__()
        if channels % 8:
            raise InputError(f"{channels} channels for positions", rule="8 divides them")
        parts = (3 * channels // 8, 3 * channels // 8, channels // 4)
        self.tables = nn.ParameterList(
            nn.Parameter(torch.empty(n, part).normal_(std=0.02)) for n, part in zip(shape, parts, strict=True)
        )

    def forward(self) -> Float[Tensor, "Q C"]:
        """Of all voxels, in C order."""
        x, y, z = self.tables
        shape = (len(x), len(y), len(z))
        spread = (x[:, None, None], y[None, :, None], z[None, None])
        return torch.cat([table.expand(*shape, -1) for table in spread], dim=-1).flatten(0, 2)

    def of(self, index: Int64[Tensor, " P"]) -> Float[Tensor, "P C"]:
        """Of the voxels with these flat indices."""
        x, y, z = self.tables
        places = (index // (len(y) * len(z)), index // len(z) % len(y), index % len(z))
        return torch.cat([table.index_select(0, place) for table, place in zip((x, y, z), places, strict=True)], dim=1)
