import numpy as np

from occloom.data.depth_report import depth_errors, markdown_table


def test_errors_by_range_count_only_known_pixels():
    truth = np.array([0.0, 5.0, 5.0, 15.0, 45.0, 45.0], dtype=np.float32)
    estimate = np.array([9.0, 6.0, 0.0, 15.5, 47.0, 49.0], dtype=np.float32)
    first, second, third, _, last = depth_errors(estimate, truth)
    assert (first.pixels, first.filled, first.median) == (2, 0.5, 1.0)
    assert (second.pixels, second.median) == (1, 0.5)
    assert third.pixels == 0
    assert np.isnan(third.median)
    assert (last.pixels, last.median) == (2, 3.0)
    rows = markdown_table((first, third, last)).splitlines()[2:]
    assert [row.split("|")[1].strip() for row in rows] == ["0-10", "20-30", "> 40"]
    assert "50.0 %" in rows[0]
