from pathlib import Path

from tiny_recipes import TinyData

from occloom.cli.missing_cameras import incomplete_frames, missing_cameras
from occloom.data.occ3d import Occ3dConfig
from occloom.interfaces import Needs


def test_cameras_are_counted_over_the_frames(own_nuscenes: Path):
    samples = Occ3dConfig(root=own_nuscenes, image_size=(32, 56)).build("train", Needs())
    assert missing_cameras(samples) == []
    for token, channel in ((0, "CAM_BACK"), (1, "CAM_BACK"), (1, "CAM_FRONT")):
        name = samples.tokens[token].partition("/")[2]
        (own_nuscenes / "samples" / channel / f"{name}.png").unlink()
    again = samples.config.build("train", Needs())
    assert list(incomplete_frames(again)) == list(samples.tokens[:2])
    (line,) = missing_cameras(again)
    assert line.startswith("no picture of CAM_BACK in 2, CAM_FRONT in 1 of 3 frames")


def test_other_layouts_tell_none():
    assert missing_cameras(TinyData().build("val", Needs())) == []
