from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from occloom.data.kitti_files import (
    Calibration,
    pack_bits,
    read_calibration,
    read_depth_png,
    read_image,
    read_point_labels,
    read_points,
    read_poses,
    read_times,
    read_voxel_bits,
    read_voxel_labels,
    unpack_bits,
    velodyne_poses,
    write_calibration,
    write_image,
    write_point_labels,
    write_points,
    write_poses,
    write_times,
    write_voxel_bits,
    write_voxel_labels,
)
from occloom.errors import InputError

SHAPE = (3, 5, 7)


def made_calibration(rng: np.random.Generator) -> Calibration:
    projections = rng.normal(size=(4, 3, 4))
    projections[:, :, :3] += 5 * np.eye(3)
    transform = np.eye(4)
    transform[:3, :3] = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    transform[:3, 3] = rng.normal(size=3)
    return Calibration(projections=projections, camera0_from_velodyne=transform)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), shape=st.tuples(st.integers(1, 5), st.integers(1, 5), st.integers(1, 5)))
def test_bits_round_trip_most_significant_first(seed, shape):
    bits = np.random.default_rng(seed).random(shape) < 0.5
    packed = pack_bits(bits)
    assert np.array_equal(unpack_bits(packed, shape), bits)
    flat = bits.ravel()
    for i in range(flat.size):
        assert bool(packed[i // 8] >> (7 - i % 8) & 1) == bool(flat[i])


def test_voxels_and_points_round_trip(tmp_path: Path):
    rng = np.random.default_rng(0)
    bits, raw = rng.random(SHAPE) < 0.3, rng.integers(0, 1 << 16, SHAPE).astype(np.uint16)
    write_voxel_bits(tmp_path / "voxels" / "a.bin", bits)
    write_voxel_labels(tmp_path / "voxels" / "a.label", raw)
    assert np.array_equal(read_voxel_bits(tmp_path / "voxels" / "a.bin", SHAPE), bits)
    assert np.array_equal(read_voxel_labels(tmp_path / "voxels" / "a.label", SHAPE), raw)
    for count in (0, 11):
        points = rng.normal(size=(count, 4)).astype(np.float32)
        labels = rng.integers(0, 260, (2, count)).astype(np.uint16)
        write_points(tmp_path / "p.bin", points)
        write_point_labels(tmp_path / "p.label", labels[0], labels[1])
        assert np.array_equal(read_points(tmp_path / "p.bin"), points)
        assert np.array_equal(np.stack(read_point_labels(tmp_path / "p.label")), labels)


def test_pictures_round_trip_and_depth_pictures_are_256ths_of_a_metre(tmp_path: Path):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (5, 9, 3)).astype(np.uint8)
    write_image(tmp_path / "i.png", image)
    assert np.array_equal(read_image(tmp_path / "i.png"), image)
    steps = rng.integers(0, 80 * 256, (5, 9)).astype(np.uint16)
    Image.fromarray(steps).save(tmp_path / "d.png")
    assert np.array_equal(read_depth_png(tmp_path / "d.png"), steps / 256)
    with pytest.raises(InputError, match="16 bits"):
        read_depth_png(tmp_path / "i.png")


def test_calibration_poses_and_times_round_trip(tmp_path: Path):
    rng = np.random.default_rng(0)
    calibration = made_calibration(rng)
    write_calibration(tmp_path / "calib.txt", calibration)
    back = read_calibration(tmp_path / "calib.txt")
    assert np.array_equal(back.projections, calibration.projections)
    assert np.array_equal(back.camera0_from_velodyne, calibration.camera0_from_velodyne)
    poses = np.stack([made_calibration(rng).camera0_from_velodyne for _ in range(3)])
    write_poses(tmp_path / "poses.txt", poses)
    assert np.array_equal(read_poses(tmp_path / "poses.txt"), poses)
    write_times(tmp_path / "times.txt", [0.0, 0.1, 12.25])
    assert np.allclose(read_times(tmp_path / "times.txt"), [0.0, 0.1, 12.25], rtol=1e-6)


def test_chain_of_calibration_projects_like_the_projection_matrix():
    rng = np.random.default_rng(1)
    calibration = made_calibration(rng)
    points = np.concatenate([rng.normal(size=(6, 3)), np.ones((6, 1))], axis=1)
    for camera in range(4):
        expected = points @ (calibration.projections[camera] @ calibration.camera0_from_velodyne).T
        in_camera = points @ calibration.camera_from_velodyne(camera).T
        assert np.allclose(in_camera[:, :3] @ calibration.intrinsics(camera).T, expected, atol=1e-12)


def test_velodyne_poses_move_points_as_the_camera_does():
    rng = np.random.default_rng(2)
    calibration = made_calibration(rng)
    pose = made_calibration(rng).camera0_from_velodyne[None]
    point = np.array([1.0, 2.0, 3.0, 1.0])
    tr = calibration.camera0_from_velodyne
    moved = velodyne_poses(pose, calibration)[0] @ point
    assert np.allclose(tr @ moved, pose[0] @ (tr @ point))


@pytest.mark.parametrize("cut", [1, 3])
def test_truncated_files_are_named_with_rule_and_remedy(tmp_path: Path, cut: int):
    write_voxel_bits(tmp_path / "a.invalid", np.ones(SHAPE, dtype=bool))
    write_voxel_labels(tmp_path / "a.label", np.ones(SHAPE, dtype=np.uint16))
    write_points(tmp_path / "p.bin", np.ones((4, 4)))
    noise = np.random.default_rng(0).integers(0, 256, (20, 30, 3)).astype(np.uint8)
    write_image(tmp_path / "i.png", noise)
    for path in tmp_path.iterdir():
        data = path.read_bytes()
        path.write_bytes(data[: len(data) // 2] if path.suffix == ".png" else data[:-cut])
    readers = {
        "a.invalid": lambda p: read_voxel_bits(p, SHAPE),
        "a.label": lambda p: read_voxel_labels(p, SHAPE),
        "p.bin": read_points,
        "i.png": read_image,
    }
    for name, reader in readers.items():
        with pytest.raises(InputError, match="fetch it again") as caught:
            reader(tmp_path / name)
        assert caught.value.where == tmp_path / name
        assert caught.value.rule


def test_a_calibration_without_tr_is_refused(tmp_path: Path):
    path = tmp_path / "calib.txt"
    write_calibration(path, made_calibration(np.random.default_rng(0)))
    text = path.read_text()
    path.write_text("\n".join(text.splitlines()[:4]))
    with pytest.raises(InputError, match="no line Tr"):
        read_calibration(path)
    path.write_text(text.replace(" ", " x", 1))
    with pytest.raises(InputError, match="P0"):
        read_calibration(path)
    with pytest.raises(InputError, match="no such file"):
        read_poses(tmp_path / "poses.txt")
    (tmp_path / "poses.txt").write_text("1 2 3\n")
    with pytest.raises(InputError, match="row 0 has 3 numbers"):
        read_poses(tmp_path / "poses.txt")
