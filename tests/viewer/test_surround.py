import numpy as np
import pytest
from PIL import Image

from occloom.viewer.surround import LINE, MARGIN, CameraView, surround_picture

VOLUMES = Image.new("RGB", (324, 90), (1, 2, 3))


def view(number: int, height: int = 32, width: int = 64) -> CameraView:
    return CameraView(f"CAM {number}", np.full((height, width, 3), 40 * number + 10, np.uint8))


def where(sheet: Image.Image, colour: tuple[int, int, int]) -> tuple[slice, slice]:
    """Rows and columns that a colour fills."""
    rows, columns = np.nonzero((np.asarray(sheet) == colour).all(axis=2))
    return slice(rows.min(), rows.max() + 1), slice(columns.min(), columns.max() + 1)


@pytest.mark.parametrize("title", ["", "scene-0061/abc"])
def test_front_cameras_stand_above_and_back_cameras_below_from_left_to_right(title: str):
    sheet = surround_picture([view(n) for n in range(6)], VOLUMES, title)
    places = [where(sheet, (40 * n + 10,) * 3) for n in range(6)]
    volume, across = where(sheet, (1, 2, 3))
    assert (across.start, across.stop) == (0, 324)
    assert [rows.stop <= volume.start for rows, _ in places] == [True] * 3 + [False] * 3
    assert all(rows.start >= volume.stop for rows, _ in places[3:])
    for row in (places[:3], places[3:]):
        assert [columns.stop - columns.start for _, columns in row] == [96, 96, 96]
        assert [rows.stop - rows.start for rows, _ in row] == [48, 48, 48]
        assert row[0][1].start == MARGIN
        assert row[0][1].stop < row[1][1].start < row[1][1].stop < row[2][1].start


def test_a_missing_picture_leaves_its_place_grey():
    views = [view(0), CameraView("CAM 1", None), view(2)]
    sheet = surround_picture(views, VOLUMES)
    rows, columns = where(sheet, (225, 227, 230))
    assert (columns.start, columns.stop) == (MARGIN + 153, MARGIN + 153 + 147)
    assert rows.start == MARGIN + LINE


def test_one_camera_and_pictures_of_two_shapes():
    assert surround_picture([view(0)], VOLUMES).height == MARGIN + LINE + 150 + 90 + MARGIN
    tall = surround_picture([view(0), view(1, 64, 64), view(2)], VOLUMES)
    rows, _ = where(tall, (50, 50, 50))
    assert rows.stop - rows.start == 147
    assert surround_picture([CameraView("a", None)], VOLUMES).size[0] == 324
