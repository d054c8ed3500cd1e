"""Every material can be stored, seen and scanned; no table of the sensors forgets one."""

from dataclasses import replace

import numpy as np
import pytest

from occloom.town.lidar import Lidar, cast_scan
from occloom.town.materials import Material
from occloom.town.mesh import World, concatenate
from occloom.town.scene_rays import WorldRays
from occloom.town.shapes import box
from occloom.town.textures import Surface, albedo

KINDS = list(Material)


@pytest.fixture(scope="module")
def remission(plain_world: World) -> list[np.ndarray]:
    """What comes back from a pillar of each material, all as far from the sensor and equally grey."""
    angle = 2 * np.pi * np.arange(len(KINDS)) / len(KINDS)
    places = 6.0 * np.stack([np.cos(angle), np.sin(angle)], -1)
    pillars = [
        box((x - 0.3, y - 0.3, 0.0), (x + 0.3, y + 0.3, 3.0), kind, (0.4, 0.4, 0.4)).named(80, int(kind) + 1)
        for (x, y), kind in zip(places, KINDS, strict=True)
    ]
    rays = WorldRays(replace(plain_world, static=concatenate(pillars), movers=()))
    lidar = Lidar(np.radians(np.linspace(5.0, -12.0, 30)), 1000)
    scan = cast_scan(rays, lidar=lidar, time=0.0, rng=np.random.default_rng(0))
    return [scan.points[scan.label >> 16 == int(kind) + 1, 3] for kind in KINDS]


def test_values_are_indices_that_a_byte_holds() -> None:
    assert sorted(Material) == list(range(len(Material)))
    assert len(Material) <= np.iinfo(np.uint8).max


@pytest.mark.parametrize("kind", KINDS)
def test_every_material_has_a_texture(kind: Material) -> None:
    s, t = np.random.default_rng(0).uniform(0, 20, (2, 500)).astype(np.float32)
    surface = Surface(s, t, t, np.full((500, 3), 0.4, np.float32), np.full(500, 0.01, np.float32))
    colour = albedo(np.full(500, kind, np.uint8), surface)
    assert np.isfinite(colour).all()
    assert colour.mean() > 0.05


@pytest.mark.parametrize("kind", KINDS)
def test_every_material_returns_laser_light(kind: Material, remission: list[np.ndarray]) -> None:
    back = remission[kind]
    assert len(back) > 20
    assert np.isfinite(back).all()
    assert back.min() >= 0
    assert back.max() < 1
    assert back.mean() > 0.01


def test_signs_throw_back_most_and_glass_and_rubber_least(remission: list[np.ndarray]) -> None:
    order = np.argsort([back.mean() for back in remission])
    assert order[-1] == Material.SIGN
    assert set(order[:3].tolist()) == {Material.GLASS, Material.LIT_GLASS, Material.RUBBER}
