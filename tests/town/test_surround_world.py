import numpy as np
import pytest

from occloom.data.occ3d_labels import OCC3D
from occloom.town.mesh import World
from occloom.town.occ3d_ids import to_occ3d_ids
from occloom.town.surround_world import build_surround_world
from occloom.town.world import build_world

DRIVE = {"seed": 11, "duration": 6.5}


@pytest.fixture(scope="module")
def world() -> World:
    return build_surround_world(**DRIVE, stretch=(3.0, 3.5))


@pytest.fixture(scope="module")
def plain() -> World:
    return build_world(**DRIVE)


def test_the_world_of_the_other_layouts_stays_as_it_is(world: World, plain: World) -> None:
    count = len(plain.static.faces)
    np.testing.assert_array_equal(world.static.faces[:count], plain.static.faces)
    np.testing.assert_array_equal(world.static.vertices[: len(plain.static.vertices)], plain.static.vertices)
    assert len(world.movers) == len(plain.movers)
    pairs = [(a.mesh.vertices, b.mesh.vertices) for a, b in zip(world.movers, plain.movers, strict=True)]
    assert sum(not np.array_equal(*pair) for pair in pairs) <= 1


def test_the_classes_that_the_street_lacks_are_near_the_drive(world: World) -> None:
    meshes = [world.static, *(mover.mesh for mover in world.movers)]
    classes = {int(k) for mesh in meshes for k in np.unique(to_occ3d_ids(mesh.label))}
    missing = {OCC3D.names[k] for k in OCC3D.occupied if k not in classes}
    assert missing <= {"bus"}  # there is not always room for one
    here = world.ego.pose(3.25)[:3, 3]
    for name in ("barrier", "traffic_cone", "construction_vehicle", "others"):
        faces = world.static.faces[to_occ3d_ids(world.static.label) == OCC3D.names.index(name)]
        away = np.linalg.norm(world.static.vertices[faces].reshape(-1, 3)[:, :2] - here[:2], axis=1)
        assert away.min() < 40, name


def test_things_have_numbers_of_their_own(world: World, plain: World) -> None:
    count = len(plain.static.faces)
    new, old = world.static.instance[count:], world.static.instance[:count]
    movers = {int(mover.mesh.instance[0]) for mover in world.movers}
    assert new.min() > old.max()
    assert not movers & set(new.tolist())


def test_nothing_new_hangs_in_the_air_or_stands_in_the_ego_lane(world: World, plain: World) -> None:
    count = len(plain.static.faces)
    vertices = world.static.vertices[world.static.faces[count:]].reshape(-1, 3)
    instance = np.repeat(world.static.instance[count:], 3)
    ego = [np.linalg.inv(world.ego.pose(float(time))) for time in np.arange(0, 6.5, 0.25)]
    for number in np.unique(instance):
        thing = vertices[instance == number]
        own = [thing @ pose[:3, :3].T + pose[:3, 3] for pose in ego]
        assert not any(((np.abs(p[:, 1]) < 1.0) & (np.abs(p[:, 0]) < 2.5)).any() for p in own)
        assert np.ptp(thing[:, 2]) > 0.5
