from pathlib import Path

import numpy as np
import pytest
import torch

from occloom.cache import create_cache
from occloom.data.depth_cache import fill_depth_cache, frames_to_prepare
from occloom.data.depth_sources import LidarDepth, SgbmDepth
from occloom.data.kitti360 import Kitti360Config
from occloom.data.kitti360_files import FULL_SIZE, INTRINSICS, Kitti360Frame, drive_folder
from occloom.data.kitti360_labels import to_kitti360_ids
from occloom.data.kitti_files import read_image, read_voxel_labels, read_voxel_mask
from occloom.data.label_spaces import IGNORED, SEMANTIC_KITTI_GRID
from occloom.data.sample_parts import count_frequencies
from occloom.errors import InputError
from occloom.interfaces import DataConfig, Needs, SceneDataset

SIZE = (96, 352)


def config_of(root: Path, **changes: object) -> Kitti360Config:
    settings: dict = {"root": root, "image_size": SIZE, "train": ("0000",), **changes}
    return Kitti360Config(**settings)


def expected_labels(root: Path, drive: str, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Labels and observed, by SSCBench's words."""
    frame = Kitti360Frame(root, drive_folder(drive), name)
    raw = read_voxel_labels(frame.voxels(".label"), SEMANTIC_KITTI_GRID.shape)
    invalid = read_voxel_mask(frame.voxels(".invalid"), SEMANTIC_KITTI_GRID.shape)
    invalid[raw != 0] = False
    train = to_kitti360_ids(raw)
    train[invalid] = IGNORED
    return train, train != IGNORED


def test_splits_are_by_drive_and_validation_is_not_the_test_drive():
    config = Kitti360Config(root=Path("k"))
    assert config.train == ("0000", "0002", "0003", "0004", "0005", "0007", "0010")
    assert config.val == ("0006",)
    assert config.test == ("0009",)
    assert isinstance(config, DataConfig)


@pytest.mark.parametrize("byte_mask", [True, False])
def test_labels_follow_the_files_in_either_form_of_mask(make_kitti360, tmp_path: Path, byte_mask: bool):
    root = make_kitti360(tmp_path, drives=("0006",), byte_mask=byte_mask)
    dataset = config_of(root).build("val", Needs(images=False))
    assert isinstance(dataset, SceneDataset)
    drive = "2013_05_28_drive_0006_sync"
    assert dataset.tokens == (f"{drive}/000000", f"{drive}/000005")
    target = dataset.sample(1).target
    train, observed = expected_labels(root, "0006", "000005")
    assert np.array_equal(target.observed[0], observed)
    assert np.array_equal(target.labels[0], np.where(observed, train, 0))
    counts = count_frequencies(dataset)
    assert counts.sum() == observed.sum() + expected_labels(root, "0006", "000000")[1].sum()


@pytest.mark.parametrize(("folder", "dtype"), [("preprocess/labels", np.float32), ("labels", np.uint8)])
def test_preprocessed_labels_serve_where_raw_ones_are_missing(make_kitti360, tmp_path: Path, folder: str, dtype: type):
    root = make_kitti360(tmp_path, drives=("0006",), frames=1)
    train, observed = expected_labels(root, "0006", "000000")
    voxels = Kitti360Frame(root, drive_folder("0006"), "000000").voxels(".label").parent
    for path in voxels.iterdir():
        path.unlink()
    with pytest.raises(InputError, match="no voxel files"):
        config_of(root).build("val", Needs())
    path = root / folder / drive_folder("0006") / "000000_1_1.npy"
    path.parent.mkdir(parents=True)
    np.save(path, train.astype(dtype))
    target = config_of(root).build("val", Needs()).target(0)
    assert np.array_equal(target.observed[0], observed)
    assert np.array_equal(target.labels[0], np.where(observed, train, 0))
    np.save(path, np.where(train == 1, 19, train).astype(dtype))
    with pytest.raises(InputError, match="19, which is no class"):
        config_of(root).build("val", Needs()).target(0)


def test_raw_labels_go_before_preprocessed_ones(make_kitti360, tmp_path: Path):
    root = make_kitti360(tmp_path, drives=("0006",), frames=1)
    frame = Kitti360Frame(root, drive_folder("0006"), "000000")
    frame.preprocessed[0].parent.mkdir(parents=True)
    np.save(frame.preprocessed[0], np.zeros(SEMANTIC_KITTI_GRID.shape, np.float32))
    assert config_of(root).build("val", Needs()).target(0).labels.any()
    frame.voxels(".invalid").unlink()
    assert not config_of(root).build("val", Needs()).target(0).labels.any()


def test_scans_are_opened_for_points_alone(make_kitti360, tmp_path: Path):
    root = make_kitti360(tmp_path, drives=("0000",))
    points = config_of(root).build("train", Needs(points=True)).sample(0).scene.points
    assert len(points.positions) == 500
    for path in (root / "data_3d_raw").rglob("*.bin"):
        path.unlink()
    assert config_of(root).build("train", Needs()).sample(1).scene.points is None
    with pytest.raises(InputError, match="no scan"):
        config_of(root).build("train", Needs(points=True))


def test_pictures_of_another_size_get_the_fixed_camera_scaled(made_kitti360: Path):
    scene = config_of(made_kitti360).build("train", Needs()).sample(0).scene
    picture = read_image(Kitti360Frame(made_kitti360, drive_folder("0000"), "000000").left)
    assert picture.shape == (94, 352, 3)
    assert not scene.images[0, 0, 0, :, :2].any()
    assert np.array_equal((scene.images[0, 0, 0, :, 2:] * 255).round().permute(1, 2, 0), picture)
    k = scene.cameras.intrinsics[0, 0, 0].numpy()
    scale = 352 / FULL_SIZE[1]
    assert k[0, 0] == pytest.approx(INTRINSICS[0][0] * scale)
    assert k[1, 2] == pytest.approx((INTRINSICS[1][2] + 0.5) * scale - 0.5 + 2)


def test_depth_is_prepared_and_read_as_for_semantickitti(made_kitti360: Path, tmp_path: Path):
    frames = frames_to_prepare(made_kitti360, ("0000",), "voxels")
    assert [frame.token for frame in frames] == [f"{drive_folder('0000')}/{name}" for name in ("000000", "000005")]
    assert len(frames_to_prepare(made_kitti360, (), "pictures")) == 4
    folder = tmp_path / "sgbm"
    cache = create_cache(folder, SgbmDepth().origin)
    assert len(list(fill_depth_cache(cache, SgbmDepth(), frames, workers=1))) == 2
    config = config_of(made_kitti360, depth=folder, cameras=("image_01", "image_00"))
    scene = config.build("train", Needs(depth=True)).sample(1).scene
    stored = np.load(folder / "sequences" / drive_folder("0000") / "000005.npy")
    assert not scene.depth[0, 0, 0].any()
    assert np.array_equal(scene.depth[0, 0, 1, 2:], stored)
    # The made pair is one picture shifted by 8 pixels: the depth follows from focal length and baseline.
    assert np.median(stored[stored > 0]) == pytest.approx(328.318735 * 352 / 1408 / 8, rel=0.02)
    with pytest.raises(InputError, match=r"000000\.npy|not finished|no entry|prepare"):
        config_of(made_kitti360, depth=folder).build("val", Needs(depth=True))
    with pytest.raises(InputError, match="image_00"):
        config_of(made_kitti360, depth=folder, cameras=("image_01",)).build("train", Needs(depth=True))


def test_projected_points_agree_with_the_cameras_of_the_sample(made_kitti360: Path):
    (frame,) = frames_to_prepare(made_kitti360, ("0000",), "voxels")[:1]
    depth = LidarDepth().depth(frame)
    scene = config_of(made_kitti360, image_size=(94, 352)).build("train", Needs(points=True)).sample(0).scene
    points = scene.points.positions.double()
    camera = scene.cameras.camera_from_ego[0, 0, 0]
    seen = points @ camera[:3, :3].T + camera[:3, 3]
    pixels = seen @ scene.cameras.intrinsics[0, 0, 0].T
    pixels = torch.round(pixels[:, :2] / pixels[:, 2:]).long()
    inside = (seen[:, 2] > 0) & (pixels >= 0).all(1) & (pixels < torch.tensor([352, 94])).all(1)
    assert inside.sum() > 20
    assert np.array_equal(np.argwhere(depth > 0), np.unique(pixels[inside].flip(1), axis=0))


def test_what_is_not_there_is_said(made_kitti360: Path):
    with pytest.raises(InputError, match=r"no such drive.*drive_0006_sync"):
        config_of(made_kitti360).build("test", Needs())
    with pytest.raises(InputError, match="start-from"):
        config_of(made_kitti360).build("train", Needs(true_depth=True))
