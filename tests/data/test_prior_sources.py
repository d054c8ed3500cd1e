from pathlib import Path

import numpy as np
import pytest
from made_nuscenes import VERSION

from occloom.data.depth_noise import NoiseConfig
from occloom.data.kitti_files import write_image
from occloom.data.nuscenes_files import Keyframe, read_lidar, read_tables
from occloom.data.occ3d import CAMERAS
from occloom.data.prior_sources import (
    TOWN_DEPTH,
    FilePrior,
    LidarPrior,
    PriorPicture,
    PriorScan,
    TownPrior,
    keyframe_pictures,
)
from occloom.errors import InputError

INTRINSICS = np.array([[30.0, 0, 21.5], [0, 30.0, 9.5], [0, 0, 1]])


@pytest.fixture
def picture(tmp_path: Path) -> PriorPicture:
    path = tmp_path / "samples" / "CAM_FRONT" / "one.png"
    write_image(path, np.zeros((24, 40, 3), np.uint8))
    return PriorPicture(tmp_path, "scene-1/abc", "CAM_FRONT", path, INTRINSICS, PriorScan(tmp_path / "scan", np.eye(4)))


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


def first_keyframe(root: Path, version: str, scene: str) -> Keyframe:
    return read_tables(root, version, scenes=(scene,), channels=CAMERAS).scenes[scene][0]


class TestPicturesOfAKeyframe:
    def test_they_are_named_and_calibrated_as_the_tables_say(self, made_nuscenes: Path):
        keyframe = first_keyframe(made_nuscenes, VERSION, "scene-0001")
        pictures = keyframe_pictures(made_nuscenes, keyframe, ("CAM_BACK", "CAM_FRONT"))
        assert [p.camera for p in pictures if p] == ["CAM_BACK", "CAM_FRONT"]
        (back, _) = pictures
        assert back is not None
        assert back.token == keyframe.token
        assert back.intrinsics[0, 2] == 64.3
        assert back.scan.path == keyframe.lidar.path

    def test_one_that_is_missing_is_none(self, own_nuscenes: Path):
        keyframe = first_keyframe(own_nuscenes, VERSION, "scene-0001")
        keyframe.recordings["CAM_FRONT"].path.unlink()
        pictures = keyframe_pictures(own_nuscenes, keyframe, ("CAM_FRONT", "CAM_BACK", "CAM_SIDE"))
        assert [p is not None for p in pictures] == [False, True, False]


class TestLidar:
    def test_pixels_are_those_of_a_loop_over_the_points(self, made_nuscenes: Path):
        keyframe = first_keyframe(made_nuscenes, VERSION, "scene-0001")
        (picture,) = keyframe_pictures(made_nuscenes, keyframe, ("CAM_FRONT",))
        assert picture is not None
        depth, camera = LidarPrior().prior(picture).depth, keyframe.recordings["CAM_FRONT"]
        expected = np.full(depth.shape, np.inf)
        for point in read_lidar(keyframe.lidar.path)[:, :3].astype(np.float64):
            place = keyframe.lidar.global_from_sensor @ np.append(point, 1)
            x, y, z = (np.linalg.inv(camera.global_from_sensor) @ place)[:3]
            if z > 0:
                u = round(camera.intrinsics[0, 0] * x / z + camera.intrinsics[0, 2])
                v = round(camera.intrinsics[1, 1] * y / z + camera.intrinsics[1, 2])
                if 0 <= u < depth.shape[1] and 0 <= v < depth.shape[0]:
                    expected[v, u] = min(expected[v, u], z)
        assert (depth > 0).sum() > 100
        np.testing.assert_allclose(depth, np.where(np.isfinite(expected), expected, 0), rtol=1e-6)

    def test_a_missing_sweep_is_named(self, own_nuscenes: Path):
        keyframe = first_keyframe(own_nuscenes, VERSION, "scene-0001")
        keyframe.lidar.path.unlink()
        (picture,) = keyframe_pictures(own_nuscenes, keyframe, ("CAM_FRONT",))
        assert picture is not None
        with pytest.raises(InputError, match="no such LiDAR sweep"):
            LidarPrior().prior(picture)


class TestTown:
    @pytest.fixture
    def exact(self, picture: PriorPicture) -> np.ndarray:
        depth = np.random.default_rng(0).uniform(5, 6, (24, 40)).astype(np.float16)
        depth[:5] = 0
        path = picture.root / TOWN_DEPTH / "CAM_FRONT" / "one.npy"
        path.parent.mkdir(parents=True)
        np.save(path, depth)
        return depth.astype(np.float32)

    def test_without_noise_it_is_the_exact_depth(self, picture: PriorPicture, exact: np.ndarray):
        source = TownPrior(NoiseConfig(scale=0.0, warp=0.0, pixel=0.0, growth=0.0, bleeding=0.0))
        np.testing.assert_allclose(source.prior(picture).depth, exact, rtol=1e-6)

    def test_noise_is_named_in_the_cache_and_drawn_from_the_pictures_name(self, picture, exact):
        depth = TownPrior(NoiseConfig()).prior(picture).depth
        np.testing.assert_array_equal(TownPrior(NoiseConfig()).prior(picture).depth, depth)
        assert 0.01 < np.abs(depth[5:] / exact[5:] - 1).mean() < 0.2
        assert TownPrior(NoiseConfig(scale=0.1)).origin.key != TownPrior(NoiseConfig()).origin.key
        assert TownPrior(NoiseConfig()).origin.settings["warp"] == 0.03

    def test_a_folder_that_is_no_town_is_refused(self, picture: PriorPicture):
        with pytest.raises(InputError, match=r"depth/town-exact/CAM_FRONT/one.npy: no such depth map"):
            TownPrior(NoiseConfig()).prior(picture)
