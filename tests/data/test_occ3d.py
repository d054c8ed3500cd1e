import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from made_nuscenes import VERSION

from occloom.cache import CacheOrigin, create_cache
from occloom.data.label_reduction import majority_labels
from occloom.data.label_spaces import IGNORED
from occloom.data.nuscenes_files import read_lidar, read_tables
from occloom.data.occ3d import CAMERAS, Occ3d, Occ3dConfig
from occloom.data.occ3d_files import label_path, read_labels
from occloom.data.occ3d_labels import OCC3D, OCC3D_GRID
from occloom.data.prior_cache import fill_prior_cache, prior_origin
from occloom.data.prior_sources import PriorMaps, PriorPicture
from occloom.data.surround_augment import SurroundAugmentation
from occloom.errors import InputError
from occloom.geometry.projection import project
from occloom.geometry.rigid import transform_points
from occloom.geometry.voxelize import voxel_index
from occloom.interfaces import Needs
from occloom.scene import Scene, collate

SIZE = (32, 56)


def config_of(root: Path, **changes) -> Occ3dConfig:
    return replace(Occ3dConfig(root=root, image_size=SIZE), **changes)


def names(dataset: Occ3d) -> list[str]:
    return [token.partition("/")[0] for token in dataset.tokens]


class TestSplits:
    def test_scenes_are_annotations_json_s_and_the_rest_is_the_test_split(self, made_nuscenes: Path):
        config = config_of(made_nuscenes)
        assert names(config.build("train", Needs())) == ["scene-0001"] * 3
        assert names(config.build("val", Needs())) == ["scene-0002"] * 2
        test = config.build("test", Needs())
        assert names(test) == ["scene-0003"]
        assert not test.labelled
        assert test.sample(0).target is None

    def test_scenes_can_be_named_and_need_no_annotations_then(self, own_nuscenes: Path):
        (own_nuscenes / "annotations.json").unlink()
        config = config_of(own_nuscenes, train=("scene-0002", "scene-0001"), val=())
        assert names(config.build("train", Needs())) == ["scene-0001"] * 3 + ["scene-0002"] * 2
        assert names(config.build("test", Needs())) == ["scene-0003"]
        with pytest.raises(InputError, match=r"val has no scene.*name scenes that are there with --data\.val"):
            config.build("val", Needs())
        with pytest.raises(InputError, match=r"annotations\.json: no such file"):
            config_of(own_nuscenes).build("train", Needs())

    def test_a_scene_that_the_tables_lack_is_named(self, made_nuscenes: Path):
        with pytest.raises(InputError, match=r"no scene scene-0900 \(1 of 2 are missing\).*such as scene-0001, scene"):
            config_of(made_nuscenes, val=("scene-0002", "scene-0900")).build("val", Needs())


def test_a_model_that_needs_stereo_depth_is_refused(made_nuscenes: Path):
    with pytest.raises(InputError, match=r"needs estimated depth.*nuScenes has no stereo pair"):
        config_of(made_nuscenes).build("val", Needs(depth=True))


