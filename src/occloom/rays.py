"""Rays against triangles: the one place that calls embreex."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, Int32

from occloom.errors import InputError


@dataclass(frozen=True)
class Hits:
    """The nearest hit of each ray.

    Attributes:
        distance: along the unit direction, metres; infinite where nothing is hit.
        face: index of the face hit, -1 where nothing is hit.
        normal: unit geometric normal, turned towards the origin of the ray; zero where nothing is hit.
        u, v: barycentric weights of the face's second and third vertex.
    """

    distance: Float32[np.ndarray, "R"]
    face: Int32[np.ndarray, "R"]
    normal: Float32[np.ndarray, "R 3"]
    u: Float32[np.ndarray, "R"]
    v: Float32[np.ndarray, "R"]


class StaticRays:
    """A bounding volume hierarchy over triangles that do not move."""

    def __init__(self, vertices: Float32[np.ndarray, "V 3"], faces: Int32[np.ndarray, "F 3"]) -> None:
        """Builds the hierarchy.

        Args:
            vertices: metres.
            faces: vertex indices; there may be none.

        Raises:
            InputError: If embreex cannot be imported.
        """
        self._scene = _embree_scene(vertices, faces) if len(faces) else None

    def nearest(self, origins: Float32[np.ndarray, "R 3"], directions: Float32[np.ndarray, "R 3"]) -> Hits:
        """The first face each ray meets.

        Args:
            origins: metres; on a surface, start 2e-3 m off it along its normal.
            directions: unit vectors.
        """
        if self._scene is None or len(origins) == 0:
            return _misses(len(origins))
        answer = self._scene.run(_packed(origins), _packed(directions), query="INTERSECT", output=True)
        face = np.where(answer["geomID"] < 0, np.int32(-1), answer["primID"])
        distance = np.where(face < 0, np.float32(np.inf), answer["tfar"])
        return Hits(distance, face, _facing(answer["Ng"], directions), answer["u"], answer["v"])

    def blocked(
        self,
        origins: Float32[np.ndarray, "R 3"],
        directions: Float32[np.ndarray, "R 3"],
        max_distance: Float32[np.ndarray, "R"],
    ) -> Bool[np.ndarray, "R"]:
        """Whether anything lies on each ray nearer than `max_distance`.

        Args:
            origins: metres.
            directions: of any length; distances are counted in it, so in metres for unit vectors.
            max_distance: infinite is fine.
        """
        if self._scene is None or len(origins) == 0:
            return np.zeros(len(origins), bool)
        limits = np.minimum(max_distance, np.float32(1e30))
        return self._scene.run(_packed(origins), _packed(directions), dists=limits, query="OCCLUDED") == 0


def _embree_scene(vertices: Float32[np.ndarray, "V 3"], faces: Int32[np.ndarray, "F 3"]) -> Any:
    """An Embree scene; imported here so that all else works where embreex has no wheel."""
    try:
        from embreex.mesh_construction import TriangleMesh
        from embreex.rtcore_scene import EmbreeScene
    except ImportError as error:
        raise InputError(
            f"embreex cannot be imported ({error})",
            rule="casting rays needs it, and it has no wheel for Linux on Arm",
            remedy="run `pip install embreex` on x86-64 Linux, macOS or Windows, or use frames made elsewhere",
        ) from error
    scene = EmbreeScene()
    TriangleMesh(scene, _packed(vertices), np.ascontiguousarray(faces))
    return scene


def _packed(rows: np.ndarray) -> np.ndarray:
    """Contiguous float32, the only layout embreex reads."""
    return np.ascontiguousarray(rows, dtype=np.float32)


def _misses(count: int) -> Hits:
    zeros = np.zeros(count, np.float32)
    nothing = np.full(count, -1, np.int32)
    return Hits(np.full(count, np.inf, np.float32), nothing, np.zeros((count, 3), np.float32), zeros, zeros)


def _facing(normals: Float32[np.ndarray, "R 3"], directions: Float32[np.ndarray, "R 3"]) -> Float32[np.ndarray, "R 3"]:
    """Unit normals turned against the rays; zero stays zero."""
    length = np.sqrt(np.einsum("ij,ij->i", normals, normals))
    away = np.einsum("ij,ij->i", normals, directions) > 0
    return normals * (np.where(away, np.float32(-1), np.float32(1)) / np.maximum(length, np.float32(1e-30)))[:, None]
