from pathlib import Path

import numpy as np
import pytest

from occloom.data.kitti_files import (
    KittiFrame,
    read_calibration,
    read_image,
    read_point_labels,
    read_points,
    read_poses,
    read_times,
    read_voxel_bits,
    read_voxel_labels,
    velodyne_poses,
)
from occloom.data.label_spaces import SEMANTIC_KITTI_GRID
from occloom.labels.voxelizer import select_returns, voxelize
from occloom.town.mesh import World
from occloom.town.semantickitti_writer import LabelRule, SemanticKittiLayout, TownSettings, write_sequence

SIZE = (24, 80)


def settings(labels: LabelRule, following_scans: int, frames: int = 2) -> TownSettings:
    return TownSettings(
        seed=3,
        frames=frames,
        image_size=SIZE,
        following_scans=following_scans,
        labels=labels,
        image_every=5,
        scan_every=1,
    )


def write(root: Path, world: World, chosen: TownSettings) -> Path:
    done: list[None] = []
    write_sequence(root, "04", world, chosen, after_frame=lambda: done.append(None), layout=SemanticKittiLayout())
    assert len(done) == chosen.frames
    return root


@pytest.fixture(scope="module")
def drive(tmp_path_factory: pytest.TempPathFactory, plain_world: World) -> Path:
    """Two labelled frames, two following scans, a velodyne file of every scan."""
    return write(tmp_path_factory.mktemp("drive"), plain_world, settings("scans", 2))


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_the_files_are_those_of_the_official_layout(drive: Path) -> None:
    folder = drive / "sequences" / "04"
    assert names(folder) == {
        "calib.txt", "poses.txt", "times.txt", "image_2", "image_3", "velodyne", "labels", "voxels",
    }  # fmt: skip
    labelled, every = {"000000", "000005"}, {f"{i:06d}" for i in range(6)}
    suffixes = (".label", ".bin", ".invalid", ".occluded")
    assert names(folder / "voxels") == {name + suffix for name in labelled for suffix in suffixes}
    for camera in ("image_2", "image_3"):
        assert names(folder / camera) == {name + ".png" for name in labelled}
    assert names(folder / "velodyne") == {name + ".bin" for name in every}
    assert names(folder / "labels") == {name + ".label" for name in every}
    assert read_image(folder / "image_2" / "000005.png").shape == (*SIZE, 3)


def test_points_and_labels_come_in_pairs(drive: Path) -> None:
    frame = KittiFrame(drive, "04", "000003")
    points = read_points(frame.file("velodyne", ".bin"))
    raw, instances = read_point_labels(frame.file("labels", ".label"))
    assert len(points) == len(raw) == len(instances) > 10_000
    assert set(np.unique(raw)) <= {10, 40, 50, 81, 252}
    assert (instances[raw == 252] == 7).all()


def test_poses_and_times_give_back_the_drive(drive: Path, plain_world: World) -> None:
    folder = drive / "sequences" / "04"
    poses = velodyne_poses(read_poses(folder / "poses.txt"), read_calibration(folder / "calib.txt"))
    times = read_times(folder / "times.txt")
    assert len(poses) == len(times) == 5 + 2 + 1
    start = np.linalg.inv(plain_world.world_from_ego(0.0))
    exact = np.stack([start @ plain_world.world_from_ego(float(time)) for time in times])
    np.testing.assert_allclose(poses, exact, atol=1e-9)


def test_voxelising_the_files_gives_the_voxel_files(drive: Path) -> None:
    folder = drive / "sequences" / "04"
    frames = [KittiFrame(drive, "04", f"{i:06d}") for i in range(3)]
    poses = velodyne_poses(read_poses(folder / "poses.txt"), read_calibration(folder / "calib.txt"))[:3]
    scans = [
        select_returns(read_points(f.file("velodyne", ".bin")), read_point_labels(f.file("labels", ".label"))[0])
        for f in frames
    ]
    label = read_voxel_labels(frames[0].file("voxels", ".label"), SEMANTIC_KITTI_GRID.shape)
    again = voxelize(scans, np.linalg.inv(poses[0]) @ poses, SEMANTIC_KITTI_GRID)
    assert np.count_nonzero(label) > 5000
    # The poses went through a text file and two changes of frame: a point on a border may fall to the other side.
    assert np.count_nonzero(again != label) <= 2
    alone = read_voxel_bits(frames[0].file("voxels", ".bin"), SEMANTIC_KITTI_GRID.shape)
    np.testing.assert_array_equal(voxelize(scans[:1], np.eye(4)[None], SEMANTIC_KITTI_GRID) > 0, alone)


def test_masks_keep_the_official_promises(drive: Path) -> None:
    for name in ("000000", "000005"):
        frame = KittiFrame(drive, "04", name)
        label = read_voxel_labels(frame.file("voxels", ".label"), SEMANTIC_KITTI_GRID.shape)
        alone, occluded, invalid = (
            read_voxel_bits(frame.file("voxels", suffix), SEMANTIC_KITTI_GRID.shape)
            for suffix in (".bin", ".occluded", ".invalid")
        )
        assert not invalid[(label > 0) | alone].any()
        assert occluded[(label > 0) | alone].all()
        assert occluded[invalid].all()
        assert 0.1 < invalid.mean() < 0.9
        # Near the car and low down the beams leave no gaps in the wall at y = 8.05 (voxel 168).
        assert invalid[10:60, 172:200, 2:8].mean() > 0.95
        assert invalid[10:60, 130:164, 4:12].mean() < 0.2


def test_moving_things_leave_tubes_and_exact_labels_do_not(tmp_path: Path, plain_world: World) -> None:
    scans = write(tmp_path / "scans", plain_world, settings("scans", 12, frames=1))
    exact = write(tmp_path / "exact", plain_world, settings("exact", 12, frames=1))
    files = [KittiFrame(root, "04", "000000") for root in (scans, exact)]
    for suffix in (".bin", ".invalid", ".occluded"):
        assert len({file.file("voxels", suffix).read_bytes() for file in files}) == 1

    def length(frame: KittiFrame) -> float:
        moving = np.argwhere(read_voxel_labels(frame.file("voxels", ".label"), SEMANTIC_KITTI_GRID.shape) == 252)
        return 0.2 * (np.ptp(moving[:, 0]) + 1)

    assert abs(length(files[1]) - 4.0) <= 0.4
    assert length(files[0]) > 4.0 + 1.2 * 4.0 - 1.0  # 1.2 s at 4 m/s
