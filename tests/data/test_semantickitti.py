from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from occloom.cache import CacheOrigin, create_cache
from occloom.data.depth_cache import fill_depth_cache, frames_to_prepare
from occloom.data.depth_sources import DepthSource, LidarDepth, SgbmDepth
from occloom.data.kitti_files import (
    read_calibration,
    read_point_labels,
    read_points,
    read_poses,
    read_voxel_bits,
    read_voxel_labels,
    write_image,
    write_voxel_bits,
)
from occloom.data.label_reduction import majority_labels, monoscene_labels
from occloom.data.label_spaces import OCCUPANCY, SEMANTIC_KITTI_GRID, to_train_ids
from occloom.data.packed_volumes import PSEUDO_VOXELS, QUERIES
from occloom.data.semantickitti import SemanticKittiConfig
from occloom.errors import InputError
from occloom.geometry.voxelize import voxel_index
from occloom.interfaces import Needs

IMAGES, DEPTH, POINTS = Needs(), Needs(depth=True), Needs(images=False, points=True)
SIZE = (36, 122)


def config_of(root: Path, **changes: object) -> SemanticKittiConfig:
    settings: dict = {"root": root, "image_size": SIZE, "train": ("00",), **changes}
    return SemanticKittiConfig(**settings)


def test_labels_follow_the_files(made_kitti: Path):
    dataset = config_of(made_kitti).build("val", IMAGES)
    assert dataset.tokens == ("08/000000", "08/000005")
    voxels = made_kitti / "sequences" / "08" / "voxels"
    raw = read_voxel_labels(voxels / "000005.label", SEMANTIC_KITTI_GRID.shape)
    invalid = read_voxel_bits(voxels / "000005.invalid", SEMANTIC_KITTI_GRID.shape)
    target = dataset.sample(1).target
    expected = to_train_ids(raw)
    observed = (expected != 255) & ~invalid
    assert np.array_equal(target.observed[0].numpy(), observed)
    assert np.array_equal(target.labels[0].numpy(), np.where(observed, expected, 0))
    # A voxel that has both a class and the invalid bit: the bit wins.
    assert ((expected > 0) & (expected < 255) & invalid).any()


@pytest.mark.parametrize("rule", ["majority", "monoscene"])
def test_coarse_labels_are_reduced_after_masking(made_kitti: Path, rule: str):
    fine = config_of(made_kitti).build("val", IMAGES).target(0)
    coarse = config_of(made_kitti, label_scale=8, label_reduction=rule).build("val", IMAGES)
    labels = torch.where(fine.observed, fine.labels, 255)[0].numpy().astype(np.uint8)
    reduced = {"majority": majority_labels, "monoscene": monoscene_labels}[rule](labels, 8, num_classes=20, empty=0)
    assert coarse.grid == SEMANTIC_KITTI_GRID.coarsen((8, 8, 8))
    assert np.array_equal(coarse.target(0).observed[0].numpy(), reduced != 255)
    assert np.array_equal(coarse.target(0).labels[0].numpy(), np.where(reduced == 255, 0, reduced))


def test_a_split_without_labels_has_no_targets(make_kitti, tmp_path: Path):
    root = make_kitti(tmp_path, sequences=("11",), labels=False)
    dataset = config_of(root, test=("11",)).build("test", IMAGES)
    assert not dataset.labelled
    assert dataset.sample(0).target is None
    assert len(dataset) == 2


def test_images_alone_need_no_scans_and_scans_alone_no_images(make_kitti, tmp_path: Path):
    root = make_kitti(tmp_path, sequences=("00",))
    expected = config_of(root).build("train", IMAGES).sample(1)
    for path in (root / "sequences" / "00" / "velodyne").iterdir():
        path.unlink()
    dataset = config_of(root).build("train", IMAGES)
    assert torch.equal(dataset.sample(1).scene.images, expected.scene.images)
    assert dataset.sample(1).scene.points is None
    root = make_kitti(tmp_path / "other", sequences=("00",))
    for folder in ("image_2", "image_3"):
        for path in (root / "sequences" / "00" / folder).iterdir():
            path.unlink()
    scene = config_of(root).build("train", POINTS).sample(0).scene
    assert scene.images is None
    assert len(scene.points.positions) == 4000
    with pytest.raises(InputError, match=r"no usable frame.*no picture"):
        config_of(root).build("train", IMAGES)


