"""Which voxels of Occ3D's kind are observed: by the LiDAR's beams, and by the cameras of a moment.

A free voxel is observed if a beam crosses it before its return; a filled one always is. A camera sees a free voxel
whose centre lies before the surface in that pixel, and a filled one of which the centre or a corner does. (A ray to the
voxels themselves would not do: far away, flat ground of filled voxels hides itself at each step of its slope.)
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float32, Float64

from occloom.grid import VoxelGrid
from occloom.labels.visibility import in_voxels, voxel_centres

STEPS_PER_VOXEL = 4.0  # along a beam; a corner of which a beam cuts less than a quarter may be missed
BEAMS_AT_ONCE = 1 << 14  # bounds memory
NEAREST_DEPTH = 1e-2  # of what a camera sees, metres
TOLERANCE = 0.05  # of the surface's depth, metres


@dataclass(frozen=True)
class Eye:
    """A camera that looks at the voxels.

    Attributes:
        intrinsics: pixels from camera metres.
        camera_from_ego: its pose; the ego frame is that of the grid.
        depth: z-depth of the nearest surface at the centre of each pixel, metres; 0 for sky.
    """

    intrinsics: Float64[np.ndarray, "3 3"]
    camera_from_ego: Float64[np.ndarray, "4 4"]
    depth: Float32[np.ndarray, "H W"]

    def sees(self, points: Float[np.ndarray, "P 3"]) -> Bool[np.ndarray, " P"]:
        """Which points of the ego frame are on the picture and not behind a surface."""
        pixels = (points @ self.camera_from_ego[:3, :3].T + self.camera_from_ego[:3, 3]) @ self.intrinsics.T
        depth = pixels[:, 2]
        u, v = np.floor(pixels[:, :2] / np.maximum(depth, NEAREST_DEPTH)[:, None] + 0.5).T
        height, width = self.depth.shape
        seen = (depth > NEAREST_DEPTH) & (u >= 0) & (u < width) & (v >= 0) & (v < height)
        surface = self.depth[v[seen].astype(int), u[seen].astype(int)]
        seen[seen] = (surface == 0) | (depth[seen] < surface + TOLERANCE)
        return seen


def crossed_by_beams(
    origin: Float64[np.ndarray, "3"], returns: Float[np.ndarray, "P 3"], grid: VoxelGrid
) -> Bool[np.ndarray, "X Y Z"]:
    """The voxels that beams cross on their way, the last voxel length before each return left out.

    Args:
        origin: of the beams, in the ego frame of the grid, metres.
        returns: where they end, in the same frame.
        grid: the voxels.
    """
    crossed = np.zeros(grid.num_voxels, bool)
    start = in_voxels(origin[None], grid)[0]
    upper = np.array(grid.shape, np.float32)
    for first in range(0, len(returns), BEAMS_AT_ONCE):
        way = in_voxels(returns[first : first + BEAMS_AT_ONCE], grid) - start
        length = np.sqrt(np.einsum("ij,ij->i", way, way))
        way /= np.maximum(length, np.float32(1e-6))[:, None]
        # Beyond the grid there is nothing to cross: each beam ends where it leaves the box.
        with np.errstate(divide="ignore", invalid="ignore"):
            leaves = np.where(way == 0, np.float32(np.inf), np.where(way > 0, upper - start, -start) / way).min(axis=1)
        count = np.maximum(np.minimum(length - 1, leaves) * STEPS_PER_VOXEL, 0).astype(np.int64)
        beam = np.repeat(np.arange(len(way)), count)
        step = np.arange(len(beam)) - np.repeat(np.cumsum(count) - count, count)
        places = start + ((step + 0.5) / STEPS_PER_VOXEL).astype(np.float32)[:, None] * way[beam]
        places = places[((places >= 0) & (places < upper)).all(axis=1)]
        ix, iy, iz = places.astype(np.int64).T
        crossed[(ix * grid.shape[1] + iy) * grid.shape[2] + iz] = True
    return crossed.reshape(grid.shape)


def seen_by_cameras(
    observed: Bool[np.ndarray, "X Y Z"], filled: Bool[np.ndarray, "X Y Z"], eyes: Sequence[Eye], grid: VoxelGrid
) -> Bool[np.ndarray, "X Y Z"]:
    """Those of the observed voxels that a camera sees.

    Args:
        observed: the voxels asked about.
        filled: which voxels hold a surface.
        eyes: the cameras, where they are now.
        grid: the voxels.
    """
    seen = np.zeros(grid.num_voxels, bool)
    bits = (np.arange(8)[:, None] >> np.arange(3)) & 1
    corners = np.concatenate([np.zeros((1, 3)), bits - 0.5])
    for which, places in ((observed & ~filled, corners[:1]), (observed & filled, corners)):
        voxels = np.flatnonzero(which)
        for eye in eyes:
            for place in places:
                centres = voxel_centres(voxels, grid.shape) + place
                found = eye.sees(centres * np.array(grid.voxel_size) + np.array(grid.lower))
                seen[voxels[found]] = True
                voxels = voxels[~found]
    return seen.reshape(grid.shape)
