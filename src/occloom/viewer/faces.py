"""The faces of voxels that can be seen: those whose neighbour is free."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Int8, Int32, Int64

from occloom.grid import VoxelGrid

NORMALS = np.array([[-1, 0, 0], [1, 0, 0], [0, -1, 0], [0, 1, 0], [0, 0, -1], [0, 0, 1]], np.int8)
"""Outward normals of a voxel's faces, in the order used throughout."""
_RUN_AXIS = (1, 1, 0, 0, 0, 0)
"""Axis along which neighbouring faces of each side are joined into one quad."""


@dataclass(frozen=True)
class Quads:
    """Axis-aligned rectangles, two triangles each."""

    vertices: Float32[np.ndarray, "V 3"]
    """Ego frame, metres; four a quad."""
    faces: Int32[np.ndarray, "F 3"]
    """Triangles; quad q has faces 2q and 2q + 1."""
    normals: Int8[np.ndarray, "F 3"]
    """Outward, one a triangle."""


def exposed_faces(occupied: Bool[np.ndarray, "X Y Z"]) -> Bool[np.ndarray, "6 X Y Z"]:
    """Which faces of occupied voxels look at a free voxel or out of the grid, in the order of `NORMALS`."""
    exposed = np.repeat(occupied[None], 6, axis=0)
    inner, first, last = slice(1, None), slice(None, -1), slice(None)
    for axis in range(3):
        upper = (last,) * axis + (inner,)
        lower = (last,) * axis + (first,)
        exposed[2 * axis][upper] &= ~occupied[lower]
        exposed[2 * axis + 1][lower] &= ~occupied[upper]
    return exposed


def face_quads(exposed: Bool[np.ndarray, "6 X Y Z"], grid: VoxelGrid) -> Quads:
    """Rectangles that cover the exposed faces, rows of neighbours joined whatever their class.

    Joining makes the mesh several times smaller; which voxel a point belongs to follows from the point itself.
    """
    vertices, normals = [], []
    for side, mask in enumerate(exposed):
        starts, ends = _runs(mask, _RUN_AXIS[side])
        vertices.append(_corners(starts, ends, side))
        normals.append(np.repeat(NORMALS[side : side + 1], 2 * len(starts), axis=0))
    corners = np.concatenate(vertices).reshape(-1, 3)
    quad = np.arange(0, len(corners), 4, dtype=np.int32)[:, None, None]
    return Quads(
        vertices=(np.array(grid.lower) + corners * np.array(grid.voxel_size)).astype(np.float32),
        faces=(quad + np.array([[0, 1, 2], [0, 2, 3]], np.int32)).reshape(-1, 3),
        normals=np.concatenate(normals),
    )


def _runs(mask: Bool[np.ndarray, "X Y Z"], axis: int) -> tuple[Int64[np.ndarray, "Q 3"], Int64[np.ndarray, "Q 3"]]:
    """First and last voxel of each unbroken row of faces along `axis`."""
    rows = np.ascontiguousarray(np.moveaxis(mask, axis, 2))
    start, end = rows.copy(), rows.copy()
    start[:, :, 1:] &= ~rows[:, :, :-1]
    end[:, :, :-1] &= ~rows[:, :, 1:]
    # Rows lie along the last axis, so starts and ends come in the same order.
    indices = [np.stack(np.unravel_index(np.flatnonzero(edge), rows.shape), axis=1) for edge in (start, end)]
    order = list(range(2))
    order.insert(axis, 2)
    return indices[0][:, order], indices[1][:, order]


def _corners(starts: Int64[np.ndarray, "Q 3"], ends: Int64[np.ndarray, "Q 3"], side: int) -> Int64[np.ndarray, "Q 4 3"]:
    """Corners, in voxels from the grid's lower corner, of one side of boxes from first to last voxel."""
    axis = side // 2
    u, v = (a for a in range(3) if a != axis)
    corners = np.repeat(starts[:, None], 4, axis=1)
    corners[:, :, axis] += side % 2
    corners[:, 1:3, u] = ends[:, None, u] + 1
    corners[:, 2:4, v] = ends[:, None, v] + 1
    return corners