class TestFrames:
    def test_now_comes_first_and_a_past_frame_that_does_not_exist_repeats_the_nearest(self, made_nuscenes: Path):
        dataset = config_of(made_nuscenes).build("train", Needs())
        for index, valid in enumerate(([True, False, False], [True, True, False], [True, True, True])):
            scene = dataset.sample(index).scene
            assert scene.frame_valid[0].tolist() == valid
            assert scene.time[0].tolist() == pytest.approx([-0.5 * min(t, index) for t in range(3)])
            for t in range(1, 3):
                if not valid[t]:
                    for part in (scene.images, scene.cameras.camera_from_ego, scene.now_from_then, scene.camera_valid):
                        assert torch.equal(part[0, t], part[0, t - 1])

    def test_the_first_frame_of_a_scene_does_not_look_into_the_scene_before(self, made_nuscenes: Path):
        scene = config_of(made_nuscenes).build("val", Needs()).sample(0).scene
        assert scene.frame_valid.tolist() == [[True, False, False]]

    def test_each_camera_has_the_place_of_the_car_at_its_own_exposure(self, made_nuscenes: Path):
        """Against the chain of four matrices, inverted by NumPy, of the tables' own rows."""
        dataset = config_of(made_nuscenes).build("train", Needs())
        scene = dataset.sample(2).scene
        tables = read_tables(made_nuscenes, VERSION, scenes=["scene-0001"], channels=CAMERAS)
        keyframes = tables.scenes["scene-0001"][::-1]
        for t, keyframe in enumerate(keyframes):
            motion = np.linalg.inv(keyframes[0].lidar.global_from_ego) @ keyframe.lidar.global_from_ego
            np.testing.assert_allclose(scene.now_from_then[0, t], motion, atol=1e-9)
            for n, channel in enumerate(CAMERAS):
                camera = keyframe.recordings[channel]
                chain = np.linalg.inv(camera.ego_from_sensor) @ np.linalg.inv(camera.global_from_ego)
                expected = chain @ keyframes[0].lidar.global_from_ego
                np.testing.assert_allclose(scene.cameras.camera_from_ego[0, t, n], expected, atol=1e-9)
                seconds = (camera.timestamp - keyframes[0].lidar.timestamp) / 1e6
                assert float(scene.cameras.time[0, t, n]) == pytest.approx(seconds)

    @pytest.mark.parametrize("keyframes", [(), (1, 0), (0, 0), (0, -1, -1), (0, -2, -1)])
    def test_keyframes_begin_with_now_and_go_back(self, keyframes: tuple[int, ...]):
        with pytest.raises(InputError, match="0 comes first"):
            Occ3dConfig(root=Path(), keyframes=keyframes)

    def test_a_keyframe_can_be_left_out(self, made_nuscenes: Path):
        scene = config_of(made_nuscenes, keyframes=(0, -2)).build("train", Needs()).sample(2).scene
        assert scene.time[0].tolist() == pytest.approx([0, -1.0])


class TestLabels:
    @pytest.mark.parametrize("mask", ["camera", "lidar", "none"])
    def test_the_mask_in_use_is_the_split_s(self, made_nuscenes: Path, mask: str):
        other = "lidar" if mask == "camera" else "camera"
        for split, config in (
            ("train", config_of(made_nuscenes, train_mask=mask, val_mask=other)),
            ("val", config_of(made_nuscenes, train_mask=other, val_mask=mask)),
        ):
            dataset = config.build(split, Needs(images=False))
            target = dataset.target(1)
            labels = read_labels(label_path(made_nuscenes, dataset.tokens[1]))
            counted = {"camera": labels.mask_camera, "lidar": labels.mask_lidar, "none": np.ones((200, 200, 16), bool)}
            np.testing.assert_array_equal(target.observed[0], counted[mask])
            np.testing.assert_array_equal(target.labels[0][target.observed[0]], labels.semantics[counted[mask]])
            assert (target.labels[~target.observed] == OCC3D.empty).all()

    @pytest.mark.parametrize("scale", [2, 4])
    def test_coarser_labels_have_the_majority_of_what_counts(self, made_nuscenes: Path, scale: int):
        dataset = config_of(made_nuscenes, label_scale=scale).build("val", Needs(images=False))
        assert dataset.grid == OCC3D_GRID.coarsen((scale, scale, scale))
        labels = read_labels(label_path(made_nuscenes, dataset.tokens[0])).counted("camera")
        reduced = majority_labels(labels, scale, num_classes=18, empty=17)
        target = dataset.target(0)
        np.testing.assert_array_equal(target.observed[0], reduced != IGNORED)
        np.testing.assert_array_equal(target.labels[0][target.observed[0]], reduced[reduced != IGNORED])

    def test_a_keyframe_without_labels_is_left_out_and_named(self, own_nuscenes: Path):
        token = config_of(own_nuscenes).build("train", Needs()).tokens[1]
        label_path(own_nuscenes, token).unlink()
        dataset = config_of(own_nuscenes).build("train", Needs())
        assert len(dataset) == 2
        assert dataset.skipped == {token: "no labels"}

    def test_labels_of_the_wrong_shape_are_refused(self, own_nuscenes: Path):
        dataset = config_of(own_nuscenes).build("val", Needs())
        path = label_path(own_nuscenes, dataset.tokens[0])
        np.savez(path, semantics=np.zeros((200, 200), np.uint8))
        with pytest.raises(InputError, match=r"labels\.npz: semantics is uint8 of shape 200x200"):
            dataset.sample(0)


