from pathlib import Path

import numpy as np
import pytest

from occloom.data.depth_sources import LidarDepth, SgbmDepth
from occloom.data.kitti360 import Kitti360, Kitti360Config
from occloom.data.kitti360_files import Kitti360Frame, drive_folder
from occloom.data.kitti_files import KittiFrame, read_image, read_points, read_voxel_bits, read_voxel_labels
from occloom.data.label_spaces import IGNORED, SEMANTIC_KITTI_GRID
from occloom.interfaces import Needs
from occloom.labels.voxelizer import FrameLabels
from occloom.town.kitti360_writer import Kitti360Layout
from occloom.town.mesh import World
from occloom.town.semantickitti_writer import SemanticKittiLayout, TownLayout, TownSettings, write_sequence
from occloom.town.write import write_town
from occloom.viewer.images import comparison_picture

SIZE = (47, 176)


@pytest.fixture(scope="module")
def drive(tmp_path_factory: pytest.TempPathFactory, plain_world: World) -> Path:
    """One labelled frame of the hand-made world in both layouts."""
    settings = TownSettings(3, 1, SIZE, 2, "scans", 5, 5)
    root = tmp_path_factory.mktemp("drive")
    for layout in (Kitti360Layout(), SemanticKittiLayout()):
        assert isinstance(layout, TownLayout)
        write_sequence(root, "06", plain_world, settings, after_frame=list, layout=layout)
    return root


@pytest.fixture(scope="module")
def dataset(drive: Path) -> Kitti360:
    config = Kitti360Config(root=drive, image_size=(48, 176), cameras=("image_00", "image_01"))
    return config.build("val", Needs(points=True))


def test_the_files_are_those_of_the_layout(drive: Path) -> None:
    frame = Kitti360Frame(drive, drive_folder("0006"), "000000")
    assert {path.name for path in frame.folder.iterdir()} == {"image_00", "image_01", "voxels", "cam0_to_world.txt"}
    assert read_image(frame.left).shape == (*SIZE, 3)
    assert frame.voxels(".invalid").stat().st_size == SEMANTIC_KITTI_GRID.num_voxels
    assert frame.voxels(".label").stat().st_size == 2 * SEMANTIC_KITTI_GRID.num_voxels
    assert not (drive / "data_2d_raw" / frame.sequence / "voxels" / "000000.occluded").exists()
    poses = np.loadtxt(frame.folder / "cam0_to_world.txt")
    assert poses.shape == (3, 17)
    np.testing.assert_allclose(poses[:, 1:].reshape(3, 4, 4)[:, :3, :3] @ [0, 1, 0], [[0, 0, -1]] * 3, atol=0.15)


def test_voxels_and_points_are_those_of_the_other_layout(drive: Path, dataset: Kitti360) -> None:
    other, here = KittiFrame(drive, "06", "000000"), Kitti360Frame(drive, drive_folder("0006"), "000000")
    assert np.array_equal(read_points(here.scan), read_points(other.scan))
    raw = read_voxel_labels(other.file("voxels", ".label"), SEMANTIC_KITTI_GRID.shape)
    invalid = read_voxel_bits(other.file("voxels", ".invalid"), SEMANTIC_KITTI_GRID.shape)
    target = dataset.target(0)
    assert target is not None
    assert np.array_equal(target.observed[0].numpy(), ~invalid)
    for raw_id, name in ((40, "road"), (50, "building"), (81, "traffic-sign"), (10, "car")):
        expected = np.isin(raw, (10, 252)) if name == "car" else raw == raw_id
        assert expected.any()
        assert np.array_equal(target.labels[0].numpy() == dataset.label_space.names.index(name), expected)


def test_classes_that_kitti_360_lacks_are_written_as_what_it_calls_them(tmp_path: Path) -> None:
    shape = SEMANTIC_KITTI_GRID.shape
    label, nothing = np.zeros(shape, np.uint16), np.zeros(shape, bool)
    raw = [71, 31, 32, 253, 255, 52, 99, 70]
    label[0, 0, : len(raw)] = raw
    Kitti360Layout().write_voxels(tmp_path, "06", 0, label, FrameLabels(label, nothing, nothing, nothing))
    target = Kitti360Config(root=tmp_path).build("val", Needs(images=False)).target(0)
    assert target is not None
    assert bool(target.observed.all())
    names = ["vegetation", "person", "person", "person", "person", "other-structure", "other-object", "vegetation"]
    assert [Kitti360Config(root=tmp_path).label_space.names[k] for k in target.labels[0, 0, 0, : len(raw)]] == names
    assert IGNORED not in target.labels


def test_stereo_matching_of_the_pictures_agrees_with_the_scan(tmp_path: Path) -> None:
    write_town(
        tmp_path / "town", sequences=1, first_sequence=6, frames=1, image_size=(94, 352), seed=7, following_scans=1,
        layout="kitti360",
    )  # fmt: skip
    frame = Kitti360Frame(tmp_path / "town", drive_folder("0006"), "000000")
    stereo, lidar = SgbmDepth().depth(frame), LidarDepth().depth(frame)
    both = (stereo > 0) & (lidar > 0) & (lidar < 15)
    assert both.sum() > 2000
    ratio = stereo[both] / lidar[both]
    assert abs(np.median(ratio) - 1) < 0.03
    assert np.median(np.abs(ratio - 1)) < 0.1


def test_a_frame_can_be_drawn(dataset: Kitti360) -> None:
    target = dataset.target(0)
    assert target is not None
    truth = target.labels[0].numpy()
    picture = comparison_picture(
        None, truth.astype(np.uint8), truth, dataset.grid, dataset.label_space, observed=target.observed[0].numpy()
    )
    assert min(picture.size) > 100
