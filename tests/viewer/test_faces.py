import numpy as np
import pytest

from occloom.grid import VoxelGrid
from occloom.viewer.faces import NORMALS, exposed_faces, face_quads

GRID = VoxelGrid(lower=(-1.0, 2.0, -3.0), voxel_size=(0.5, 0.25, 2.0), shape=(5, 4, 6))


def occupied(seed: int, share: float) -> np.ndarray:
    return np.random.default_rng(seed).random(GRID.shape) < share


def naive_exposed(volume: np.ndarray) -> np.ndarray:
    exposed = np.zeros((6, *volume.shape), bool)
    for side, normal in enumerate(NORMALS):
        for index in np.argwhere(volume):
            other = index + normal
            outside = (other < 0).any() or (other >= volume.shape).any()
            exposed[side][tuple(index)] = outside or not volume[tuple(other)]
    return exposed


@pytest.mark.parametrize("share", [0.0, 0.2, 0.7, 1.0])
def test_exposed_faces_equal_a_naive_loop(share):
    volume = occupied(0, share)
    np.testing.assert_array_equal(exposed_faces(volume), naive_exposed(volume))


@pytest.mark.parametrize("share", [0.0, 0.3, 0.8, 1.0])
def test_quads_cover_the_exposed_faces_and_nothing_else(share):
    exposed = exposed_faces(occupied(1, share))
    quads = face_quads(exposed, GRID)
    corners = quads.vertices[quads.faces].astype(np.float64)
    cross = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    size = np.array(GRID.voxel_size)
    for side, normal in enumerate(NORMALS):
        mine = (quads.normals == normal).all(axis=1)
        axis = side // 2
        face_area = np.prod(np.delete(size, axis))
        # Triangles lie in the plane of their side, and their areas add up to the faces they cover.
        assert np.ptp(corners[mine][:, :, axis], axis=1).max(initial=0.0) == 0.0
        area = np.linalg.norm(cross[mine], axis=1).sum() / 2
        assert area == pytest.approx(exposed[side].sum() * face_area)
        # The middle of each triangle, pushed half a voxel inwards, is a voxel with that face.
        inward = (corners[mine].mean(axis=1) - np.array(GRID.lower)) / size - 0.5 * normal
        assert exposed[side][tuple(np.floor(inward).astype(int).T)].all()


def test_rows_are_joined():
    slab = np.zeros(GRID.shape, bool)
    slab[:, :, 2] = True
    quads = face_quads(exposed_faces(slab), GRID)
    # Top and bottom one quad a row of x, the sides one each.
    assert len(quads.faces) == 2 * (2 * GRID.shape[1] + 4)
