from pathlib import Path

import numpy as np
import pytest
from tiny_recipes import TinyModelConfig

from occloom.cli.prediction_files import prediction_files
from occloom.data.kitti360_labels import KITTI_360
from occloom.data.kitti_files import KittiFrame
from occloom.data.label_spaces import OCCUPANCY, SEMANTIC_KITTI, SEMANTIC_KITTI_GRID
from occloom.data.occ3d_files import read_prediction
from occloom.data.occ3d_labels import OCC3D, OCC3D_GRID
from occloom.data.packed_volumes import QUERIES, open_volumes
from occloom.errors import InputError
from occloom.grid import LabelSpace, VoxelGrid


def files_of(grid: VoxelGrid, space: LabelSpace):
    return prediction_files("runs/x", TinyModelConfig().build(grid, space))


def test_each_benchmark_s_files_lie_where_its_server_wants_them(tmp_path: Path):
    kitti, other = (files_of(SEMANTIC_KITTI_GRID, space) for space in (SEMANTIC_KITTI, KITTI_360))
    assert kitti.path(tmp_path, "08/000005") == tmp_path / "sequences" / "08" / "predictions" / "000005.label"
    assert kitti.submit is not None
    assert other.submit is None
    surround = files_of(OCC3D_GRID, OCC3D)
    assert surround.path(tmp_path, "scene-0061/abc") == tmp_path / "abc.npz"
    assert surround.submit is not None


def test_occupied_voxels_are_written_as_queries_that_a_data_set_reads(tmp_path: Path):
    labels = np.random.default_rng(0).integers(0, 2, QUERIES.shape).astype(np.uint8)
    files = files_of(SEMANTIC_KITTI_GRID.coarsen((2, 2, 2)), OCCUPANCY)
    assert files.submit is None
    files.write(files.path(tmp_path, "08/000005"), labels)
    read = open_volumes(QUERIES, tmp_path, tmp_path).read(KittiFrame(tmp_path, "08", "000005"))
    np.testing.assert_array_equal(read[0].numpy(), labels == 1)


@pytest.mark.parametrize("factor", [1, 2, 4])
def test_a_coarser_voxel_is_repeated(tmp_path: Path, factor: int):
    grid = OCC3D_GRID.coarsen((factor,) * 3)
    labels = np.random.default_rng(0).integers(0, 18, grid.shape).astype(np.uint8)
    files_of(grid, OCC3D).write(tmp_path / "a.npz", labels)
    written = read_prediction(tmp_path / "a.npz", np.ones(OCC3D_GRID.shape, bool))
    np.testing.assert_array_equal(written, np.kron(labels, np.ones((factor,) * 3, np.uint8)))


@pytest.mark.parametrize(
    ("grid", "space", "message"),
    [
        (VoxelGrid((-40.0, -40.0, -1.0), (0.4, 0.4, 0.4), (100, 200, 16)), OCC3D, "predicts a grid of 100x200x16"),
        (VoxelGrid((-40.0, -40.0, -2.0), (0.4, 0.4, 0.4), (200, 200, 16)), OCC3D, "predicts a grid of 200x200x16"),
        (SEMANTIC_KITTI_GRID.coarsen((2, 2, 2)), SEMANTIC_KITTI, "predicts a grid of 128x128x16 voxels"),
        (SEMANTIC_KITTI_GRID, LabelSpace(("a", "b"), 0, ((0, 0, 0),) * 2, (1.0, 1.0)), "predicts other classes"),
    ],
)
def test_what_no_file_can_hold_is_refused(grid: VoxelGrid, space: LabelSpace, message: str):
    with pytest.raises(InputError, match=message):
        files_of(grid, space)
