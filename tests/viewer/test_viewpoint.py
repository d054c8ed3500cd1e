import numpy as np

from occloom.grid import LabelSpace, VoxelGrid
from occloom.viewer.cubes import voxel_picture
from occloom.viewer.viewpoint import EgoMarker, Viewpoint, chase_view

GRID = VoxelGrid(lower=(0.0, -4.0, -2.0), voxel_size=(0.5, 0.5, 0.5), shape=(20, 16, 8))
SPACE = LabelSpace(names=("nothing", "red"), empty=0, colours=((0, 0, 0), (230, 20, 20)), frequencies=(1.0, 1.0))
EMPTY = np.zeros(GRID.shape, np.uint8)


def changed(picture: np.ndarray, other: np.ndarray) -> np.ndarray:
    return np.abs(picture.astype(int) - other).max(axis=2) > 40


def test_projection_agrees_with_a_pinhole_by_hand():
    view = Viewpoint(position=(0.0, 0.0, 0.0), target=(1.0, 0.0, 0.0), field_of_view=90.0)
    points = np.array([[10.0, 0.0, 0.0], [10.0, -5.0, 0.0], [10.0, 0.0, 10.0], [-1.0, 0.0, 0.0]])
    pixels = view.project(points, (100, 200))
    # The focal length is half the height; left is +y, up is +z.
    np.testing.assert_allclose(pixels[:3], [[99.5, 49.5], [124.5, 49.5], [99.5, -0.5]], atol=1e-9)
    assert np.isnan(pixels[3]).all()


def test_the_chase_view_shows_the_whole_floor_of_a_street():
    street = VoxelGrid(lower=(0.0, -25.6, -2.0), voxel_size=(0.2, 0.2, 0.2), shape=(256, 256, 32))
    far = np.array([[51.2, -25.6, -2.0], [51.2, 25.6, -2.0], [0.0, 0.0, -2.0]])
    pixels = chase_view(street).project(far, (400, 640))
    assert ((pixels > 0) & (pixels < (639, 399))).all()
    # Left of the ego frame is left in the picture, and far is up.
    assert pixels[1, 0] < pixels[2, 0] < pixels[0, 0]
    assert pixels[0, 1] < pixels[2, 1]


def test_the_car_and_the_view_of_its_camera_are_drawn():
    camera_from_ego = np.array([[0.0, -1, 0, 0], [0, 0, -1, 0], [1, 0, 0, 0], [0, 0, 0, 1]])
    intrinsics = np.array([[40.0, 0, 39.5], [0, 40.0, 19.5], [0, 0, 1]])
    size = (400, 640)
    view = Viewpoint(position=(-9.0, 0.0, 7.0), target=(3.0, 0.0, 0.0))
    plain = voxel_picture(EMPTY, GRID, SPACE, size=size, viewpoint=view)
    car = voxel_picture(EMPTY, GRID, SPACE, size=size, viewpoint=view, ego=EgoMarker(-1.73))
    assert changed(plain, car).sum() > 100
    marker = EgoMarker(-1.73, camera_from_ego, intrinsics, (40, 80))
    full = voxel_picture(EMPTY, GRID, SPACE, size=size, viewpoint=view, ego=marker)
    # The pyramid's upper edge: 3 m ahead, 80 pixels wide and 20 up at a focal length of 40.
    corners = np.array([[3.0, 3.0, 1.5], [3.0, -3.0, 1.5]])
    left, right = np.rint(view.project(corners, size)).astype(int)
    row = full[left[1] - 2 : left[1] + 3].astype(int).min(axis=(0, 2))
    dark = np.flatnonzero(row < 120)
    assert abs(dark.min() - left[0]) <= 2
    assert abs(dark.max() - right[0]) <= 2
    assert len(dark) > 0.9 * (right[0] - left[0])
