import numpy as np
import pytest

from occloom.data.label_spaces import SEMANTIC_KITTI
from occloom.grid import VoxelGrid
from occloom.viewer import cubes
from occloom.viewer.cubes import voxel_picture
from occloom.viewer.solids import MeshRays, Solid, WalkRays, rays_against
from occloom.viewer.viewpoint import EgoMarker

GRID = VoxelGrid(lower=(-1.0, -2.0, 0.5), voxel_size=(0.5, 0.25, 0.2), shape=(9, 14, 6))
BOX = Solid(np.ones((1, 1, 1), bool), VoxelGrid(lower=(0.3, -0.9, 0.1), voxel_size=(2.0, 1.1, 0.9), shape=(1, 1, 1)))


def random_rays(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    """From within and without the grid; some along an axis."""
    middle, reach = (np.array(GRID.lower) + GRID.upper) / 2, np.subtract(GRID.upper, GRID.lower)
    origins = middle + rng.uniform(-1.2, 1.2, (count, 3)) * reach
    directions = middle + rng.uniform(-0.6, 0.6, (count, 3)) * reach - origins
    along_axis = np.eye(3)[rng.integers(3, size=count // 4)]
    directions[: count // 4] = along_axis * np.sign(directions[: count // 4])
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    return origins.astype(np.float32), directions.astype(np.float32)


@pytest.mark.parametrize("share", [0.0, 0.03, 0.3, 1.0])
@pytest.mark.parametrize("more", [[], [BOX]])
def test_walking_sees_what_the_mesh_shows(share: float, more: list[Solid]) -> None:
    rng = np.random.default_rng(round(100 * share))
    solids = [Solid(rng.random(GRID.shape) < share, GRID), *more]
    mesh, walk = MeshRays(solids), WalkRays(solids)
    origins, directions = random_rays(rng, 3000)
    expected, found = mesh.nearest(origins, directions), walk.nearest(origins, directions)
    hit = expected.face >= 0
    assert hit.any() == (share > 0 or bool(more))
    assert not hit.all()
    np.testing.assert_array_equal(found.face >= 0, hit)
    np.testing.assert_allclose(found.distance, expected.distance, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(walk.normals[found.face[hit]], mesh.normals[expected.face[hit]])
    np.testing.assert_array_equal(walk.solid[found.face[hit]], mesh.solid[expected.face[hit]])
    np.testing.assert_array_equal(walk.blocked(origins, directions), mesh.blocked(origins, directions))
    np.testing.assert_array_equal(walk.blocked(origins, directions), hit)


def test_rays_beyond_one_batch_and_no_rays() -> None:
    solids = [Solid(np.random.default_rng(0).random(GRID.shape) < 0.2, GRID)]
    walk = WalkRays(solids)
    origins, directions = random_rays(np.random.default_rng(1), 40_000)
    together = walk.nearest(origins, directions)
    for part in (slice(0, 9000), slice(9000, 40_000)):
        apart = walk.nearest(origins[part], directions[part])
        np.testing.assert_array_equal(together.face[part], apart.face)
        np.testing.assert_array_equal(together.distance[part], apart.distance)
    assert walk.nearest(origins[:0], directions[:0]).face.shape == (0,)


def scenery() -> np.ndarray:
    """Ground with a hundred random voxels on it."""
    rng = np.random.default_rng(2)
    labels = np.zeros((24, 20, 8), np.uint8)
    labels[:, :, 0] = 9
    labels[tuple(rng.integers((0, 0, 1), labels.shape, (100, 3)).T)] = rng.integers(1, 20, 100)
    return labels


def test_pictures_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    grid = VoxelGrid(lower=(0.0, -5.0, -2.0), voxel_size=(0.5, 0.5, 0.5), shape=(24, 20, 8))
    labels, ego = scenery(), EgoMarker(-1.73)

    def picture() -> np.ndarray:
        return voxel_picture(labels, grid, SEMANTIC_KITTI, size=(120, 160), ego=ego).astype(int)

    expected = picture()
    monkeypatch.setattr(cubes, "rays_against", WalkRays)
    away = np.abs(picture() - expected).max(axis=2)
    # Where a ray meets an edge, or a shadow ends, rounding decides.
    assert (away > 2).mean() < 1e-3
    assert np.ptp(expected) > 100


def test_embreex_is_used_where_it_is() -> None:
    assert isinstance(rays_against([BOX]), MeshRays)


@pytest.mark.usefixtures("without_embreex")
def test_pictures_need_no_embreex() -> None:
    assert isinstance(rays_against([BOX]), WalkRays)
    grid = VoxelGrid(lower=(0.0, -5.0, -2.0), voxel_size=(0.5, 0.5, 0.5), shape=(24, 20, 8))
    assert np.ptp(voxel_picture(scenery(), grid, SEMANTIC_KITTI, size=(60, 80))) > 100
