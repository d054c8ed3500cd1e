"""Which voxels an input depth map says are occupied: the queries of depth-proposed lifting (VoxFormer, CGFormer).

Samples of a batch propose different numbers of voxels; as rows of one tensor they are padded to the most.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from occloom.errors import InputError
from occloom.geometry.precision import full_precision
from occloom.geometry.projection import feature_pixels, unproject
from occloom.geometry.rigid import invert, transform_points
from occloom.geometry.voxelize import flat_index, voxel_index
from occloom.grid import Shape, VoxelGrid


def depth_proposals(
    depth: Float[Tensor, "B N H W"],
    intrinsics: Float[Tensor, "B N 3 3"],
    camera_from_ego: Float[Tensor, "B N 4 4"],
    grid: VoxelGrid,
) -> Bool[Tensor, "B X Y Z"]:
    """The voxels in which at least one pixel of known depth lies, seen from any camera.

    Args:
        depth: z-depth of each pixel in metres, 0 = unknown; unknown pixels propose nothing.
        intrinsics: Of the images the depth belongs to.
        camera_from_ego: From the present ego frame.
        grid: Of the volume, in the ego frame.
    """
    batch, cameras, height, width = depth.shape
    with full_precision(depth.device.type):
        pixels = feature_pixels((height, width), 1, dtype=depth.dtype, device=depth.device).flatten(0, 1)
        points = unproject(pixels.expand(batch, cameras, -1, 2), depth.flatten(2), intrinsics)
        index, inside = voxel_index(transform_points(invert(camera_from_ego), points), grid)
    known = inside & (depth.flatten(2) > 0)
    voxels = grid.shape[0] * grid.shape[1] * grid.shape[2]
    # One place more than there are voxels takes the pixels that propose nothing.
    flat = torch.where(known, flat_index(index, grid.shape), voxels).flatten(1)
    proposed = torch.zeros(batch, voxels + 1, dtype=torch.bool, device=depth.device).scatter_(1, flat, True)
    return proposed[:, :voxels].unflatten(1, grid.shape)


def coarser_proposals(proposals: Bool[Tensor, "B x y z"], shape: Shape) -> Bool[Tensor, "B X Y Z"]:
    """The voxels of a coarser volume of the same bounds in which a proposed voxel lies.

    Raises:
        InputError: If a voxel of the volume does not hold a whole number of theirs.
    """
    given = (proposals.shape[1], proposals.shape[2], proposals.shape[3])
    if any(n % m for n, m in zip(given, shape, strict=True)):
        raise InputError(
            f"the proposals are on {given} voxels, the volume has {shape}",
            rule="each voxel of the volume holds a whole number of proposed ones along each axis",
            remedy="choose another volume_coarsening, or prepare queries for this grid",
        )
    x, y, z = (n // m for n, m in zip(given, shape, strict=True))
    if (x, y, z) == (1, 1, 1):
        return proposals
    return F.max_pool3d(proposals[:, None].float(), (x, y, z))[:, 0] > 0


def ragged_to_padded(chosen: Bool[Tensor, "B V"]) -> tuple[Int64[Tensor, "B Q"], Bool[Tensor, "B Q"]]:
    """Indices of the chosen voxels of each sample, as many as the sample with most has, and which of them are real.

    At least one index, real or not, so that layers behind always run: several processes train with all parameters.
    """
    counts = chosen.sum(dim=1)
    most = max(1, int(counts.max()))
    # A stable sort of "not chosen" brings the chosen ones to the front in their order.
    order = chosen.logical_not().to(torch.uint8).argsort(dim=1, stable=True)[:, :most]
    return order, torch.arange(most, device=chosen.device) < counts[:, None]


def take_rows(rows: Float[Tensor, "B V C"], index: Int64[Tensor, "B Q"]) -> Float[Tensor, "B Q C"]:
    """The rows of each sample's indices (index_select: its backward is deterministic on CPU)."""
    first = torch.arange(len(rows), device=index.device)[:, None] * rows.shape[1]
    return rows.flatten(0, 1).index_select(0, (index + first).flatten()).view(*index.shape, rows.shape[2])


def put_rows(
    rows: Float[Tensor, "B V C"],
    index: Int64[Tensor, "B Q"],
    real: Bool[Tensor, "B Q"],
    new: Float[Tensor, "B Q C"],
) -> Float[Tensor, "B V C"]:
    """The rows with those of the real indices replaced, in place."""
    first = torch.arange(len(rows), device=index.device)[:, None] * rows.shape[1]
    kept = real.flatten().nonzero()[:, 0]
    place = (index + first).flatten().index_select(0, kept)
    # Normalisation leaves mixed precision on a GPU, linear layers do not.
    rows_kept = new.flatten(0, 1).index_select(0, kept).to(rows.dtype)
    return rows.flatten(0, 1).index_copy_(0, place, rows_kept).view(rows.shape)
