from pathlib import Path

import numpy as np
import pytest

from occloom.data.depth_report import depth_errors
from occloom.data.depth_sources import FileDepth, LidarDepth, SgbmDepth, picture_size, render_points
from occloom.data.kitti_files import KittiFrame, read_calibration, read_depth_png, read_points, write_image
from occloom.errors import InputError

STEREO = (("08", "000000"), ("08", "000005"), ("00", "000000"), ("04", "000000"))


def test_rendered_points_equal_a_loop_and_the_nearest_wins():
    rng = np.random.default_rng(0)
    intrinsics = np.array([[5.0, 0.0, 3.0], [0.0, 5.0, 2.0], [0.0, 0.0, 1.0]])
    points = np.concatenate([rng.normal(size=(200, 3)), [[0.1, 0.1, 1e-300], [0.0, 0.0, 0.0], [0.0, 0.0, 0.3]]])
    expected = np.zeros((4, 6), dtype=np.float32)
    for x, y, z in points:
        if z > 1e-9:
            u, v = round(5 * x / z + 3), round(5 * y / z + 2)
            if 0 <= u < 6 and 0 <= v < 4 and (expected[v, u] == 0 or z < expected[v, u]):
                expected[v, u] = z
    assert np.array_equal(render_points(points, intrinsics, (4, 6)), expected)
    assert not render_points(points[:0], intrinsics, (4, 6)).any()


@pytest.mark.parametrize("width", [160, 320, 700])
def test_stereo_finds_a_shift_whatever_the_size(width: int):
    rng = np.random.default_rng(0)
    shift, height = width // 40, 60
    texture = np.kron(rng.integers(0, 256, (height // 2, width, 3)), np.ones((2, 2, 1))).astype(np.uint8)
    left, right = texture[:, :width], texture[:, shift : shift + width]
    disparity = SgbmDepth().disparity(left, right)
    inner = disparity[4:-4, 2 * shift : -shift]
    assert disparity.shape == (height, width)
    assert np.mean(inner > 0) > 0.9
    assert np.mean(np.abs(inner[inner > 0] - shift) < 0.1) > 0.97


def test_foreign_depth_of_another_size_is_refused(made_kitti: Path, tmp_path: Path):
    frame = KittiFrame(made_kitti, "00", "000000")
    path = tmp_path / "sequences" / "00" / "000000.npy"
    path.parent.mkdir(parents=True)
    depth = np.random.default_rng(0).uniform(0, 50, picture_size(frame)).astype(np.float32)
    np.save(path, depth)
    assert np.array_equal(FileDepth(tmp_path).depth(frame), depth)
    np.save(path, depth[:, :-1])
    with pytest.raises(InputError, match="size of the left picture"):
        FileDepth(tmp_path).depth(frame)


def test_stereo_names_a_missing_or_unequal_right_picture(make_kitti, tmp_path: Path):
    root = make_kitti(tmp_path, sequences=("00",), frames=1)
    frame = KittiFrame(root, "00", "000000")
    write_image(frame.file("image_3", ".png"), np.zeros((36, 100, 3), dtype=np.uint8))
    with pytest.raises(InputError, match="36x100"):
        SgbmDepth().depth(frame)
    frame.file("image_3", ".png").unlink()
    with pytest.raises(InputError, match="no such file") as caught:
        SgbmDepth().depth(frame)
    assert caught.value.where == frame.file("image_3", ".png")


@pytest.mark.real_data
def test_projected_lidar_follows_the_projection_matrix(real_data: Path):
    frame = KittiFrame(real_data / "semantickitti", "08", "000000")
    calibration = read_calibration(frame.folder / "calib.txt")
    points = read_points(frame.file("velodyne", ".bin")).astype(np.float64)
    points[:, 3] = 1
    u, v, z = (points @ (calibration.projections[2] @ calibration.camera0_from_velodyne).T).T
    depth = LidarDepth().depth(frame)
    height, width = depth.shape
    ahead = z > 1
    column, row = np.rint(u[ahead] / z[ahead]).astype(int), np.rint(v[ahead] / z[ahead]).astype(int)
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    nearest = np.full(depth.shape, np.inf)
    np.minimum.at(nearest, (row[inside], column[inside]), z[ahead][inside])
    known = np.isfinite(nearest)
    assert np.mean(known == (depth > 0)) > 0.9999
    assert np.abs(depth - nearest)[known & (depth > 0)].max() < 0.01
    assert 0.03 < known.mean() < 0.06


@pytest.mark.real_data
def test_stereo_is_as_close_to_lidar_as_block_matching_gets(real_data: Path):
    frames = [KittiFrame(real_data / "semantickitti", *name) for name in STEREO]
    estimate = np.concatenate([SgbmDepth().depth(frame).ravel() for frame in frames])
    truth = np.concatenate([LidarDepth().depth(frame).ravel() for frame in frames])
    # A pixel of disparity is worth z^2 / 380 m here; the bounds are the reference's figures with room above.
    for errors, bound in zip(depth_errors(estimate, truth), (0.15, 0.5, 1.5, 3.0, 6.0), strict=True):
        assert errors.pixels > 5000
        assert errors.filled > 0.8
        assert errors.median < bound


@pytest.mark.real_data
def test_stereo_agrees_with_kitti_s_accumulated_depth(real_data: Path, tmp_path: Path):
    source = real_data / "kitti_odometry_07"
    folder = tmp_path / "sequences" / "07"
    folder.mkdir(parents=True)
    for name in ("image_2", "image_3"):
        (folder / name).symlink_to(source / name)
    (folder / "calib.txt").symlink_to(real_data / "semantickitti_calib_all" / "07.txt")
    estimate = SgbmDepth().depth(KittiFrame(tmp_path, "07", "000169"))
    truth = read_depth_png(source / "image_depth_annotated" / "000169.png")
    near, middle = depth_errors(estimate, truth)[:2]
    assert near.median < 0.15
    assert middle.median < 0.5
