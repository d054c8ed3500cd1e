"""Which voxels a sensor sees past the filled ones.

A voxel is visible from a place if the straight line from there to the centre of the voxel crosses no filled voxel. The
filled voxels become a mesh of their outer sides, in voxel units, and embree answers for every voxel not yet seen.
"""

import numpy as np
from jaxtyping import Bool, Float, Float32, Int64

from occloom.grid import VoxelGrid
from occloom.rays import StaticRays


def occupied_rays(filled: Bool[np.ndarray, "X Y Z"], sensors: Float[np.ndarray, "S 3"], grid: VoxelGrid) -> StaticRays:
    """The filled voxels as a mesh in voxel units, of those sides only that face one of the sensors.

    A ray that meets a filled voxel enters it by a side that faces the sensor and has no filled neighbour.

    Args:
        filled: which voxels block the view.
        sensors: places, in the ego frame of the grid, metres.
        grid: the voxels.
    """
    places = in_voxels(sensors, grid)
    lowest, highest = places.min(axis=0), places.max(axis=0)
    quads = []
    for axis in range(3):
        edges = np.arange(filled.shape[axis])
        column = [1, 1, 1]
        column[axis] = -1
        below = _beside(filled, axis, -1)
        quads.append(_rectangles(filled & ~below & (lowest[axis] < edges).reshape(column), axis, 0))
        above = _beside(filled, axis, 1)
        quads.append(_rectangles(filled & ~above & (highest[axis] > edges + 1).reshape(column), axis, 1))
    corners = np.concatenate(quads)
    first = 4 * np.arange(len(corners), dtype=np.int32)[:, None]
    triangles = np.concatenate([first + np.array([0, 1, 2], np.int32), first + np.array([0, 2, 3], np.int32)])
    return StaticRays(corners.reshape(-1, 3), triangles)


def unseen(
    rays: StaticRays, candidates: Bool[np.ndarray, "X Y Z"], sensors: Float[np.ndarray, "S 3"], grid: VoxelGrid
) -> Bool[np.ndarray, "X Y Z"]:
    """Those of the candidates that no sensor sees.

    Args:
        rays: from `occupied_rays`, of the same grid.
        candidates: the voxels asked about, none of them filled.
        sensors: places in the ego frame of the grid, metres.
        grid: the voxels.
    """
    hidden = np.flatnonzero(candidates)
    centres = voxel_centres(hidden, candidates.shape)
    for place in in_voxels(sensors, grid)[_far_apart(len(sensors))]:
        # The direction reaches from the centre to the sensor, so the sensor lies at distance 1.
        blocked = rays.blocked(centres, place - centres, np.ones(len(centres), np.float32))
        hidden, centres = hidden[blocked], centres[blocked]
    result = np.zeros(candidates.size, bool)
    result[hidden] = True
    return result.reshape(candidates.shape)


def never_seen(
    rays: StaticRays,
    hidden: Bool[np.ndarray, "X Y Z"],
    filled: Bool[np.ndarray, "X Y Z"],
    sensors: Float[np.ndarray, "S 3"],
    grid: VoxelGrid,
) -> Bool[np.ndarray, "X Y Z"]:
    """Those of the hidden voxels that no place on a drive sees, several times faster than `unseen` and nearly equal.

    Two places far apart are asked about every hidden voxel. What the others add lies around what is seen already, so
    they are asked about neighbours of seen voxels only, again and again while sight grows. A voxel seen through a gap
    alone, all its neighbours never seen, stays hidden: about one hidden voxel in 700 on drives of 70 scans.

    Args:
        rays: from `occupied_rays`, of the same grid.
        hidden: the voxels asked about, none of them filled; all other empty voxels are seen already.
        filled: which voxels block the view.
        sensors: places in the ego frame of the grid, metres.
        grid: the voxels.
    """
    order = _far_apart(len(sensors))
    left = unseen(rays, hidden, sensors[order[:2]], grid)
    border = (_widened(~filled & ~left) & left).reshape(-1)
    left = left.reshape(-1)
    steps = _neighbour_steps(grid)
    for place in in_voxels(sensors[order[2:]], grid):
        candidates = np.flatnonzero(border)
        while len(candidates):
            centres = voxel_centres(candidates, grid.shape)
            new = candidates[~rays.blocked(centres, place - centres, np.ones(len(centres), np.float32))]
            left[new] = border[new] = False
            around = (new[:, None] + steps).reshape(-1).clip(0, len(left) - 1)
            candidates = np.unique(around[left[around] & ~border[around]])
            border[candidates] = True
    return left.reshape(grid.shape)


