"""Laws of the procedural surfaces."""

import numpy as np
import pytest

from occloom.town.materials import Material
from occloom.town.textures import Surface, albedo, cell_hash, noise, surface_at


def places(count: int, footprint: float, seed: int = 0) -> Surface:
    rng = np.random.default_rng(seed)
    s, t = rng.uniform(-40, 40, (2, count)).astype(np.float32)
    return Surface(s, t, np.abs(t), np.full((count, 3), 0.3, np.float32), np.full(count, footprint, np.float32))


@pytest.mark.parametrize("material", list(Material))
def test_every_material_has_an_albedo_near_its_colour_and_of_its_place_alone(material: Material) -> None:
    surface = places(4000, 0.01)
    kinds = np.full(4000, material, np.uint8)
    value = albedo(kinds, surface)
    assert value.min() >= 0
    assert value.max() <= 1
    assert 0.15 < value.mean() < 0.45
    order = np.random.default_rng(1).permutation(4000)
    np.testing.assert_array_equal(albedo(kinds[order], surface.part(order)), value[order])


@pytest.mark.parametrize("material", [Material.ASPHALT, Material.PAVING, Material.GRASS, Material.BRICK, Material.LEAF])
def test_what_is_finer_than_a_pixel_is_averaged(material: Material) -> None:
    near, far = (albedo(np.full(4000, material, np.uint8), places(4000, width)) for width in (0.005, 3.0))
    assert far.std() < 0.5 * near.std()
    assert abs(far.mean() - near.mean()) < 0.2 * near.mean()


def test_materials_do_not_disturb_each_other() -> None:
    surface = places(600, 0.02)
    mixed = np.random.default_rng(2).permutation(np.arange(600) % len(Material)).astype(np.uint8)
    together = albedo(mixed, surface)
    for material in Material:
        index = np.flatnonzero(mixed == material)
        np.testing.assert_array_equal(albedo(mixed[index], surface.part(index)), together[index])


def test_noise_is_even_smooth_and_periodic() -> None:
    rng = np.random.default_rng(3)
    s, t = rng.uniform(0, 80, (2, 40000)).astype(np.float32)
    sharp = np.zeros(40000, np.float32)
    value = noise(s, t, 1.0, sharp)
    shares = np.histogram(value, bins=5, range=(0, 1))[0] / 40000
    np.testing.assert_allclose(shares, 0.2, atol=0.03)
    np.testing.assert_allclose(
        noise(s + np.float32(6.4), t - np.float32(4.8), 1.0, sharp), value, atol=1e-2
    )  # eight lumps, turned
    assert np.abs(noise(s + np.float32(1e-3), t, 1.0, sharp) - value).max() < 0.1
    assert np.ptp(noise(s, t, 1.0, sharp + 100)) < 1e-6


def test_hashes_are_even_and_differ_by_neighbour_and_salt() -> None:
    i, j = (axis.ravel().astype(np.int32) for axis in np.mgrid[-100:100, -100:100])
    value = cell_hash(i, j, 4)
    np.testing.assert_allclose(np.histogram(value, bins=8, range=(0, 1))[0] / 40000, 1 / 8, atol=0.01)
    for other in (cell_hash(i + 1, j, 4), cell_hash(i, j + 1, 4), cell_hash(i, j, 5)):
        assert abs(np.corrcoef(value, other)[0, 1]) < 0.02


def test_surface_coordinates_are_lengths_along_the_surface() -> None:
    """Two points of one plane are as far apart in (s, t) as in space, on the ground, walls and roofs alike."""
    rng = np.random.default_rng(4)
    for normal in ([0, 0, 1], [1, 0, 0], [0, -1, 0], [0.6, 0, 0.8], [0.48, -0.36, -0.8]):
        axis = np.array(normal, np.float32)
        points = rng.normal(size=(50, 3)).astype(np.float32)
        points -= (points @ axis)[:, None] * axis
        colour, footprint = np.zeros((50, 3), np.float32), np.zeros(50, np.float32)
        surface = surface_at(points, np.tile(axis, (50, 1)), colour, footprint)
        flat = np.stack([surface.s, surface.t], -1)
        apart = np.linalg.norm(points[:, None] - points[None], axis=-1)
        np.testing.assert_allclose(np.linalg.norm(flat[:, None] - flat[None], axis=-1), apart, atol=1e-4)
