import sys
import types
from pathlib import Path

import numpy as np
import pytest

from occloom.data.kitti_files import read_image, write_image
from occloom.data.mask_cache import MaskPicture
from occloom.data.mask_sources import SeedsMasks
from occloom.errors import InputError


def picture_of(folder: Path, image: np.ndarray) -> MaskPicture:
    write_image(folder / "one.png", image)
    return MaskPicture(folder, "scene-1/abc", "CAM_FRONT", folder / "one.png")


@pytest.mark.parametrize(("asked", "made"), [(350, 299), (120, 91), (140, 91)])
def test_nuscenes_pictures_have_the_papers_numbers_of_superpixels(tmp_path: Path, asked: int, made: int):
    """Table 6's 299 and 91, of pictures of 1600x900."""
    gradient = np.linspace(0, 255, 1600).astype(np.uint8)
    picture = picture_of(tmp_path, np.broadcast_to(gradient[None, :, None], (900, 1600, 3)).copy())
    masks = SeedsMasks(superpixels=asked, iterations=1).masks(picture)
    assert masks.shape == (900, 1600)
    assert masks.dtype == np.uint16
    np.testing.assert_array_equal(np.unique(masks), np.arange(made))


def test_superpixels_keep_to_the_edges_of_a_picture(tmp_path: Path):
    """Two colours whose edge no block shares: nearly no superpixel has pixels of both."""
    image = np.zeros((96, 160, 3), np.uint8)
    image[:, :75], image[:, 75:] = (200, 30, 30), (30, 30, 200)
    masks = SeedsMasks(superpixels=20).masks(picture_of(tmp_path, image))
    counts = np.array([[(masks[:, :75] == s).sum(), (masks[:, 75:] == s).sum()] for s in np.unique(masks)])
    assert len(counts) > 5
    assert counts.min(axis=1).sum() < 0.02 * counts.sum()
    again = SeedsMasks(superpixels=20).masks(picture_of(tmp_path, image))
    np.testing.assert_array_equal(masks, again)


def test_every_parameter_is_in_the_key():
    keys = {SeedsMasks().origin.key, SeedsMasks(superpixels=120).origin.key, SeedsMasks(iterations=4).origin.key}
    assert len(keys) == 3


@pytest.mark.parametrize("wrong", [{"superpixels": 0}, {"levels": 0}, {"prior": 6}, {"bins": 0}, {"iterations": 0}])
def test_numbers_that_make_no_superpixels(wrong):
    with pytest.raises(InputError, match="SEEDS of"):
        SeedsMasks(**wrong)


def test_a_picture_too_small_for_its_superpixels(tmp_path: Path):
    with pytest.raises(InputError, match="no 350 superpixels of 3 levels in 16x20"):
        SeedsMasks().masks(picture_of(tmp_path, np.zeros((16, 20, 3), np.uint8)))


@pytest.mark.parametrize(
    ("module", "reason"), [(None, "superpixels need OpenCV"), (types.ModuleType("cv2"), "no extra")]
)
def test_opencv_is_an_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module, reason: str):
    monkeypatch.setitem(sys.modules, "cv2", module)
    with pytest.raises(InputError, match=reason):
        SeedsMasks().masks(picture_of(tmp_path, np.zeros((16, 20, 3), np.uint8)))


@pytest.mark.real_data
def test_superpixels_of_a_real_picture_are_of_fewer_colours_than_cells_of_a_grid(real_data: Path):
    """299 of them, the paper's number; what is left of the colours' variance is half of what 13x23 cells leave."""
    (path,) = (real_data / "nuscenes_scene0061" / "samples" / "CAM_FRONT").glob("*.jpg")
    image = read_image(path).astype(np.float64)
    masks = SeedsMasks().masks(MaskPicture(real_data, "scene-0061/any", "CAM_FRONT", path))
    assert masks.shape == (900, 1600)
    np.testing.assert_array_equal(np.unique(masks), np.arange(299))
    rows, columns = np.mgrid[:900, :1600]
    cells = rows * 13 // 900 * 23 + columns * 23 // 1600

    def left(segments: np.ndarray) -> float:
        counts = np.bincount(segments.ravel())
        parts = [
            np.bincount(segments.ravel(), weights=channel.ravel()) / counts for channel in np.moveaxis(image, -1, 0)
        ]
        return float(np.mean((image - np.stack(parts, axis=-1)[segments]) ** 2))

    assert left(masks.astype(np.int64)) < 0.6 * left(cells)
