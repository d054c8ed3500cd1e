"""Trading channels for finer voxels, and fine voxels for sums: reshapes of a volume."""

from jaxtyping import Float, Shaped
from torch import Tensor

from occloom.grid import Shape


def voxel_shuffle(volume: Float[Tensor, "B CF x y z"], factors: Shape) -> Float[Tensor, "B C X Y Z"]:
    """Unfold channels into sub-voxels: the 3D form of pixel shuffle.

    Channel `((c * fx + i) * fy + j) * fz + k` becomes channel c at sub-voxel (i, j, k).

    Args:
        volume: Coarse volume with `C * fx * fy * fz` channels.
        factors: Sub-voxels (fx, fy, fz) of a coarse voxel along x, y, z.
    """
    (batch, _, nx, ny, nz), (fx, fy, fz) = volume.shape, factors
    parts = volume.reshape(batch, -1, fx, fy, fz, nx, ny, nz)
    return parts.permute(0, 1, 5, 2, 6, 3, 7, 4).reshape(batch, -1, nx * fx, ny * fy, nz * fz)


def sum_sub_voxels(volume: Float[Tensor, "B X Y Z"], factors: Shape) -> Float[Tensor, "B x y z"]:
    """Sum the `factors` sub-voxels of each coarse voxel."""
    (batch, nx, ny, nz), (fx, fy, fz) = volume.shape, factors
    return volume.reshape(batch, nx // fx, fx, ny // fy, fy, nz // fz, fz).sum(dim=(2, 4, 6))


def repeat_voxels(volume: Shaped[Tensor, "*b x y z"], factors: Shape) -> Shaped[Tensor, "*b X Y Z"]:
    """Give each coarse value to all of its `factors` sub-voxels."""
    *batch, nx, ny, nz = volume.shape
    fx, fy, fz = factors
    parts = volume.reshape(*batch, nx, 1, ny, 1, nz, 1).expand(*batch, nx, fx, ny, fy, nz, fz)
    return parts.reshape(*batch, nx * fx, ny * fy, nz * fz)