class TestMissingPictures:
    def test_the_cameras_that_are_there_are_used_and_the_others_are_named(self, own_nuscenes: Path):
        whole = config_of(own_nuscenes).build("val", Needs()).sample(1)
        token = whole.tokens[0]
        (own_nuscenes / "samples" / "CAM_BACK" / f"{token.partition('/')[2]}.png").unlink()
        dataset = config_of(own_nuscenes).build("val", Needs())
        scene = dataset.sample(1).scene
        assert dataset.incomplete == {token: ("CAM_BACK",)}
        assert scene.camera_valid[0, 0].tolist() == [channel != "CAM_BACK" for channel in CAMERAS]
        assert scene.camera_valid[0, 1].all()
        back = CAMERAS.index("CAM_BACK")
        assert (scene.images[0, 0, back] == 0).all()
        others = [n for n in range(6) if n != back]
        assert torch.equal(scene.images[:, :, others], whole.scene.images[:, :, others])
        assert torch.equal(scene.cameras.camera_from_ego, whole.scene.cameras.camera_from_ego)

    def test_a_camera_without_a_row_is_missing_too(self, own_nuscenes: Path):
        path = own_nuscenes / VERSION / "sample_data.json"
        rows = [row for row in json.loads(path.read_text()) if "CAM_FRONT_LEFT" not in row["filename"]]
        path.write_text(json.dumps(rows))
        dataset = config_of(own_nuscenes).build("train", Needs(true_depth=True))
        sample = dataset.sample(2, np.random.default_rng(0))
        assert dataset.incomplete == dict.fromkeys(dataset.tokens, ("CAM_FRONT_LEFT",))
        assert not sample.scene.camera_valid[0, :, 0].any()
        assert sample.scene.camera_valid[0, :, 1:].all()
        assert (sample.target.depth[0, 0] == 0).all()
        assert sample.scene.cameras.intrinsics.isfinite().all()

    def test_a_keyframe_without_any_picture_is_left_out_and_no_past_frame(self, own_nuscenes: Path):
        first, second, third = config_of(own_nuscenes).build("train", Needs()).tokens
        for channel in CAMERAS:
            (own_nuscenes / "samples" / channel / f"{second.partition('/')[2]}.png").unlink()
        dataset = config_of(own_nuscenes).build("train", Needs())
        assert dataset.tokens == (first, third)
        assert dataset.skipped == {second: "no picture"}
        scene = dataset.sample(1).scene
        assert scene.frame_valid.tolist() == [[True, False, True]]
        assert torch.equal(scene.images[0, 1], scene.images[0, 0])

    def test_one_camera_is_enough(self, made_nuscenes: Path):
        config = config_of(made_nuscenes, cameras=("CAM_FRONT",))
        scene = config.build("val", Needs()).sample(0).scene
        assert scene.images.shape == (1, 3, 1, 3, *SIZE)
        assert config.num_cameras == 1

    @pytest.mark.parametrize("cameras", [(), ("CAM_FRONT", "CAM_FRONT")])
    def test_cameras_are_one_or_more_and_different(self, cameras):
        with pytest.raises(InputError, match="cameras is"):
            Occ3dConfig(root=Path(), cameras=cameras)


