"""Features go to float16 and back, and what is stale, foreign or missing is refused."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from occloom.cache import create_cache
from occloom.data.image_label_cache import image_label_origin
from occloom.data.kitti_files import KittiFrame
from occloom.data.semantickitti import SemanticKittiConfig
from occloom.data.teacher_feature_cache import (
    load_teacher_volume,
    open_teacher_features,
    save_teacher_features,
    teacher_feature_entry,
    teacher_feature_origin,
)
from occloom.errors import InputError
from occloom.interfaces import Needs

TAUGHT = Needs(teacher_features=True)


@pytest.fixture
def root(make_kitti, tmp_path) -> Path:
    root = make_kitti(tmp_path, sequences=("00",))
    (tmp_path / "ema.safetensors").write_bytes(b"weights")
    return root


def volume_of(seed=0, shape=(4, 6, 8, 2)):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator), torch.rand(shape[1:], generator=generator) < 0.3


def prepared(root: Path, names=("000000", "000005")):
    cache = create_cache(root / "teacher_features" / "made", teacher_feature_origin(root / "ema.safetensors"))
    for seed, name in enumerate(names):
        save_teacher_features(cache, KittiFrame(root, "00", name), *volume_of(seed))
    return cache


def config_of(root: Path, **changes) -> SemanticKittiConfig:
    named = {"teacher_features": Path("made"), "teacher_weights": root / "ema.safetensors", **changes}
    return SemanticKittiConfig(root=root, image_size=(36, 122), train=("00",), val=("00",), **named)


def test_what_was_kept_comes_back_in_half_precision_and_the_rest_is_zero(root):
    cache, (volume, where) = prepared(root), volume_of(1)
    found = load_teacher_volume(cache, KittiFrame(root, "00", "000005"))
    expected = torch.where(where, volume, 0.0)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found[0], expected, rtol=1e-3, atol=1e-6)
    assert torch.equal(found[0] != 0, (expected != 0))


def test_an_entry_takes_four_bytes_and_two_a_channel_a_voxel(root):
    cache, (_, where) = prepared(root), volume_of(1)
    size = cache.path(teacher_feature_entry(KittiFrame(root, "00", "000005"))).stat().st_size
    assert 0 < size - int(where.sum()) * (4 + 2 * 4) < 1200


def test_the_reader_takes_them_and_mirrors_them(root):
    prepared(root)
    dataset = config_of(root).build("train", TAUGHT)
    volume = dataset.sample(1).target.teacher_volume
    assert torch.equal(volume[0] != 0, torch.where(volume_of(1)[1], volume_of(1)[0], 0.0) != 0)
    mirrored = replace(config_of(root), flip_probability=1.0).build("train", TAUGHT)
    target = mirrored.sample(1, np.random.default_rng(0)).target
    assert torch.equal(target.teacher_volume, volume.flip(3))
    assert config_of(root).build("val", TAUGHT).sample(1).target.teacher_volume is None
    assert config_of(root).build("train", Needs()).sample(1).target.teacher_volume is None


def test_nothing_kept_is_a_volume_of_zeros(root):
    cache = prepared(root, names=())
    save_teacher_features(cache, KittiFrame(root, "00", "000000"), torch.ones(3, 2, 2, 2), torch.zeros(2, 2, 2) > 0)
    assert torch.equal(load_teacher_volume(cache, KittiFrame(root, "00", "000000")), torch.zeros(1, 3, 2, 2, 2))


def test_features_of_another_teacher_are_refused(root):
    prepared(root)
    (root / "ema.safetensors").write_bytes(b"trained further")
    with pytest.raises(InputError, match="the cache has setting weights"):
        config_of(root).build("train", TAUGHT)
    assert len(config_of(root, teacher_weights=None).build("train", TAUGHT)) == 2
    with pytest.raises(InputError, match="no such weights file"):
        config_of(root, teacher_weights=root / "nowhere").build("train", TAUGHT)


def test_stale_and_missing_features_are_refused(root):
    with pytest.raises(InputError, match="the data has none"):
        config_of(root, teacher_features=None).build("train", TAUGHT)
    with pytest.raises(InputError, match="no prepared features"):
        config_of(root).build("train", TAUGHT)
    cache = prepared(root, names=("000005",))
    with pytest.raises(InputError, match="missing or not whole"):
        config_of(root).build("train", TAUGHT)
    frame = KittiFrame(root, "00", "000005")
    picture = frame.left.read_bytes()
    frame.left.write_bytes(frame.file("image_3", ".png").read_bytes())
    with pytest.raises(InputError, match="stale"):
        load_teacher_volume(cache, frame)
    frame.left.write_bytes(picture)
    entry = cache.path(teacher_feature_entry(frame))
    entry.write_bytes(b"x" * entry.stat().st_size)
    with pytest.raises(InputError, match="cannot be read"):
        load_teacher_volume(cache, frame)


def test_a_cache_of_something_else_is_refused(root):
    prepared(root)
    create_cache(root / "teacher_features" / "other", image_label_origin((0,)))
    with pytest.raises(InputError, match="the cache has source 'image-labels'"):
        open_teacher_features(root / "teacher_features" / "other", None)
