from pathlib import Path

import numpy as np
import pytest
import torch

from occloom.data.kitti_files import write_image, write_points
from occloom.data.label_reduction import majority_labels, monoscene_labels
from occloom.data.label_spaces import IGNORED, SEMANTIC_KITTI
from occloom.data.pictures import PictureFit
from occloom.data.sample_parts import (
    LabelReduction,
    TimedScan,
    augment,
    count_frequencies,
    load_pictures,
    load_points,
    target_of,
)
from occloom.data.semantickitti import SemanticKittiConfig
from occloom.errors import InputError
from occloom.interfaces import Needs


def test_frequencies_count_what_is_observed(made_kitti: Path):
    dataset = SemanticKittiConfig(root=made_kitti, train=("00",)).build("train", Needs())
    counts = count_frequencies(dataset)
    expected = np.zeros(20, dtype=np.int64)
    for index in range(len(dataset)):
        target = dataset.target(index)
        for c in range(20):
            expected[c] += int(((target.labels == c) & target.observed).sum())
    assert np.array_equal(counts, expected)


def test_a_missing_picture_is_black_and_marked(tmp_path: Path):
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (2, 4, 6, 3)).astype(np.uint8)
    for number, picture in enumerate(pictures):
        write_image(tmp_path / f"{number}.png", picture)
    missing = tmp_path / "missing.png"
    paths = [[tmp_path / "0.png", missing], [missing, tmp_path / "1.png"], [missing, missing]]
    images, valid = load_pictures(paths, PictureFit((4, 6), (4, 6), "resize"))
    assert valid.tolist() == [[[True, False], [False, True], [False, False]]]
    assert not images[~valid].any()
    assert np.array_equal((images[valid] * 255).round().permute(0, 2, 3, 1).numpy(), pictures)


def test_depth_of_a_camera_that_is_not_read_is_refused(made_kitti: Path):
    config = SemanticKittiConfig(root=made_kitti, train=("00",), cameras=("image_3",), depth=Path("nowhere"))
    with pytest.raises(InputError, match="prepared for image_2 alone"):
        config.build("train", Needs(depth=True))


def test_scans_are_joined_in_the_present_frame(tmp_path: Path):
    points = np.random.default_rng(0).random((7, 4)).astype(np.float32)
    write_points(tmp_path / "a.bin", points)
    write_points(tmp_path / "empty.bin", points[:0])
    moved = np.eye(4)
    moved[:3, 3] = (1.0, 2.0, 3.0)
    scans = [TimedScan(tmp_path / f"{name}.bin", moved, t) for name, t in (("a", 0.0), ("empty", -0.1), ("a", -0.2))]
    joined = load_points(scans)
    assert np.allclose(joined.positions, np.tile(points[:, :3] + [1, 2, 3], (2, 1)), atol=1e-6)
    assert np.array_equal(joined.features, np.tile(points[:, 3:], (2, 1)))
    assert joined.time.tolist() == pytest.approx([0.0] * 7 + [-0.2] * 7)


@pytest.mark.parametrize("reduction", ["majority", "monoscene"])
def test_ignored_voxels_are_unobserved_at_every_scale(reduction: LabelReduction):
    rng = np.random.default_rng(0)
    labels = rng.choice(np.array([0, 0, 0, 1, 5, IGNORED, IGNORED], np.uint8), (8, 8, 4))
    reduced = {"majority": majority_labels, "monoscene": monoscene_labels}[reduction](
        labels, 2, num_classes=20, empty=0
    )
    for scale, expected in ((1, labels), (2, reduced)):
        target = target_of(labels, SEMANTIC_KITTI, scale=scale, reduction=reduction)
        assert np.array_equal(target.observed[0], expected != IGNORED)
        assert np.array_equal(target.labels[0], np.where(expected == IGNORED, 0, expected))


def test_augmentation_draws_as_often_whether_it_mirrors_or_not(made_kitti: Path):
    dataset = SemanticKittiConfig(root=made_kitti, image_size=(36, 122), train=("00",)).build("train", Needs())
    sample, after = dataset.sample(0), []
    mirrored = []
    for probability in (0.0, 1.0):
        rng = np.random.default_rng(3)
        changed = augment(sample, rng, dataset.grid, width=122, flip_probability=probability, colour_jitter=0.0)
        after.append(rng.random())
        mirrored.append(changed.scene.images)
    assert after[0] == after[1]
    assert torch.allclose(mirrored[0].flip(-1), mirrored[1])
    assert torch.allclose(mirrored[0], sample.scene.images, atol=1e-6)
