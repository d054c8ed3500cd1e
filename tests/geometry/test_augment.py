import numpy as np
import pytest
import torch
from PIL import Image

from occloom.geometry.augment import cropped_intrinsics, flipped_intrinsics, resized_intrinsics, turned_intrinsics
from occloom.geometry.projection import project

LEADS = [(), (2,), (1, 2), (0,)]


def camera(lead: tuple[int, ...] = (), dtype: torch.dtype = torch.float64) -> torch.Tensor:
    intrinsics = torch.tensor([[70.0, 0.5, 31.0], [0.0, 65.0, 11.5], [0.0, 0.0, 1.0]], dtype=dtype)
    return intrinsics.expand(*lead, 3, 3) + 0.0


def points_in_view(lead: tuple[int, ...] = (), count: int = 9) -> torch.Tensor:
    rng = np.random.default_rng(4)
    return torch.tensor(rng.uniform((-4, -2, 4), (4, 2, 30), (*lead, count, 3)))


@pytest.mark.parametrize("lead", LEADS)
class TestPixelsMove:
    def test_resize(self, lead):
        points = points_in_view(lead)
        before, _ = project(points, camera(lead))
        after, _ = project(points, resized_intrinsics(camera(lead), from_size=(24, 64), to_size=(36, 16)))
        expected = torch.stack([(before[..., 0] + 0.5) / 4 - 0.5, (before[..., 1] + 0.5) * 1.5 - 0.5], dim=-1)
        torch.testing.assert_close(after, expected)

    def test_crop(self, lead):
        points = points_in_view(lead)
        after, _ = project(points, cropped_intrinsics(camera(lead), 7, -3))
        torch.testing.assert_close(after, project(points, camera(lead))[0] - torch.tensor([7.0, -3.0]).double())

    def test_flip(self, lead):
        points = points_in_view(lead)
        before, _ = project(points, camera(lead))
        after, _ = project(points, flipped_intrinsics(camera(lead), 64))
        torch.testing.assert_close(after, torch.stack([63 - before[..., 0], before[..., 1]], dim=-1))


@pytest.mark.parametrize("degrees", [-5.4, 30.0])
def test_turned_images_show_points_where_the_turned_camera_projects_them(degrees):
    """Pillow turns counter-clockwise about the middle; two ramps tell where each pixel came from."""
    size = (24, 64)
    turned = [
        np.asarray(Image.fromarray(ramp).rotate(degrees, Image.Resampling.BILINEAR, fillcolor=-1))
        for ramp in ramps(*size)
    ]
    before, _ = project(points_in_view(), camera())
    after, _ = project(points_in_view(), turned_intrinsics(camera(), degrees=degrees, size=size))
    checked = 0
    for (u, v), (new_u, new_v) in zip(before.tolist(), after.tolist(), strict=True):
        if 1 <= new_u < size[1] - 2 and 1 <= new_v < size[0] - 2:
            corner = np.s_[int(new_v) : int(new_v) + 2, int(new_u) : int(new_u) + 2]
            across, down = new_u % 1, new_v % 1
            weights = np.outer([1 - down, down], [1 - across, across])
            if min(ramp[corner].min() for ramp in turned) > 0:
                checked += 1
                assert [float((ramp[corner] * weights).sum()) for ramp in turned] == pytest.approx([u, v], abs=0.05)
    assert checked >= 4


def test_turning_back_changes_nothing():
    there = turned_intrinsics(camera(), degrees=7.0, size=(24, 64))
    torch.testing.assert_close(turned_intrinsics(there, degrees=-7.0, size=(24, 64)), camera())


def test_flipping_twice_changes_nothing():
    torch.testing.assert_close(flipped_intrinsics(flipped_intrinsics(camera(), 65), 65), camera())


def test_resizing_back_changes_nothing():
    there = resized_intrinsics(camera(), from_size=(24, 64), to_size=(37, 51))
    torch.testing.assert_close(resized_intrinsics(there, from_size=(37, 51), to_size=(24, 64)), camera())


