"""Learned positions of the voxels of a volume, a table an axis: what tells queries apart (COTR, Dr.Occ, PanoOcc)."""

from collections.abc import Iterable

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
        return torch.cat(_spread(self.tables), dim=-1).flatten(0, 2)

    def of(self, index: Int64[Tensor, " P"]) -> Float[Tensor, "P C"]:
        """Of the voxels with these flat indices."""
        x, y, z = self.tables
        places = (index // (len(y) * len(z)), index // len(z) % len(y), index % len(z))
        return torch.cat([table.index_select(0, place) for table, place in zip((x, y, z), places, strict=True)], dim=1)


class SummedPositions(nn.Module):
    """Learned positions of voxels: the sum of a row for x, one for y and one for z, all as wide as the queries."""

    def __init__(self, channels: int, shape: Shape) -> None:
        """Make a table an axis, uniform in [0, 1] (reference protoocc 1.4)."""
        super().__init__()
        self.tables = nn.ParameterList(nn.Parameter(torch.empty(n, channels).uniform_()) for n in shape)

    def forward(self) -> Float[Tensor, "Q C"]:
        """Of all voxels, in C order."""
        x, y, z = _spread(self.tables)
        return (x + y + z).flatten(0, 2)


def _spread(tables: Iterable[Tensor]) -> list[Tensor]:
    """The rows "X Y Z c" of every voxel in each table."""
    x, y, z = tables
    shape = (len(x), len(y), len(z))
    return [table.expand(*shape, -1) for table in (x[:, None, None], y[None, :, None], z[None, None])]