def test_windows_follow_poses_and_times(made_kitti: Path):
    dataset = config_of(made_kitti, frames=(0, -2, -7)).build("train", Needs(points=True))
    scene = dataset.sample(1).scene
    assert scene.frame_valid.tolist() == [[True, True, False]]
    assert torch.allclose(scene.time, torch.tensor([[0.0, -0.2, -0.2]], dtype=torch.float64))
    calibration = read_calibration(made_kitti / "sequences" / "00" / "calib.txt")
    poses = read_poses(made_kitti / "sequences" / "00" / "poses.txt")
    tr = calibration.camera0_from_velodyne
    expected = np.linalg.inv(tr) @ np.linalg.inv(poses[5]) @ poses[3] @ tr
    assert np.allclose(scene.now_from_then[0, 1].numpy(), expected, atol=1e-12)
    past = read_points(made_kitti / "sequences" / "00" / "velodyne" / "000003.bin")
    moved = past[:, :3].astype(np.float64) @ expected[:3, :3].T + expected[:3, 3]
    assert np.allclose(scene.points.positions[4000:].numpy(), moved, atol=1e-5)
    assert scene.points.time.unique().tolist() == pytest.approx([-0.2, 0.0])
    assert len(scene.points.positions) == 8000


def test_a_missing_picture_of_one_camera_is_marked(make_kitti, tmp_path: Path):
    root = make_kitti(tmp_path, sequences=("00",))
    (root / "sequences" / "00" / "image_3" / "000003.png").unlink()
    config = config_of(root, cameras=("image_2", "image_3"), frames=(0, -2))
    scene = config.build("train", IMAGES).sample(1).scene
    assert scene.camera_valid.tolist() == [[[True, True], [True, False]]]
    assert scene.frame_valid.all()
    assert not scene.images[0, 1, 1].any()


def test_the_offset_of_the_colour_camera_is_a_choice(made_kitti: Path):
    cameras = ("image_2", "image_3")
    exact, family = (
        config_of(made_kitti, cameras=cameras, camera_offset=offset).build("train", IMAGES).sample(0).scene.cameras
        for offset in (True, False)
    )
    calibration = read_calibration(made_kitti / "sequences" / "00" / "calib.txt")
    point = np.array([12.0, 1.5, -0.4, 1.0])
    for n in (0, 1):
        expected = calibration.projections[2 + n] @ calibration.camera0_from_velodyne @ point
        found = (exact.intrinsics[0, 0, n] @ (exact.camera_from_ego[0, 0, n] @ torch.from_numpy(point))[:3]).numpy()
        assert np.allclose(found, expected, atol=1e-9)
    assert np.allclose(family.camera_from_ego[0, 0, 0].numpy(), calibration.camera0_from_velodyne, atol=1e-12)
    baseline = [c.camera_from_ego[0, 0, 1, :3, 3] - c.camera_from_ego[0, 0, 0, :3, 3] for c in (exact, family)]
    assert torch.allclose(baseline[0], baseline[1], atol=1e-12)


def prepare(root: Path, source: DepthSource, origin: CacheOrigin) -> None:
    """Every picture's depth under <root>/depth/<source>, as if `origin` had made it."""
    cache = create_cache(root / "depth" / origin.source, origin)
    list(fill_depth_cache(cache, source, frames_to_prepare(root, (), "pictures"), workers=1))


def test_prepared_depth_is_read_and_stale_depth_refused(make_kitti, tmp_path: Path):
    root = make_kitti(tmp_path, sequences=("00",))
    source, frames = LidarDepth(), frames_to_prepare(root, (), "pictures")
    prepare(root, source, source.origin)
    config = config_of(root, depth=Path("lidar"), cameras=("image_3", "image_2"), frames=(0, -2))
    depth = config.build("train", DEPTH).sample(1).scene.depth
    assert not depth[:, :, 0].any()
    assert np.array_equal(depth[0, 0, 1].numpy(), source.depth(frames[5]))
    assert np.array_equal(depth[0, 1, 1].numpy(), source.depth(frames[3]))
    assert (depth[0, :, 1] > 0).float().mean() > 0.05
    scan = root / "sequences" / "00" / "velodyne" / "000000.bin"
    scan.write_bytes(scan.read_bytes()[:-160])
    with pytest.raises(InputError, match=r"stale.*velodyne/000000\.bin"):
        config.build("train", DEPTH)
    with pytest.raises(InputError, match="occloom prepare depth"):
        config_of(root).build("train", DEPTH)