class TestLidar:
    def test_depth_is_that_of_a_loop_over_the_points(self, made_nuscenes: Path):
        for rng in (None, np.random.default_rng(3)):
            knobs = SurroundAugmentation(flip_x=0.0, flip_y=0.0)
            dataset = config_of(made_nuscenes, augmentation=knobs).build("train", Needs(true_depth=True))
            sample = dataset.sample(2, rng)
            keyframe = read_tables(made_nuscenes, VERSION, scenes=["scene-0001"], channels=CAMERAS).scenes[
                "scene-0001"
            ][2]
            points = read_lidar(keyframe.lidar.path)[:, :3].astype(np.float64)
            for n, channel in enumerate(CAMERAS):
                camera = keyframe.recordings[channel]
                chain = np.linalg.inv(camera.global_from_sensor) @ keyframe.lidar.global_from_sensor
                expected = np.zeros(SIZE, np.float32)
                for point in points:
                    x, y, z = chain[:3, :3] @ point + chain[:3, 3]
                    if z <= 0:
                        continue
                    u, v, _ = sample.scene.cameras.intrinsics[0, 0, n].numpy() @ (x / z, y / z, 1.0)
                    column, row = round(u), round(v)
                    if 0 <= row < SIZE[0] and 0 <= column < SIZE[1] and not 0 < expected[row, column] <= z:
                        expected[row, column] = z
                np.testing.assert_allclose(sample.target.depth[0, n], expected, atol=1e-5)
                assert (expected > 0).sum() > 30

    def test_only_training_asks_for_it(self, own_nuscenes: Path):
        """A model is evaluated without LiDAR files."""
        for path in (own_nuscenes / "samples" / "LIDAR_TOP").iterdir():
            path.unlink()
        config = config_of(own_nuscenes)
        assert config.build("val", Needs(true_depth=True)).sample(0).target.depth is None
        assert config.build("train", Needs()).sample(0).target.depth is None
        for split, needs in (("train", Needs(true_depth=True)), ("val", Needs(points=True))):
            with pytest.raises(InputError, match=r"LIDAR_TOP.*no LiDAR sweep for scene-000.*complete the download"):
                config.build(split, needs)

    def test_points_lie_in_the_present_ego_frame(self, made_nuscenes: Path):
        config = config_of(made_nuscenes, keyframes=(0, -1))
        points = config.build("train", Needs(images=False, points=True)).sample(2).scene.points
        keyframes = read_tables(made_nuscenes, VERSION, scenes=["scene-0001"], channels=()).scenes["scene-0001"]
        now, before = keyframes[2].lidar, keyframes[1].lidar
        for part, recording in ((slice(0, 3000), now), (slice(3000, 6000), before)):
            raw = read_lidar(recording.path)
            chain = np.linalg.inv(now.global_from_ego) @ recording.global_from_sensor
            expected = raw[:, :3] @ chain[:3, :3].T + chain[:3, 3]
            np.testing.assert_allclose(points.positions[part], expected, atol=1e-4)
            np.testing.assert_allclose(points.features[part, 0], raw[:, 3] / 255, atol=1e-6)
        assert points.time.unique().tolist() == pytest.approx([-0.5, 0])


