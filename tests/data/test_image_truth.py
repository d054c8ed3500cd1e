"""True depth and classes of pictures, against a plain loop, another depth source and mirrored geometry."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from occloom.data.depth_sources import LidarDepth
from occloom.data.image_truth import NO_LABEL, image_labels, true_depth
from occloom.data.kitti_files import KittiFrame, read_calibration, read_points, write_point_labels
from occloom.data.label_spaces import RAW_LABELS
from occloom.data.pictures import PictureFit
from occloom.data.semantickitti import SemanticKittiConfig
from occloom.data.transforms import mirror
from occloom.errors import InputError
from occloom.geometry.projection import project
from occloom.geometry.rigid import transform_points
from occloom.interfaces import Needs
from occloom.scene import collate

SIZE = (36, 122)
TRUTH = Needs(depth=False, true_depth=True, image_labels=True)


def labelled(root: Path, sequence: str = "00", frames: int = 6) -> Path:
    """Give each scan of a made sequence labels, unknown ids among them."""
    rng = np.random.default_rng(3)
    ids = np.array([label.raw_id for label in RAW_LABELS] + [7, 300], dtype=np.uint16)
    for name in range(frames):
        frame = KittiFrame(root, sequence, f"{name:06d}")
        raw = rng.choice(ids, len(read_points(frame.file("velodyne", ".bin"))))
        write_point_labels(frame.file("labels", ".label"), raw, np.zeros_like(raw))
    return root


def naive(frame: KittiFrame, fit: PictureFit, camera: int, raw: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """One point after the other, at the size on disk, then by the fit's own intrinsics."""
    calibration = read_calibration(frame.folder / "calib.txt")
    of_raw = {label.raw_id: label.train_id for label in RAW_LABELS}
    depth, labels = np.full(fit.target, np.inf), np.full(fit.target, -1)
    scale = np.array([n / o for n, o in zip(fit.scaled[::-1], fit.source[::-1], strict=True)])
    for point, raw_id in zip(read_points(frame.file("velodyne", ".bin"))[:, :3].astype(float), raw, strict=True):
        u, v, w = calibration.projections[camera] @ calibration.camera0_from_velodyne @ np.append(point, 1.0)
        if w <= 0:
            continue
        pixel = (np.array([u, v]) / w + 0.5) * scale - 0.5 - np.array([0, fit.top])
        column, row = np.rint(pixel).astype(int)
        if 0 <= row < fit.target[0] and 0 <= column < fit.target[1] and w < depth[row, column]:
            depth[row, column], labels[row, column] = w, of_raw.get(int(raw_id), -1)
    return np.where(np.isfinite(depth), depth, 0), labels


@pytest.mark.parametrize(
    ("size", "how"), [(SIZE, "resize"), ((20, 50), "resize"), ((30, 100), "crop"), ((24, 80), "width")]
)
@pytest.mark.parametrize("camera", [2, 3])
def test_the_nearest_point_of_a_pixel_says_its_depth_and_class(make_kitti, tmp_path, size, how, camera):
    frame = KittiFrame(labelled(make_kitti(tmp_path, sequences=("00",))), "00", "000005")
    fit, calibration = PictureFit(SIZE, size, how), read_calibration(frame.folder / "calib.txt")
    raw = np.fromfile(frame.file("labels", ".label"), dtype="<u2").reshape(-1, 2)[:, 0]
    depth, labels = naive(frame, fit, camera, raw)
    assert (depth > 0).sum() > 100
    assert set(np.unique(labels)) >= {NO_LABEL, 0, 1, 19}
    np.testing.assert_allclose(true_depth(frame, calibration, camera, fit).numpy(), depth, rtol=1e-5)
    np.testing.assert_array_equal(image_labels(frame, calibration, camera, fit).numpy(), labels)


def test_at_the_size_on_disk_it_is_the_depth_of_the_lidar_source(made_kitti):
    frame = KittiFrame(made_kitti, "00", "000000")
    calibration = read_calibration(frame.folder / "calib.txt")
    depth = true_depth(frame, calibration, 2, PictureFit(SIZE, SIZE, "resize"))
    np.testing.assert_array_equal(depth.numpy(), LidarDepth().depth(frame))


def test_labels_that_are_fewer_than_the_points_are_refused(make_kitti, tmp_path):
    frame = KittiFrame(labelled(make_kitti(tmp_path, sequences=("00",))), "00", "000000")
    write_point_labels(frame.file("labels", ".label"), np.zeros(9, np.uint16), np.zeros(9, np.uint16))
    with pytest.raises(InputError, match="one label a point"):
        image_labels(frame, read_calibration(frame.folder / "calib.txt"), 2, PictureFit(SIZE, SIZE, "resize"))


