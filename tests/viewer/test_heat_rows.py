import numpy as np

from occloom.viewer.heat_rows import HeatPanel, heat_rows

RED, BLUE = (200, 20, 30), (20, 30, 200)
COLOURS = np.array([RED, BLUE], np.uint8)


def drawn(counts: list[list[int]], limits: tuple[float, ...] = ()) -> np.ndarray:
    array = np.array(counts)
    borders = tuple(float(i) for i in range(array.shape[1] + 1))
    picture = heat_rows([HeatPanel("title", array, borders, limits)], ("a", "b"), COLOURS, heading="heading")
    return np.asarray(picture)


def area(picture: np.ndarray, colour: tuple[int, int, int]) -> int:
    return int((picture == colour).all(axis=2).sum())


def test_fullest_cells_have_the_rows_colour_and_empty_ones_are_white():
    picture = drawn([[0, 4], [8, 0]])
    assert area(picture, RED) > 1000
    assert abs(area(picture, RED) - area(picture, BLUE)) < 0.02 * area(picture, RED)
    red, blue = (np.argwhere((picture == colour).all(axis=2)) for colour in (RED, BLUE))
    assert red[:, 1].min() > blue[:, 1].max()
    assert red[:, 0].max() < blue[:, 0].min()


def test_a_cell_is_shaded_by_its_share_of_the_rows_largest():
    picture = drawn([[1, 2, 0, 0], [0, 0, 0, 3]])
    half = tuple(round(255 + 0.5 * (c - 255)) for c in RED)
    assert area(picture, RED) > 1000
    assert abs(area(picture, half) - area(picture, RED)) < 0.02 * area(picture, RED)


def test_a_row_of_nothing_stays_white_and_limits_cross_all_rows():
    plain, crossed = drawn([[0, 0], [0, 0]]), drawn([[0, 0], [0, 0]], limits=(1.5, 9.0))
    assert area(plain, RED) == area(plain, BLUE) == 0
    changed = np.argwhere((plain != crossed).any(axis=2))
    assert len(set(changed[:, 1])) == 1
    assert len(changed) > 30


def test_panels_stand_side_by_side():
    panel = HeatPanel("title", np.array([[1, 0], [0, 1]]), (0.0, 1.0, 2.0), ())
    one, two = (heat_rows([panel] * n, ("a", "b"), COLOURS, heading="h") for n in (1, 2))
    assert two.height == one.height
    assert area(np.asarray(two), RED) == 2 * area(np.asarray(one), RED)
