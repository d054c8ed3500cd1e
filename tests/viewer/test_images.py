import numpy as np
import pytest

from occloom.grid import LabelSpace, VoxelGrid
from occloom.viewer.cubes import display_colours
from occloom.viewer.images import ERRORS, comparison_picture, error_labels, voxel_picture

GRID = VoxelGrid(lower=(0.0, -2.0, -1.0), voxel_size=(0.5, 0.5, 0.5), shape=(8, 8, 4))
SPACE = LabelSpace(
    names=("red", "nothing", "green", "blue"),
    empty=1,
    colours=((230, 20, 20), (0, 0, 0), (20, 200, 20), (30, 30, 220)),
    frequencies=(1.0,) * 4,
)
PANEL = (60, 100)


def volume(*labels: int) -> np.ndarray:
    filled = np.full(GRID.shape, SPACE.empty, np.int64)
    for i, label in enumerate(labels):
        filled[2 * i : 2 * i + 2, 3:5, :2] = label
    return filled


def holds(sheet: np.ndarray, part: np.ndarray) -> bool:
    """Whether a picture stands somewhere on the sheet, pixel for pixel."""
    height, width = part.shape[:2]
    windows = np.lib.stride_tricks.sliding_window_view(sheet, (height, width, 3))[:, :, 0]
    candidates = np.argwhere((windows[:, :, 0, 0] == part[0, 0]).all(axis=2))
    return any((windows[tuple(c)] == part).all() for c in candidates)


def has_swatch(sheet: np.ndarray, colour: np.ndarray) -> bool:
    """Whether the legend below the panels holds a filled box of exactly this colour."""
    return (sheet[-80:] == colour).all(axis=2).sum() >= 15 * 15


@pytest.fixture(scope="module")
def camera_image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (30, 100, 3)).astype(np.uint8)


def test_the_sheet_holds_both_pictures_and_the_classes_drawn(camera_image):
    prediction, truth = volume(0, 2), volume(0, 0)
    sheet = np.asarray(
        comparison_picture(camera_image, prediction, truth, GRID, SPACE, title="08/000005", panel_size=PANEL)
    )
    for labels in (prediction, truth):
        assert holds(sheet, voxel_picture(labels, GRID, SPACE, size=PANEL))
    colours = display_colours(SPACE)
    assert [has_swatch(sheet, colours[c]) for c in (0, 2, 3)] == [True, True, False]
    bare = comparison_picture(None, prediction, truth, GRID, SPACE, panel_size=PANEL)
    assert bare.height < len(sheet) - 60


def test_only_observed_voxels_are_drawn_and_named():
    observed = np.ones(GRID.shape, bool)
    observed[2:4] = False
    sheet = np.asarray(
        comparison_picture(None, volume(0, 2), volume(0), GRID, SPACE, observed=observed, panel_size=PANEL)
    )
    assert holds(sheet, voxel_picture(volume(0), GRID, SPACE, size=PANEL))
    assert not has_swatch(sheet, display_colours(SPACE)[2])


@pytest.mark.parametrize(("prediction", "truth"), [(volume(0), None), (None, volume(3))])
def test_one_of_the_two_is_enough(prediction, truth):
    sheet = comparison_picture(None, prediction, truth, GRID, SPACE, panel_size=PANEL)
    both = comparison_picture(None, volume(0), volume(3), GRID, SPACE, panel_size=PANEL)
    assert sheet.width < both.width
    assert sheet.height == both.height


def test_nothing_to_draw_is_refused():
    with pytest.raises(ValueError, match="needs a prediction or a truth"):
        comparison_picture(None, None, None, GRID, SPACE)
    with pytest.raises(ValueError, match="give both"):
        comparison_picture(None, volume(0), None, GRID, SPACE, show_errors=True)


def test_error_labels_equal_a_naive_loop():
    rng = np.random.default_rng(0)
    prediction, truth = rng.integers(0, 4, (2, *GRID.shape))
    errors = error_labels(prediction, truth, SPACE.empty)
    for index in np.ndindex(*GRID.shape):
        p, t = prediction[index], truth[index]
        if p == t:
            expected = "empty" if t == SPACE.empty else "right"
        elif p == SPACE.empty:
            expected = "missed"
        else:
            expected = "invented" if t == SPACE.empty else "wrong class"
        assert ERRORS.names[errors[index]] == expected


def test_errors_stand_beside_the_two():
    prediction, truth = volume(0, 2, 3), volume(0, 0, 1, 3)
    sheet = np.asarray(comparison_picture(None, prediction, truth, GRID, SPACE, show_errors=True, panel_size=PANEL))
    errors = error_labels(prediction, truth, SPACE.empty)
    assert holds(sheet, voxel_picture(errors, GRID, ERRORS, size=PANEL))
    assert all(has_swatch(sheet, display_colours(ERRORS)[c]) for c in ERRORS.occupied)
