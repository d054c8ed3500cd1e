"""Voxels drawn as shaded cubes, by ray casting on the CPU: no window, no graphics driver.

Everything is deterministic: four fixed samples a pixel, a hard sun shadow, and ambient occlusion from how full the
neighbourhood of each face is, so pictures are free of noise and compress well.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Int, Integer, UInt8

from occloom.grid import LabelSpace, Triple, VoxelGrid
from occloom.viewer.solids import Solid, SolidRays, rays_against
from occloom.viewer.viewpoint import EgoMarker, Size, Viewpoint, camera_lines, chase_view, draw_lines

_SUN = np.array([-0.50, 0.42, 0.76], np.float32) / np.float32(np.linalg.norm([-0.50, 0.42, 0.76]))
_SUN_LIGHT = np.array([0.82, 0.78, 0.70], np.float32)
_SKY_LIGHT = np.array([0.36, 0.39, 0.44], np.float32)
_GROUND_ALBEDO = np.array([0.70, 0.71, 0.72], np.float32)
_HORIZON, _ZENITH = np.array([0.87, 0.90, 0.93], np.float32), np.array([0.70, 0.80, 0.92], np.float32)
_EGO_ALBEDO = np.array([0.86, 0.87, 0.88], np.float32)
_EGO_BOXES = (((-2.3, -0.9, 0.25), (2.2, 0.9, 0.95)), ((-1.7, -0.75, 0.95), (0.9, 0.75, 1.55)))
"""Body and cabin of a car, metres, z from the road."""
_SAMPLES = np.array([[-0.125, -0.375], [0.375, -0.125], [0.125, 0.375], [-0.375, 0.125]], np.float32)
"""Where in a pixel rays start, as offsets from its centre: a rotated grid, best for nearly level edges."""
_SURFACE_OFFSET = np.float32(2e-3)


def voxel_picture(
    labels: Integer[np.ndarray, "X Y Z"],
    grid: VoxelGrid,
    label_space: LabelSpace,
    *,
    observed: Bool[np.ndarray, "X Y Z"] | None = None,
    size: Size = (400, 640),
    viewpoint: Viewpoint | None = None,
    ego: EgoMarker | None = None,
) -> UInt8[np.ndarray, "H W 3"]:
    """Draw the occupied voxels as cubes in the colours of their classes.

    Args:
        labels: Class ids.
        grid: Where the voxels lie.
        label_space: Whose ids and colours.
        observed: Voxels to draw; the others are left out.
        size: Height and width, in pixels.
        viewpoint: Where from; behind and above the grid if None.
        ego: Draw the car, and the view of its camera.
    """
    viewpoint = viewpoint or chase_view(grid)
    occupied = labels != label_space.empty
    if observed is not None:
        occupied &= observed
    scene = _Scene.build(labels, occupied, grid, display_colours(label_space), ego)
    directions = _ray_directions(viewpoint, size)
    colour, distance = _shade(scene, np.array(viewpoint.position, np.float32), directions)
    picture = _encode(colour.reshape(*size, len(_SAMPLES), 3).mean(axis=2))
    if ego is None or ego.camera_from_ego is None:
        return picture
    nearest = distance.reshape(*size, len(_SAMPLES)).min(axis=2)
    return draw_lines(picture, camera_lines(ego, grid), viewpoint, nearest)


def display_colours(label_space: LabelSpace) -> UInt8[np.ndarray, "K 3"]:
    """The classes' colours as pictures and legends show them: a little softer than the benchmark's."""
    colours = np.array(label_space.colours, np.float64)
    grey = colours @ (0.299, 0.587, 0.114)
    return (0.66 * colours + 0.16 * grey[:, None] + 0.18 * 205).round().astype(np.uint8)


@dataclass(frozen=True)
class _Scene:
    """What rays can hit, and how it looks."""

    rays: SolidRays
    """Against the voxels, which are solid 0, and the parts of the car."""
    labels: Integer[np.ndarray, "X Y Z"]
    fullness: Float32[np.ndarray, "X+2 Y+2 Z+2"]
    grid: VoxelGrid
    albedo: Float32[np.ndarray, "K 3"]
    """Linear."""

    @staticmethod
    def build(
        labels: Integer[np.ndarray, "X Y Z"],
        occupied: Bool[np.ndarray, "X Y Z"],
        grid: VoxelGrid,
        colours: UInt8[np.ndarray, "K 3"],
        ego: EgoMarker | None,
    ) -> "_Scene":
        """Voxels and car."""
        car = [] if ego is None else [_box(lower, upper, ego.road_height) for lower, upper in _EGO_BOXES]
        return _Scene(
            rays=rays_against([Solid(occupied, grid), *car]),
            labels=labels,
            fullness=_fullness(occupied),
            grid=grid,
            albedo=_decode(colours),
        )


def _box(lower: Triple, upper: Triple, road_height: float) -> Solid:
    """A box as a grid of one voxel."""
    x, y, z = (high - low for low, high in zip(lower, upper, strict=True))
    grid = VoxelGrid(lower=(lower[0], lower[1], lower[2] + road_height), voxel_size=(x, y, z), shape=(1, 1, 1))
    return Solid(np.ones(grid.shape, bool), grid)


def _fullness(occupied: Bool[np.ndarray, "X Y Z"]) -> Float32[np.ndarray, "X+2 Y+2 Z+2"]:
    """Share of occupied voxels around each voxel, near and farther, padded by one voxel on every side."""
    padded = np.pad(occupied, 1).astype(np.float32)
    near = _box_mean(padded, 1)
    return np.float32(0.5) * (near + _box_mean(near, 4))


def _box_mean(values: Float32[np.ndarray, "X Y Z"], radius: int) -> Float32[np.ndarray, "X Y Z"]:
    """Mean over cubes of 2 radius + 1 voxels; what lies outside counts as zero."""
    for axis in range(3):
        widths = [(radius + 1, radius) if a == axis else (0, 0) for a in range(3)]
        sums = np.cumsum(np.pad(values, widths), axis=axis, dtype=np.float32)
        upper = np.take(sums, np.arange(2 * radius + 1, sums.shape[axis]), axis=axis)
        values = (upper - np.take(sums, np.arange(values.shape[axis]), axis=axis)) / np.float32(2 * radius + 1)
    return values


def _ray_directions(viewpoint: Viewpoint, size: Size) -> Float32[np.ndarray, "R 3"]:
    """Unit directions, ego frame: rows of pixels, samples of a pixel together."""
    height, width = size
    u = np.arange(width, dtype=np.float32) - (width - 1) / 2
    v = np.arange(height, dtype=np.float32) - (height - 1) / 2
    camera = np.empty((height, width, len(_SAMPLES), 3), np.float32)
    camera[..., 0] = u[None, :, None] + _SAMPLES[:, 0]
    camera[..., 1] = v[:, None, None] + _SAMPLES[:, 1]
    camera[..., 2] = viewpoint.focal_length(size)
    camera = camera.reshape(-1, 3)
    camera /= np.sqrt(np.einsum("ij,ij->i", camera, camera))[:, None]
    return camera @ viewpoint.axes().astype(np.float32)


def _shade(
    scene: _Scene, origin: Float32[np.ndarray, "3"], directions: Float32[np.ndarray, "R 3"]
) -> tuple[Float32[np.ndarray, "R 3"], Float32[np.ndarray, "R"]]:
    """Linear colour and distance, in metres, of what each ray meets."""
    hits = scene.rays.nearest(np.broadcast_to(origin, directions.shape), directions)
    colour, distance = _background(directions), hits.distance.copy()
    hit = np.flatnonzero(hits.face >= 0)
    face = hits.face[hit]
    points = origin + directions[hit] * hits.distance[hit, None]
    normals = scene.rays.normals[face]
    albedo, openness = _surface(scene, face, points, normals, hits.distance[hit])
    colour[hit] = albedo * _light(scene, points, normals, openness)

    missed = np.flatnonzero((hits.face < 0) & (directions[:, 2] < -1e-3))
    reach = (np.float32(scene.grid.lower[2]) - origin[2]) / directions[missed, 2]
    ground = missed[reach > 0]
    reach = reach[reach > 0]
    points = origin + directions[ground] * reach[:, None]
    up = np.broadcast_to(np.array([0, 0, 1], np.float32), points.shape)
    lit = _GROUND_ALBEDO * _light(scene, points, up, np.ones(len(points), np.float32))
    seen = _nearness(scene.grid, points)[:, None]
    colour[ground] = seen * lit + (1 - seen) * colour[ground]
    distance[ground] = reach
    return colour, distance


def _surface(
    scene: _Scene,
    face: Int[np.ndarray, "H"],
    points: Float32[np.ndarray, "H 3"],
    normals: Float32[np.ndarray, "H 3"],
    distance: Float32[np.ndarray, "H"],
) -> tuple[Float32[np.ndarray, "H 3"], Float32[np.ndarray, "H"]]:
    """Albedo, with dark lines between voxels that are near enough, and the share of the sky each face sees."""
    grid = scene.grid
    inside = (points - np.array(grid.lower, np.float32)) / np.array(grid.voxel_size, np.float32)
    voxel = np.floor(inside - np.float32(0.5) * normals).astype(np.int32)
    np.clip(voxel, 0, np.array(grid.shape, np.int32) - 1, out=voxel)
    x, y, z = voxel.T
    albedo = scene.albedo[scene.labels[x, y, z]]
    x, y, z = (voxel + 1 + normals.astype(np.int32)).T
    openness = np.clip(np.float32(1.25) - np.float32(1.5) * scene.fullness[x, y, z], 0.25, 1.0)

    # Distance to the nearest edge of the face, in voxels; along the normal it is no edge.
    to_edge = np.abs(inside - np.round(inside)) + np.abs(normals)
    near = np.clip(1.6 - distance * np.float32(0.008 / max(grid.voxel_size)), 0.0, 1.0)
    albedo *= (1 - np.float32(0.35) * near * (to_edge.min(axis=1) < np.float32(0.06)))[:, None]
    ego = scene.rays.solid[face] > 0
    albedo[ego], openness[ego] = _EGO_ALBEDO, 1.0
    return albedo, openness


def _light(
    scene: _Scene,
    points: Float32[np.ndarray, "H 3"],
    normals: Float32[np.ndarray, "H 3"],
    openness: Float32[np.ndarray, "H"],
) -> Float32[np.ndarray, "H 3"]:
    """Sun, where it is not blocked, and sky."""
    facing = normals @ _SUN
    lit = np.flatnonzero(facing > 0)
    starts = points[lit] + _SURFACE_OFFSET * normals[lit]
    sun = np.zeros(len(points), np.float32)
    sun[lit] = facing[lit] * ~scene.rays.blocked(starts, np.broadcast_to(_SUN, starts.shape))
    sky = openness * (np.float32(0.8) + np.float32(0.2) * normals[:, 2])
    return sun[:, None] * _SUN_LIGHT + sky[:, None] * _SKY_LIGHT


def _nearness(grid: VoxelGrid, points: Float32[np.ndarray, "H 3"]) -> Float32[np.ndarray, "H"]:
    """1 within the grid's footprint, falling to 0 half its length away."""
    lower, upper = np.array(grid.lower[:2], np.float32), np.array(grid.upper[:2], np.float32)
    outside = np.maximum(np.maximum(lower - points[:, :2], points[:, :2] - upper), 0)
    away = np.sqrt(np.einsum("ij,ij->i", outside, outside)) / (0.5 * (upper[0] - lower[0]))
    return np.clip(1 - away, 0, 1) ** 2


def _background(directions: Float32[np.ndarray, "R 3"]) -> Float32[np.ndarray, "R 3"]:
    """Sky above, haze at the horizon and below."""
    height = np.clip(directions[:, 2:] * np.float32(3), 0, 1)
    return _HORIZON + height * (_ZENITH - _HORIZON)


def _decode(colours: UInt8[np.ndarray, "*c 3"]) -> Float32[np.ndarray, "*c 3"]:
    """Linear light of sRGB values, by the power 2.2."""
    return (colours.astype(np.float32) / 255) ** np.float32(2.2)


def _encode(light: Float32[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "H W 3"]:
    """The inverse of `_decode`, cut at white."""
    return (np.clip(light, 0, 1) ** np.float32(1 / 2.2) * 255 + 0.5).astype(np.uint8)
