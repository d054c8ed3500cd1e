"""Rays against occupied voxels: as a mesh where embreex can be imported, else by walking from voxel to voxel.

Both see the same surface, the faces between an occupied voxel and a free one, from either side.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int8, Int32, Int64, Shaped

from occloom.grid import Triple, VoxelGrid
from occloom.rays import StaticRays
from occloom.viewer.faces import NORMALS, exposed_faces, face_quads

_FREE, _OUTSIDE = 0, 2
"""What a voxel is to a walk; an occupied one is 1."""
_BATCH = 1 << 15
"""Rays that walk together: few enough for the processor's cache."""


@dataclass(frozen=True)
class Solid:
    """Occupied voxels of a grid."""

    occupied: Bool[np.ndarray, "X Y Z"]
    grid: VoxelGrid


@dataclass(frozen=True)
class SolidHits:
    """The nearest hit of each ray."""

    distance: Float32[np.ndarray, "R"]
    """Along the unit direction, metres; infinite where nothing is hit."""
    face: Int32[np.ndarray, "R"]
    """A row of the rays' `normals` and `solid`; -1 where nothing is hit."""


@runtime_checkable
class SolidRays(Protocol):
    """Rays against some solids."""

    normals: Float32[np.ndarray, "F 3"]
    """Outward, by face."""
    solid: Int32[np.ndarray, "F"]
    """Which solid each face belongs to."""

    def nearest(self, origins: Float32[np.ndarray, "R 3"], directions: Float32[np.ndarray, "R 3"]) -> SolidHits:
        """The first face each ray meets; directions are unit vectors."""
        ...

    def blocked(
        self, origins: Float32[np.ndarray, "R 3"], directions: Float32[np.ndarray, "R 3"]
    ) -> Bool[np.ndarray, "R"]:
        """Whether each ray meets any face."""
        ...


def rays_against(solids: Sequence[Solid]) -> SolidRays:
    """The faster way that this machine has."""
    return MeshRays(solids) if find_spec("embreex") else WalkRays(solids)


class MeshRays:
    """Against triangles, by embreex; a face is a triangle."""

    def __init__(self, solids: Sequence[Solid]) -> None:
        """Meshes the solids.

        Raises:
            InputError: If embreex cannot be imported.
        """
        parts = [face_quads(exposed_faces(solid.occupied), solid.grid) for solid in solids]
        starts = np.cumsum([0] + [len(part.vertices) for part in parts[:-1]])
        faces = [part.faces + np.int32(start) for part, start in zip(parts, starts, strict=True)]
        self._rays = StaticRays(np.concatenate([part.vertices for part in parts]), np.concatenate(faces))
        self.normals = np.concatenate([part.normals for part in parts]).astype(np.float32)
        self.solid = np.repeat(np.arange(len(parts), dtype=np.int32), [len(part.faces) for part in parts])

    def nearest(self, origins: Float32[np.ndarray, "R 3"], directions: Float32[np.ndarray, "R 3"]) -> SolidHits:
        """See `SolidRays.nearest`."""
        hits = self._rays.nearest(origins, directions)
        return SolidHits(hits.distance, hits.face)

    def blocked(
        self, origins: Float32[np.ndarray, "R 3"], directions: Float32[np.ndarray, "R 3"]
    ) -> Bool[np.ndarray, "R"]:
        """See `SolidRays.blocked`."""
        return self._rays.blocked(origins, directions, np.full(len(origins), np.inf, np.float32))


class WalkRays:
    """Against voxels, by numpy alone; face 6 s + n is any of solid s with the n-th of `NORMALS`."""

    def __init__(self, solids: Sequence[Solid]) -> None:
        """Marks what is outside of each grid."""
        self._grids = [solid.grid for solid in solids]
        self._codes = [np.pad(solid.occupied.astype(np.int8), 1, constant_values=_OUTSIDE) for solid in solids]
        self.normals = np.tile(NORMALS.astype(np.float32), (len(solids), 1))
        self.solid = np.repeat(np.arange(len(solids), dtype=np.int32), len(NORMALS))

    def nearest(self, origins: Float32[np.ndarray, "R 3"], directions: Float32[np.ndarray, "R 3"]) -> SolidHits:
        """See `SolidRays.nearest`."""
        distance, face = np.full(len(origins), np.inf, np.float32), np.full(len(origins), -1, np.int32)
        for start in range(0, len(origins), _BATCH):
            batch = slice(start, start + _BATCH)
            for solid, (codes, grid) in enumerate(zip(self._codes, self._grids, strict=True)):
                hits = _walk(codes, grid, origins[batch], directions[batch])
                nearer = hits.distance < distance[batch]
                distance[batch][nearer] = hits.distance[nearer]
                face[batch][nearer] = hits.face[nearer] + len(NORMALS) * solid
        return SolidHits(distance, face)

    def blocked(
        self, origins: Float32[np.ndarray, "R 3"], directions: Float32[np.ndarray, "R 3"]
    ) -> Bool[np.ndarray, "R"]:
        """See `SolidRays.blocked`."""
        return self.nearest(origins, directions).face >= 0