def _neighbour_steps(grid: VoxelGrid) -> Int64[np.ndarray, "26"]:
    """Differences of flat index to the 26 neighbours; beyond the border of the grid they lead astray, without harm."""
    offsets = np.stack(np.meshgrid(*[[-1, 0, 1]] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    flat = (offsets[:, 0] * grid.shape[1] + offsets[:, 1]) * grid.shape[2] + offsets[:, 2]
    return np.delete(flat, 13)


def _widened(bits: Bool[np.ndarray, "X Y Z"]) -> Bool[np.ndarray, "X Y Z"]:
    """The voxels that are set and all their neighbours."""
    for axis in range(3):
        bits = bits | _beside(bits, axis, -1) | _beside(bits, axis, 1)
    return bits


def _far_apart(count: int) -> Int64[np.ndarray, " S"]:
    """An order of 0..count-1 that visits far ones first (last, middle, quarters): these see most that is new."""
    bits = max(count - 1, 1).bit_length()
    reverse = [int(f"{i:0{bits}b}"[::-1], 2) for i in range(1 << bits)]
    order = [count - 1 - i for i in reverse if i < count]
    return np.array(order, np.int64)


def in_voxels(places: Float[np.ndarray, "S 3"], grid: VoxelGrid) -> Float32[np.ndarray, "S 3"]:
    """Places in voxel units, 0 at the lower corner of the grid."""
    return ((places - np.array(grid.lower)) / np.array(grid.voxel_size)).astype(np.float32)


def voxel_centres(flat: Int64[np.ndarray, " V"], shape: tuple[int, ...]) -> Float32[np.ndarray, "V 3"]:
    """Centres of voxels in voxel units."""
    index = np.stack(np.unravel_index(flat, shape), axis=1).astype(np.float32)
    return index + np.float32(0.5)


def _beside(filled: Bool[np.ndarray, "X Y Z"], axis: int, step: int) -> Bool[np.ndarray, "X Y Z"]:
    """Whether the neighbour at `step` along the axis is filled; beyond the grid nothing is."""
    neighbour = np.zeros_like(filled)
    inner, outer = [slice(None)] * 3, [slice(None)] * 3
    inner[axis], outer[axis] = (slice(1, None), slice(None, -1)) if step < 0 else (slice(None, -1), slice(1, None))
    neighbour[tuple(inner)] = filled[tuple(outer)]
    return neighbour


def _rectangles(sides: Bool[np.ndarray, "X Y Z"], axis: int, upper: int) -> Float32[np.ndarray, "Q 4 3"]:
    """Corners of the open sides across `axis`, runs of neighbours joined into one rectangle.

    Args:
        sides: voxels whose side is open.
        axis: the axis the sides stand across.
        upper: 0 for the lower side of each voxel, 1 for the upper one.
    """
    along = 1 if axis == 0 else 0
    across = 3 - axis - along
    rows = np.moveaxis(sides, along, -1)
    padded = np.zeros((*rows.shape[:2], rows.shape[2] + 2), np.int8)
    padded[..., 1:-1] = rows
    change = np.diff(padded, axis=-1)
    starts, ends = np.argwhere(change == 1), np.argwhere(change == -1)
    kept = [other for other in range(3) if other != along]
    low = np.zeros((len(starts), 3), np.float32)
    low[:, kept], low[:, along] = starts[:, :2], starts[:, 2]
    low[:, axis] += upper
    high = low.copy()
    high[:, along] = ends[:, 2]
    high[:, across] += 1
    corners = np.repeat(low[:, None], 4, axis=1)
    corners[:, 1, along], corners[:, 2], corners[:, 3, across] = high[:, along], high, high[:, across]
    return corners