class TestAugmentation:
    def test_what_was_done_is_told_and_stands_in_the_cameras(self, made_nuscenes: Path):
        dataset = config_of(made_nuscenes).build("train", Needs())
        exact = dataset.sample(2).scene
        source = torch.linalg.inv(exact.augmentation.picture_from_source) @ exact.cameras.intrinsics
        seen = []
        for seed in range(8):
            scene = dataset.sample(2, np.random.default_rng(seed)).scene
            changed = scene.augmentation.picture_from_source
            torch.testing.assert_close(scene.cameras.intrinsics, changed @ source)
            flip = scene.augmentation.ego_from_source
            torch.testing.assert_close(scene.cameras.camera_from_ego, exact.cameras.camera_from_ego @ flip)
            assert torch.equal(changed[0, 0], changed[0, 2]), "the same for all frames of a camera"
            assert not torch.equal(changed[0, 0, 0], changed[0, 0, 1]), "another for each camera"
            seen.append(tuple(flip[0].diagonal()[:2].tolist()))
        assert len(set(seen)) > 1
        assert torch.equal(exact.augmentation.ego_from_source[0], torch.eye(4, dtype=torch.float64))

    def test_depth_and_points_agree_after_any_augmentation(self, made_nuscenes: Path):
        """Both are carried by themselves: each pixel with depth is one that a point, projected, falls on."""
        dataset = config_of(made_nuscenes, keyframes=(0,)).build("train", Needs(points=True, true_depth=True))
        for seed in range(6):
            sample = dataset.sample(0, np.random.default_rng(seed))
            for n in range(6):
                depth = depth_of(sample.scene, n)
                difference = (depth - sample.target.depth[0, n]).abs()
                assert (difference > 1e-3).sum() <= 2  # float32 points may round to the neighbouring pixel
                assert (depth > 0).sum() > 30

    def test_a_batch_of_two_augmentations_is_the_two_samples(self, made_nuscenes: Path):
        dataset = config_of(made_nuscenes).build("train", Needs(points=True, true_depth=True))
        samples = [dataset.sample(index, np.random.default_rng(index)) for index in (1, 2)]
        batch = collate(samples)
        for index, sample in enumerate(samples):
            for name in ("picture_from_source", "ego_from_source"):
                found, expected = (getattr(part.scene.augmentation, name) for part in (batch, sample))
                torch.testing.assert_close(found[index], expected[0].float())
            assert torch.equal(batch.target.depth[index], sample.target.depth[0])
            assert torch.equal(batch.target.labels[index], sample.target.labels[0])
        assert batch.scene.cameras.intrinsics.dtype == torch.float32

    def test_without_a_generator_nothing_is_drawn(self, made_nuscenes: Path):
        dataset = config_of(made_nuscenes).build("train", Needs())
        first, second = dataset.sample(0).scene, dataset.sample(0).scene
        assert torch.equal(first.images, second.images)
        expected = torch.tensor([[0.4375, 0, -0.28125], [0, 0.4375, 0.21875 - 0.5], [0, 0, 1]], dtype=torch.float64)
        # 72x128 becomes 31x56: the row that is missing is added on top.
        found = first.augmentation.picture_from_source[0, 0, 0]
        assert found[0].tolist() == expected[0].tolist()
        assert found[1].tolist() == pytest.approx([0, 31 / 72, 0.5 * 31 / 72 - 0.5 + 1])


@dataclass(frozen=True)
class CameraPrior:
    """As many metres as the camera has a number, and one more."""

    origin = CacheOrigin(source="numbers", settings={}, code_version=1)

    def inputs(self, picture: PriorPicture) -> tuple[Path, ...]:
        return (picture.path,)

    def prior(self, picture: PriorPicture) -> PriorMaps:
        depth = np.full((36, 64), 1 + CAMERAS.index(picture.camera), np.float32)
        return PriorMaps(depth, np.full((2, 3, 4), depth[0, 0]))


