from pathlib import Path

import numpy as np
import pytest
import torch

from occloom.data.field_of_view import visible_voxels
from occloom.data.kitti_files import read_calibration
from occloom.data.label_spaces import SEMANTIC_KITTI_GRID


@pytest.mark.real_data
@pytest.mark.parametrize(("name", "factor"), [("fov_mask_1", 1), ("fov_mask_3", 2)])
def test_mask_equals_the_published_one_bit_for_bit(real_data: Path, name: str, factor: int):
    calibration = read_calibration(real_data / "semantickitti" / "sequences" / "08" / "calib.txt")
    grid = SEMANTIC_KITTI_GRID.coarsen((factor, factor, factor))
    visible = visible_voxels(
        grid,
        torch.from_numpy(calibration.intrinsics(2)),
        torch.from_numpy(calibration.camera0_from_velodyne),
        size=(370, 1220),
    )
    assert np.array_equal(visible.numpy().ravel(), np.load(real_data / "semantickitti_fov" / f"{name}.npy"))


def test_what_lies_behind_or_beside_is_not_seen():
    axes = torch.tensor(
        [[0.0, -1.0, 0.0, 0.0], [0.0, 0.0, -1.0, 0.0], [1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0]],
        dtype=torch.float64,
    )
    focal = 50.3
    intrinsics = torch.tensor([[focal, 0.0, 49.5], [0.0, focal, 19.5], [0.0, 0.0, 1.0]], dtype=torch.float64)
    visible = visible_voxels(SEMANTIC_KITTI_GRID, intrinsics, axes, size=(40, 100))
    backwards = axes @ torch.diag(torch.tensor([-1.0, -1.0, 1.0, 1.0], dtype=torch.float64))
    assert not visible_voxels(SEMANTIC_KITTI_GRID, intrinsics, backwards, size=(40, 100)).any()
    # The picture reaches half a pixel beyond its outer pixels' centres: 50 pixels to each side, 20 up and down.
    x, y, z = SEMANTIC_KITTI_GRID.centres(dtype=torch.float64).unbind(-1)
    assert torch.equal(visible, (focal * y.abs() < 50 * x) & (focal * z.abs() < 20 * x))
