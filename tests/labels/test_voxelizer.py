from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from occloom.data.kitti_files import (
    KittiFrame,
    read_calibration,
    read_point_labels,
    read_points,
    read_poses,
    read_voxel_bits,
    velodyne_poses,
)
from occloom.errors import InputError
from occloom.grid import VoxelGrid
from occloom.labels.voxelizer import Returns, label_frame, select_returns, voxelize

KITTI_GRID = VoxelGrid(lower=(0.0, -25.6, -2.0), voxel_size=(0.2, 0.2, 0.2), shape=(256, 256, 32))
SMALL = VoxelGrid(lower=(-1.0, -2.0, -0.5), voxel_size=(0.5, 0.25, 1.0), shape=(6, 5, 3))


def naive_voxelize(scans: list[Returns], poses: np.ndarray, grid: VoxelGrid) -> np.ndarray:
    """One point after the other, one counter a voxel."""
    counters: dict[tuple[int, ...], Counter[int]] = {}
    for scan, pose in zip(scans, poses, strict=True):
        for point, raw in zip(scan.xyz.T.astype(np.float64), scan.label, strict=True):
            moved = pose[:3, :3] @ point + pose[:3, 3]
            index = tuple(int(i) for i in np.floor((moved - grid.lower) / np.array(grid.voxel_size)))
            if all(0 <= i < n for i, n in zip(index, grid.shape, strict=True)):
                counters.setdefault(index, Counter())[int(raw)] += 1
    volume = np.zeros(grid.shape, np.uint16)
    for index, counter in counters.items():
        volume[index] = min(raw for raw, count in counter.items() if count == max(counter.values()))
    return volume


@given(seed=st.integers(0, 2**32 - 1), points=st.integers(0, 300), scans=st.integers(1, 3))
@settings(max_examples=40, deadline=None)
def test_voxelize_equals_a_counter_a_voxel(seed: int, points: int, scans: int) -> None:
    rng = np.random.default_rng(seed)
    made = [
        Returns(
            rng.uniform(-3, 3, (3, points)).astype(np.float32),
            rng.choice(np.array([0, 10, 40, 252], np.uint16), points),
        )
        for _ in range(scans)
    ]
    poses = np.tile(np.eye(4), (scans, 1, 1))
    angles = rng.uniform(-np.pi, np.pi, scans)
    poses[:, 0, 0], poses[:, 0, 1] = np.cos(angles), -np.sin(angles)
    poses[:, 1, 0], poses[:, 1, 1] = np.sin(angles), np.cos(angles)
    poses[:, :3, 3] = rng.uniform(-1, 1, (scans, 3))
    np.testing.assert_array_equal(voxelize(made, poses, SMALL), naive_voxelize(made, poses, SMALL))


def test_many_labels_on_a_large_grid_do_not_overflow() -> None:
    count = 2000
    last = np.array([[51.1], [25.5], [4.3]], np.float32)
    scan = Returns(np.repeat(last, count, axis=1), np.arange(1, count + 1).astype(np.uint16))
    volume = voxelize([scan], np.eye(4)[None], KITTI_GRID)
    assert volume[-1, -1, -1] == 1
    assert np.count_nonzero(volume) == 1


def test_ties_go_to_the_smaller_id_and_zero_wins_make_empty() -> None:
    xyz = np.array([[0.1, 0.1, 0.6, 0.6, 0.6], [-1.1] * 5, [0] * 5], np.float32)
    scan = Returns(xyz, np.array([70, 50, 0, 0, 40], np.uint16))
    volume = voxelize([scan], np.eye(4)[None], SMALL)
    assert sorted(volume[volume > 0]) == [50]


