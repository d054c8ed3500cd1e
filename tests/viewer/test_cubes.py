import time

import numpy as np
import pytest

from occloom.grid import LabelSpace, VoxelGrid
from occloom.viewer.cubes import display_colours, voxel_picture
from occloom.viewer.viewpoint import Viewpoint, chase_view

GRID = VoxelGrid(lower=(0.0, -4.0, -2.0), voxel_size=(0.5, 0.5, 0.5), shape=(20, 16, 8))
SPACE = LabelSpace(
    names=("red", "nothing", "green", "blue"),
    empty=1,
    colours=((230, 20, 20), (0, 0, 0), (20, 200, 20), (30, 30, 220)),
    frequencies=(1.0,) * 4,
)
EMPTY = np.full(GRID.shape, SPACE.empty, np.uint8)
SIZE = (90, 120)


def with_voxels(*voxels: tuple[tuple[int, int, int], int]) -> np.ndarray:
    labels = EMPTY.copy()
    for index, label in voxels:
        labels[index] = label
    return labels


def centre(index: tuple[int, int, int]) -> np.ndarray:
    return np.array(GRID.lower) + (np.array(index) + 0.5) * np.array(GRID.voxel_size)


def hue(colour: np.ndarray) -> np.ndarray:
    """Direction of a colour away from grey."""
    away = colour.astype(np.float64) - colour.mean()
    return away / np.linalg.norm(away)


def changed(picture: np.ndarray, other: np.ndarray) -> np.ndarray:
    return np.abs(picture.astype(int) - other).max(axis=2) > 40


@pytest.mark.parametrize("label", [0, 2, 3])
@pytest.mark.parametrize("index", [(6, 3, 4), (12, 12, 1), (18, 8, 2)])
def test_a_single_voxel_stands_at_its_projection_in_its_colour(index, label):
    picture = voxel_picture(with_voxels((index, label)), GRID, SPACE, size=SIZE)
    ((u, v),) = np.rint(chase_view(GRID).project(centre(index)[None], SIZE)).astype(int)
    assert hue(picture[v, u]) @ hue(display_colours(SPACE)[label]) > 0.97
    coloured = np.ptp(picture.astype(int), axis=2) > 60
    corners = centre(index) + 0.25 * np.array(np.meshgrid(*[[-1, 1]] * 3)).reshape(3, -1).T
    outline = chase_view(GRID).project(corners, SIZE)
    rows, columns = np.nonzero(coloured)
    assert abs(columns.min() - outline[:, 0].min()) <= 1.5
    assert abs(columns.max() - outline[:, 0].max()) <= 1.5
    assert abs(rows.min() - outline[:, 1].min()) <= 1.5
    assert abs(rows.max() - outline[:, 1].max()) <= 1.5


def test_an_empty_grid_is_background():
    picture = voxel_picture(EMPTY, GRID, SPACE, size=SIZE)
    assert picture.shape == (*SIZE, 3)
    assert picture.dtype == np.uint8
    assert picture.min() > 150
    assert np.ptp(picture.astype(int), axis=2).max() < 60


def test_unobserved_voxels_are_hidden():
    labels = with_voxels(((6, 3, 4), 0), ((12, 12, 1), 2))
    observed = np.ones(GRID.shape, bool)
    observed[6, 3, 4] = False
    hidden = voxel_picture(labels, GRID, SPACE, observed=observed, size=SIZE)
    np.testing.assert_array_equal(hidden, voxel_picture(with_voxels(((12, 12, 1), 2)), GRID, SPACE, size=SIZE))
    nothing = voxel_picture(labels, GRID, SPACE, observed=np.zeros(GRID.shape, bool), size=SIZE)
    np.testing.assert_array_equal(nothing, voxel_picture(EMPTY, GRID, SPACE, size=SIZE))
    assert (labels == with_voxels(((6, 3, 4), 0), ((12, 12, 1), 2))).all()


def test_the_nearer_voxel_hides_the_farther_one():
    view = Viewpoint(position=(-5.0, 0.25, -0.25), target=(1.0, 0.25, -0.25))
    labels = with_voxels(((2, 8, 3), 3), ((10, 8, 3), 0))
    picture = voxel_picture(labels, GRID, SPACE, size=SIZE, viewpoint=view)
    middle = picture[SIZE[0] // 2, SIZE[1] // 2]
    assert hue(middle) @ hue(display_colours(SPACE)[3]) > 0.97
    assert not ((picture[..., 0] > 150) & (picture[..., 2] < 100)).any()


def test_a_block_casts_a_shadow_away_from_the_sun():
    floor = EMPTY.copy()
    floor[:, :, 0] = 2
    blocked = floor.copy()
    blocked[9:11, 7:9, 4:6] = 0
    bright, shaded = (voxel_picture(labels, GRID, SPACE, size=SIZE) for labels in (floor, blocked))
    darker = (bright.astype(int) - shaded).min(axis=2) > 10
    red = np.argwhere(changed(bright, shaded) & (shaded[..., 0] > shaded[..., 1]))
    shadow = np.argwhere(darker & (shaded[..., 1] > shaded[..., 0]))
    assert len(shadow) > 20
    # The sun stands to the left, so the shadow falls to the right.
    assert shadow[:, 1].mean() > red[:, 1].mean()


def test_the_same_picture_every_time():
    labels = np.random.default_rng(0).integers(0, 4, GRID.shape).astype(np.int64)
    pictures = [voxel_picture(labels, GRID, SPACE, size=SIZE) for _ in range(2)]
    np.testing.assert_array_equal(*pictures)


def test_a_full_size_picture_takes_at_most_one_and_a_half_seconds():
    grid = VoxelGrid(lower=(0.0, -25.6, -2.0), voxel_size=(0.2, 0.2, 0.2), shape=(256, 256, 32))
    labels = np.full(grid.shape, SPACE.empty, np.uint8)
    labels[:, :, 1] = 2
    for x, y, tall in np.random.default_rng(0).integers((0, 0, 3), (240, 240, 28), (300, 3)):
        labels[x : x + 12, y : y + 12, 1:tall] = (x + y) % 2 * 3
    seconds = []
    for _ in range(3):
        start = time.process_time()
        voxel_picture(labels, grid, SPACE, size=(400, 640))
        seconds.append(time.process_time() - start)
    assert min(seconds) <= 1.5
