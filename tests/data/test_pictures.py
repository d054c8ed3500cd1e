from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from occloom.data.kitti_files import read_image, write_image
from occloom.data.pictures import PictureFit, read_depth, resize_depth
from occloom.errors import InputError


def test_resizing_depth_to_its_own_size_changes_nothing():
    depth = np.random.default_rng(0).uniform(0, 9, (5, 7)).astype(np.float32)
    assert np.array_equal(resize_depth(depth, (5, 7)), depth)


@pytest.mark.parametrize("size", [(3, 4), (6, 14), (5, 9), (11, 3)])
def test_resized_depth_follows_its_rule(size: tuple[int, int]):
    rng = np.random.default_rng(1)
    depth = (rng.uniform(1, 9, (7, 9)) * (rng.random((7, 9)) < 0.5)).astype(np.float32)
    expected = np.zeros(size, dtype=np.float32)
    for v, u in np.ndindex(size):
        expected[v, u] = depth[int((v + 0.5) * 7 / size[0]), int((u + 0.5) * 9 / size[1])]
        covered = [
            depth[i, j]
            for i, j in np.argwhere(depth > 0)
            if v <= (i + 0.5) * size[0] / 7 < v + 1 and u <= (j + 0.5) * size[1] / 9 < u + 1
        ]
        if expected[v, u] == 0 and covered:
            expected[v, u] = min(covered)
    assert np.array_equal(resize_depth(depth, size), expected)


