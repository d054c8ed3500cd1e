"""A few frames in SemanticKITTI's layout, made by seed: for what needs neither real nor town data."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from occloom.data.kitti360_files import Kitti360Frame, drive_folder
from occloom.data.kitti_files import (
    Calibration,
    KittiFrame,
    read_points,
    write_calibration,
    write_image,
    write_points,
    write_poses,
    write_times,
    write_voxel_bits,
    write_voxel_bytes,
    write_voxel_labels,
)
from occloom.data.label_spaces import SEMANTIC_KITTI_GRID
from occloom.data.voxel_release import scan_voxels

SIZE = (36, 122)
RAW_IDS = np.array([0, 0, 0, 10, 40, 48, 50, 70, 252, 1, 99, 52], dtype=np.uint16)


def made_calibration() -> Calibration:
    """A stereo rig like KITTI's for pictures of a tenth of its size, slightly turned against the velodyne."""
    intrinsics = np.array([[70.7, 0.0, 60.2], [0.0, 70.7, 18.3], [0.0, 0.0, 1.0]])
    columns = np.array([[0.0, 0.0, 0.0], [-37.9, 0.0, 0.0], [4.7, 0.012, 0.006], [-33.3, 0.19, 0.003]])
    projections = np.concatenate([np.broadcast_to(intrinsics, (4, 3, 3)), columns[..., None]], axis=2)
    turn = np.linalg.qr(np.array([[-0.01, -1.0, -0.02], [0.02, 0.01, -1.0], [1.0, -0.01, 0.01]]))[0]
    turn *= np.sign(turn[[0, 1, 2], [1, 2, 0]] * np.array([-1, -1, 1]))[:, None]
    transform = np.eye(4)
    transform[:3, :3], transform[:3, 3] = turn, (-0.01, -0.07, -0.33)
    return Calibration(projections=projections, camera0_from_velodyne=transform)


def write_made_kitti(
    root: Path, *, sequences: tuple[str, ...] = ("00", "08"), frames: int = 2, labels: bool = True
) -> Path:
    """Write `frames` labelled frames (every fifth scan) a sequence; pictures and scans for every scan between."""
    for number, sequence in enumerate(sequences):
        rng = np.random.default_rng(number)
        scans = 5 * (frames - 1) + 1
        folder = KittiFrame(root, sequence, "000000").folder
        write_calibration(folder / "calib.txt", made_calibration())
        poses = np.tile(np.eye(4), (scans, 1, 1))
        poses[:, 2, 3], poses[:, 0, 3] = 0.8 * np.arange(scans), 0.05 * np.arange(scans)
        write_poses(folder / "poses.txt", poses)
        write_times(folder / "times.txt", 0.1 * np.arange(scans))
        for scan in range(scans):
            frame = KittiFrame(root, sequence, f"{scan:06d}")
            _write_sensors(frame, rng)
            if scan % 5 == 0:
                _write_voxels(frame, rng, labels)
    return root


def _write_sensors(frame: KittiFrame, rng: np.random.Generator) -> None:
    texture = np.kron(rng.integers(0, 256, (9, 40, 3)), np.ones((4, 4, 1))).astype(np.uint8)
    write_image(frame.file("image_2", ".png"), texture[:, 4 : 4 + SIZE[1]])
    write_image(frame.file("image_3", ".png"), texture[:, 8 : 8 + SIZE[1]])
    ground = np.stack([rng.uniform(2, 60, 4000), rng.uniform(-20, 20, 4000), rng.normal(-1.73, 0.02, 4000)], axis=1)
    write_points(frame.file("velodyne", ".bin"), np.concatenate([ground, rng.random((4000, 1))], axis=1))


def _write_voxels(frame: KittiFrame, rng: np.random.Generator, labels: bool) -> None:
    shape = SEMANTIC_KITTI_GRID.shape
    occupied = scan_voxels(read_points(frame.file("velodyne", ".bin")), SEMANTIC_KITTI_GRID)
    write_voxel_bits(frame.file("voxels", ".bin"), occupied)
    if labels:
        blocks = rng.choice(RAW_IDS, (32, 32, 8))
        write_voxel_labels(frame.file("voxels", ".label"), np.kron(blocks, np.ones((8, 8, 4), dtype=np.uint16)))
        write_voxel_bits(frame.file("voxels", ".invalid"), rng.random(shape) < 0.2)


@pytest.fixture(scope="session")
def made_kitti(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sequences 00 and 08 of two labelled frames each; do not write into it."""
    return write_made_kitti(tmp_path_factory.mktemp("made_kitti"))


@pytest.fixture
def make_kitti() -> Callable[..., Path]:
    """Makes a folder of its own, to be spoilt."""
    return write_made_kitti


DRIVES = ("0000", "0006")
SMALL_KITTI_360 = (94, 352)


def write_made_kitti360(
    root: Path, *, drives: tuple[str, ...] = DRIVES, frames: int = 2, byte_mask: bool = True
) -> Path:
    """Write `frames` frames (every fifth scan) a drive as SSCBench-KITTI-360 has them, pictures a quarter of its."""
    for number, drive in enumerate(drives):
        rng = np.random.default_rng(number)
        for scan in range(0, 5 * frames, 5):
            frame = Kitti360Frame(root, drive_folder(drive), f"{scan:06d}")
            texture = np.kron(rng.integers(0, 256, (24, 100, 3)), np.ones((4, 4, 1))).astype(np.uint8)
            height, width = SMALL_KITTI_360
            for left, path in ((4, frame.left), (12, frame.right)):
                write_image(path, texture[:height, left : left + width])
            blocks = rng.choice(np.append(RAW_IDS, 71).astype(np.uint16), (32, 32, 8))
            write_voxel_labels(frame.voxels(".label"), np.kron(blocks, np.ones((8, 8, 4), dtype=np.uint16)))
            invalid = rng.random(SEMANTIC_KITTI_GRID.shape) < 0.2
            (write_voxel_bytes if byte_mask else write_voxel_bits)(frame.voxels(".invalid"), invalid)
            write_points(frame.scan, np.concatenate([rng.uniform(1, 40, (500, 3)), rng.random((500, 1))], axis=1))
    return root


@pytest.fixture(scope="session")
def made_kitti360(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Drives 0000 and 0006 of two labelled frames each; do not write into it."""
    return write_made_kitti360(tmp_path_factory.mktemp("made_kitti360"))


@pytest.fixture
def make_kitti360() -> Callable[..., Path]:
    """Makes a folder of its own, to be spoilt."""
    return write_made_kitti360
