import numpy as np

from occloom.grid import VoxelGrid
from occloom.town.exact_labels import exact_labels
from occloom.town.mesh import World, empty_mesh
from occloom.town.scene_rays import WorldRays

GRID = VoxelGrid(lower=(0.0, -12.8, -2.0), voxel_size=(0.2, 0.2, 0.2), shape=(128, 128, 32))


def world_centres(ego_from_world: np.ndarray) -> np.ndarray:
    centres = GRID.centres().numpy().astype(np.float64)
    world_from_ego = np.linalg.inv(ego_from_world)
    return centres @ world_from_ego[:3, :3].T + world_from_ego[:3, 3]


def test_labels_fill_exactly_the_voxels_the_surfaces_cut(plain_world: World) -> None:
    time = 1.0
    ego_from_world = np.linalg.inv(plain_world.world_from_ego(time))
    label = exact_labels(WorldRays(plain_world).mesh(time), ego_from_world, GRID)
    centres, half = world_centres(ego_from_world), 0.1 + 1e-6

    def cut(axis: int, value: float) -> np.ndarray:
        return np.abs(centres[..., axis] - value) < half

    ground, wall = cut(2, 0.0), cut(1, 8.05) & (centres[..., 2] > -half) & (centres[..., 2] < 6)
    assert (label[ground] > 0).all()
    assert (label[wall] > 0).all()
    assert (label[ground & (np.abs(centres[..., 1]) > 6.5) & ~wall] == 40).all()
    assert (label[wall & ~ground] == 50).all()
    # The car that moves is where it is now, and only there.
    car = (np.abs(centres[..., 0] - 14) < 2 + half) & (np.abs(centres[..., 1] - 3) < 0.9 + half)
    car &= centres[..., 2] < 1.5 + half
    assert (label == 252).any()
    assert car[label == 252].all()


def test_the_larger_surface_wins_and_ties_go_to_the_smaller_id() -> None:
    from occloom.town.mesh import Mesh

    def patches(labels: list[int], widths: list[float]) -> Mesh:
        corners, faces = [], []
        for i, width in enumerate(widths):
            y, z = -0.05 + 0.001 * i, 0.05 + 0.02 * i
            corners += [[0.02, y, z], [0.02 + width, y, z], [0.02, y + 0.04, z]]
            faces.append([3 * i, 3 * i + 1, 3 * i + 2])
        count = len(labels)
        zeros = np.zeros(count, np.uint16)
        return Mesh(
            np.array(corners, np.float32),
            np.array(faces, np.int32),
            np.array(labels, np.uint16),
            zeros,
            zeros.astype(np.uint8),
            np.zeros((count, 3), np.float32),
        )

    for labels, widths, winner in (([70, 50], [0.15, 0.05], 70), ([50, 70], [0.05, 0.15], 70)):
        volume = exact_labels(patches(labels, widths), np.eye(4), GRID)
        assert set(np.unique(volume)) == {0, winner}


def test_nothing_gives_empty_voxels() -> None:
    assert not exact_labels(empty_mesh(), np.eye(4), GRID).any()
