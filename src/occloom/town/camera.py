"""Pictures of the town by casting rays, and the exact depth, class and segment of every pixel.

Pixel (0, 0) is the centre of the first pixel and pixel u spans [u - 0.5, u + 0.5). Cameras are of any pose: x right, y
down, z forward.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32, Int32, Int64, UInt8, UInt16

from occloom.rays import Hits
from occloom.town import lighting
from occloom.town.lighting import Hit
from occloom.town.mesh import Weather
from occloom.town.scene_rays import WorldRays
from occloom.town.textures import albedo, cell_hash, surface_at

SAMPLES_PER_BLOCK = 1 << 17  # bounds memory
OPENNESS_EVERY = 2  # samples of a pixel for each ray that asks for open sky
BOUNCE = 0.22  # share of the ambient light that reaches a place without open sky


def render_depth(
    rays: WorldRays,
    *,
    time: float,
    intrinsics: Float[np.ndarray, "3 3"],
    world_from_camera: Float[np.ndarray, "4 4"],
    image_size: tuple[int, int],
) -> Float32[np.ndarray, "H W"]:
    """Exact z-depth at the centre of each pixel.

    Args:
        rays: the world.
        time: seconds.
        intrinsics: of the camera, pixels.
        world_from_camera: its pose.
        image_size: height and width, pixels.

    Returns:
        Metres along the camera's z axis; 0 for sky.
    """
    hits, length = _centre_hits(rays, time, intrinsics, world_from_camera, image_size)
    depth = np.where(hits.face < 0, np.float32(0), hits.distance) / length
    return depth.reshape(image_size)


def render_labels(
    rays: WorldRays,
    *,
    time: float,
    intrinsics: Float[np.ndarray, "3 3"],
    world_from_camera: Float[np.ndarray, "4 4"],
    image_size: tuple[int, int],
) -> UInt16[np.ndarray, "H W"]:
    """Raw SemanticKITTI id at the centre of each pixel, 0 for sky; arguments as for `render_depth`."""
    hits, _ = _centre_hits(rays, time, intrinsics, world_from_camera, image_size)
    label = np.zeros(len(hits.face), np.uint16)
    label[hits.face >= 0] = rays.faces.label[hits.face[hits.face >= 0]]
    return label.reshape(image_size)


def render_segments(
    rays: WorldRays,
    *,
    time: float,
    intrinsics: Float[np.ndarray, "3 3"],
    world_from_camera: Float[np.ndarray, "4 4"],
    image_size: tuple[int, int],
) -> Int64[np.ndarray, "H W"]:
    """What the centre of each pixel shows: raw id + 65536 x instance, -1 for sky; arguments as for `render_depth`.

    What has no instance, such as a road, is one segment a class.
    """
    hits, _ = _centre_hits(rays, time, intrinsics, world_from_camera, image_size)
    segment, seen = np.full(len(hits.face), -1), hits.face >= 0
    face = hits.face[seen]
    segment[seen] = rays.faces.label[face] + (rays.faces.instance[face].astype(np.int64) << 16)
    return segment.reshape(image_size)


def render_image(
    rays: WorldRays,
    *,
    time: float,
    intrinsics: Float[np.ndarray, "3 3"],
    world_from_camera: Float[np.ndarray, "4 4"],
    image_size: tuple[int, int],
    rng: np.random.Generator,
    samples_per_pixel: int = 4,
    samples_per_block: int = SAMPLES_PER_BLOCK,
) -> UInt8[np.ndarray, "H W 3"]:
    """A colour picture in the weather of the world.

    Args:
        rays: the world.
        time: seconds.
        intrinsics: of the camera, pixels.
        world_from_camera: its pose.
        image_size: height and width, pixels.
        rng: decides where in a pixel rays fall, and the noise of the sensor.
        samples_per_pixel: rays a pixel.
        samples_per_block: rays cast at once; it changes no pixel.

    Returns:
        sRGB.
    """
    height, width = image_size
    salt = int(rng.integers(1 << 31))
    view = _View(rays, time, np.linalg.inv(intrinsics), world_from_camera, salt, samples_per_pixel)
    rows = max(1, samples_per_block // (width * samples_per_pixel))
    films = [_film(view, row, min(row + rows, height), width) for row in range(0, height, rows)]
    whole = _Film(*(np.concatenate(parts) for parts in zip(*(film.buffers() for film in films), strict=True)))
    plain, sun, ambient, sunny, open_sky, point, normal = (
        buffer.reshape(height, width, -1) for buffer in whole.buffers()
    )
    share = _smoothed(open_sky[..., 0], point, normal, reach=2)[..., None]
    sunny = _smoothed(sunny[..., 0], point, normal, reach=1)[..., None]
    radiance = plain + sun * sunny + ambient * (BOUNCE + (1 - BOUNCE) * share)
    return _developed(radiance, rays.world.weather, rng)


@dataclass(frozen=True)
class _View:
    rays: WorldRays
    time: float
    camera_from_pixel: Float[np.ndarray, "3 3"]
    world_from_camera: Float[np.ndarray, "4 4"]
    salt: int
    samples: int


@dataclass(frozen=True)
class _Film:
    """Means over the samples of each pixel of some rows.

    Attributes:
        plain: radiance that is final.
        sun: radiance from the sun, were nothing in its way; sunny: the share of it that arrives.
        ambient: radiance under the whole sky; open_sky: the share of the sky that is free.
        point, normal: of the first sample.
    """

    plain: Float32[np.ndarray, "P 3"]
    sun: Float32[np.ndarray, "P 3"]
    ambient: Float32[np.ndarray, "P 3"]
    sunny: Float32[np.ndarray, "P"]
    open_sky: Float32[np.ndarray, "P"]
    point: Float32[np.ndarray, "P 3"]
    normal: Float32[np.ndarray, "P 3"]

    def buffers(self) -> tuple[np.ndarray, ...]:
        """The fields in their order."""
        return self.plain, self.sun, self.ambient, self.sunny, self.open_sky, self.point, self.normal


def _film(view: _View, first: int, last: int, width: int) -> _Film:
    """Casts and shades all samples of the rows from `first` to `last`; sample k of a pixel is at k modulo samples."""
    count = (last - first) * width
    pixel = np.repeat(np.arange(first * width, last * width, dtype=np.int32), view.samples)
    sample = np.tile(np.arange(view.samples, dtype=np.int32), count)
    number = pixel * np.int32(view.samples) + sample
    u, v = _places(view, pixel, sample, number, width)
    direction, length = _directions(u, v, view.camera_from_pixel, view.world_from_camera)
    eye = view.world_from_camera[:3, 3].astype(np.float32)
    hits = view.rays.nearest(view.time, np.broadcast_to(eye, direction.shape), direction)
    seen = np.flatnonzero(hits.face >= 0)
    missed = np.flatnonzero(hits.face < 0)
    plain, sun, shaded, ambient = (np.zeros_like(direction) for _ in range(4))
    plain[missed] = lighting.sky(view.rays.world.weather, direction[missed])
    pixel_width = hits.distance[seen] / length[seen] * np.float32(abs(view.camera_from_pixel[1, 1]))
    hit = _hit(view, direction, hits, seen, pixel_width)
    plain[seen], sun[seen], shaded[seen], ambient[seen] = _lit(view, hit, hits.distance[seen], number[seen])
    asked = sample[seen] % OPENNESS_EVERY == 0
    open_sky = np.ones(len(pixel), np.float32)
    asking = _chosen(hit, np.flatnonzero(asked))
    random = np.stack([cell_hash(number[seen[asked]], axis, view.salt + 1) for axis in range(4)], axis=-1)
    open_sky[seen[asked]] = lighting.openness(view.rays, view.time, asking, random)
    point = eye + np.where(hits.face < 0, np.float32(1e4), hits.distance)[:, None] * direction
    groups = (count, view.samples, -1)
    full, part = (light.reshape(groups).sum(axis=(1, 2)) for light in (sun, shaded))
    return _Film(
        plain.reshape(groups).mean(axis=1),
        sun.reshape(groups).mean(axis=1),
        ambient.reshape(groups).mean(axis=1),
        np.where(full > 0, part / np.maximum(full, 1e-9), np.float32(1)),
        open_sky.reshape(groups)[:, ::OPENNESS_EVERY, 0].mean(axis=1),
        point.reshape(groups)[:, 0],
        hits.normal.reshape(groups)[:, 0],
    )


def _lit(
    view: _View, hit: Hit, distance: Float32[np.ndarray, "N"], number: Int32[np.ndarray, "N"]
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Radiance towards the camera: final, from the sun without shadows, with them, and under the whole sky."""
    rays, weather = view.rays, view.rays.world.weather
    jitter = lighting.on_sphere(cell_hash(number, 5, view.salt), cell_hash(number, 6, view.salt))
    sun, free = lighting.sunlight(rays, view.time, hit, jitter)
    light = lighting.mirrored(rays, view.time, hit) + lighting.glow(weather, hit)
    light += lighting.lamplight(rays, view.time, hit, view.world_from_camera[:3, 3])
    light = lighting.through_haze(weather, light, distance, hit.direction)
    clear = np.exp(-np.float32(weather.haze) * distance)[:, None]
    sun *= clear
    return light, sun, sun * free[:, None], hit.albedo * lighting.ambient(weather, hit.normal) * clear


