import numpy as np
import pytest

from occloom.errors import InputError
from occloom.town.mesh import World
from occloom.town.scene_rays import WorldRays


def test_a_mover_is_hit_where_it_is_at_each_time_and_faces_name_it(plain_world: World) -> None:
    rays = WorldRays(plain_world)
    origin, ahead = np.array([[0, 3, 1]], np.float32), np.array([[1, 0, 0]], np.float32)
    for time in (0.0, 1.5, 0.0, 4.0):
        hits = rays.nearest(time, origin, ahead)
        back = 10.0 + 4.0 * time - 2.0  # start, speed, half the length
        np.testing.assert_allclose(hits.distance, back, atol=1e-4)
        mesh = rays.mesh(time)
        assert mesh.label[hits.face[0]] == 252
        assert mesh.instance[hits.face[0]] == 7
        corners = mesh.vertices[mesh.faces[hits.face[0]]]
        np.testing.assert_allclose(corners[:, 0], back, atol=1e-4)
        near, far = np.array([back - 0.1], np.float32), np.array([back + 0.1], np.float32)
        assert not rays.blocked(time, origin, ahead, near).any()
        assert rays.blocked(time, origin, ahead, far).all()


def test_the_nearer_of_static_and_moving_wins(plain_world: World) -> None:
    rays = WorldRays(plain_world)
    origins = np.array([[10, 3, 5], [30, 3, 5]], np.float32)
    down = np.array([[0, 0, -1], [0, 0, -1]], np.float32)
    hits = rays.nearest(0.0, origins, down)
    np.testing.assert_allclose(hits.distance, [3.5, 5.0], atol=1e-4)
    np.testing.assert_array_equal(rays.faces.label[hits.face], [252, 40])
    np.testing.assert_allclose(hits.normal[:, 2], 1.0, atol=1e-5)


@pytest.mark.usefixtures("without_embreex")
def test_the_town_needs_embreex_and_says_so(plain_world: World) -> None:
    with pytest.raises(InputError, match=r"embreex.*pip install"):
        WorldRays(plain_world)