class TestPrior:
    @pytest.fixture
    def prepared(self, own_nuscenes: Path) -> Occ3dConfig:
        config = config_of(own_nuscenes, prior=Path("numbers"))
        dataset = config.build("train", Needs())
        pictures = [picture for index in range(3) for picture in dataset.prior_pictures(index)]
        cache = create_cache(own_nuscenes / "prior" / "numbers", prior_origin(CameraPrior(), (18, 32)))
        assert len(list(fill_prior_cache(cache, CameraPrior(), pictures, (18, 32)))) == 18
        return config

    def test_it_is_of_the_picture_on_disk_whatever_is_done_to_the_sample(self, prepared: Occ3dConfig):
        dataset = prepared.build("train", Needs(prior_depth=True, prior_features=True))
        exact, drawn = dataset.sample(1).scene.prior, dataset.sample(1, np.random.default_rng(0)).scene.prior
        assert exact.depth.shape == (1, 6, 18, 32)
        assert exact.depth[0, :, 0, 0].tolist() == [1, 2, 3, 4, 5, 6]
        assert exact.features.shape == (1, 6, 2, 3, 4)
        assert torch.equal(drawn.depth, exact.depth)
        assert torch.equal(drawn.intrinsics, exact.intrinsics)
        scene = dataset.sample(1).scene
        source = torch.linalg.inv(scene.augmentation.picture_from_source[0, 0]) @ scene.cameras.intrinsics[0, 0]
        assert torch.allclose(exact.intrinsics[0, :, 0, 0], source[:, 0, 0] / 4)
        assert dataset.config.build("train", Needs(prior_depth=True)).sample(1).scene.prior.features is None
        assert dataset.config.build("train", Needs()).sample(1).scene.prior is None

    def test_a_lidar_s_prior_is_told_both_ego_poses(self, made_nuscenes: Path):
        dataset = config_of(made_nuscenes).build("val", Needs())
        scene = dataset.sample(1).scene
        lidar = read_tables(made_nuscenes, VERSION, scenes=["scene-0002"], channels=()).scenes["scene-0002"][1].lidar
        for n, picture in enumerate(dataset.prior_pictures(1)):
            assert picture.scan.path == lidar.path
            expected = scene.cameras.camera_from_ego[0, 0, n].numpy() @ lidar.ego_from_sensor
            np.testing.assert_allclose(picture.scan.camera_from_lidar, expected, atol=1e-9)

    def test_a_prior_that_is_not_there_is_named(self, prepared: Occ3dConfig):
        with pytest.raises(InputError, match="the model needs a depth prior and the data has none"):
            replace(prepared, prior=None).build("train", Needs(prior_depth=True))
        with pytest.raises(InputError, match="the entry is missing"):
            prepared.build("val", Needs(prior_depth=True))

    def test_a_missing_camera_has_no_prior(self, prepared: Occ3dConfig):
        token = prepared.build("train", Needs()).tokens[1]
        (prepared.root / "samples" / "CAM_FRONT" / f"{token.partition('/')[2]}.png").unlink()
        prior = prepared.build("train", Needs(prior_depth=True)).sample(1).scene.prior
        assert prior.depth[0, :, 0, 0].tolist() == [1, 0, 3, 4, 5, 6]


def test_the_surround_town_is_read_in_the_same_frames(tiny_surround_town: Path):
    """Points of the present sweep lie in occupied voxels, and fall into every picture."""
    config = Occ3dConfig(root=tiny_surround_town, image_size=SIZE, keyframes=(0, -1))
    dataset = config.build("train", Needs(points=True, true_depth=True))
    sample = dataset.sample(len(dataset) - 1)
    assert sample.scene.camera_valid.all()
    now = sample.scene.points.time == 0
    index, inside = voxel_index(sample.scene.points.positions[now], dataset.grid)
    place = tuple(index[inside].T)
    labels = sample.target.labels[0][place][sample.target.observed[0][place]]
    assert float((labels != OCC3D.empty).float().mean()) > 0.9
    assert ((sample.target.depth > 0).flatten(2).sum(2) > 20).all()


def depth_of(scene: Scene, n: int) -> torch.Tensor:
    """The nearest point's depth in each pixel of a present camera."""
    camera = scene.cameras
    points = transform_points(camera.camera_from_ego[0, 0, n], scene.points.positions.double())
    pixels, depth = project(points, camera.intrinsics[0, 0, n])
    column, row = pixels.round().long().unbind(-1)
    inside = (depth > 0) & (column >= 0) & (column < SIZE[1]) & (row >= 0) & (row < SIZE[0])
    image = torch.full((SIZE[0] * SIZE[1],), torch.inf, dtype=torch.float64)
    image.scatter_reduce_(0, (row * SIZE[1] + column)[inside], depth[inside], "amin")
    return torch.where(image.isfinite(), image, 0).reshape(SIZE).float()


