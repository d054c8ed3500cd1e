import subprocess
import sys

import numpy as np
import pytest

from occloom.errors import InputError
from occloom.rays import StaticRays


def random_triangles(count: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    vertices = rng.uniform(-3, 3, (count, 1, 3)) + rng.normal(0, 0.7, (count, 3, 3))
    return vertices.reshape(-1, 3).astype(np.float32), np.arange(3 * count, dtype=np.int32).reshape(-1, 3)


def naive_hits(triangles: np.ndarray, origin: np.ndarray, direction: np.ndarray) -> np.ndarray:
    """Distance to each triangle by solving for the barycentric weights in float64; infinite for a miss."""
    distances = np.full(len(triangles), np.inf)
    for i, (a, b, c) in enumerate(triangles.astype(np.float64)):
        u, v, t = np.linalg.solve(np.stack([b - a, c - a, -direction], axis=1), origin - a)
        if u >= 0 and v >= 0 and u + v <= 1 and t > 0:
            distances[i] = t
    return distances


def test_nearest_and_blocked_agree_with_every_triangle_solved_by_itself() -> None:
    vertices, faces = random_triangles(150)
    rng = np.random.default_rng(4)
    directions = rng.normal(size=(200, 3))
    directions = (directions / np.linalg.norm(directions, axis=1, keepdims=True)).astype(np.float32)
    origins = rng.uniform(-4, 4, (200, 3)).astype(np.float32)
    rays = StaticRays(vertices, faces)
    hits = rays.nearest(origins, directions)
    all_distances = np.stack([naive_hits(vertices[faces], o, d) for o, d in zip(origins, directions, strict=True)])
    nearest = all_distances.min(axis=1)
    assert 20 < np.isfinite(nearest).sum() < 200
    np.testing.assert_allclose(hits.distance, nearest, rtol=1e-4)
    hit = np.isfinite(nearest)
    np.testing.assert_array_equal(hits.face[hit], all_distances[hit].argmin(axis=1))
    assert (hits.face[~hit] == -1).all()
    limits = np.full(200, 2.0, np.float32)
    np.testing.assert_array_equal(rays.blocked(origins, directions, limits), nearest < 2.0)


def test_normals_are_unit_and_face_the_ray_and_barycentrics_give_the_point() -> None:
    vertices, faces = random_triangles(150)
    directions = np.random.default_rng(5).normal(size=(300, 3)).astype(np.float32)
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    hits = StaticRays(vertices, faces).nearest(np.zeros((300, 3), np.float32), directions)
    hit = hits.face >= 0
    assert hit.any()
    np.testing.assert_allclose(np.linalg.norm(hits.normal[hit], axis=1), 1.0, atol=1e-5)
    assert ((hits.normal * directions).sum(axis=1)[hit] <= 0).all()
    a, b, c = np.moveaxis(vertices[faces][hits.face[hit]], 1, 0)
    point = a + hits.u[hit, None] * (b - a) + hits.v[hit, None] * (c - a)
    np.testing.assert_allclose(point, directions[hit] * hits.distance[hit, None], atol=1e-4)


def test_no_triangles_and_no_rays() -> None:
    empty = StaticRays(np.zeros((0, 3), np.float32), np.zeros((0, 3), np.int32))
    one = np.array([[1, 0, 0]], np.float32)
    assert np.isinf(empty.nearest(one, one).distance).all()
    assert not empty.blocked(one, one, np.array([np.inf], np.float32)).any()
    vertices, faces = random_triangles(2)
    none = np.zeros((0, 3), np.float32)
    assert StaticRays(vertices, faces).nearest(none, none).face.shape == (0,)


@pytest.mark.usefixtures("without_embreex")
def test_a_missing_embreex_is_named_with_a_remedy() -> None:
    with pytest.raises(InputError, match=r"embreex.*Arm.*pip install"):
        StaticRays(*random_triangles(1))


@pytest.mark.multiprocess
def test_all_that_casts_rays_can_be_imported_without_embreex() -> None:
    modules = "occloom.rays, occloom.labels.voxelizer, occloom.town.write, occloom.viewer.images"
    code = f"import sys; sys.modules['embreex'] = None; import {modules}"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
