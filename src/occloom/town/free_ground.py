"""Where something more can stand: ground that nothing covers, that nobody drives or walks on, and that is in sight."""

import numpy as np
from jaxtyping import Bool, Float, Float64

from occloom.rays import StaticRays
from occloom.town.mesh import Mesh, World
from occloom.town.site import MARKING, OTHER_GROUND, PARKING, ROAD, SIDEWALK, TERRAIN

GROUND = (ROAD, PARKING, SIDEWALK, OTHER_GROUND, MARKING, TERRAIN)
MARGIN = 0.25  # kept free around a thing, metres
UNEVEN = 0.35  # most that the ground under a thing may differ in height, metres
STEP = 0.5  # between the rays that look for things, metres
UPRIGHT = 0.5  # height over the ground at which fences and walls are looked for, metres
LOOKING_DOWN = 25.0  # they start so high above the ground, metres
EYE, MIDDLE = 1.84, 0.9  # heights of the LiDAR and of what it must see of a thing, metres
_EGO_BOX = np.array([[-1.4, -1.05, 0.0], [3.9, 1.05, 2.0]])  # of the ego car about its rear axle


class FreeGround:
    """The free ground of a world; what is taken is free no longer."""

    def __init__(self, world: World, times: Float64[np.ndarray, " T"]) -> None:
        """Looks at a world.

        Args:
            world: what stands and moves there already.
            times: when movers are looked at, seconds.

        Raises:
            InputError: If embreex is not installed.
        """
        self._static = world.static
        self._rays = StaticRays(world.static.vertices, world.static.faces)
        courses = [(world.ego, _EGO_BOX)]
        courses += [(mover.course, _box(mover.mesh)) for mover in world.movers]
        self._frames = [np.stack([np.linalg.inv(course.pose(float(t))) for t in times]) for course, _ in courses]
        self._boxes = [box for _, box in courses]
        self._taken: list[tuple[Float64[np.ndarray, "4 4"], Float64[np.ndarray, "2 3"]]] = []

    def height(self, place: Float64[np.ndarray, "3"]) -> float | None:
        """Height in the world of what lies at or above a place on the road's level, None where there is nothing."""
        above = (place + np.array([0.0, 0.0, LOOKING_DOWN])).astype(np.float32)[None]
        hits = self._rays.nearest(above, np.array([[0.0, 0.0, -1.0]], np.float32))
        return None if hits.face[0] < 0 else float(above[0, 2] - hits.distance[0])

    def take(
        self,
        mesh: Mesh,
        world_from_object: Float64[np.ndarray, "4 4"],
        *,
        ground: tuple[int, ...],
        lookouts: Float64[np.ndarray, "L 3"],
    ) -> bool:
        """Takes the ground under a thing if it is free.

        Args:
            mesh: the thing, standing about its origin.
            world_from_object: where it would stand.
            ground: raw ids of ground that it may stand on.
            lookouts: places on the road, from the height of the LiDAR over one of which the thing must be in sight.

        Returns:
            Whether it may stand there; if so, the ground is taken.
        """
        box = _box(mesh)
        points = _carpet(box) @ world_from_object[:3, :3].T + world_from_object[:3, 3]
        free = self._covered_by_ground(points, ground) and not self._in_the_way(points)
        free = free and self._in_sight(world_from_object, lookouts)
        if free:
            self._taken.append((np.linalg.inv(world_from_object), box))
        return free

    def _covered_by_ground(self, points: Float64[np.ndarray, "P 3"], ground: tuple[int, ...]) -> bool:
        above = points.astype(np.float32) + np.array([0.0, 0.0, LOOKING_DOWN], np.float32)
        down = np.broadcast_to(np.array([0.0, 0.0, -1.0], np.float32), above.shape)
        hits = self._rays.nearest(above, down)
        if (hits.face < 0).any() or not np.isin(self._static.label[hits.face], ground).all():
            return False
        if (np.abs(hits.distance - LOOKING_DOWN) > UNEVEN).any():
            return False
        # Between the rays from above a fence may hide: nothing upright may cross the footprint either.
        low = points.astype(np.float32) + np.array([0.0, 0.0, UPRIGHT], np.float32)
        across = low[::-1] - low
        return not self._rays.blocked(low, across, np.ones(len(low), np.float32)).any()

    def _in_the_way(self, points: Float64[np.ndarray, "P 3"]) -> bool:
        for object_from_world, box in self._taken:
            if _inside(points @ object_from_world[:3, :3].T + object_from_world[:3, 3], box).any():
                return True
        reach = np.linalg.norm(points - points.mean(axis=0), axis=1).max()
        for frames, box in zip(self._frames, self._boxes, strict=True):
            middle = frames[:, :3, :3] @ points.mean(axis=0) + frames[:, :3, 3]
            near = frames[np.linalg.norm(middle, axis=1) < reach + np.abs(box).max() + 2 * MARGIN]
            local = np.einsum("tij,pj->tpi", near[:, :3, :3], points) + near[:, None, :3, 3]
            if _inside(local, box).any():
                return True
        return False

    def _in_sight(self, world_from_object: Float64[np.ndarray, "4 4"], lookouts: Float64[np.ndarray, "L 3"]) -> bool:
        eyes = lookouts + np.array([0.0, 0.0, EYE])
        way = (world_from_object[:3, 3] + np.array([0.0, 0.0, MIDDLE]) - eyes).astype(np.float32)
        blocked = self._rays.blocked(eyes.astype(np.float32), way, np.ones(len(way), np.float32))
        return bool((~blocked).any())


def _box(mesh: Mesh) -> Float64[np.ndarray, "2 3"]:
    """Lowest and highest corner."""
    return np.stack([mesh.vertices.min(axis=0), mesh.vertices.max(axis=0)]).astype(np.float64)


def _carpet(box: Float64[np.ndarray, "2 3"]) -> Float64[np.ndarray, "P 3"]:
    """Points at height 0 all over the footprint of a box and its margin."""
    axes = []
    for axis in (0, 1):
        low, high = box[0, axis] - MARGIN, box[1, axis] + MARGIN
        axes.append(np.linspace(low, high, int(np.ceil((high - low) / STEP)) + 1))
    x, y = (grid.ravel() for grid in np.meshgrid(*axes, indexing="ij"))
    return np.stack([x, y, np.zeros_like(x)], axis=-1)


def _inside(points: Float[np.ndarray, "*b P 3"], box: Float64[np.ndarray, "2 3"]) -> Bool[np.ndarray, "*b P"]:
    """Which points lie over the footprint of a box and its margin, at any height up to 4 m off."""
    near = (points[..., :2] > box[0, :2] - MARGIN) & (points[..., :2] < box[1, :2] + MARGIN)
    return near.all(axis=-1) & (np.abs(points[..., 2]) < 4.0)