@dataclass(frozen=True)
class _Start:
    """Where rays that cross a grid begin to walk. Rows are axes; distances are along the ray, metres."""

    ray: Int64[np.ndarray, "N"]
    distance: Float64[np.ndarray, "N"]
    voxel: Int64[np.ndarray, "N"]
    """Flat, of the padded grid."""
    axis: Int64[np.ndarray, "N"]
    """Across which the grid was entered; of no meaning to rays that begin in it."""
    within: Bool[np.ndarray, "N"]
    """Whether the ray begins in the grid."""
    crossing: Float64[np.ndarray, "3 N"]
    """Distance of the next plane between voxels."""
    pace: Float64[np.ndarray, "3 N"]
    """From one plane to the next."""
    stride: Int64[np.ndarray, "3 N"]
    """What crossing a plane adds to the flat voxel."""


def _walk(
    codes: Int8[np.ndarray, "X Y Z"],
    grid: VoxelGrid,
    origins: Float32[np.ndarray, "R 3"],
    directions: Float32[np.ndarray, "R 3"],
) -> SolidHits:
    """All rays at once, a voxel a step, to the first that is not like the one they began in; done ones drop out.

    J. Amanatides, A. Woo: A Fast Voxel Traversal Algorithm for Ray Tracing, Eurographics 1987, section 2.
    """
    start, code_of = _enter(codes.shape, grid, origins, directions), codes.ravel()
    crossing, pace, stride = start.crossing.ravel(), start.pace.ravel(), start.stride.ravel()
    began = np.where(start.within, code_of[start.voxel], np.int8(_FREE))
    distance, face = np.full(len(origins), np.inf, np.float32), np.full(len(origins), -1, np.int32)
    count = len(start.ray)
    walker, voxel, axis, reached = np.arange(count), start.voxel, start.axis, start.distance
    while len(walker):
        here, first = code_of[voxel], began[walker]
        walks = here == first
        hit = np.flatnonzero(~walks & ((here != _OUTSIDE) | (first != _FREE)))
        ray, leaves = start.ray[walker[hit]], first[hit] != _FREE
        distance[ray] = reached[hit]
        face[ray] = 2 * axis[hit] + ((directions[ray, axis[hit]] < 0) ^ leaves)
        walker, voxel = walker[walks], voxel[walks]
        x, y, z = crossing[walker], crossing[walker + count], crossing[walker + 2 * count]
        axis = np.where(x <= y, np.where(x <= z, 0, 2), np.where(y <= z, 1, 2))
        crossed = axis * count + walker
        reached = crossing[crossed]
        crossing[crossed] = reached + pace[crossed]
        voxel = voxel + stride[crossed]
    return SolidHits(distance, face)


def _enter(
    padded_shape: tuple[int, ...],
    grid: VoxelGrid,
    origins: Float32[np.ndarray, "R 3"],
    directions: Float32[np.ndarray, "R 3"],
) -> _Start:
    """The rays that cross a grid, and where they do first."""
    column = _columns(grid.voxel_size)
    origin = (origins.T - _columns(grid.lower)) / column
    direction = directions.T / column
    # Never quite along a plane, so that no distance is 0 / 0.
    direction = np.where(np.abs(direction) < 1e-12, 1e-12, direction)
    forward, shape = direction > 0, _columns(grid.shape)
    enter = (np.where(forward, 0, shape) - origin) / direction
    leave = (np.where(forward, shape, 0) - origin) / direction
    first = np.maximum(enter.max(axis=0), 0)
    ray = np.flatnonzero(leave.min(axis=0) > first)
    origin, direction, forward, enter, first = (part[..., ray] for part in (origin, direction, forward, enter, first))
    cell = np.clip(np.floor(origin + first * direction), 0, shape - 1)
    strides = np.array([[padded_shape[1] * padded_shape[2]], [padded_shape[2]], [1]])
    return _Start(
        ray=ray,
        distance=first,
        voxel=((cell.astype(np.int64) + 1) * strides).sum(axis=0),
        axis=enter.argmax(axis=0),
        within=first == 0,
        crossing=(cell + forward - origin) / direction,
        pace=np.abs(1 / direction),
        stride=np.where(forward, strides, -strides),
    )


def _columns(values: Triple | tuple[int, int, int]) -> Shaped[np.ndarray, "3 1"]:
    return np.array(values)[:, None]
