"""Moving and joining meshes, held against homogeneous coordinates and one mesh at a time."""

import numpy as np
import pytest
from scipy.spatial.distance import pdist
from scipy.spatial.transform import Rotation

from occloom.town import assets_plants, assets_vehicles
from occloom.town.mesh import SENSOR_HEIGHT, Mesh, World, concatenate, dynamic_mesh, empty_mesh


def some_mesh(seed: int, vertices: int, faces: int) -> Mesh:
    rng = np.random.default_rng(seed)
    return Mesh(
        rng.normal(size=(vertices, 3)).astype(np.float32),
        rng.integers(0, vertices, (faces, 3), dtype=np.int32),
        rng.integers(0, 260, faces, dtype=np.uint16),
        rng.integers(0, 9, faces, dtype=np.uint16),
        rng.integers(0, 28, faces, dtype=np.uint8),
        rng.uniform(size=(faces, 3)).astype(np.float32),
    )


def some_pose(seed: int, size: float = 1.0) -> np.ndarray:
    pose = np.eye(4)
    pose[:3, :3] = size * Rotation.random(rng=np.random.default_rng(seed)).as_matrix()
    pose[:3, 3] = (10.0, -3.0, 0.5)
    return pose


@pytest.mark.parametrize("size", [1.0, 0.6])
def test_placing_is_the_product_of_homogeneous_coordinates(size: float) -> None:
    mesh, pose = some_mesh(0, 30, 41), some_pose(1, size)
    placed = mesh.placed(pose)
    homogeneous = np.column_stack([mesh.vertices, np.ones(30)])
    expected = np.array([pose @ point for point in homogeneous])
    np.testing.assert_allclose(placed.vertices, expected[:, :3], atol=1e-5)
    np.testing.assert_allclose(pdist(placed.vertices), size * pdist(mesh.vertices), atol=1e-5)
    for name in ("faces", "label", "instance", "material", "colour"):
        np.testing.assert_array_equal(getattr(placed, name), getattr(mesh, name))


def test_placing_there_and_back_changes_nothing() -> None:
    mesh, pose = some_mesh(0, 30, 41), some_pose(2)
    np.testing.assert_allclose(mesh.placed(pose).placed(np.linalg.inv(pose)).vertices, mesh.vertices, atol=1e-5)


def test_naming_changes_label_and_instance_alone() -> None:
    mesh = some_mesh(3, 12, 7)
    named = mesh.named(252, 65535)
    assert (named.label == 252).all()
    assert (named.instance == 65535).all()
    for name in ("vertices", "faces", "material", "colour"):
        np.testing.assert_array_equal(getattr(named, name), getattr(mesh, name))


def test_joining_keeps_each_mesh_in_turn() -> None:
    meshes = [some_mesh(0, 9, 4), empty_mesh(), some_mesh(1, 5, 11), some_mesh(2, 3, 1), empty_mesh()]
    joined = concatenate(meshes)
    assert joined.faces.min() >= 0
    assert joined.faces.max() < len(joined.vertices) == 9 + 5 + 3
    start = 0
    for mesh in meshes:
        part = slice(start, start + len(mesh.faces))
        np.testing.assert_array_equal(joined.vertices[joined.faces[part]], mesh.vertices[mesh.faces])
        for name in ("label", "instance", "material", "colour"):
            np.testing.assert_array_equal(getattr(joined, name)[part], getattr(mesh, name))
        start += len(mesh.faces)
    assert start == len(joined.faces)


def test_joining_and_placing_commute(assert_same) -> None:
    meshes, pose = [some_mesh(0, 9, 4), some_mesh(1, 5, 11)], some_pose(3)
    assert_same(concatenate(meshes).placed(pose), concatenate([mesh.placed(pose) for mesh in meshes]))


def test_nothing_joined_is_a_mesh_without_triangles(assert_same) -> None:
    assert len(concatenate([]).faces) == len(concatenate([]).vertices) == 0
    assert_same(concatenate([]), empty_mesh())
    assert_same(concatenate([empty_mesh(), empty_mesh()]).placed(some_pose(4)), empty_mesh())


def test_placing_and_joining_keep_every_face() -> None:
    rng = np.random.default_rng(0)
    car, tree = assets_vehicles.car(rng).named(10, 4), assets_plants.tree(rng, height=7.0, slim=False, fine=True)
    pose = np.eye(4)
    pose[:3, 3] = (10.0, -3.0, 0.5)
    both = concatenate([car.placed(pose), tree])
    split = len(car.faces)
    expected = car.vertices[car.faces] + np.array([10.0, -3.0, 0.5], np.float32)
    np.testing.assert_allclose(both.vertices[both.faces[:split]], expected, atol=1e-5)
    np.testing.assert_array_equal(both.vertices[both.faces[split:]], tree.vertices[tree.faces])
    assert (both.label[:split] == 10).all()
    assert (both.instance[:split] == 4).all()
    assert len(concatenate([]).faces) == 0


def test_movers_are_where_uniform_motion_takes_them(plain_world: World) -> None:
    """The car of the plain world starts at (10, 3) and does 4 m/s along x."""
    (mover,) = plain_world.movers
    for time in (0.0, 2.5):
        expected = mover.mesh.vertices + np.array([10.0 + 4.0 * time, 3.0, 0.0])
        np.testing.assert_allclose(dynamic_mesh(plain_world, time).vertices, expected, atol=1e-5)


def test_the_velodyne_rides_above_the_road_of_a_flat_street(plain_world: World) -> None:
    expected = np.eye(4)
    expected[:3, 3] = (5.0 * 3.0, 0.0, SENSOR_HEIGHT)
    np.testing.assert_allclose(plain_world.world_from_ego(3.0), expected, atol=1e-12)
