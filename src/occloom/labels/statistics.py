"""Where classes lie: voxels of each class by height and by distance from the ego vehicle (Dr.Occ, Fig. 4)."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from occloom.grid import VoxelGrid
from occloom.scene import Target

RANGE_STEP = 2.0
"""Metres of a bin of distances."""


@dataclass(frozen=True)
class PlaceCounts:
    """Observed voxels of each class by layer of the grid and by distance, summed over frames."""

    grid: VoxelGrid
    voxels: Int64[Tensor, "K Z R"]
    """R bins of `RANGE_STEP` metres, as many as the grid's farthest voxel needs."""
    unobserved: int
    """Voxels that did not count."""

    def __add__(self, other: "PlaceCounts") -> "PlaceCounts":
        """Both sets of frames, of the same grid and classes."""
        return PlaceCounts(self.grid, self.voxels + other.voxels, self.unobserved + other.unobserved)

    @property
    def heights(self) -> tuple[float, ...]:
        """The Z + 1 borders of the layers in metres, in the ego frame."""
        return tuple(self.grid.lower[2] + i * self.grid.voxel_size[2] for i in range(self.grid.shape[2] + 1))

    @property
    def ranges(self) -> tuple[float, ...]:
        """The R + 1 borders of the bins of distances, in metres."""
        return tuple(RANGE_STEP * i for i in range(self.voxels.shape[2] + 1))

    def by_region(self, heights: Sequence[float], ranges: Sequence[float]) -> Int64[Tensor, "K h r"]:
        """Voxels of each class in regions that end at some heights and distances.

        Args:
            heights: Borders between the h regions, in metres, ascending; a layer belongs where its middle lies.
            ranges: Borders between the r regions; a bin belongs where its middle lies, so that multiples of
                `RANGE_STEP` are exact.
        """
        layer = torch.bucketize(_middles(self.heights), torch.tensor(heights, dtype=torch.float64))
        distance = torch.bucketize(_middles(self.ranges), torch.tensor(ranges, dtype=torch.float64))
        rows = self.voxels.new_zeros(self.voxels.shape[0], len(heights) + 1, self.voxels.shape[2])
        rows.index_add_(1, layer, self.voxels)
        regions = self.voxels.new_zeros(*rows.shape[:2], len(ranges) + 1)
        return regions.index_add_(2, distance, rows)


def count_places(target: Target, grid: VoxelGrid, *, num_classes: int) -> PlaceCounts:
    """Count a batch of labels.

    Args:
        target: Labels and which of them count.
        grid: Of the labels.
        num_classes: K, the empty class included.
    """
    bins = range_bins(grid)
    num_bins, layers = int(bins.max()) + 1, grid.shape[2]
    place = torch.arange(layers)[:, None] * num_bins + bins[..., None, None]
    flat = (target.labels * (layers * num_bins) + place[..., 0])[target.observed]
    counts = torch.bincount(flat, minlength=num_classes * layers * num_bins)
    return PlaceCounts(grid, counts.view(num_classes, layers, num_bins), int((~target.observed).sum()))


def range_bins(grid: VoxelGrid) -> Int64[Tensor, "X Y"]:
    """Bin of the horizontal distance of each column's centre from the ego frame's origin."""
    return (column_distances(grid) / RANGE_STEP).floor().long()


def column_distances(grid: VoxelGrid) -> Float[Tensor, "X Y"]:
    """Horizontal distance of each column's centre from the ego frame's origin, in metres."""
    return grid.centres(dtype=torch.float64)[:, :, 0, :2].norm(dim=-1)


def _middles(borders: Sequence[float]) -> Float[Tensor, " bins"]:
    """Middle of each bin."""
    return torch.tensor([(a + b) / 2 for a, b in itertools.pairwise(borders)], dtype=torch.float64)
