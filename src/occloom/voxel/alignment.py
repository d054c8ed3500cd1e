"""A volume of an earlier ego frame, seen from a later one (PanoOcc: Wang et al., CVPR 2024, temporal alignment)."""

from jaxtyping import Float
from torch import Tensor

from occloom.geometry.precision import full_precision
from occloom.geometry.rigid import invert, transform_points
from occloom.geometry.sampling import sample_volume
from occloom.geometry.voxelize import voxel_coordinates
from occloom.grid import VoxelGrid


def aligned(
    volume: Float[Tensor, "B C X Y Z"], later_from_earlier: Float[Tensor, "B 4 4"], grid: VoxelGrid
) -> Float[Tensor, "B C X Y Z"]:
    """What each voxel of the later frame held in the earlier one: trilinear at its centre, zero outside.

    Args:
        volume: Of the earlier ego frame.
        later_from_earlier: Motion of the ego frame between the two, such as `Scene.now_from_then`.
        grid: Of the volume, in both frames.
    """
    with full_precision(volume.device.type):
        centres = grid.centres(dtype=later_from_earlier.dtype, device=volume.device).view(1, -1, 3)
        earlier = transform_points(invert(later_from_earlier), centres.expand(len(volume), -1, -1))
        coordinates = voxel_coordinates(earlier, grid).to(volume.dtype)
    return sample_volume(volume, coordinates).unflatten(2, grid.shape)
