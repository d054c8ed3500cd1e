"""Exact voxel labels: the surfaces themselves at one moment, not what scans over seven seconds make of them.

Beside the labels by the official rule they show what that rule gets wrong: tubes behind things that move, holes where
no beam fell, and votes won by the nearer of two surfaces.
"""

import numpy as np
from jaxtyping import Float32, Float64, UInt16

from occloom.grid import VoxelGrid
from occloom.town.mesh import Mesh

SAMPLES_PER_SIDE = 16.0  # samples on a surface as large as one side of a voxel
LONGEST_EDGE = 8.0  # triangles are cut until no edge is longer, in voxels


def exact_labels(
    mesh: Mesh, ego_from_world: Float64[np.ndarray, "4 4"], grid: VoxelGrid
) -> UInt16[np.ndarray, "X Y Z"]:
    """The raw id with the largest surface in each voxel, 0 where there is no surface.

    The surface is sampled evenly, at least once a triangle; of two ids with equal surface the smaller one wins.

    Args:
        mesh: everything there is, world frame.
        ego_from_world: the pose of the grid.
        grid: the voxels.
    """
    size = np.array(grid.voxel_size)
    places = (mesh.vertices @ ego_from_world[:3, :3].T + ego_from_world[:3, 3] - np.array(grid.lower)) / size
    triangles, face = _cut(places[mesh.faces].astype(np.float32), grid)
    points, area, owner = _samples(triangles)
    inside = ((points >= 0) & (points < np.array(grid.shape, np.float32))).all(axis=1)
    index = points[inside].astype(np.int64)
    flat = (index[:, 0] * grid.shape[1] + index[:, 1]) * grid.shape[2] + index[:, 2]
    label = mesh.label[face[owner[inside]]].astype(np.int64)
    keys, which = np.unique(flat << 16 | label, return_inverse=True)
    surface = np.bincount(which, weights=area[inside], minlength=len(keys))
    order = np.lexsort((keys & 0xFFFF, -surface, keys >> 16))
    voxel = keys[order] >> 16
    first = np.flatnonzero(np.concatenate([[True], voxel[1:] != voxel[:-1]])[: len(voxel)])
    volume = np.zeros(grid.num_voxels, np.uint16)
    volume[voxel[first]] = (keys[order][first] & 0xFFFF).astype(np.uint16)
    return volume.reshape(grid.shape)


def _cut(triangles: Float32[np.ndarray, "F 3 3"], grid: VoxelGrid) -> tuple[Float32[np.ndarray, "G 3 3"], np.ndarray]:
    """Triangles near the grid, the long ones cut in halves again and again, and the face each comes from."""
    face = np.arange(len(triangles))
    small, small_face = [], []
    while len(triangles):
        low, high = triangles.min(axis=1), triangles.max(axis=1)
        near = ((high >= 0) & (low < np.array(grid.shape, np.float32))).all(axis=1)
        triangles, face = triangles[near], face[near]
        edges = np.linalg.norm(np.roll(triangles, -1, axis=1) - triangles, axis=2)
        done = edges.max(axis=1, initial=0.0) <= LONGEST_EDGE
        small.append(triangles[done])
        small_face.append(face[done])
        triangles, face, edges = triangles[~done], face[~done], edges[~done]
        # Turn each triangle so that its longest edge leads from corner 0 to corner 1, and halve that edge.
        turn = (edges.argmax(axis=1)[:, None] + np.arange(3)) % 3
        a, b, c = np.moveaxis(np.take_along_axis(triangles, turn[:, :, None], axis=1), 1, 0)
        middle = 0.5 * (a + b)
        triangles = np.concatenate([np.stack([a, middle, c], axis=1), np.stack([middle, b, c], axis=1)])
        face = np.concatenate([face, face])
    if not small:
        return np.zeros((0, 3, 3), np.float32), face
    return np.concatenate(small), np.concatenate(small_face)


def _samples(
    triangles: Float32[np.ndarray, "G 3 3"],
) -> tuple[Float32[np.ndarray, "S 3"], np.ndarray, np.ndarray]:
    """Points spread evenly on the triangles, the surface each stands for, and its triangle.

    The points of a triangle follow the additive recurrence with the inverse powers of the plastic number, folded into
    the triangle.
    """
    a, b, c = np.moveaxis(triangles, 1, 0)
    area = 0.5 * np.linalg.norm(np.cross(b - a, c - a), axis=1)
    count = np.ceil(area * SAMPLES_PER_SIDE).astype(np.int64).clip(min=1)
    owner = np.repeat(np.arange(len(triangles)), count)
    rank = np.arange(len(owner)) - np.repeat(np.cumsum(count) - count, count)
    u = ((0.5 + rank * 0.7548776662466927) % 1.0).astype(np.float32)
    v = ((0.5 + rank * 0.5698402909980532) % 1.0).astype(np.float32)
    over = u + v > 1
    u, v = np.where(over, 1 - u, u)[:, None], np.where(over, 1 - v, v)[:, None]
    points = a[owner] + u * (b - a)[owner] + v * (c - a)[owner]
    return points, (area / count)[owner], owner