@pytest.fixture
def with_volumes(make_kitti, tmp_path: Path) -> Path:
    """Frames with random pseudo voxels and queries."""
    root, rng = make_kitti(tmp_path / "data"), np.random.default_rng(0)
    for frame in frames_to_prepare(root, (), "voxels"):
        for kind in (PSEUDO_VOXELS, QUERIES):
            write_voxel_bits(root / kind.folder / "made" / kind.entry(frame), rng.random(kind.shape) < 0.02)
    return root


VOLUMES = Needs(images=False, pseudo_voxels=True, proposals=True)
MADE = {"pseudo_voxels": Path("made"), "queries": Path("made")}


def test_pseudo_voxels_and_queries_are_read_and_follow_the_mirror(with_volumes: Path):
    dataset = config_of(with_volumes, **MADE, flip_probability=1.0).build("train", VOLUMES)
    exact, mirrored = dataset.sample(1).scene, dataset.sample(1, np.random.default_rng(0)).scene
    for kind, name in ((PSEUDO_VOXELS, "pseudo_voxels"), (QUERIES, "proposals")):
        file = with_volumes / kind.folder / "made" / "sequences" / "00" / f"000005{kind.suffix}"
        bits = torch.from_numpy(read_voxel_bits(file, kind.shape))[None]
        assert torch.equal(getattr(exact, name), bits)
        assert torch.equal(getattr(mirrored, name), bits.flip(2))
    nothing = dataset.config.build("train", Needs(images=False)).sample(1).scene
    assert nothing.pseudo_voxels is None
    assert nothing.proposals is None


def test_missing_queries_name_the_frame_and_the_command(with_volumes: Path):
    (with_volumes / "queries" / "made" / "sequences" / "08" / "000005.query").unlink()
    config = config_of(with_volumes, **MADE)
    config.build("train", VOLUMES)
    config.build("val", Needs(images=False, pseudo_voxels=True))
    with pytest.raises(InputError, match=rf"no queries of 08/000005.*occloom prepare queries --root {with_volumes}"):
        config.build("val", VOLUMES)
    with pytest.raises(InputError, match="the model needs queries and the data has none"):
        config_of(with_volumes).build("val", Needs(images=False, proposals=True))


def test_a_frame_that_nothing_could_be_prepared_of_is_left_out(with_volumes: Path):
    (with_volumes / "queries" / "made" / "sequences" / "08" / "000005.query").unlink()
    (with_volumes / "sequences" / "08" / "image_2" / "000005.png").unlink()
    dataset = config_of(with_volumes, **MADE).build("val", VOLUMES)
    assert dataset.tokens == ("08/000000",)
    assert dict(dataset.skipped) == {"08/000005": "no picture to prepare pseudo voxels of"}


@pytest.mark.parametrize("scale", [1, 2])
def test_classes_may_be_joined_after_the_labels_are_reduced(made_kitti: Path, scale: int):
    config = config_of(made_kitti, label_scale=scale, label_reduction="monoscene")
    every = config.build("val", Needs(images=False)).target(1)
    joined = replace(config, classes="occupancy").build("val", Needs(images=False))
    target = joined.target(1)
    assert joined.label_space.names == ("empty", "occupied")
    assert torch.equal(target.observed, every.observed)
    assert torch.equal(target.labels, torch.where(every.labels == 0, 0, 1))


def test_the_frequencies_of_joined_classes_are_the_published_ones():
    """Reference monoocc 2."""
    assert OCCUPANCY.frequencies == pytest.approx((5.41773033e9, 4.03113667e8))


@pytest.mark.parametrize(
    ("origin", "named"),
    [
        (replace(SgbmDepth().origin, code_version=0), "code version 0, wanted 1"),
        (SgbmDepth(block_size=3).origin, "setting block_size 3, wanted 5"),
        (replace(LidarDepth().origin, code_version=0), "code version 0, wanted 1"),
        (CacheOrigin(source="file", settings={"scale": 2}, code_version=1), "setting scale 2, wanted None"),
    ],
)
def test_depth_that_this_version_would_not_write_is_refused(make_kitti, tmp_path: Path, origin, named: str):
    root = make_kitti(tmp_path, sequences=("00",))
    prepare(root, LidarDepth(), origin)
    with pytest.raises(InputError, match=f"{named}.*prepare it again"):
        config_of(root, depth=Path(origin.source)).build("train", DEPTH)