def test_a_resized_picture_agrees_with_its_intrinsics(tmp_path: Path):
    # A picture whose red is a ramp along u and green along v: the colour tells where a pixel came from.
    v, u = np.mgrid[0:40, 0:120]
    write_image(tmp_path / "a.png", np.stack([2 * u, 6 * v, 0 * u], axis=-1).astype(np.uint8))
    for size in ((20, 40), (10, 120), (80, 240)):
        fit = PictureFit((40, 120), size, "resize")
        image = fit.image(tmp_path / "a.png") * 255
        intrinsics = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]], dtype=torch.float64)
        mapped = fit.intrinsics(intrinsics)
        inner = image[:, size[0] // 2, size[1] // 2]
        old = torch.tensor([inner[0] / 2, inner[1] / 6, 1.0], dtype=torch.float64)
        new = mapped @ old
        assert abs(float(new[0]) - size[1] // 2) <= 0.5 * size[1] / 120 + 0.3
        assert abs(float(new[1]) - size[0] // 2) <= 0.5 * size[0] / 40 + 0.3


def test_cropping_keeps_the_upper_left_part_and_refuses_to_grow(tmp_path: Path):
    picture = np.random.default_rng(0).integers(0, 256, (6, 9, 3)).astype(np.uint8)
    write_image(tmp_path / "a.png", picture)
    fit = PictureFit((6, 9), (5, 7), "crop")
    assert np.array_equal((fit.image(tmp_path / "a.png") * 255).round().numpy(), picture[:5, :7].transpose(2, 0, 1))
    assert torch.equal(fit.intrinsics(torch.eye(3).double()), torch.eye(3).double())
    with pytest.raises(InputError, match="cannot be cropped"):
        PictureFit((6, 9), (7, 7), "crop")


@pytest.mark.parametrize(
    ("source", "target"), [((40, 120), (30, 60)), ((60, 120), (20, 60)), ((37, 122), (20, 61)), ((30, 50), (70, 100))]
)
def test_fitting_the_width_moves_content_as_the_intrinsics_say(
    source: tuple[int, int], target: tuple[int, int], tmp_path: Path
):
    # Red is a ramp along u and green along v: the colour tells where a pixel came from.
    v, u = np.mgrid[0 : source[0], 0 : source[1]]
    write_image(tmp_path / "a.png", np.stack([2 * u, 4 * v, 0 * u + 255], axis=-1).astype(np.uint8))
    fit = PictureFit(source, target, "width")
    red, green, blue = (fit.image(tmp_path / "a.png") * 255).double()
    intrinsics = torch.tensor([[70.0, 0.0, 61.3], [0.0, 71.0, 18.2], [0.0, 0.0, 1.0]], dtype=torch.float64)
    rays = torch.stack([(red / 2 - 61.3) / 70, (green / 4 - 18.2) / 71, torch.ones_like(red)])
    pixels = torch.einsum("ij,jvu->ivu", fit.intrinsics(intrinsics), rays)
    rows, columns = torch.meshgrid(*(torch.arange(float(n)).double() for n in target), indexing="ij")
    black = blue == 0
    assert torch.equal(black.any(1), black.all(1))
    padded = int(black.all(1).sum())
    assert padded == max(0, -fit.top)
    assert bool(black[:padded].all())
    inner = (slice(padded + 2, -2), slice(2, -2))
    scale = target[1] / source[1]
    assert float((pixels[0] - columns)[inner].abs().max()) < 0.3 * max(scale, 1)
    assert float((pixels[1] - rows)[inner].abs().max()) < 0.2 * max(scale, 1)


@pytest.mark.parametrize(
    ("source", "target", "scaled", "top"),
    [
        ((370, 1226), (384, 1280), (386, 1280), 2),
        ((376, 1241), (384, 1280), (387, 1280), 3),
        ((375, 1242), (384, 1280), (386, 1280), 2),
        ((374, 1238), (384, 1280), (386, 1280), 2),
        ((376, 1408), (384, 1408), (376, 1408), -8),
    ],
)
def test_fitting_the_width_cuts_the_rows_that_voxdet_cuts(
    source: tuple[int, int], target: tuple[int, int], scaled: tuple[int, int], top: int
):
    fit = PictureFit(source, target, "width")
    assert (fit.scaled, fit.top) == (scaled, top)


def as_released(picture: Image.Image, target: tuple[int, int]) -> Image.Image:
    """Reference voxdet 1, word by word: PIL's bicubic filter, sizes cut to integers, rows cut off or added on top."""
    scale = float(target[1]) / float(picture.width)
    picture = picture.resize((int(picture.width * scale), int(picture.height * scale)), Image.Resampling.BICUBIC)
    top = picture.height - target[0]
    return picture.crop((0, top, target[1], top + target[0]))


@pytest.mark.parametrize(
    ("source", "target", "scaled", "top"),
    [
        ((376, 1241), (384, 1280), (387, 1279), 3),
        ((370, 1226), (384, 1280), (386, 1280), 2),
        ((375, 1242), (384, 1280), (386, 1280), 2),
        ((374, 1238), (384, 1280), (386, 1280), 2),
        ((376, 1408), (384, 1408), (376, 1408), -8),
    ],
)
def test_published_weights_get_the_pixels_they_were_trained_on(
    source: tuple[int, int], target: tuple[int, int], scaled: tuple[int, int], top: int, tmp_path: Path
):
    fit = PictureFit(source, target, "released-width")
    assert (fit.scaled, fit.top) == (scaled, top)
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (20, 60, 3)).astype(np.uint8)
    picture = Image.fromarray(coarse).resize((source[1], source[0]))
    picture.save(tmp_path / "a.png")
    expected = np.asarray(as_released(picture, target))
    assert np.array_equal((fit.image(tmp_path / "a.png") * 255).round().permute(1, 2, 0).numpy(), expected)
    depth = np.kron(rng.choice([0.0, 5.0, 60.0], (source[0] // 10 + 1, source[1] // 10 + 1)), np.ones((10, 10)))
    depth = depth[: source[0], : source[1]].astype(np.float32)
    np.save(tmp_path / "d.npy", depth)
    expected = np.asarray(as_released(Image.fromarray(depth, mode="F"), target))
    fitted = fit.depth(tmp_path / "d.npy").numpy()
    assert np.array_equal(fitted, np.where(expected > 0, expected, 0))
    assert not fitted[: max(0, -top)].any()
    assert not fitted[:, scaled[1] :].any()
    # Half way between two surfaces, where no point is.
    assert scaled == source or bool(((fitted > 20) & (fitted < 40)).any())


def test_depth_is_fitted_as_the_picture_and_unknown_in_added_rows(tmp_path: Path):
    depth = np.random.default_rng(0).uniform(1, 9, (6, 8)).astype(np.float32)
    np.save(tmp_path / "d.npy", depth)
    higher = PictureFit((6, 8), (9, 8), "width").depth(tmp_path / "d.npy").numpy()
    assert np.array_equal(higher, np.concatenate([np.zeros((3, 8), np.float32), depth]))
    lower = PictureFit((6, 8), (4, 8), "width").depth(tmp_path / "d.npy").numpy()
    assert np.array_equal(lower, depth[2:])
    smaller = PictureFit((6, 8), (2, 4), "width").depth(tmp_path / "d.npy").numpy()
    assert np.array_equal(smaller, resize_depth(depth, (3, 4))[1:])


@pytest.mark.real_data
def test_the_kitti_360_picture_gets_eight_black_rows_on_top(real_data: Path):
    path = real_data / "kitti360" / "example_0000.png"
    fitted = (PictureFit((376, 1408), (384, 1408), "width").image(path) * 255).round().to(torch.uint8)
    assert not fitted[:, :8].any()
    assert np.array_equal(fitted[:, 8:].permute(1, 2, 0).numpy(), read_image(path))


def test_a_picture_of_another_size_is_refused(tmp_path: Path):
    write_image(tmp_path / "a.png", np.zeros((6, 8, 3), dtype=np.uint8))
    with pytest.raises(InputError, match="6x8, expected 6x9"):
        PictureFit((6, 9), (6, 9), "resize").image(tmp_path / "a.png")


@pytest.mark.parametrize(("value", "dtype"), [(np.nan, np.float32), (-1.0, np.float64), (np.inf, np.float32)])
def test_impossible_depth_is_refused_and_placed(tmp_path: Path, value: float, dtype: type):
    depth = np.ones((4, 5), dtype=dtype)
    depth[2, 3] = value
    np.save(tmp_path / "d.npy", depth)
    with pytest.raises(InputError, match="row 2, column 3"):
        read_depth(tmp_path / "d.npy")


def test_damaged_and_foreign_depth_files_are_refused(tmp_path: Path):
    np.save(tmp_path / "d.npy", np.ones((4, 5), dtype=np.float32))
    whole = (tmp_path / "d.npy").read_bytes()
    (tmp_path / "d.npy").write_bytes(whole[:-7])
    with pytest.raises(InputError, match="cannot be read"):
        read_depth(tmp_path / "d.npy")
    np.save(tmp_path / "e.npy", np.ones((4, 5), dtype=np.int32))
    with pytest.raises(InputError, match="int32"):
        read_depth(tmp_path / "e.npy")
    with pytest.raises(InputError, match="occloom prepare depth"):
        read_depth(tmp_path / "missing.npy")
