"""Pictures, depth and classes against geometry worked out by hand."""

from dataclasses import replace

import numpy as np
import pytest

from occloom.town.camera import render_depth, render_image, render_labels
from occloom.town.materials import Material
from occloom.town.mesh import Mesh, World, concatenate, empty_mesh
from occloom.town.scene_rays import WorldRays
from occloom.town.shapes import quads

SIZE = (50, 90)
INTRINSICS = np.array([[75.0, 0.0, 46.3], [0.0, 70.0, 22.1], [0.0, 0.0, 1.0]])
EYE = np.array([3.0, 0.4, 1.6])
AXES = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])  # world_from_camera, looking along x


def quad(corners: list[list[float]], label: int, material: Material = Material.MATTE) -> Mesh:
    """A grey rectangle."""
    return quads(np.array([corners], float), material, (0.5, 0.5, 0.5)).named(label, 0)


def pose(eye: np.ndarray = EYE, turn: float = 0.0) -> np.ndarray:
    """world_from_camera of a level camera turned by `turn` radians to the left."""
    c, s = np.cos(turn), np.sin(turn)
    matrix = np.eye(4)
    matrix[:3, :3] = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ AXES
    matrix[:3, 3] = eye
    return matrix


def view(world_from_camera: np.ndarray, size: tuple[int, int] = SIZE) -> dict:
    return {"time": 1.0, "intrinsics": INTRINSICS, "world_from_camera": world_from_camera, "image_size": size}


def upright(x: float, low: tuple[float, float], high: tuple[float, float], label: int, material: Material) -> Mesh:
    """A rectangle that faces the camera at `x`; corners are (y, z)."""
    (y0, z0), (y1, z1) = low, high
    return quad([[x, y0, z0], [x, y1, z0], [x, y1, z1], [x, y0, z1]], label, material)


def bare(world: World, static: Mesh, **weather: object) -> World:
    return replace(world, static=static, movers=(), weather=replace(world.weather, **weather))


@pytest.fixture(scope="module")
def plain_rays(plain_world: World) -> WorldRays:
    return WorldRays(plain_world)


@pytest.mark.parametrize("turn", [0.0, 0.7, -2.1])
def test_depth_is_that_of_the_nearest_plane(plain_world: World, turn: float) -> None:
    """Ground z = 0 and wall y = 8.05 alone: depth at each pixel centre by intersecting planes."""
    ground = quad([[-90, -60, 0], [190, -60, 0], [190, 60, 0], [-90, 60, 0]], 40)
    wall = quad([[-90, 8.05, 0], [190, 8.05, 0], [190, 8.05, 6], [-90, 8.05, 6]], 50)
    faces = concatenate([ground, wall])
    camera = pose(turn=turn)
    depth = render_depth(WorldRays(bare(plain_world, faces)), **view(camera))
    v, u = np.mgrid[: SIZE[0], : SIZE[1]].astype(float)
    rays = np.stack([(u - 46.3) / 75.0, (v - 22.1) / 70.0, np.ones(SIZE)], -1) @ camera[:3, :3].T
    with np.errstate(divide="ignore"):
        to_ground, to_wall = -EYE[2] / rays[..., 2], (8.05 - EYE[1]) / rays[..., 1]
    x, y = (EYE[k] + to_ground * rays[..., k] for k in (0, 1))
    to_ground = np.where((to_ground > 0) & (x > -90) & (x < 190) & (y > -60) & (y < 60), to_ground, np.inf)
    x, z = (EYE[k] + to_wall * rays[..., k] for k in (0, 2))
    to_wall = np.where((to_wall > 0) & (x > -90) & (x < 190) & (z > 0) & (z < 6), to_wall, np.inf)
    expected = np.minimum(to_ground, to_wall)
    expected[np.isinf(expected)] = 0
    assert (expected > 0).any()
    assert (expected == 0).any()
    assert depth.dtype == np.float32
    np.testing.assert_allclose(depth, expected, rtol=2e-4)