def test_depth_of_a_source_of_somebody_else_is_read(make_kitti, tmp_path: Path):
    root = make_kitti(tmp_path, sequences=("00",))
    prepare(root, LidarDepth(), CacheOrigin(source="network", settings={"epochs": 3}, code_version=7))
    dataset = config_of(root, depth=Path("network")).build("train", DEPTH)
    frame = frames_to_prepare(root, (), "voxels")[1]
    assert np.array_equal(dataset.sample(1).scene.depth[0, 0, 0].numpy(), LidarDepth().depth(frame))


@pytest.mark.parametrize("name", ["000005", "000003"])
@pytest.mark.parametrize("how", ["not listed", "cut short", "missing"])
def test_every_frame_of_the_split_must_be_prepared(make_kitti, tmp_path: Path, name: str, how: str):
    root = make_kitti(tmp_path, sequences=("00",))
    prepare(root, LidarDepth(), LidarDepth().origin)
    entries, entry = root / "depth" / "lidar" / "entries.jsonl", root / "depth" / "lidar" / f"sequences/00/{name}.npy"
    if how == "not listed":
        lines = entries.read_text().splitlines()
        entries.write_text("\n".join(line for line in lines if f'"sequences/00/{name}.npy"' not in line))
    elif how == "cut short":
        entry.write_bytes(entry.read_bytes()[:-4])
    else:
        entry.unlink()
    with pytest.raises(InputError, match=r"not whole.*run the preparation again") as caught:
        config_of(root, depth=Path("lidar"), frames=(0, -2)).build("train", DEPTH)
    assert caught.value.where == entry
    config_of(root, depth=Path("lidar"), frames=(0, -2)).build("train", IMAGES)


@pytest.mark.parametrize("changed", ["000005", "000003"])
def test_a_picture_that_changed_is_noticed_when_its_depth_is_read(make_kitti, tmp_path: Path, changed: str):
    root = make_kitti(tmp_path, sequences=("00",))
    prepare(root, SgbmDepth(), SgbmDepth().origin)
    dataset = config_of(root, depth=Path("stereo-sgbm"), frames=(0, -2)).build("train", DEPTH)
    assert dataset.sample(1).scene.depth.any()
    write_image(root / "sequences" / "00" / "image_2" / f"{changed}.png", np.zeros((*SIZE, 3), dtype=np.uint8))
    assert dataset.sample(0).scene.depth.any()
    with pytest.raises(InputError, match=rf"stale.*image_2/{changed}\.png.*prepare it again") as caught:
        dataset.sample(1)
    assert caught.value.where == root / "depth" / "stereo-sgbm" / f"sequences/00/{changed}.npy"


def test_depth_that_was_made_from_other_data_is_refused_when_opened(make_kitti, tmp_path: Path):
    root = make_kitti(tmp_path / "a", sequences=("00",))
    other = make_kitti(tmp_path / "b", sequences=("08", "00"))
    prepare(other, SgbmDepth(), SgbmDepth().origin)
    with pytest.raises(InputError, match=r"stale.*00/image_2/000000\.png"):
        config_of(root, depth=other / "depth" / "stereo-sgbm").build("train", DEPTH)


def test_a_model_that_needs_depth_needs_the_left_camera(make_kitti, tmp_path: Path):
    root = make_kitti(tmp_path, sequences=("00",))
    prepare(root, LidarDepth(), LidarDepth().origin)
    config = config_of(root, depth=Path("lidar"), cameras=("image_3",))
    with pytest.raises(InputError, match=r"cameras is image_3.*add image_2"):
        config.build("train", DEPTH)
    assert config.build("train", IMAGES).sample(0).scene.depth is None


@pytest.mark.parametrize("name", ["voxels/000000.label", "voxels/000000.invalid", "image_2/000000.png"])
def test_truncated_files_give_one_clear_line(make_kitti, tmp_path: Path, name: str):
    root = make_kitti(tmp_path, sequences=("00",))
    path = root / "sequences" / "00" / name
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match="fetch it again") as caught:
        config_of(root).build("train", IMAGES).sample(0)
    assert caught.value.where == path
    assert "\n" not in str(caught.value)


