import math

import numpy as np
import torch
from scipy.ndimage import map_coordinates

from occloom.geometry.rigid import rigid
from occloom.grid import VoxelGrid
from occloom.voxel.alignment import aligned

GRID = VoxelGrid(lower=(-4.0, -3.0, -1.0), voxel_size=(1.0, 0.6, 0.5), shape=(8, 10, 4))


def motion(yaw, translation):
    c, s = math.cos(yaw), math.sin(yaw)
    rotation = torch.tensor([[c, -s, 0], [s, c, 0], [0, 0, 1]], dtype=torch.float64)
    return rigid(rotation, torch.tensor(translation, dtype=torch.float64))


def test_equals_scipys_interpolation_at_each_samples_own_motion():
    volume = torch.randn(2, 3, *GRID.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    motions = torch.stack([motion(0.3, (1.3, -0.4, 0.2)), motion(-0.1, (-2.0, 0.7, 0.0))])
    found = aligned(volume, motions, GRID)
    centres = GRID.centres(dtype=torch.float64).view(-1, 3).numpy()
    for b in range(2):
        earlier = np.linalg.inv(motions[b].numpy()) @ np.concatenate([centres, np.ones((len(centres), 1))], 1).T
        index = (earlier[:3].T - GRID.lower) / GRID.voxel_size - 0.5
        for c in range(3):
            expected = map_coordinates(volume[b, c].numpy(), index.T, order=1, mode="grid-constant")
            np.testing.assert_allclose(found[b, c].flatten().numpy(), expected, atol=1e-9)


def test_what_stood_still_in_the_world_moves_by_whole_voxels():
    volume = torch.zeros(1, 1, *GRID.shape)
    volume[0, 0, 5, 4, 2] = 1
    # Two metres forward and 1.2 m to the left: the thing is two voxels nearer and two further right.
    found = aligned(volume, motion(0.0, (-2.0, -1.2, 0.0)).float()[None], GRID)
    assert found[0, 0].nonzero().tolist() == [[3, 2, 2]]
    assert math.isclose(float(found.sum()), 1.0, rel_tol=1e-5)


def test_standing_still_changes_nothing():
    volume = torch.randn(1, 2, *GRID.shape)
    torch.testing.assert_close(aligned(volume, torch.eye(4)[None], GRID), volume, rtol=1e-4, atol=1e-5)