def test_labels_are_those_of_the_surfaces_that_points_of_the_depth_lie_on(plain_rays: WorldRays) -> None:
    camera = pose()
    depth, label = render_depth(plain_rays, **view(camera)), render_labels(plain_rays, **view(camera))
    np.testing.assert_array_equal(label == 0, depth == 0)
    v, u = np.mgrid[: SIZE[0], : SIZE[1]].astype(float)
    rays = np.stack([(u - 46.3) / 75.0, (v - 22.1) / 70.0, np.ones(SIZE)], -1)
    point = (rays * depth[..., None]) @ camera[:3, :3].T + camera[:3, 3]
    car = (np.abs(point - [14.0, 3.0, 0.8]) < [2.01, 0.91, 0.76]).all(-1)  # at 1 s, from x = 10 at 4 m/s
    assert set(np.unique(label)) == {0, 10, 40, 50, 81, 252}
    np.testing.assert_array_equal(label == 252, car & (depth > 0))
    assert np.abs(point[label == 40][:, 2]).max() < 1e-3
    np.testing.assert_allclose(point[label == 50][:, 1], 8.05, atol=1e-3)
    np.testing.assert_allclose(point[label == 81][:, 0], 30.0, atol=1e-3)


@pytest.mark.parametrize(("u", "v"), [(20, 10), (61, 33), (0, 49)])
def test_a_point_appears_at_the_pixel_it_projects_to(plain_world: World, u: int, v: int) -> None:
    """A square as large as pixel (u, v) lights that pixel wholly and no other."""
    x = EYE[0] + 20.0
    y0, y1 = (EYE[1] - 20.0 * (u + side - 46.3) / 75.0 for side in (0.499, -0.499))
    z0, z1 = (EYE[2] - 20.0 * (v + side - 22.1) / 70.0 for side in (0.499, -0.499))
    spot = upright(x, (y0, z0), (y1, z1), 80, Material.LAMP)
    night = bare(plain_world, spot, darkness=1.0, sky_zenith=np.zeros(3), sky_horizon=np.zeros(3), ground=np.zeros(3),
                 sun_colour=np.zeros(3), noise=0.0, haze=0.0)  # fmt: skip
    rays = WorldRays(night)
    picture = render_image(rays, **view(pose()), rng=np.random.default_rng(3))
    label = render_labels(rays, **view(pose()))
    assert np.argwhere(label).tolist() == [[v, u]]
    assert np.argwhere(picture.max(-1) > 20).tolist() == [[v, u]]
    assert picture[v, u].min() > 200


@pytest.mark.parametrize("material", [Material.BRICK, Material.PLASTER, Material.CONCRETE, Material.STONE])
def test_a_textured_wall_shifts_by_focal_times_baseline_over_depth(plain_world: World, material: Material) -> None:
    """Best match by least absolute differences; 75 x 0.8 / 5 = 12 pixels."""
    wall = upright(EYE[0] + 5.0, (-9, -3), (9, 9), 50, material)
    rays = WorldRays(bare(plain_world, wall, noise=0.0))
    right_eye = EYE - [0.0, 0.8, 0.0]
    left, right = (
        render_image(rays, **view(pose(eye)), rng=np.random.default_rng(k), samples_per_pixel=16).astype(float)
        for k, eye in enumerate((EYE, right_eye))
    )
    cost = [np.abs(left[:, 30:] - right[:, 30 - d : right.shape[1] - d]).mean() for d in range(25)]
    assert int(np.argmin(cost)) == 12
    assert cost[12] < 0.6 * np.median(cost)


def test_the_same_generator_gives_the_same_bytes_and_another_does_not(plain_rays: WorldRays) -> None:
    first, again, other = (
        render_image(plain_rays, **view(pose()), rng=np.random.default_rng(seed)) for seed in (5, 5, 6)
    )
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    assert first.shape == (*SIZE, 3)


@pytest.mark.parametrize("samples", [1, 3, 4])
def test_rays_cast_at_once_change_no_pixel(plain_rays: WorldRays, samples: int) -> None:
    whole, rows = (
        render_image(
            plain_rays, **view(pose()), rng=np.random.default_rng(1), samples_per_pixel=samples, samples_per_block=block
        )
        for block in (1 << 20, 1)
    )
    np.testing.assert_array_equal(whole, rows)


