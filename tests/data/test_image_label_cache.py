"""Prepared classes of pixels: of one sweep what the reader makes itself, of several what a loop over points finds."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from occloom.cache import create_cache
from occloom.data.image_label_cache import (
    fill_image_labels,
    image_label_entry,
    image_label_origin,
    load_image_labels,
    open_image_labels,
)
from occloom.data.image_truth import image_labels
from occloom.data.kitti_files import (
    KittiFrame,
    read_calibration,
    read_image_size,
    read_point_labels,
    read_points,
    read_poses,
    write_point_labels,
)
from occloom.data.label_spaces import RAW_LABELS
from occloom.data.pictures import PictureFit
from occloom.data.semantickitti import SemanticKittiConfig
from occloom.errors import InputError
from occloom.interfaces import Needs

SIZE = (36, 122)
SWEEPS = (0, -1, 2, -9)


@pytest.fixture
def root(make_kitti, tmp_path) -> Path:
    """Labelled scans of one sequence, moving things and unknown ids among them."""
    root = make_kitti(tmp_path, sequences=("00",))
    rng = np.random.default_rng(3)
    ids = np.array([label.raw_id for label in RAW_LABELS] + [7], dtype=np.uint16)
    for name in range(6):
        frame = KittiFrame(root, "00", f"{name:06d}")
        raw = rng.choice(ids, len(read_points(frame.scan)))
        write_point_labels(frame.file("labels", ".label"), raw, np.zeros_like(raw))
    return root


def prepared(root: Path, sweeps=SWEEPS, names=("000005",)):
    cache = create_cache(root / "image_labels" / "made", image_label_origin(sweeps))
    frames = [KittiFrame(root, "00", name) for name in names]
    assert list(fill_image_labels(cache, frames, ("image_2",), sweeps)) == frames
    return cache


def naive(frame: KittiFrame, sweeps) -> np.ndarray:
    """One point after the other, by the formulas of the devkit."""
    calibration = read_calibration(frame.folder / "calib.txt")
    of_raw = {label.raw_id: label.train_id for label in RAW_LABELS}
    tr, poses = calibration.camera0_from_velodyne, read_poses(frame.folder / "poses.txt")
    depth, labels = np.full(SIZE, np.inf), np.full(SIZE, -1)
    for offset in sweeps:
        number = int(frame.name) + offset
        sweep = KittiFrame(frame.root, frame.sequence, f"{number:06d}")
        if not sweep.scan.is_file():
            continue
        camera_now = np.linalg.inv(poses[int(frame.name)]) @ poses[number]
        raw, _ = read_point_labels(sweep.file("labels", ".label"))
        for point, raw_id in zip(read_points(sweep.scan)[:, :3].astype(float), raw, strict=True):
            if offset and raw_id >= 252:
                continue
            u, v, w = calibration.projections[2] @ camera_now @ tr @ np.append(point, 1.0)
            if w <= 0:
                continue
            column, row = np.rint([u / w, v / w]).astype(int)
            if 0 <= row < SIZE[0] and 0 <= column < SIZE[1] and w < depth[row, column]:
                depth[row, column], labels[row, column] = w, of_raw.get(int(raw_id), -1)
    return labels


def test_several_sweeps_equal_a_loop_over_all_points(root):
    cache, frame = prepared(root), KittiFrame(root, "00", "000005")
    found = load_image_labels(cache, frame, "image_2", PictureFit(SIZE, SIZE, "resize")).numpy()
    np.testing.assert_array_equal(found, naive(frame, SWEEPS))
    single = naive(frame, (0,))
    assert (found >= 0).sum() > (single >= 0).sum()
    assert not np.array_equal(np.where(single >= 0, found, -1), single)  # some are hidden


@pytest.mark.parametrize(("size", "how"), [(SIZE, "resize"), ((30, 100), "crop")])
def test_of_one_sweep_they_are_those_of_the_reader(root, size, how):
    cache, frame = prepared(root, (0,)), KittiFrame(root, "00", "000005")
    fit = PictureFit(SIZE, size, how)
    expected = image_labels(frame, read_calibration(frame.folder / "calib.txt"), 2, fit)
    assert torch.equal(load_image_labels(cache, frame, "image_2", fit), expected)


@pytest.mark.parametrize(("size", "how"), [((18, 61), "resize"), ((24, 80), "width")])
def test_in_a_smaller_picture_no_labelled_cell_is_lost(root, size, how):
    cache, frame = prepared(root), KittiFrame(root, "00", "000005")
    fit = PictureFit(SIZE, size, how)
    fine = load_image_labels(cache, frame, "image_2", PictureFit(SIZE, SIZE, "resize")).numpy()
    coarse = load_image_labels(cache, frame, "image_2", fit).numpy()
    rows, columns = np.nonzero(fine >= 0)
    scale = np.array(fit.scaled) / SIZE
    cell = np.rint((np.stack([rows, columns], 1) + 0.5) * scale - 0.5 - (fit.top, 0)).astype(int)
    inside = ((cell >= 0) & (cell < size)).all(1)
    hit = np.zeros(size, dtype=bool)
    hit[tuple(cell[inside].T)] = True
    assert hit.sum() > 50
    # But for centres that fall exactly between two pixels, which rounding may send to either.
    assert (hit != (coarse >= 0)).mean() < 0.01
    of_cell = {tuple(c): fine[r, k] for c, r, k in zip(cell, rows, columns, strict=True)}
    agreeing = [coarse[c] == of_cell.get(tuple(c)) for c in map(tuple, np.argwhere(coarse >= 0))]
    assert np.mean(agreeing) > 0.5  # where several fall into one, the nearest may be another


def test_the_reader_takes_them_and_mirrors_them(root):
    prepared(root, names=("000000", "000005"))
    config = SemanticKittiConfig(
        root=root, image_size=SIZE, train=("00",), image_labels=Path("made"), label_sweeps=SWEEPS
    )
    dataset = config.build("train", Needs(image_labels=True))
    expected = naive(KittiFrame(root, "00", "000005"), SWEEPS)
    np.testing.assert_array_equal(dataset.sample(1).target.image_labels[0, 0].numpy(), expected)
    mirrored = replace(config, flip_probability=1.0, colour_jitter=0.0).build("train", Needs(image_labels=True))
    target = mirrored.sample(1, np.random.default_rng(0)).target
    np.testing.assert_array_equal(target.image_labels[0, 0].numpy(), expected[:, ::-1])
    for folder in ("labels", "velodyne"):
        for path in (root / "sequences" / "00" / folder).iterdir():
            path.unlink()
    assert dataset.sample(1).target.image_labels.shape == (1, 1, *SIZE)  # the cache outlives what it was made of
    assert config.build("train", Needs(image_labels=True)).skipped == {}


def test_what_is_finished_is_not_made_again(root):
    cache = prepared(root)
    path = cache.path(image_label_entry(KittiFrame(root, "00", "000005"), "image_2"))
    before = path.stat().st_mtime_ns
    prepared(root)
    assert path.stat().st_mtime_ns == before


def test_stale_foreign_and_missing_labels_are_refused(root):
    folder, frame, fit = (
        root / "image_labels" / "made",
        KittiFrame(root, "00", "000005"),
        PictureFit(SIZE, SIZE, "crop"),
    )
    with pytest.raises(InputError, match="no prepared image labels"):
        open_image_labels(folder, SWEEPS)
    cache = prepared(root)
    with pytest.raises(InputError, match="the cache has setting sweeps '0 -1 2 -9', wanted '0'"):
        open_image_labels(folder, (0,))
    config = SemanticKittiConfig(
        root=root, image_size=SIZE, train=("00",), image_labels=Path("made"), label_sweeps=SWEEPS
    )
    with pytest.raises(InputError, match="missing or not whole"):
        config.build("train", Needs(image_labels=True))  # 000000 was not prepared
    with pytest.raises(InputError, match="36x122"):
        load_image_labels(cache, frame, "image_2", PictureFit((40, 130), SIZE, "crop"))
    labels = frame.file("labels", ".label")
    labels.write_bytes(labels.read_bytes()[::-1])
    with pytest.raises(InputError, match="stale"):
        load_image_labels(cache, frame, "image_2", fit)


def test_missing_poses_and_labels_are_named(root):
    poses = root / "sequences" / "00" / "poses.txt"
    lines = poses.read_text().splitlines(keepends=True)
    poses.write_text("".join(lines[:3]))
    with pytest.raises(InputError, match=r"no row for frame 000005"):
        prepared(root)
    poses.unlink()
    with pytest.raises(InputError, match=r"poses\.txt"):
        prepared(root)


def test_no_poses_are_needed_for_one_sweep(root):
    (root / "sequences" / "00" / "poses.txt").unlink()
    assert len(prepared(root, (0,))) == 1


@pytest.mark.parametrize("sweeps", [(), (-1, 0), (0, -1, -1)])
def test_sweeps_begin_with_now(sweeps):
    with pytest.raises(InputError, match="0 comes first"):
        image_label_origin(sweeps)


@pytest.mark.real_data
def test_a_real_scan_of_half_a_second_ago_says_the_same_of_most_pixels(real_data: Path, tmp_path: Path):
    """Scans 0 and 5 of sequence 08, 0.5 s apart: poses and calibration bring the one into the other's picture."""
    frame = KittiFrame(real_data / "semantickitti", "08", "000005")
    size = read_image_size(frame.left)
    fit = PictureFit(size, size, "resize")
    found = []
    for sweeps in ((0,), (0, -5)):
        cache = create_cache(tmp_path / str(len(sweeps)), image_label_origin(sweeps))
        list(fill_image_labels(cache, [frame], ("image_2",), sweeps))
        found.append(load_image_labels(cache, frame, "image_2", fit).numpy())
    one, both = found
    assert (both >= 0).sum() > 1.4 * (one >= 0).sum()
    # Pixels that only the earlier scan hits, beside pixels of the present one.
    rows, columns = np.nonzero((both > 0) & (one < 0))
    beside = columns + 1 < size[1]
    there = one[rows[beside], columns[beside] + 1]
    known = there > 0
    assert known.sum() > 500
    assert (there[known] == both[rows[beside], columns[beside]][known]).mean() > 0.85
