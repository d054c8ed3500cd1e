from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from occloom.data import depth_sources
from occloom.data.depth_report import depth_errors
from occloom.data.depth_sources import (
    FileDepth,
    LidarDepth,
    MobileStereoDepth,
    SgbmDepth,
    network_disparity,
    picture_size,
    render_points,
)
from occloom.data.kitti_files import KittiFrame, read_calibration, read_depth_png, read_points, write_image
from occloom.errors import InputError
from occloom.stereo.mobile_stereonet import MobileStereoNet3d

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


@pytest.fixture(scope="module")
def stereo_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights of the stereo network."""
    random = torch.Generator().manual_seed(0)
    state = MobileStereoNet3d().state_dict()
    for tensor in state.values():
        if tensor.dim() > 1:
            tensor.normal_(0, (2 / tensor[0].numel()) ** 0.5, generator=random)
    path = tmp_path_factory.mktemp("weights") / "msnet3d.safetensors"
    save_file(state, path)
    return path


@pytest.mark.parametrize("size", [(36, 50), (32, 64), (7, 3)])
def test_the_network_gets_normalised_pictures_padded_at_the_top_and_right(
    monkeypatch: pytest.MonkeyPatch, size: tuple[int, int]
):
    rng = np.random.default_rng(0)
    left, right = (rng.integers(0, 256, (*size, 3)).astype(np.uint8) for _ in range(2))
    network, seen = MobileStereoNet3d(), []

    def answer(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        seen.extend((left, right))
        return left[:, 0]

    monkeypatch.setattr(network, "forward", answer)
    disparity = network_disparity(network, left, right, torch.device("cpu"))
    height, width = size
    for picture, padded in zip((left, right), seen, strict=True):
        assert padded.shape[-2] % 32 == padded.shape[-1] % 32 == 0
        above = padded.shape[-2] - height
        inside = padded[0, :, above:, :width].permute(1, 2, 0).numpy()
        colours = inside * np.array([0.229, 0.224, 0.225]) + np.array([0.485, 0.456, 0.406])
        np.testing.assert_allclose(colours * 255, picture, atol=1e-3)
        assert not padded[:, :, :above].any()
        assert not padded[..., width:].any()
    assert np.array_equal(disparity, seen[0][0, 0, -height:, :width].numpy())


def test_the_pictures_of_kitti_are_padded_as_the_published_depth_maps_were(monkeypatch: pytest.MonkeyPatch):
    network, sizes = MobileStereoNet3d(), set()

    def answer(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        sizes.add(tuple(left.shape[-2:]))
        return right[:, 0]

    monkeypatch.setattr(network, "forward", answer)
    for size in ((376, 1241), (375, 1242), (370, 1226), (370, 1224), (374, 1238)):
        picture = np.zeros((*size, 3), dtype=np.uint8)
        assert network_disparity(network, picture, picture, torch.device("cpu")).shape == size
    assert sizes == {(384, 1248)}


def test_disparity_becomes_depth_by_the_frame_s_own_calibration(
    made_kitti: Path, stereo_weights: Path, monkeypatch: pytest.MonkeyPatch
):
    frame = KittiFrame(made_kitti, "00", "000000")
    disparity = np.random.default_rng(0).uniform(0.1, 20, picture_size(frame)).astype(np.float32)
    disparity[0, :3] = 0.0, 1e-8, 0.01
    monkeypatch.setattr(depth_sources, "network_disparity", lambda *_: disparity)
    depth = MobileStereoDepth(stereo_weights).depth(frame)
    projections = read_calibration(frame.folder / "calib.txt").projections
    point = np.array([1.0, 0.5, 7.0, 1.0])
    seen = [(matrix @ point)[0] / point[2] for matrix in projections[2:]]
    # The point 7 m ahead stands that many pixels apart, so depth times disparity is 7 m times that anywhere.
    np.testing.assert_allclose((depth * disparity)[1:], 7.0 * (seen[0] - seen[1]), rtol=1e-3)
    assert not depth[0, :3].any()
    assert depth[0, 3:].min() > 0


def test_block_matching_keeps_the_steps_of_enlarged_pictures(made_kitti: Path, monkeypatch: pytest.MonkeyPatch):
    frame = KittiFrame(made_kitti, "00", "000000")
    disparity = np.zeros(picture_size(frame), dtype=np.float32)
    disparity[0, :2] = 1 / 64, 2.0  # the first: a sixteenth of a pixel of pictures four times as large
    monkeypatch.setattr(SgbmDepth, "disparity", lambda *_: disparity)
    depth = SgbmDepth().depth(frame)
    assert depth[0, 0] == 128 * depth[0, 1] > 0
    assert not depth.ravel()[2:].any()


def test_the_network_s_depth_has_the_picture_s_size_and_is_finite(made_kitti: Path, stereo_weights: Path):
    frame = KittiFrame(made_kitti, "08", "000000")
    source = MobileStereoDepth(stereo_weights)
    depth = source.depth(frame)
    assert depth.shape == picture_size(frame)
    assert depth.dtype == np.float32
    assert np.isfinite(depth).all()
    assert source.inputs(frame) == SgbmDepth().inputs(frame)


def test_the_network_s_origin_is_that_of_its_weights(stereo_weights: Path, tmp_path: Path):
    copy = tmp_path / "elsewhere.safetensors"
    copy.write_bytes(stereo_weights.read_bytes())
    origin = MobileStereoDepth(stereo_weights).origin
    assert MobileStereoDepth(copy).origin.key == origin.key
    copy.write_bytes(stereo_weights.read_bytes()[:-4] + b"next")
    assert MobileStereoDepth(copy).origin.key != origin.key
    with pytest.raises(InputError, match="MSNet3D_SF_DS_KITTI2015") as caught:
        MobileStereoDepth(tmp_path / "nothing.ckpt")
    assert "--weights" in str(caught.value)


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
