"""Where the voxels lie and what their labels mean.

Conventions (docs/conventions.md): ego frame x forward, y left, z up, metres; axis order X Y Z; `lower` is the corner
of voxel (0, 0, 0); the centre of voxel i is `lower + (i + 0.5) * voxel_size`; a point's index is the floor.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

Triple = tuple[float, float, float]
Shape = tuple[int, int, int]


@dataclass(frozen=True)
class VoxelGrid:
    """A box of voxels in the ego frame, in metres; the voxel size may differ per axis."""

    lower: Triple
    """Lower corner of voxel (0, 0, 0), in metres."""
    voxel_size: Triple
    """Edge lengths of a voxel along x, y, z, in metres."""
    shape: Shape
    """Number of voxels along x, y, z."""

    def __post_init__(self) -> None:
        if min(self.voxel_size) <= 0 or min(self.shape) < 1:
            raise ValueError(f"A grid needs positive voxel sizes and shape, got {self.voxel_size} and {self.shape}.")

    @property
    def upper(self) -> Triple:
        """Upper corner of the last voxel, in metres."""
        x, y, z = (low + n * size for low, size, n in zip(self.lower, self.voxel_size, self.shape, strict=True))
        return (x, y, z)

    @property
    def num_voxels(self) -> int:
        """Number of voxels of the grid."""
        return self.shape[0] * self.shape[1] * self.shape[2]

    def coarsen(self, factors: Shape) -> "VoxelGrid":
        """The grid of the same bounds whose voxels are `factors` times larger along x, y, z.

        Raises:
            ValueError: If a factor does not divide the shape.
        """
        if min(factors) < 1 or any(n % f for n, f in zip(self.shape, factors, strict=True)):
            raise ValueError(f"Expected factors that divide the shape {self.shape}, got {factors}.")
        sx, sy, sz = (size * f for size, f in zip(self.voxel_size, factors, strict=True))
        nx, ny, nz = (n // f for n, f in zip(self.shape, factors, strict=True))
        return VoxelGrid(lower=self.lower, voxel_size=(sx, sy, sz), shape=(nx, ny, nz))

    def with_fewer_voxels(self, factors: Shape) -> "VoxelGrid":
        """The grid of the same bounds whose voxels are about `factors` times larger; their number is rounded up.

        Where the factors divide the shape it is that of `coarsen`.

        Raises:
            ValueError: If a factor is below 1.
        """
        if min(factors) < 1:
            raise ValueError(f"Expected factors of at least 1, got {factors}.")
        nx, ny, nz = (-(-n // f) for n, f in zip(self.shape, factors, strict=True))
        sx, sy, sz = (size * n / m for size, n, m in zip(self.voxel_size, self.shape, (nx, ny, nz), strict=True))
        return VoxelGrid(lower=self.lower, voxel_size=(sx, sy, sz), shape=(nx, ny, nz))

    def centres(
        self, *, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
    ) -> Float[Tensor, "X Y Z 3"]:
        """Voxel centres in the ego frame, in metres."""
        axes = [
            low + (torch.arange(n, dtype=dtype, device=device) + 0.5) * size
            for low, size, n in zip(self.lower, self.voxel_size, self.shape, strict=True)
        ]
        return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)


@dataclass(frozen=True)
class LabelSpace:
    """The classes of a benchmark: dense ids 0 to K-1, one of which means empty."""

    names: tuple[str, ...]
    empty: int
    """Id of the empty class: 0 on SemanticKITTI, 17 on Occ3D; never assumed."""
    colours: tuple[tuple[int, int, int], ...]
    """sRGB, 0 to 255, one a class."""
    frequencies: tuple[float, ...]
    """Voxels of each class in the training set; class weights are made from them."""

    def __post_init__(self) -> None:
        if not len(self.names) == len(self.colours) == len(self.frequencies):
            raise ValueError(
                f"A label space needs as many colours and frequencies as names, got {len(self.names)} names, "
                f"{len(self.colours)} colours and {len(self.frequencies)} frequencies."
            )
        if not 0 <= self.empty < len(self.names):
            raise ValueError(f"Expected the empty id within 0..{len(self.names) - 1}, got {self.empty}.")

    @property
    def num_classes(self) -> int:
        """K, the empty class included."""
        return len(self.names)

    @property
    def occupied(self) -> tuple[int, ...]:
        """Ids of all classes but the empty one."""
        return tuple(c for c in range(self.num_classes) if c != self.empty)

    def class_weights(
        self, *, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
    ) -> Float[Tensor, " K"]:
        """Weights `1 / ln(frequency + 0.001)` (MonoScene; reference datasets_and_metrics 1.3)."""
        frequencies: Sequence[float] = self.frequencies
        exact = torch.tensor(frequencies, dtype=torch.float64, device="cpu")
        return (1.0 / torch.log(exact + 0.001)).to(device=device, dtype=dtype)