def test_wrong_picture_size_missing_sequences_and_bad_windows_are_refused(make_kitti, tmp_path: Path):
    root = make_kitti(tmp_path, sequences=("00",))
    write_image(root / "sequences" / "00" / "image_2" / "000005.png", np.zeros((36, 100, 3), dtype=np.uint8))
    with pytest.raises(InputError, match="36x100, expected 36x122"):
        config_of(root).build("train", IMAGES).sample(1)
    with pytest.raises(InputError, match=r"08: no such sequence.*00"):
        config_of(root).build("val", IMAGES)
    for frames in ((), (-1, 0), (0, -2, -2), (0, 1)):
        with pytest.raises(InputError, match="0 comes first"):
            config_of(root, frames=frames)


@pytest.mark.real_data
def test_real_frames_are_read_as_they_lie(real_data: Path):
    config = SemanticKittiConfig(root=real_data / "semantickitti", train=("00", "04"), frames=(0, -3, -5))
    val, train = config.build("val", IMAGES), config.build("train", Needs(points=True))
    assert val.tokens == ("08/000000", "08/000005")
    assert val.skipped == {"08/000010": "no voxel labels"}
    assert train.tokens == ("00/000000", "04/000000")
    scene = val.sample(1).scene
    assert scene.frame_valid.all()
    assert torch.allclose(scene.time[0], torch.tensor([0.0, -0.311, -0.519], dtype=torch.float64), atol=0.01)
    # The ego moves forward at the speed of a car in a town.
    speed = -scene.now_from_then[0, 1, 0, 3] / -scene.time[0, 1]
    assert 1 < float(speed) < 20
    assert len(val.sample(0).scene.images[0]) == 3


@pytest.mark.real_data
@pytest.mark.parametrize("token", ["00/000000", "04/000000", "08/000000", "08/000005"])
def test_real_labels_agree_with_the_labelled_scan(real_data: Path, token: str):
    sequence, name = token.split("/")
    config = SemanticKittiConfig(root=real_data / "semantickitti", train=(sequence,))
    dataset = config.build("train", Needs(points=True))
    sample = dataset.sample(dataset.tokens.index(token))
    raw, _ = read_point_labels(real_data / "semantickitti" / "sequences" / sequence / "labels" / f"{name}.label")
    classes = torch.from_numpy(to_train_ids(raw).astype(np.int64))
    index, inside = voxel_index(sample.scene.points.positions, dataset.grid)
    inside &= (classes > 0) & (classes < 255)
    at = tuple(index[inside].T)
    observed = sample.target.observed[0][at]
    agreement = (sample.target.labels[0][at] == classes[inside])[observed].double().mean()
    assert float(observed.double().mean()) > 0.99
    assert float(agreement) > 0.9


@pytest.mark.real_data
@pytest.mark.parametrize("sequence", ["00", "04", "08"])
def test_real_points_have_the_colour_camera_before_them(real_data: Path, sequence: str):
    config = SemanticKittiConfig(root=real_data / "semantickitti", train=(sequence,), image_size=(370, 1226))
    cameras = config.build("train", IMAGES).sample(0).scene.cameras
    calibration = read_calibration(real_data / "semantickitti_calib_all" / f"{sequence}.txt")
    scan = read_points(real_data / "semantickitti" / "sequences" / sequence / "velodyne" / "000000.bin")
    scan[:, 3] = 1
    expected = scan.astype(np.float64) @ (calibration.projections[2] @ calibration.camera0_from_velodyne).T
    found = torch.from_numpy(scan[:, :3]).double() @ cameras.camera_from_ego[0, 0, 0, :3, :3].T
    found = (found + cameras.camera_from_ego[0, 0, 0, :3, 3]) @ cameras.intrinsics[0, 0, 0].T
    ahead = expected[:, 2] > 1
    ratio = (found[ahead, :2] / found[ahead, 2:]).numpy()
    pixels = expected[ahead, :2] / expected[ahead, 2:]
    height, width = (376, 1241) if sequence == "00" else (370, 1226)
    scale = np.array([1226 / width, 370 / height])
    assert np.allclose(ratio, (pixels + 0.5) * scale - 0.5, atol=1e-6)
