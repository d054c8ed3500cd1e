from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import save_file

from occloom.cli.main import run
from occloom.data.kitti_files import (
    Calibration,
    KittiFrame,
    write_calibration,
    write_image,
    write_points,
    write_voxel_bits,
)
from occloom.stereo.mobile_stereonet import MobileStereoNet3d


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two frames of a stereo pair that sees a textured wall 10 m ahead, with a scan of it."""
    rng = np.random.default_rng(0)
    intrinsics = np.array([[80.0, 0.0, 63.5], [0.0, 80.0, 23.5], [0.0, 0.0, 1.0]])
    columns = np.array([[0.0, 0.0, 0.0], [-40.0, 0.0, 0.0], [0.0, 0.0, 0.0], [-40.0, 0.0, 0.0]])
    axes = np.array([[0.0, -1.0, 0.0, 0.0], [0.0, 0.0, -1.0, 0.0], [1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0]])
    projections = np.concatenate([np.broadcast_to(intrinsics, (4, 3, 3)), columns[..., None]], axis=2)
    texture = rng.integers(0, 256, (48, 132, 3)).astype(np.uint8)
    wall = np.stack([np.full(3000, 10.0), rng.uniform(-6, 6, 3000), rng.uniform(-2, 2, 3000), np.ones(3000)], axis=1)
    for name in ("000000", "000005"):
        frame = KittiFrame(tmp_path / "data", "00", name)
        write_calibration(frame.folder / "calib.txt", Calibration(projections, axes))
        write_image(frame.file("image_2", ".png"), texture[:, :128])
        write_image(frame.file("image_3", ".png"), texture[:, 4:])
        write_points(frame.file("velodyne", ".bin"), wall)
        write_voxel_bits(frame.file("voxels", ".bin"), np.zeros((256, 256, 32), dtype=bool))
    return tmp_path / "data"


def test_depth_is_prepared_once_and_reported(root: Path, capsys: pytest.CaptureFixture[str]):
    command = ["prepare", "depth", "--root", str(root), "--workers", "1"]
    assert run(command) == 0
    path = root / "depth" / "stereo-sgbm" / "sequences" / "00" / "000005.npy"
    depth = np.load(path)
    assert depth.dtype == np.float32
    assert abs(np.median(depth[depth > 0]) - 10) < 0.3
    written = path.stat().st_mtime_ns
    assert run(command) == 0
    assert path.stat().st_mtime_ns == written
    capsys.readouterr()
    assert run(["prepare", "depth-report", "--root", str(root), "--depth", "stereo-sgbm"]) == 0
    printed = capsys.readouterr().out
    assert "2 frames against projected LiDAR" in printed
    assert "| 10-20 |" in printed


def test_a_network_prepares_depth_with_weights_from_a_file(root: Path, tmp_path: Path):
    weights = tmp_path / "msnet3d.safetensors"
    save_file(MobileStereoNet3d().state_dict(), weights)
    command = ["prepare", "depth", "--root", str(root), "--source", "stereo-msnet3d", "--weights", str(weights)]
    assert run(command) == 0
    depth = np.load(root / "depth" / "stereo-msnet3d" / "sequences" / "00" / "000005.npy")
    assert depth.shape == (48, 128)
    assert depth.dtype == np.float32


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--source", "lidar", "--out", "{root}/depth/stereo-sgbm"], "source 'stereo-sgbm', wanted 'lidar'"),
        (["--source", "file"], "--files"),
        (["--source", "stereo-msnet3d", "--out", "{root}/x"], "--weights"),
        (["--source", "stereo-msnet3d", "--weights", "{root}/no.ckpt", "--out", "{root}/x"], "no.ckpt"),
        (["--sequences", "07"], "no such sequence"),
        (["--source", "file", "--files", "{root}/nothing", "--out", "{root}/x"], "no such file"),
        (["--out", "{root}"], "not empty"),
    ],
)
def test_mistakes_give_one_line_and_code_2(
    root: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], named: str
):
    assert run(["prepare", "depth", "--root", str(root), "--workers", "1"]) == 0
    capsys.readouterr()
    given = [argument.format(root=root) for argument in arguments]
    assert run(["prepare", "depth", "--root", str(root), "--workers", "1", *given]) == 2
    error = capsys.readouterr().err
    assert named in error
    assert error.count("\n") == 1


def test_an_option_that_does_not_exist_is_refused(root: Path):
    assert run(["prepare", "depth", "--root", str(root), "--sourc", "lidar"]) == 2
