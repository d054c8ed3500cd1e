"""Light of the town: sky, sun, ambient light, lamps, head lights, mirrors and haze. Radiances are linear RGB."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float32, UInt8

from occloom.town.materials import Material
from occloom.town.mesh import Weather, World
from occloom.town.scene_rays import WorldRays
from occloom.town.textures import noise

OFFSET = np.float32(4e-3)  # of secondary rays from the surface, metres
SUN_SPREAD = 0.014  # half the sun's angle, a little more than the real one for soft edges, radians
SKY_PALENESS = 0.4  # of the light in the shade: clouds and facades that the sun shines on make it less blue
FAR_SHADE = 0.65  # share of the sky that houses and trees beyond the reach of the openness rays leave free
LAMPS_SEEN = 10  # street lamps nearest to the camera that shine
LAMP_REACH = 70.0  # of those, metres
LAMP_COLOUR = np.array([1.0, 0.7, 0.38], np.float32)
LAMP_POWER = 46.0
HEAD_LIGHT_COLOUR = np.array([1.0, 0.93, 0.8], np.float32)
HEAD_LIGHT_POWER = 150.0
HEAD_LIGHT_PLACE = (2.0, 0.0, -1.08)  # between both lights, in the ego frame, metres
WINDOW_COLOUR = np.array([1.0, 0.66, 0.32], np.float32)

_SHEEN = np.zeros(256, np.float32)  # mirror reflection seen straight on
_SHEEN[[Material.GLASS, Material.LIT_GLASS, Material.PAINT, Material.METAL]] = 0.08, 0.08, 0.045, 0.05
_SHEEN[[Material.HEAD_LIGHT, Material.TAIL_LIGHT]] = 0.06, 0.05
_GLOSS = np.full(256, 20.0, np.float32)  # exponent of the sun's highlight
_GLOSS[[Material.GLASS, Material.LIT_GLASS, Material.PAINT, Material.METAL]] = 900.0, 900.0, 260.0, 40.0


@dataclass(frozen=True)
class Hit:
    """Places seen, in the world frame.

    Attributes:
        point, normal: metres, and unit normal towards the viewer.
        direction: unit direction of the ray that came.
        material: of the face.
        albedo: linear RGB.
        tone: a number in [0, 1) of the face, the same all over one window.
    """

    point: Float32[np.ndarray, "N 3"]
    normal: Float32[np.ndarray, "N 3"]
    direction: Float32[np.ndarray, "N 3"]
    material: UInt8[np.ndarray, "N"]
    albedo: Float32[np.ndarray, "N 3"]
    tone: Float32[np.ndarray, "N"]


def sky(weather: Weather, direction: Float32[np.ndarray, "N 3"]) -> Float32[np.ndarray, "N 3"]:
    """Radiance from each direction: gradient, clouds, glow around the sun and its disc."""
    up = np.clip(direction[:, 2], 0.0, 1.0)
    share = (1 - np.exp(-3.2 * up))[:, None]
    horizon, zenith = _rgb(weather.sky_horizon), _rgb(weather.sky_zenith)
    towards = np.clip(direction @ _rgb(weather.sun_direction), 0.0, 1.0)
    sun = _rgb(weather.sun_colour)
    glow = (0.04 * towards**6 + 0.1 * towards**60)[:, None] * sun
    clear = horizon + (zenith - horizon) * share + glow
    lift = 1.0 / (up + 0.12)
    x, y = direction[:, 0] * lift + weather.cloud_shift[0], direction[:, 1] * lift + weather.cloud_shift[1]
    body = noise(x.astype(np.float32), y.astype(np.float32), 1.6, (0.004 * lift * lift).astype(np.float32))
    cover = np.clip(4.0 * (body - 1 + weather.cloud_cover) + 0.2, 0, 1) * np.clip(9 * up, 0, 1)
    bright = 0.62 * (horizon + zenith) + 0.06 * sun
    cloud = bright * (1.15 - 0.55 * np.clip(body - 0.5, 0, 1))[:, None] + 2 * glow
    disc = (np.clip((towards - 0.9995) / 0.0003, 0, 1) * (1 - 0.97 * cover))[:, None] * 20 * sun
    return clear + (cloud - clear) * (0.92 * cover)[:, None] + disc


def ambient(weather: Weather, normal: Float32[np.ndarray, "N 3"]) -> Float32[np.ndarray, "N 3"]:
    """Radiance a white surface sends back under the open sky alone: sky from above, bounced light from below."""
    up = (0.5 + 0.5 * normal[:, 2])[:, None]
    blue = 0.45 * _rgb(weather.sky_zenith) + 0.55 * _rgb(weather.sky_horizon)
    above = (blue + (blue.mean() - blue) * np.float32(SKY_PALENESS)) * np.float32(FAR_SHADE)
    return _rgb(weather.ground) + (above - _rgb(weather.ground)) * up


def sunlight(
    rays: WorldRays, time: float, hit: Hit, jitter: Float32[np.ndarray, "N 3"]
) -> tuple[Float32[np.ndarray, "N 3"], Bool[np.ndarray, "N"]]:
    """What the sun adds if nothing is in its way (diffuse, through leaves, highlights), and whether nothing is."""
    weather = rays.world.weather
    sun, colour = _rgb(weather.sun_direction), _rgb(weather.sun_colour)
    leaf = hit.material == Material.LEAF
    facing = hit.normal @ sun
    through = 0.35 + 0.6 * np.where(facing > 0, facing, -0.7 * facing)
    strength = np.where(leaf, through, np.maximum(facing, 0)) / np.float32(np.pi)
    half = _unit(sun - hit.direction)
    cosine = np.clip(np.einsum("ij,ij->i", half, hit.normal), 0, 1)
    gloss = _GLOSS[hit.material]
    highlight = np.where(facing > 0, _SHEEN[hit.material] * (gloss + 8) / 25 * cosine**gloss, 0)
    light = (hit.albedo * strength[:, None] + highlight[:, None]) * colour
    lit = np.flatnonzero(strength > 0)
    side = np.where(facing[lit] < 0, -OFFSET, OFFSET)
    start = hit.point[lit] + hit.normal[lit] * side[:, None]
    towards = _unit(sun + np.float32(SUN_SPREAD) * jitter[lit])
    free = np.zeros(len(hit.point), bool)
    free[lit] = ~rays.blocked(time, start, towards, np.full(len(lit), np.inf, np.float32))
    return light.astype(np.float32), free


def openness(rays: WorldRays, time: float, hit: Hit, random: Float32[np.ndarray, "N 4"]) -> Bool[np.ndarray, "N"]:
    """Whether one random ray about the normal gets away: the mean of many is the share of open sky."""
    towards = _unit(hit.normal + 0.98 * on_sphere(random[:, 0], random[:, 1]))
    reach = 0.25 + 5.0 * random[:, 2] ** 2
    return ~rays.blocked(time, hit.point + OFFSET * hit.normal, towards, reach.astype(np.float32))


def mirrored(rays: WorldRays, time: float, hit: Hit) -> Float32[np.ndarray, "N 3"]:
    """Light that glass, paint and metal throw back: the sky, or the plain colour of what is in its way."""
    answer = np.zeros_like(hit.albedo)
    shiny = np.flatnonzero(_SHEEN[hit.material] > 0)
    if len(shiny) == 0:
        return answer
    normal, direction = hit.normal[shiny], hit.direction[shiny]
    cosine = np.clip(-np.einsum("ij,ij->i", normal, direction), 0, 1)
    away = direction + 2 * cosine[:, None] * normal
    seen = rays.nearest(time, hit.point[shiny] + OFFSET * normal, away)
    met = seen.face >= 0
    light = sky(rays.world.weather, away)
    plain = ambient(rays.world.weather, seen.normal[met]) + 0.12 * _rgb(rays.world.weather.sun_colour)
    light[met] = rays.faces.colour[seen.face[met]] * plain
    sheen = _SHEEN[hit.material[shiny]]
    answer[shiny] = (sheen + (1 - sheen) * (1 - cosine) ** 5)[:, None] * np.minimum(light, 4.0)
    return answer


def glow(weather: Weather, hit: Hit) -> Float32[np.ndarray, "N 3"]:
    """Light that lamps, head and tail lights and lit windows send out themselves."""
    answer = np.zeros_like(hit.albedo)
    dark = np.float32(weather.darkness)
    for kind, power in ((Material.HEAD_LIGHT, 9.0), (Material.TAIL_LIGHT, 3.5), (Material.LAMP, 14.0)):
        part = hit.material == kind
        answer[part] = hit.albedo[part] * (power * dark)
    bulbs = hit.material == Material.LAMP
    answer[bulbs] += 0.3 * hit.albedo[bulbs]
    panes = hit.material == Material.LIT_GLASS
    texture = np.clip(hit.albedo[panes, :1] / 0.05, 0.3, 2.0)
    answer[panes] = WINDOW_COLOUR * texture * (dark * (0.15 + 0.75 * hit.tone[panes]))[:, None]
    return answer


def lamplight(rays: WorldRays, time: float, hit: Hit, eye: Float[np.ndarray, "3"]) -> Float32[np.ndarray, "N 3"]:
    """What the street lamps and the head lights of the driving car add in the dark."""
    answer = np.zeros_like(hit.albedo)
    dark = np.float32(rays.world.weather.darkness)
    if dark <= 0.02:
        return answer
    total = _head_lights(rays.world, time, hit)[:, None] * HEAD_LIGHT_COLOUR
    lamps = rays.world.lamps
    distance = np.linalg.norm(lamps - np.asarray(eye, np.float32), axis=1)
    near = np.argsort(distance, kind="stable")[:LAMPS_SEEN]
    for lamp in lamps[near[distance[near] < LAMP_REACH]]:
        total += _one_lamp(rays, time, hit, lamp)[:, None] * LAMP_COLOUR
    return hit.albedo * total * dark


def through_haze(
    weather: Weather,
    light: Float32[np.ndarray, "N 3"],
    distance: Float32[np.ndarray, "N"],
    direction: Float32[np.ndarray, "N 3"],
) -> Float32[np.ndarray, "N 3"]:
    """Light after `distance` metres of air, and the light the air adds."""
    clear = np.exp(-np.float32(weather.haze) * distance)[:, None]
    towards = np.clip(direction @ _rgb(weather.sun_direction), 0.0, 1.0)[:, None]
    air = _rgb(weather.sky_horizon) + 0.06 * towards**6 * _rgb(weather.sun_colour)
    return light * clear + air * (1 - clear)


def on_sphere(a: Float32[np.ndarray, "N"], b: Float32[np.ndarray, "N"]) -> Float32[np.ndarray, "N 3"]:
    """Unit vectors, even over the sphere for even `a` and `b` in [0, 1)."""
    z = 2 * a - 1
    ring, angle = np.sqrt(np.maximum(1 - z * z, 0)), np.float32(2 * np.pi) * b
    return np.stack([ring * np.cos(angle), ring * np.sin(angle), z], axis=-1).astype(np.float32)


def _one_lamp(rays: WorldRays, time: float, hit: Hit, lamp: Float32[np.ndarray, "3"]) -> Float32[np.ndarray, "N"]:
    """Radiance on white from one lamp that shines downwards, with its shadow."""
    answer = np.zeros(len(hit.point), np.float32)
    offset = lamp - hit.point
    square = np.einsum("ij,ij->i", offset, offset)
    near = np.flatnonzero(square < 28.0**2)
    offset, length = offset[near], np.sqrt(square[near])
    towards = offset / length[:, None]
    facing = np.clip(np.einsum("ij,ij->i", towards, hit.normal[near]), 0, 1)
    facing = np.maximum(facing, 0.4 * (hit.material[near] == Material.LEAF))
    light = facing * np.clip(1.6 * towards[:, 2] + 0.15, 0, 1) / (square[near] + 1.0) * np.clip(2 - length / 14, 0, 1)
    bright = np.flatnonzero(light > 2e-4)
    start = hit.point[near[bright]] + OFFSET * hit.normal[near[bright]]
    free = ~rays.blocked(time, start, towards[bright], np.maximum(length[bright] - 0.5, 0).astype(np.float32))
    answer[near[bright]] = light[bright] * free * np.float32(LAMP_POWER / np.pi)
    return answer


def _head_lights(world: World, time: float, hit: Hit) -> Float32[np.ndarray, "N"]:
    """Radiance on white from the low beam of the driving car; its shadows hide behind what casts them."""
    ego = world.world_from_ego(time)
    place = (ego[:3, :3] @ np.array(HEAD_LIGHT_PLACE) + ego[:3, 3]).astype(np.float32)
    offset = (hit.point - place) @ ego[:3, :3].astype(np.float32)
    square = np.einsum("ij,ij->i", offset, offset) + 30.0
    ahead = np.maximum(offset[:, 0], 0.1)
    across, above = offset[:, 1] / ahead, offset[:, 2] / ahead
    beam = np.exp(-((across / 0.42) ** 2) - ((above + 0.05) / np.where(above > -0.05, 0.055, 0.16)) ** 2)
    beam = beam * (offset[:, 0] > 0.3) + 0.015 * (offset[:, 0] > 0)
    facing = np.abs(np.einsum("ij,ij->i", hit.direction, hit.normal))
    boost = np.where(hit.material == Material.SIGN, 3.0, 1.0)
    return (beam * boost * facing / square * (HEAD_LIGHT_POWER / np.pi)).astype(np.float32)


def _rgb(values: np.ndarray) -> np.ndarray:
    return np.asarray(values, np.float32)


def _unit(vectors: np.ndarray) -> np.ndarray:
    length = np.sqrt(np.einsum("ij,ij->i", vectors, vectors))
    return vectors / np.maximum(length, np.float32(1e-6))[:, None]