def test_two_resizes_are_one():
    half = resized_intrinsics(camera(), from_size=(24, 64), to_size=(12, 32))
    quarter = resized_intrinsics(half, from_size=(12, 32), to_size=(6, 16))
    torch.testing.assert_close(quarter, resized_intrinsics(camera(), from_size=(24, 64), to_size=(6, 16)))


def test_flip_and_crop_commute_when_the_other_side_is_cut():
    """Cutting a columns left then mirroring is mirroring, then cutting what became the left: here nothing."""
    cut_then_flipped = flipped_intrinsics(cropped_intrinsics(camera(), 10, 0), 54)
    flipped = flipped_intrinsics(camera(), 64)
    torch.testing.assert_close(cut_then_flipped, flipped)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_precision_is_the_callers_and_the_argument_stays(dtype):
    intrinsics = camera((2,), dtype)
    kept = intrinsics.clone()
    for changed in (
        resized_intrinsics(intrinsics, from_size=(24, 64), to_size=(10, 64)),
        cropped_intrinsics(intrinsics, 1, 2),
        flipped_intrinsics(intrinsics, 64),
        turned_intrinsics(intrinsics, degrees=5.0, size=(24, 64)),
    ):
        assert changed.dtype == dtype
        assert not torch.equal(changed, intrinsics)
    assert torch.equal(intrinsics, kept)


def ramps(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Two images whose values tell the column and the row."""
    v, u = np.mgrid[:height, :width].astype(np.float32)
    return u, v


@pytest.mark.parametrize("factor", [2, 4])
def test_average_pooled_images_show_points_where_the_resized_camera_projects_them(factor):
    height, width = 24, 64
    pooled = [r.reshape(height // factor, factor, width // factor, factor).mean((1, 3)) for r in ramps(height, width)]
    check_images(pooled, factor, height, width)


@pytest.mark.parametrize("factor", [2, 4])
def test_images_resized_by_pillow_agree_with_the_resized_camera(factor):
    height, width = 24, 64
    size = (width // factor, height // factor)
    resized = [np.asarray(Image.fromarray(r).resize(size, Image.Resampling.BOX)) for r in ramps(height, width)]
    check_images(resized, factor, height, width)


def check_images(resized: list[np.ndarray], factor: int, height: int, width: int) -> None:
    """The original (u, v) is read off the small images at the small camera's pixel, linearly between its pixels."""
    points = points_in_view()
    before, _ = project(points, camera())
    small_size = (height // factor, width // factor)
    after, _ = project(points, resized_intrinsics(camera(), from_size=(height, width), to_size=small_size))
    image_u, image_v = resized
    read_u = image_u[0, 0] + after[:, 0].numpy() * (image_u[0, 1] - image_u[0, 0])
    read_v = image_v[0, 0] + after[:, 1].numpy() * (image_v[1, 0] - image_v[0, 0])
    np.testing.assert_allclose(np.stack([read_u, read_v], axis=-1), before.numpy(), atol=1e-5)


def test_a_mirrored_and_cut_image_shows_points_where_its_camera_projects_them():
    u, v = ramps(24, 64)
    changed = [np.fliplr(r)[3:, 5:] for r in (u, v)]
    points = points_in_view()
    before, _ = project(points, camera())
    after, _ = project(points, cropped_intrinsics(flipped_intrinsics(camera(), 64), 5, 3))
    image_u, image_v = changed
    read_u = image_u[0, 0] + after[:, 0].numpy() * (image_u[0, 1] - image_u[0, 0])
    read_v = image_v[0, 0] + after[:, 1].numpy() * (image_v[1, 0] - image_v[0, 0])
    np.testing.assert_allclose(np.stack([read_u, read_v], axis=-1), before.numpy(), atol=1e-9)