def test_select_returns_keeps_the_ring_and_joins_outliers_with_unlabelled() -> None:
    points = np.array([[2.4, 0, 0, 1], [2.6, 0, 0, 1], [0, 69.9, 0, 1], [0, 0, 70.1, 1]], np.float32)
    raw = np.array([40, 1, 40 | 5 << 16, 40], np.uint32)
    kept = select_returns(points, raw)
    np.testing.assert_array_equal(kept.xyz, points[1:3, :3].T)
    np.testing.assert_array_equal(kept.label, [0, 40])
    none = select_returns(points[:0], raw[:0])
    assert none.xyz.shape == (3, 0)
    assert not voxelize([none], np.eye(4)[None], SMALL).any()


@pytest.mark.usefixtures("without_embreex")
def test_labels_of_a_frame_need_embreex_and_say_so() -> None:
    point = select_returns(np.array([[1.0, -1.5, 0.0, 0.5]], np.float32), np.array([40], np.uint32), min_range=0.0)
    with pytest.raises(InputError, match=r"embreex.*pip install"):
        label_frame([point], np.eye(4)[None], SMALL)


def test_no_filled_voxel_is_invalid_and_all_of_them_are_occluded() -> None:
    rng = np.random.default_rng(1)
    scans = [
        Returns(rng.uniform(-3, 3, (3, 60)).astype(np.float32), np.full(60, label, np.uint16)) for label in (0, 40, 50)
    ]
    poses = np.tile(np.eye(4), (3, 1, 1))
    poses[:, 0, 3] = [0.0, 0.3, 0.7]
    frame = label_frame(scans, poses, SMALL)
    filled = (frame.label > 0) | frame.scan
    assert filled.any()
    assert frame.occluded[filled].all()
    assert not frame.invalid[filled].any()
    assert (frame.occluded | ~frame.invalid).all()


def real_scans(root: Path, sequence: str, names: list[str]) -> list[Returns]:
    frames = [KittiFrame(root / "semantickitti", sequence, name) for name in names]
    return [
        select_returns(read_points(f.file("velodyne", ".bin")), read_point_labels(f.file("labels", ".label"))[0])
        for f in frames
    ]


@pytest.mark.real_data
@pytest.mark.parametrize(("sequence", "name"), [("00", "000000"), ("04", "000000"), ("08", "000000"), ("08", "000005")])
def test_real_scans_give_the_official_bin(real_data: Path, sequence: str, name: str) -> None:
    scans = real_scans(real_data, sequence, [name])
    mine = voxelize(scans, np.eye(4)[None], KITTI_GRID) > 0
    official = read_voxel_bits(
        KittiFrame(real_data / "semantickitti", sequence, name).file("voxels", ".bin"), KITTI_GRID.shape
    )
    assert official.sum() > 10_000
    assert np.count_nonzero(mine != official) <= 20


@pytest.mark.real_data
def test_two_real_scans_joined_agree_with_the_derived_labels(real_data: Path) -> None:
    folder = real_data / "semantickitti" / "sequences" / "08"
    calibration = read_calibration(folder / "calib.txt")
    poses = velodyne_poses(read_poses(folder / "poses.txt"), calibration)[[0, 5]]
    scans = real_scans(real_data, "08", ["000000", "000005"])
    volume = voxelize(scans, np.linalg.inv(poses[0]) @ poses, KITTI_GRID)
    derived = np.load(folder / "voxels_derived" / "000000.npz")["label"]
    found = volume > 0
    assert (derived[found] > 0).mean() > 0.999
    assert (derived[found] == volume[found]).mean() > 0.98


@pytest.mark.real_data
def test_occlusion_of_a_real_frame_lies_within_the_official_one(real_data: Path) -> None:
    """The official mask knows 70 more scans of things that block the view, so it holds all of ours and more."""
    frame = label_frame(real_scans(real_data, "08", ["000000"]), np.eye(4)[None], KITTI_GRID)
    official = read_voxel_bits(
        KittiFrame(real_data / "semantickitti", "08", "000000").file("voxels", ".occluded"), KITTI_GRID.shape
    )
    assert frame.occluded.mean() > 0.2
    assert official[frame.occluded].mean() > 0.99
