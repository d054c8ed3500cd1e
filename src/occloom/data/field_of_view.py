"""Which voxels a camera's picture shows."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from occloom.geometry.projection import project
from occloom.geometry.rigid import transform_points
from occloom.grid import VoxelGrid


def visible_voxels(
    grid: VoxelGrid,
    intrinsics: Float[Tensor, "3 3"],
    camera_from_ego: Float[Tensor, "4 4"],
    *,
    size: tuple[int, int],
) -> Bool[Tensor, "X Y Z"]:
    """Voxels whose centre lies before the camera and falls on a pixel of the picture, occluded or not.

    The pixel is the nearest one, halves to the even (MonoScene's rule; reference datasets_and_metrics 1.4). In float32
    single voxels at the border come out otherwise than in float64.

    Args:
        grid: Voxels in the ego frame.
        intrinsics: Pixels from camera metres.
        camera_from_ego: From the ego frame to the camera.
        size: Height and width of the picture.
    """
    centres = grid.centres(dtype=intrinsics.dtype).reshape(-1, 3)
    pixels, depth = project(transform_points(camera_from_ego, centres), intrinsics)
    u, v = torch.round(pixels).unbind(-1)
    height, width = size
    inside = (depth > 0) & (u >= 0) & (u < width) & (v >= 0) & (v < height)
    return inside.reshape(grid.shape)
