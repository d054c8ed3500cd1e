"""Rays against the world at any time: what stands still is built once, the movers anew for each moment."""

import numpy as np
from jaxtyping import Bool, Float32

from occloom.rays import Hits, StaticRays
from occloom.town.mesh import Mesh, World, concatenate, dynamic_mesh, empty_mesh


class WorldRays:
    """Rays against a world at any time; faces are numbered as in `mesh(time)`: first the static ones, then the movers'.

    Labels, instances, materials, colours and vertex indices of that mesh are the same at all times; only the movers'
    vertices change. The last moment is kept, so ask for one time after the other.
    """

    def __init__(self, world: World) -> None:
        """Builds the hierarchy of what stands still.

        Raises:
            InputError: If embreex cannot be imported.
        """
        self.world = world
        self.faces = concatenate([world.static, dynamic_mesh(world, 0.0)])
        """All faces, with the movers where they are at time 0: for labels, materials and colours by face index."""
        self._static = StaticRays(world.static.vertices, world.static.faces)
        self._time: float | None = None
        self._moving = empty_mesh()
        self._dynamic = StaticRays(self._moving.vertices, self._moving.faces)

    def mesh(self, time: float) -> Mesh:
        """Everything there is at `time` seconds, world frame."""
        vertices = np.concatenate([self.world.static.vertices, dynamic_mesh(self.world, time).vertices])
        every = self.faces
        return Mesh(vertices, every.faces, every.label, every.instance, every.material, every.colour)

    def nearest(self, time: float, origins: Float32[np.ndarray, "R 3"], directions: Float32[np.ndarray, "R 3"]) -> Hits:
        """The first face each ray meets at `time` seconds; see `StaticRays.nearest`."""
        self._move_to(time)
        still = self._static.nearest(origins, directions)
        if len(self._moving.faces) == 0:
            return still
        moving = self._dynamic.nearest(origins, directions)
        nearer = moving.distance < still.distance
        first = np.int32(len(self.world.static.faces))
        return Hits(
            np.where(nearer, moving.distance, still.distance),
            np.where(nearer, moving.face + first, still.face),
            np.where(nearer[:, None], moving.normal, still.normal),
            np.where(nearer, moving.u, still.u),
            np.where(nearer, moving.v, still.v),
        )

    def blocked(
        self,
        time: float,
        origins: Float32[np.ndarray, "R 3"],
        directions: Float32[np.ndarray, "R 3"],
        max_distance: Float32[np.ndarray, "R"],
    ) -> Bool[np.ndarray, "R"]:
        """Whether anything lies on each ray nearer than `max_distance` metres at `time` seconds."""
        self._move_to(time)
        still = self._static.blocked(origins, directions, max_distance)
        return still | self._dynamic.blocked(origins, directions, max_distance)

    def _move_to(self, time: float) -> None:
        if time != self._time:
            self._moving = dynamic_mesh(self.world, time)
            self._dynamic = StaticRays(self._moving.vertices, self._moving.faces)
            self._time = time
