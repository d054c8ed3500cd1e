from pathlib import Path

import numpy as np
import pytest

from occloom.data.depth_sources import nearest_points
from occloom.data.kitti_files import KittiFrame, read_calibration, read_image_size, read_point_labels, read_points
from occloom.errors import InputError
from occloom.town.exact_segments import exact_segments


def test_the_sky_of_a_surround_town_is_where_its_exact_depth_is_0(tiny_surround_town: Path) -> None:
    """The depth was written with the town; the segments come from its world built again."""
    for picture in sorted((tiny_surround_town / "samples").glob("CAM_*/*scene-0001*.jpg"))[:3]:
        segments = exact_segments(tiny_surround_town, picture)
        depth = np.load(tiny_surround_town / "depth" / "town-exact" / picture.parent.name / f"{picture.stem}.npy")
        np.testing.assert_array_equal(segments < 0, depth == 0)
        assert len(np.unique(segments)) > 3


def test_a_front_towns_segments_are_those_its_lidar_meets(tiny_town: Path) -> None:
    """Raw ids and instances of the points, in the pixels that they fall on."""
    frame = KittiFrame(tiny_town, "01", "000005")
    segments = exact_segments(tiny_town, frame.left)
    assert segments.shape == read_image_size(frame.left)
    calibration = read_calibration(frame.folder / "calib.txt")
    points, (raw, instance) = read_points(frame.scan)[:, :3], read_point_labels(frame.file("labels", ".label"))
    transform = calibration.camera_from_velodyne(2)
    nearest = nearest_points(
        points.astype(np.float64) @ transform[:3, :3].T + transform[:3, 3], calibration.intrinsics(2), segments.shape
    )
    hit = nearest >= 0
    met = raw[nearest[hit]].astype(np.int64) + (instance[nearest[hit]].astype(np.int64) << 16)
    assert hit.sum() > 1000
    assert (segments[hit] == met).mean() > 0.9
    assert (instance[nearest[hit]] > 0).any()


def test_what_is_no_town_is_refused(tiny_town: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no picture of a town"):
        exact_segments(tiny_town, tmp_path / "holiday.jpg")
    picture = tmp_path / "sequences" / "00" / "image_2" / "000000.png"
    with pytest.raises(InputError, match="no town"):
        exact_segments(tmp_path, picture)
    (tmp_path / "town.json").write_text('{"version": 0}')
    with pytest.raises(InputError, match="another version"):
        exact_segments(tmp_path, picture)
