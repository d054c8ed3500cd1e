"""The records of the town: triangle meshes with labels, moving things, weather and the world itself."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32, Int32, UInt8, UInt16

from occloom.town.street import Course

SENSOR_HEIGHT = 1.73  # of the velodyne above the road, as on KITTI's car


@dataclass(frozen=True)
class Mesh:
    """Triangles with one raw SemanticKITTI id each.

    Attributes:
        vertices: metres, in the frame of the object or of the world.
        faces: vertex indices, anticlockwise seen from outside where there is an outside.
        label: raw SemanticKITTI ids.
        instance: 0 for stuff, else unique within the sequence.
        material: `occloom.town.materials.Material`.
        colour: linear RGB albedo in [0, 1].
    """

    vertices: Float32[np.ndarray, "V 3"]
    faces: Int32[np.ndarray, "F 3"]
    label: UInt16[np.ndarray, "F"]
    instance: UInt16[np.ndarray, "F"]
    material: UInt8[np.ndarray, "F"]
    colour: Float32[np.ndarray, "F 3"]

    def placed(self, world_from_object: Float[np.ndarray, "4 4"]) -> "Mesh":
        """The same mesh with its vertices moved by a rigid (or similar) transform."""
        moved = self.vertices @ world_from_object[:3, :3].T + world_from_object[:3, 3]
        return Mesh(moved.astype(np.float32), self.faces, self.label, self.instance, self.material, self.colour)

    def named(self, label: int, instance: int) -> "Mesh":
        """The same triangles as one instance of one class."""
        count = len(self.faces)
        labels, instances = np.full(count, label, np.uint16), np.full(count, instance, np.uint16)
        return Mesh(self.vertices, self.faces, labels, instances, self.material, self.colour)


def empty_mesh() -> Mesh:
    """A mesh without triangles."""
    return Mesh(
        np.zeros((0, 3), np.float32),
        np.zeros((0, 3), np.int32),
        np.zeros(0, np.uint16),
        np.zeros(0, np.uint16),
        np.zeros(0, np.uint8),
        np.zeros((0, 3), np.float32),
    )


def concatenate(meshes: Sequence[Mesh]) -> Mesh:
    """Joins meshes; the faces keep the order of the meshes."""
    if not meshes:
        return empty_mesh()
    starts = np.cumsum([0] + [len(mesh.vertices) for mesh in meshes[:-1]])
    return Mesh(
        np.concatenate([mesh.vertices for mesh in meshes]),
        np.concatenate([mesh.faces + np.int32(start) for mesh, start in zip(meshes, starts, strict=True)]),
        np.concatenate([mesh.label for mesh in meshes]),
        np.concatenate([mesh.instance for mesh in meshes]),
        np.concatenate([mesh.material for mesh in meshes]),
        np.concatenate([mesh.colour for mesh in meshes]),
    )


@dataclass(frozen=True)
class Mover:
    """A rigid thing on a smooth course; its mesh has x forward, z up and its origin on the ground."""

    mesh: Mesh
    course: Course

    def world_from_object(self, time: float) -> Float[np.ndarray, "4 4"]:
        """Exact pose at `time` seconds."""
        return self.course.pose(time)


@dataclass(frozen=True)
class Weather:
    """Light, air and camera of one sequence; colours are linear RGB radiances.

    Attributes:
        sun_direction: unit vector towards the sun (or the moon), world frame.
        sun_colour: irradiance on a surface that faces the sun.
        sky_zenith, sky_horizon, ground: radiance overhead, at the horizon, and bounced from below.
        cloud_cover: share of the sky in cloud, 0 to 1; cloud_shift: where in the cloud texture.
        haze: extinction per metre.
        darkness: 0 by day to 1 by night; lamps, head lights and lit windows shine with it.
        exposure: factor before the tone curve; white_balance: factor per channel.
        noise: standard deviation of sensor noise at mid grey; vignette: loss of light in the corners.
    """

    sun_direction: Float[np.ndarray, "3"]
    sun_colour: Float[np.ndarray, "3"]
    sky_zenith: Float[np.ndarray, "3"]
    sky_horizon: Float[np.ndarray, "3"]
    ground: Float[np.ndarray, "3"]
    cloud_cover: float
    cloud_shift: Float[np.ndarray, "2"]
    haze: float
    darkness: float
    exposure: float
    white_balance: Float[np.ndarray, "3"]
    noise: float
    vignette: float


@dataclass(frozen=True)
class World:
    """Everything there is during one drive.

    Attributes:
        static: all that stands still, world frame.
        movers: all that moves.
        weather: light, air and camera.
        ego: the course of the driving car.
        lamps: positions of street lamps, metres.
        duration: seconds of drive available.
    """

    static: Mesh
    movers: tuple[Mover, ...]
    weather: Weather
    ego: Course
    lamps: Float32[np.ndarray, "L 3"]
    duration: float

    def world_from_ego(self, time: float) -> Float[np.ndarray, "4 4"]:
        """Pose of the velodyne (x forward, y left, z up) at `time` seconds; its pitch follows the slope."""
        pose = self.ego.pose(time)
        pose[:3, 3] += SENSOR_HEIGHT * pose[:3, 2]
        return pose


def dynamic_mesh(world: World, time: float) -> Mesh:
    """The movers where they are at `time` seconds, in the world frame."""
    return concatenate([mover.mesh.placed(mover.world_from_object(time)) for mover in world.movers])