def test_day_is_brighter_than_night(plain_world: World) -> None:
    dark = {"sun_colour": np.full(3, 0.01), "sky_zenith": np.full(3, 0.005), "sky_horizon": np.full(3, 0.01)}
    night = replace(plain_world.weather, **dark, ground=np.full(3, 0.002), darkness=1.0)
    day, late = (
        render_image(WorldRays(replace(plain_world, weather=weather)), **view(pose()), rng=np.random.default_rng(0))
        for weather in (plain_world.weather, night)
    )
    assert day.mean() > 2 * late.mean()


def test_a_street_lamp_lights_the_ground_below_it(plain_world: World) -> None:
    dark = {"sun_colour": np.zeros(3), "sky_zenith": np.zeros(3), "sky_horizon": np.zeros(3), "ground": np.zeros(3)}
    weather = replace(plain_world.weather, **dark, darkness=1.0, noise=0.0)
    lamp = np.array([[15.0, -2.0, 6.0]], np.float32)
    off, on = (
        render_image(
            WorldRays(replace(plain_world, weather=weather, lamps=lamps)), **view(pose()), rng=np.random.default_rng(0)
        ).astype(int)
        for lamps in (plain_world.lamps, lamp)
    )
    spot = INTRINSICS @ AXES.T @ (np.array([11.0, -2.0, 0.0]) - EYE)
    u, v = np.round(spot[:2] / spot[2]).astype(int)
    assert (on - off).min() >= 0
    assert (on - off)[v, u].mean() > 10


def test_what_stands_in_the_sun_casts_a_shadow(plain_world: World) -> None:
    """The sun from straight above: the ground under a table is darker than the same ground without it."""
    ground = quad([[-9, -9, 0], [60, -9, 0], [60, 9, 0], [-9, 9, 0]], 40)
    table = quad([[9, -2, 2.5], [14, -2, 2.5], [14, 3, 2.5], [9, 3, 2.5]], 50)
    above = {"sun_direction": np.array([0.0, 0.0, 1.0]), "noise": 0.0, "haze": 0.0}
    free, shaded = (
        render_image(WorldRays(bare(plain_world, static, **above)), **view(pose()), rng=np.random.default_rng(0))
        for static in (ground, concatenate([ground, table]))
    )
    place = INTRINSICS @ AXES.T @ (np.array([11.5, 0.5, 0.0]) - EYE)
    u, v = np.round(place[:2] / place[2]).astype(int)
    assert shaded[v, u].mean() < 0.75 * free[v, u].mean()
    np.testing.assert_allclose(shaded[-1, -1].astype(int), free[-1, -1].astype(int), atol=2)


def test_texture_travels_with_what_moves(plain_world: World) -> None:
    """A camera that follows the moving car sees the same car body at two times."""
    alone = bare(plain_world, empty_mesh(), noise=0.0, cloud_cover=0.0)
    rays = WorldRays(replace(alone, movers=plain_world.movers))
    pictures = []
    for time in (0.0, 2.0):
        camera = pose(np.array([4.0 + 4.0 * time, 3.0, 0.9]))
        settings = {**view(camera), "time": time}
        pictures.append(render_image(rays, **settings, rng=np.random.default_rng(0)).astype(int))
        on_car = render_labels(rays, **settings) == 252
    assert on_car.sum() > 100
    assert pictures[0][on_car].std() > 1
    assert np.abs(pictures[0] - pictures[1])[on_car].mean() < 0.5


def test_an_empty_world_is_all_sky(plain_world: World) -> None:
    rays = WorldRays(bare(plain_world, empty_mesh()))
    assert not render_depth(rays, **view(pose(), (3, 5))).any()
    assert not render_labels(rays, **view(pose(), (3, 5))).any()
    assert render_image(rays, **view(pose(), (3, 5)), rng=np.random.default_rng(0)).min() > 50
