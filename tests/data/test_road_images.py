from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from town_views import save

from occloom.data.road_images import RoadImagesConfig, window
from occloom.data.road_labels import ROAD
from occloom.data.transforms import mirror
from occloom.data.vistas_labels import VISTAS
from occloom.errors import InputError
from occloom.interfaces import DataConfig, Needs, SceneDataset
from occloom.scene import collate

SIZE = (12, 30)


def write_bdd(root: Path, *, sizes=((24, 48), (20, 60)), split="train") -> Path:
    """Pictures whose classes tell their columns and whose red tells their class."""
    for number, (height, width) in enumerate(sizes):
        ids = np.broadcast_to(np.arange(width) * 19 // width, (height, width)).astype(np.uint8).copy()
        ids[0, :] = 255
        image = np.stack([ids * 10, np.full_like(ids, 100), np.full_like(ids, 200)], axis=2)
        folder = root / "bdd100k"
        save(folder / "images" / "10k" / split / f"p{number}.jpg", image)
        save(folder / "labels" / "sem_seg" / "masks" / split / f"p{number}.png", ids)
    return root


@pytest.fixture
def config(tmp_path: Path) -> RoadImagesConfig:
    return RoadImagesConfig(root=write_bdd(tmp_path), sets=("bdd100k",), image_size=SIZE)


def test_the_config_and_the_split_keep_the_protocols(config):
    assert isinstance(config, DataConfig)
    dataset = config.build("train", Needs())
    assert isinstance(dataset, SceneDataset)
    assert dataset.tokens == ("bdd100k/p0", "bdd100k/p1")
    assert len(dataset) == 2


def test_pictures_of_all_sizes_make_a_batch_whose_labels_are_a_volume_one_voxel_thick(config):
    dataset = config.build("train", Needs())
    batch = collate([dataset.sample(0), dataset.sample(1, np.random.default_rng(0))])
    assert batch.scene.images.shape == (2, 1, 1, 3, *SIZE)
    assert batch.target.labels.shape == (2, *SIZE, 1) == (2, *config.grid.shape)
    assert int(batch.target.labels.max()) < ROAD.num_classes
    assert (batch.target.labels[~batch.target.observed] == ROAD.empty).all()
    assert 0 <= float(batch.scene.images.min()) < float(batch.scene.images.max()) <= 1


def test_the_middle_is_cut_out_without_a_generator_and_labels_lie_where_the_picture_does(config):
    sample = config.build("train", Needs()).sample(0)
    # 24x48 becomes 12x30: scaled by 30/48, rows 2.4 to 21.6 are left; all columns.
    labels, red = sample.target.labels[0, :, :, 0], sample.scene.images[0, 0, 0, 0] * 255 / 10 + 1
    assert sample.target.observed.all()
    np.testing.assert_array_equal(labels[3], ((np.arange(30) + 0.5) * 48 / 30).astype(int) * 19 // 48 + 1)
    assert (labels - red).abs().max() < 1.5


def test_unlabelled_pixels_do_not_count(config):
    sample = replace(config, image_size=(24, 48)).build("train", Needs()).sample(0)
    assert not sample.target.observed[0, 0].any()
    assert sample.target.observed[0, 1:].all()


def test_drawn_windows_are_reproducible_and_stay_within_the_picture(config):
    dataset = config.build("train", Needs())
    drawn = [dataset.sample(0, np.random.default_rng(seed)) for seed in (1, 1, 2)]
    assert torch.equal(drawn[0].target.labels, drawn[1].target.labels)
    assert torch.equal(drawn[0].scene.images, drawn[1].scene.images)
    assert not torch.equal(drawn[0].target.labels, drawn[2].target.labels)


@pytest.mark.parametrize("source", [(24, 48), (100, 30), (7, 7)])
@pytest.mark.parametrize("zoom", [1.0, 1.7])
@pytest.mark.parametrize(("down", "right"), [(0.0, 0.0), (1.0, 1.0), (0.3, 0.8)])
def test_a_window_has_the_shape_of_the_target_and_lies_in_the_picture(source, zoom, down, right):
    left, top, end, bottom = window(source, SIZE, zoom=zoom, down=down, right=right)
    assert (end - left) / (bottom - top) == pytest.approx(SIZE[1] / SIZE[0])
    assert left >= -1e-9
    assert top >= -1e-9
    assert end <= source[1] + 1e-9
    assert bottom <= source[0] + 1e-9
    full = max((end - left) / source[1], (bottom - top) / source[0])
    assert full == pytest.approx(1 / zoom)


def test_mirrored_labels_follow_the_picture(config):
    sample = config.build("train", Needs()).sample(1)
    mirrored = mirror(sample, config.grid, width=SIZE[1])
    assert torch.equal(mirrored.target.labels, sample.target.labels.flip(2))
    assert torch.equal(mirrored.scene.images, sample.scene.images.flip(-1))


def test_sets_come_one_after_the_other_with_one_label_space(town_sets: Path):
    config = RoadImagesConfig(root=town_sets, image_size=(48, 160))
    dataset = config.build("val", Needs())
    assert [token.partition("/")[0] for token in dataset.tokens] == list(config.sets)
    assert dataset.label_space is ROAD
    labels = [dataset.sample(index).target for index in range(len(dataset))]
    dense = [target.labels[target.observed] for target in labels]
    assert all(torch.equal(dense[0], other) for other in dense[1:3])  # nuImages annotates less
    vistas = replace(config, sets=("vistas",))
    assert vistas.label_space is VISTAS
    assert vistas.build("train", Needs()).sample(0).target.observed.any()


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"sets": ()}, "it names one or more"),
        ({"sets": ("bdd100k", "bdd100k")}, "each once"),
        ({"sets": ("vistas", "bdd100k")}, "vistas has classes of its own"),
        ({"image_size": (0, 4)}, "image_size is"),
        ({"largest_zoom": 0.5}, "largest_zoom is 0.5"),
    ],
)
def test_settings_that_do_not_fit_are_refused(changes, named, tmp_path):
    with pytest.raises(InputError, match=named):
        RoadImagesConfig(**{"root": tmp_path, **changes})


def test_test_splits_and_other_needs_are_refused(config):
    with pytest.raises(InputError, match="no public labels"):
        config.build("test", Needs())
    with pytest.raises(InputError, match="without depth, points and cameras"):
        config.build("train", Needs(depth=True))


def test_a_picture_that_is_missing_or_of_another_size_than_its_labels_is_named(config):
    dataset = config.build("train", Needs())
    folder = config.root / "bdd100k" / "images" / "10k" / "train"
    save(folder / "p0.jpg", np.zeros((24, 50, 3), np.uint8))
    (folder / "p1.jpg").unlink()
    with pytest.raises(InputError, match="the picture has 24x50 pixels"):
        dataset.sample(0)
    with pytest.raises(InputError, match=r"p1.jpg"):
        dataset.sample(1)