def test_only_a_training_split_whose_loss_asks_has_image_truth(make_kitti, tmp_path):
    root = labelled(make_kitti(tmp_path, sequences=("00",)))
    config = SemanticKittiConfig(root=root, image_size=SIZE, train=("00",), val=("00",))
    target = config.build("train", Needs()).sample(1).target
    assert target is not None
    assert target.depth is None
    assert target.image_labels is None
    assert config.build("val", TRUTH).sample(1).target.depth is None
    target = config.build("train", TRUTH).sample(1).target
    assert target.depth.shape == target.image_labels.shape == (1, 1, *SIZE)
    assert torch.equal(target.image_labels >= 0, (target.depth > 0) & (target.image_labels >= 0))
    for path in (root / "sequences" / "00" / "labels").iterdir():
        path.unlink()
    assert config.build("train", replace(TRUTH, image_labels=False)).sample(0).target.depth is not None
    with pytest.raises(InputError, match="no point labels"):
        config.build("train", TRUTH)


def test_every_picture_can_be_trained_on_and_those_without_voxels_observe_none(make_kitti, tmp_path):
    root = labelled(make_kitti(tmp_path, sequences=("00",)))
    config = SemanticKittiConfig(root=root, image_size=SIZE, train=("00",), val=("00",), train_frames="pictures")
    dataset = config.build("train", TRUTH)
    assert dataset.tokens == tuple(f"00/{name:06d}" for name in range(6))
    assert config.build("val", TRUTH).tokens == ("00/000000", "00/000005")
    targets = [dataset.sample(index).target for index in range(6)]
    assert [bool(target.observed.any()) for target in targets] == [True, False, False, False, False, True]
    assert all((target.labels[~target.observed] == 0).all() for target in targets)
    batch = collate([dataset.sample(index) for index in (0, 1)])
    assert batch.target.depth.shape == (2, 1, *SIZE)
    (root / "sequences" / "00" / "velodyne" / "000003.bin").unlink()
    assert config.build("train", TRUTH).skipped == {"00/000003": "no scan"}


def test_mirrored_truth_is_that_of_the_mirrored_scan(make_kitti, tmp_path):
    root = labelled(make_kitti(tmp_path, sequences=("00",)))
    config = SemanticKittiConfig(root=root, image_size=SIZE, train=("00",))
    dataset = config.build("train", replace(TRUTH, points=True))
    sample = mirror(dataset.sample(1), dataset.grid, width=SIZE[1])
    points = transform_points(sample.scene.cameras.camera_from_ego[0, 0, 0], sample.scene.points.positions.double())
    pixels, depth = project(points, sample.scene.cameras.intrinsics[0, 0, 0])
    column, row = pixels.round().long().unbind(-1)
    inside = (depth > 0) & (row >= 0) & (row < SIZE[0]) & (column >= 0) & (column < SIZE[1])
    expected = torch.full(SIZE, torch.inf, dtype=torch.float64)
    expected.view(-1).scatter_reduce_(0, (row * SIZE[1] + column)[inside], depth[inside], "amin")
    expected = torch.where(expected.isfinite(), expected, 0).float()
    torch.testing.assert_close(sample.target.depth[0, 0], expected, rtol=1e-5, atol=0)
    unmirrored = dataset.sample(1).target
    assert torch.equal(sample.target.image_labels, unmirrored.image_labels.flip(-1))


def test_the_town_has_what_pre_training_needs(tiny_town):
    sequences = tuple(sorted(path.name for path in (tiny_town / "sequences").iterdir()))
    config = SemanticKittiConfig(root=tiny_town, image_size=(96, 320), train=sequences, train_frames="pictures")
    dataset = config.build("train", TRUTH)
    assert dataset.skipped == {}
    for index in range(len(dataset)):
        target = dataset.sample(index).target
        assert target.observed.any()
        hit = target.depth > 0
        assert 0.01 < hit.float().mean() < 0.9
        assert torch.equal(hit, target.image_labels >= 0)
        assert len(target.image_labels[hit].unique()) > 4


@pytest.mark.real_data
def test_real_classes_lie_where_they_belong(real_data):
    config = SemanticKittiConfig(root=real_data / "semantickitti", train=("00",), image_fit="resize")
    target = config.build("train", TRUTH).sample(0).target
    hit, labels = target.depth[0, 0] > 0, target.image_labels[0, 0]
    assert 0.02 < hit.float().mean() < 0.1
    rows = torch.arange(hit.shape[0])[:, None].expand_as(labels).float()
    road, building = rows[labels == 9].mean(), rows[labels == 13].mean()
    assert road > building
    depth = target.depth[0, 0]
    # Far road appears higher in the picture than near road.
    near, far = (labels == 9) & (depth < 10), (labels == 9) & (depth > 25)
    assert rows[near].mean() > rows[far].mean()
