from pathlib import Path

import numpy as np
import pytest

from occloom.data.kitti_files import write_image
from occloom.data.prior_sources import FilePrior, PriorPicture
from occloom.errors import InputError

INTRINSICS = np.array([[30.0, 0, 21.5], [0, 30.0, 9.5], [0, 0, 1]])


@pytest.fixture
def picture(tmp_path: Path) -> PriorPicture:
    path = tmp_path / "samples" / "CAM_FRONT" / "one.png"
    write_image(path, np.zeros((24, 40, 3), np.uint8))
    return PriorPicture(tmp_path, "scene-1/abc", "CAM_FRONT", path, INTRINSICS)


class TestFiles:
    def test_depth_and_features_are_taken_over(self, picture: PriorPicture, tmp_path: Path):
        folder = tmp_path / "made" / "scene-1" / "abc"
        folder.mkdir(parents=True)
        depth = np.random.default_rng(0).uniform(1, 9, (12, 20)).astype(np.float32)
        np.save(folder / "CAM_FRONT.npy", depth)
        source = FilePrior(tmp_path / "made")
        maps = source.prior(picture)
        np.testing.assert_array_equal(maps.depth, depth)
        assert maps.features is None
        assert source.inputs(picture) == (picture.path, folder / "CAM_FRONT.npy")
        np.save(folder / "CAM_FRONT.features.npy", np.ones((8, 2, 3), np.float16))
        features = source.prior(picture).features
        assert features is not None
        assert features.shape == (8, 2, 3)
        assert source.inputs(picture)[2] == folder / "CAM_FRONT.features.npy"

    @pytest.mark.parametrize(
        ("depth", "features", "named"),
        [
            (np.ones((24, 30), np.float32), None, "the depth is 24x30, the picture 24x40"),
            (np.ones((24, 40), np.int64), None, "the depth map is int64"),
            (np.ones((24, 40), np.float32), np.ones((2, 3), np.float32), "the features are float32 with shape"),
            (np.ones((24, 40), np.float32), np.full((1, 2, 3), np.nan), "the features are float64"),
        ],
    )
    def test_files_of_another_kind_are_refused(self, picture, tmp_path, depth, features, named):
        folder = tmp_path / "made" / "scene-1" / "abc"
        folder.mkdir(parents=True)
        np.save(folder / "CAM_FRONT.npy", depth)
        if features is not None:
            np.save(folder / "CAM_FRONT.features.npy", features)
        with pytest.raises(InputError, match=named):
            FilePrior(tmp_path / "made").prior(picture)

    def test_a_missing_file_is_named(self, picture, tmp_path):
        with pytest.raises(InputError, match=r"CAM_FRONT.npy: no such depth map"):
            FilePrior(tmp_path / "made").prior(picture)