def _hit(view: _View, direction: np.ndarray, hits: Hits, seen: np.ndarray, pixel_width: np.ndarray) -> Hit:
    """The surfaces behind the samples `seen`, with their texture."""
    rays, face, ray = view.rays, hits.face[seen], direction[seen]
    normal = hits.normal[seen]
    point = view.world_from_camera[:3, 3].astype(np.float32) + hits.distance[seen, None] * ray
    own_point, own_normal = _in_own_frame(view, face, point, normal)
    facing = np.clip(-np.einsum("ij,ij->i", ray, normal), 0.05, 1)
    colour, material = rays.faces.colour[face], rays.faces.material[face]
    surface = surface_at(own_point, own_normal, colour, (pixel_width / np.sqrt(facing)).astype(np.float32))
    tone = cell_hash((colour[:, 0] * 1e6).astype(np.int32), 0, 17)
    return Hit(point, normal, ray, material, albedo(material, surface), tone)


def _in_own_frame(
    view: _View, face: np.ndarray, point: np.ndarray, normal: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Points and normals of what moves in the frame of the mover, all others in that of the world."""
    world = view.rays.world
    moving = np.flatnonzero(face >= len(world.static.faces))
    if len(moving) == 0:
        return point, normal
    ends = len(world.static.faces) + np.cumsum([len(mover.mesh.faces) for mover in world.movers])
    owner = np.searchsorted(ends, face[moving], side="right")
    object_from_world = np.stack([np.linalg.inv(mover.world_from_object(view.time)) for mover in world.movers])
    turn, shift = object_from_world[owner, :3, :3], object_from_world[owner, :3, 3]
    own_point, own_normal = point.copy(), normal.copy()
    own_point[moving] = np.einsum("nij,nj->ni", turn, point[moving]) + shift
    own_normal[moving] = np.einsum("nij,nj->ni", turn, normal[moving])
    return own_point, own_normal


def _chosen(hit: Hit, index: np.ndarray) -> Hit:
    return Hit(
        hit.point[index],
        hit.normal[index],
        hit.direction[index],
        hit.material[index],
        hit.albedo[index],
        hit.tone[index],
    )


def _places(
    view: _View, pixel: np.ndarray, sample: np.ndarray, number: np.ndarray, width: int
) -> tuple[np.ndarray, np.ndarray]:
    """Where each sample falls on the picture: one at random in each column and each row of a fine chess board."""
    rank = np.argsort(np.argsort(cell_hash(np.arange(view.samples, dtype=np.int32), 3, 11)))
    across = (sample + cell_hash(number, 1, view.salt)) / view.samples
    down = (rank[sample] + cell_hash(number, 2, view.salt)) / view.samples
    return pixel % width + across - 0.5, pixel // width + down - 0.5


def _directions(
    u: np.ndarray, v: np.ndarray, camera_from_pixel: np.ndarray, world_from_camera: np.ndarray
) -> tuple[Float32[np.ndarray, "N 3"], Float32[np.ndarray, "N"]]:
    """Unit directions in the world through picture places, and the length of each ray where its z-depth is 1."""
    rays = np.stack([u, v, np.ones_like(u)], axis=-1) @ (world_from_camera[:3, :3] @ camera_from_pixel).T
    length = np.sqrt(np.einsum("ij,ij->i", rays, rays))
    return (rays / length[:, None]).astype(np.float32), length.astype(np.float32)


def _centre_hits(
    rays: WorldRays, time: float, intrinsics: np.ndarray, world_from_camera: np.ndarray, image_size: tuple[int, int]
) -> tuple[Hits, Float32[np.ndarray, "P"]]:
    height, width = image_size
    v, u = (axis.ravel().astype(float) for axis in np.mgrid[:height, :width])
    direction, length = _directions(u, v, np.linalg.inv(intrinsics), world_from_camera)
    origin = np.broadcast_to(world_from_camera[:3, 3].astype(np.float32), direction.shape)
    return rays.nearest(time, origin, direction), length


def _smoothed(
    value: Float32[np.ndarray, "H W"],
    point: Float32[np.ndarray, "H W 3"],
    normal: Float32[np.ndarray, "H W 3"],
    *,
    reach: int,
) -> Float32[np.ndarray, "H W"]:
    """Means over the neighbours of the same surface: near the plane of the middle pixel and facing the same way."""
    height, width = value.shape
    base = np.einsum("hwc,hwc->hw", point, normal)
    margin = ((reach, reach), (reach, reach))
    wide = [np.pad(value, margin, mode="edge")]
    wide += [np.pad(array, (*margin, (0, 0)), mode="edge") for array in (point, normal)]
    total, weights = np.zeros_like(value), np.full_like(value, 1e-6)
    for dy, dx in np.ndindex(2 * reach + 1, 2 * reach + 1):
        one, place, facing = (array[dy : dy + height, dx : dx + width] for array in wide)
        apart = np.abs(np.einsum("hwc,hwc->hw", place, normal) - base)
        weight = np.clip(1 - apart / 0.12, 0, 1) * np.clip(np.einsum("hwc,hwc->hw", facing, normal), 0, 1) ** 4
        total += weight * one
        weights += weight
    return np.where(weights > 0.5, total / weights, value)


def _developed(
    radiance: Float32[np.ndarray, "H W 3"], weather: Weather, rng: np.random.Generator
) -> UInt8[np.ndarray, "H W 3"]:
    """Film: fall-off to the corners, exposure, white balance, tone curve, noise of light and of the sensor, sRGB."""
    height, width = radiance.shape[:2]
    v, u = np.mgrid[:height, :width]
    radius = ((u - width / 2) / (width / 2)) ** 2 + ((v - height / 2) / (width / 2)) ** 2
    light = radiance * weather.exposure * np.asarray(weather.white_balance) * (1 - weather.vignette * radius)[..., None]
    light = light * (2.51 * light + 0.03) / (light * (2.43 * light + 0.59) + 0.14)  # rational fit of a filmic curve
    light += weather.noise * np.sqrt((light + 0.003) / 0.2) * rng.normal(size=light.shape)
    light = np.clip(light, 0.0, 1.0)
    coded = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    return np.round(255 * coded).astype(np.uint8)
