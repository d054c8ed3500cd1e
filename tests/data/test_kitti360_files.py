from pathlib import Path

import numpy as np
import pytest
import torch

from occloom.data.kitti360_files import FULL_SIZE, Kitti360Frame, drive_folder, fixed_calibration
from occloom.data.kitti_files import KittiFrame, StereoFrame, read_voxel_mask, write_image, write_voxel_bits
from occloom.data.pictures import PictureFit
from occloom.errors import InputError

SHAPE = (16, 8, 4)


def test_the_files_of_a_frame_lie_where_sscbench_puts_them(tmp_path: Path):
    frame = Kitti360Frame(tmp_path, drive_folder("0006"), "000005")
    drive = "2013_05_28_drive_0006_sync"
    assert frame.token == f"{drive}/000005"
    assert frame.left == tmp_path / "data_2d_raw" / drive / "image_00" / "data_rect" / "000005.png"
    assert frame.right == tmp_path / "data_2d_raw" / drive / "image_01" / "data_rect" / "000005.png"
    assert frame.scan == tmp_path / "data_3d_raw" / drive / "velodyne_points" / "data" / "000005.bin"
    assert frame.voxels(".invalid") == tmp_path / "data_2d_raw" / drive / "voxels" / "000005.invalid"
    assert frame.preprocessed[0] == tmp_path / "preprocess" / "labels" / drive / "000005_1_1.npy"
    assert isinstance(frame, StereoFrame)
    assert isinstance(KittiFrame(tmp_path, "00", "000000"), StereoFrame)


def test_the_fixed_calibration_is_a_rigid_stereo_rig_that_looks_ahead():
    calibration = fixed_calibration()
    rotation = calibration.camera0_from_velodyne[:3, :3]
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-9)
    ahead = calibration.camera_from_velodyne(2) @ [20.0, 0.0, -1.0, 1.0]
    pixel = calibration.intrinsics(2) @ ahead[:3] / ahead[2]
    assert 18 < ahead[2] < 20
    assert all(0 <= p < n for p, n in zip(pixel[:2], (1408, 376), strict=True))
    left, right = (np.linalg.inv(calibration.camera_from_velodyne(n))[:3, 3] for n in (2, 3))
    assert np.linalg.norm(left - right) == pytest.approx(328.318735 / 552.554261)
    assert right[1] < left[1]  # y points left


def test_smaller_pictures_show_the_same_world_by_scaled_intrinsics(tmp_path: Path):
    size = (94, 350)
    calibration, full = fixed_calibration(size), fixed_calibration()
    points = np.random.default_rng(0).uniform((5, -5, -2), (40, 5, 3), (50, 3))
    for camera in (2, 3):
        pixels = []
        for rig in (calibration, full):
            seen = points @ rig.camera_from_velodyne(camera)[:3, :3].T + rig.camera_from_velodyne(camera)[:3, 3]
            pixels.append((seen @ rig.intrinsics(camera).T)[:, :2] / seen[:, 2:])
        scale = np.array([size[1] / FULL_SIZE[1], size[0] / FULL_SIZE[0]])
        np.testing.assert_allclose(pixels[0] + 0.5, (pixels[1] + 0.5) * scale, atol=1e-9)
    frame = Kitti360Frame(tmp_path, drive_folder("0000"), "000000")
    with pytest.raises(InputError, match=r"000000\.png"):
        frame.calibration()
    frame.left.parent.mkdir(parents=True)
    write_image(frame.left, np.zeros((*size, 3), np.uint8))
    np.testing.assert_array_equal(frame.calibration().projections, calibration.projections)


def test_masks_of_bits_and_of_bytes_read_the_same(tmp_path: Path):
    mask = np.random.default_rng(0).random(SHAPE) < 0.4
    write_voxel_bits(tmp_path / "bits", mask)
    (tmp_path / "bytes").write_bytes(mask.astype(np.uint8).tobytes())
    assert (tmp_path / "bytes").stat().st_size == 8 * (tmp_path / "bits").stat().st_size
    for name in ("bits", "bytes"):
        assert np.array_equal(read_voxel_mask(tmp_path / name, SHAPE), mask)
    (tmp_path / "bytes").write_bytes(mask.tobytes()[:-1])
    with pytest.raises(InputError, match="one bit or one byte"):
        read_voxel_mask(tmp_path / "bytes", SHAPE)


@pytest.mark.real_data
def test_the_real_picture_fits_with_the_fixed_intrinsics(real_data: Path):
    image = PictureFit(FULL_SIZE, (384, 1408), "width").image(real_data / "kitti360" / "example_0000.png")
    fitted = PictureFit(FULL_SIZE, (384, 1408), "width").intrinsics(torch.from_numpy(fixed_calibration().intrinsics(2)))
    assert image.shape == (3, 384, 1408)
    assert fitted.tolist() == [[552.554261, 0, 682.049453], [0, 552.554261, 238.769549 + 8], [0, 0, 1]]