REAL = ("nuscenes_scene0523", "v1.0-mini", "scene-0523")


@pytest.mark.real_data
class TestRealFrames:
    def test_five_keyframes_in_a_row(self, real_data: Path):
        config = Occ3dConfig(root=real_data / REAL[0], version=REAL[1], image_size=(64, 176), val=(REAL[2],))
        dataset = config.build("val", Needs())
        assert (len(dataset), dataset.labelled, dataset.incomplete) == (5, False, {})
        scene = dataset.sample(4).scene
        assert scene.frame_valid.all()
        assert scene.time[0].tolist() == pytest.approx([0, -0.5, -1.0], abs=0.01)
        motion = scene.now_from_then[0, :, :3, 3]
        assert (motion[1:, 0] < motion[:-1, 0]).all(), "the car drives forward"
        assert (scene.cameras.time[0, 0] < 0).all()
        assert dataset.sample(0).scene.frame_valid.tolist() == [[True, False, False]]

    def test_projected_lidar_falls_where_mmdet3d_says(self, real_data: Path):
        """Pixels of all points that the pictures show, by its lidar2cam and cam2img."""
        root = real_data / "nuscenes_scene0061"
        (info,) = json.loads((root / "infos_mmdet3d_v1.json").read_text())["data_list"]
        config = Occ3dConfig(root=root, version="v1.0-test", test=("scene-0061",), keyframes=(0,))
        dataset = config.build("test", Needs(points=True))
        scene = dataset.sample(0).scene
        lidar = read_tables(root, "v1.0-test", scenes=["scene-0061"], channels=()).scenes["scene-0061"][0].lidar
        sweep = read_lidar(lidar.path)[:, :3].astype(np.float64)
        ego = torch.from_numpy(sweep @ lidar.ego_from_sensor[:3, :3].T + lidar.ego_from_sensor[:3, 3])
        undone = torch.linalg.inv(scene.augmentation.picture_from_source[0, 0])
        for n, channel in enumerate(CAMERAS):
            camera = info["images"][channel]
            lidar2cam = np.array(camera["lidar2cam"])
            camera_from_lidar = scene.cameras.camera_from_ego[0, 0, n].numpy() @ lidar.ego_from_sensor
            assert np.abs(camera_from_lidar - lidar2cam).max() < 5e-6
            intrinsics = undone[n] @ scene.cameras.intrinsics[0, 0, n]
            pixels, depth = project(transform_points(scene.cameras.camera_from_ego[0, 0, n], ego), intrinsics)
            expected = (sweep @ lidar2cam[:3, :3].T + lidar2cam[:3, 3]) @ np.array(camera["cam2img"]).T
            seen = (depth > 1) & (pixels >= 0).all(1) & (pixels[:, 0] < 1600) & (pixels[:, 1] < 900)
            assert seen.sum() > 2000
            wrong = np.abs(pixels.numpy() - expected[:, :2] / expected[:, 2:])[seen.numpy()].max()
            assert wrong < 5e-6 * 1300

    def test_depth_of_real_pictures_is_sparse_and_plausible(self, real_data: Path):
        config = Occ3dConfig(root=real_data / REAL[0], version=REAL[1], train=(REAL[2],), keyframes=(0,))
        dataset = config.build("train", Needs(true_depth=True))
        depth = dataset._true_depth(dataset._keyframes[0], dataset.sample(0).scene)
        filled = (depth > 0).float().mean(dim=(0, 2, 3))
        assert ((filled > 0.01) & (filled < 0.06)).all()
        assert depth.max() < 120
