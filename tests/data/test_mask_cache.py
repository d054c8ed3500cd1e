"""Masks on disk, of pictures made here, and how they follow the pictures through every change."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from occloom.cache import CacheOrigin, create_cache, digests
from occloom.data.kitti_files import read_image, write_image
from occloom.data.mask_cache import (
    UNCOVERED,
    MaskPicture,
    fill_mask_cache,
    load_masks,
    mask_folder,
    numbered,
    open_masks,
    warped_masks,
)
from occloom.data.occ3d import Occ3dConfig, mask_pictures
from occloom.data.semantickitti import SemanticKittiConfig
from occloom.data.surround_augment import SurroundAugmentation
from occloom.errors import InputError
from occloom.interfaces import Needs
from occloom.scene import collate

SIZE = (24, 40)
EYE = torch.eye(3, dtype=torch.float64)


@dataclass(frozen=True)
class Blocks:
    """A segment for each block of 8x8 pixels; the first block is of none."""

    @property
    def origin(self) -> CacheOrigin:
        return CacheOrigin(source="blocks", settings={}, code_version=1)

    def masks(self, picture: MaskPicture) -> np.ndarray:
        height, width = read_image(picture.path).shape[:2]
        rows, columns = np.mgrid[: height // 8, : width // 8]
        segments = (rows * (width // 8) + columns - 1).astype(np.int64)
        return numbered(np.kron(segments, np.ones((8, 8), np.int64)))


@pytest.fixture
def picture(tmp_path: Path) -> MaskPicture:
    path = tmp_path / "samples" / "one.png"
    write_image(path, np.zeros((*SIZE, 3), np.uint8))
    return MaskPicture(tmp_path, "scene-1/abc", "CAM_FRONT", path)


@pytest.fixture
def filled(picture: MaskPicture):
    cache = create_cache(mask_folder(picture.root, Path("blocks")), Blocks().origin)
    assert list(fill_mask_cache(cache, Blocks(), [picture])) == [picture]
    return cache


def test_what_is_written_is_read(picture: MaskPicture, filled):
    masks = load_masks(open_masks(picture.root, Path("blocks"), [picture]), picture, EYE, SIZE)
    assert masks.dtype == torch.int64
    assert masks.shape == SIZE
    assert masks[0, 0] == -1
    assert torch.equal(masks[::8, ::8].flatten(), torch.arange(15) - 1)
    with Image.open(filled.path("scene-1/abc/CAM_FRONT.png")) as image:
        assert np.asarray(image)[0, 0] == UNCOVERED
    assert (load_masks(filled, None, EYE, SIZE) == -1).all()


def test_a_finished_entry_stays_and_another_picture_is_refused(picture: MaskPicture, filled):
    written = filled.path(picture.entry).stat().st_mtime_ns
    list(fill_mask_cache(filled, Blocks(), [picture]))
    assert filled.path(picture.entry).stat().st_mtime_ns == written
    write_image(picture.path, np.ones((*SIZE, 3), np.uint8))
    with pytest.raises(InputError, match="stale"):
        load_masks(filled, picture, EYE, SIZE)


def test_masks_that_are_not_there_are_named(picture: MaskPicture, filled):
    with pytest.raises(InputError, match="the data has none"):
        open_masks(picture.root, None, [])
    with pytest.raises(InputError, match="no prepared masks"):
        open_masks(picture.root, Path("others"), [])
    with pytest.raises(InputError, match="missing or not whole"):
        open_masks(picture.root, Path("blocks"), [replace(picture, camera="CAM_BACK")])


@pytest.mark.parametrize("content", [b"no picture", None])
def test_a_damaged_entry_is_refused(picture: MaskPicture, filled, content):
    path = filled.path(picture.entry)
    if content is None:
        write_image(path, np.zeros((*SIZE, 3), np.uint8))
    else:
        path.write_bytes(content)
    filled.record(picture.entry, digests([picture.path], picture.root))
    with pytest.raises(InputError, match="the masks"):
        load_masks(filled, picture, EYE, SIZE)


def test_segments_are_numbered_from_0_in_their_order():
    assert numbered(np.array([[7, -1], [70_000, 7]])).tolist() == [[0, UNCOVERED], [1, 0]]
    assert numbered(np.full((2, 2), -1)).tolist() == [[UNCOVERED] * 2] * 2
    assert numbered(np.array([[5, 9]])).tolist() == [[0, 1]]


def test_pixels_take_the_nearest_one_on_disk_and_none_beyond_it():
    masks = np.arange(12, dtype=np.uint16).reshape(3, 4)
    half = torch.tensor([[0.5, 0, -0.25], [0, 0.5, -0.25], [0, 0, 1]], dtype=torch.float64)
    # Pixels of half the size lie between four; half to even takes the one at the even place.
    assert warped_masks(masks, half, (2, 2)).tolist() == [[0, 2], [8, 10]]
    moved = torch.tensor([[1.0, 0, 1], [0, 1, -1], [0, 0, 1]], dtype=torch.float64)
    assert warped_masks(masks, moved, (3, 4)).tolist() == [[-1, 4, 5, 6], [-1, 8, 9, 10], [-1, -1, -1, -1]]


def test_masks_follow_the_pictures_of_nuscenes_however_these_are_changed(own_nuscenes: Path):
    """Pictures there are blocks of one colour each, so a segment's pixels have its block's colour."""
    config = Occ3dConfig(
        root=own_nuscenes,
        image_size=(64, 112),
        keyframes=(0,),
        masks=Path("blocks"),
        augmentation=SurroundAugmentation(scale=(-0.05, 0.4), degrees=12.0),
    )
    needs = Needs(pseudo_masks=True)
    with pytest.raises(InputError, match="no prepared masks"):
        config.build("train", needs)
    assert config.build("val", needs).sample(0).target.pseudo_masks is None
    plain = config.build("train", Needs())
    pictures = [p for k in plain._keyframes for p in mask_pictures(own_nuscenes, k, config.cameras)]
    cache = create_cache(own_nuscenes / "masks" / "blocks", Blocks().origin)
    assert len(list(fill_mask_cache(cache, Blocks(), pictures))) == 18
    dataset = config.build("train", needs)
    samples = [dataset.sample(1), *(dataset.sample(1, np.random.default_rng(seed)) for seed in range(3))]
    assert plain.sample(1).target.pseudo_masks is None
    assert collate(samples).target.pseudo_masks.shape == (4, 6, 64, 112)
    for sample in samples:
        for n in range(6):
            masks, image = sample.target.pseudo_masks[0, n], sample.scene.images[0, 0, n]
            on_disk = torch.from_numpy(read_image(pictures[6 + n].path)[4::8, 4::8].copy()).flatten(0, 1) / 255
            # Inside of a block, where resampling mixes nothing.
            same = masks[None].double().unfold(1, 5, 1).unfold(2, 5, 1)
            inner = (same.amax((-1, -2)) == same.amin((-1, -2)))[0] & (masks[2:-2, 2:-2] >= 0)
            assert inner.sum() > 300
            rows, columns = (inner.nonzero() + 2).unbind(1)
            expected = on_disk[masks[rows, columns] + 1]
            assert (image[:, rows, columns].T - expected).abs().max() < 0.1
    turned = torch.stack([s.target.pseudo_masks for s in samples])
    assert not torch.equal(turned[1], turned[2])


def test_a_missing_picture_has_no_mask(own_nuscenes: Path):
    config = Occ3dConfig(root=own_nuscenes, image_size=(32, 56), keyframes=(0,), masks=Path("blocks"))
    plain = config.build("train", Needs())
    plain._pictures(plain._keyframes[0])[2].unlink()
    pictures = [p for k in plain._keyframes for p in mask_pictures(own_nuscenes, k, config.cameras) if p]
    cache = create_cache(own_nuscenes / "masks" / "blocks", Blocks().origin)
    assert len(list(fill_mask_cache(cache, Blocks(), pictures))) == 17
    masks = config.build("train", Needs(pseudo_masks=True)).sample(0).target.pseudo_masks[0]
    assert (masks[2] == -1).all()
    assert (masks[[0, 1, 3, 4, 5]] >= 0).flatten(1).any(1).all()


@pytest.mark.parametrize(("how", "size"), [("resize", (30, 100)), ("crop", (32, 96)), ("width", (40, 90))])
def test_masks_follow_the_pictures_of_semantickitti(make_kitti, tmp_path: Path, how, size):
    """Fitted in each way, and mirrored with the sample; the segment tells the block of 8x8 pixels on disk."""
    config = SemanticKittiConfig(
        root=make_kitti(tmp_path, sequences=("00",)),
        image_size=size,
        image_fit=how,
        train=("00",),
        masks=Path("blocks"),
    )
    needs = Needs(pseudo_masks=True)
    with pytest.raises(InputError, match="no prepared masks"):
        config.build("train", needs)
    frames = config.build("train", Needs())._frames
    pictures = [MaskPicture(config.root, frame.token, "image_2", frame.left) for frame in frames]
    for number, picture in enumerate(pictures):
        height, width = read_image(picture.path).shape[:2]
        write_image(picture.path, np.full((height, width, 3), 9 * number, np.uint8))
    cache = create_cache(config.root / "masks" / "blocks", Columns().origin)
    assert len(list(fill_mask_cache(cache, Columns(), pictures))) == len(pictures)
    dataset = config.build("train", needs)
    sample = dataset.sample(1)
    masks, intrinsics = sample.target.pseudo_masks[0, 0], sample.scene.cameras.intrinsics[0, 0, 0]
    assert masks.shape == size
    # Both calibrations belong to one camera: the way back to the column on disk is through its ray.
    on_disk = dataset._sequences["00"].calibration.intrinsics(2)
    ray = (torch.arange(size[1]) - intrinsics[0, 2]) / intrinsics[0, 0]
    column = ray * on_disk[0, 0] + on_disk[0, 2]
    row = masks[size[0] - 1]
    assert (row - column)[row >= 0].abs().max() <= 0.51
    assert (row >= 0).sum() > size[1] - 3
    mirrored = [dataset.sample(1, np.random.default_rng(seed)) for seed in range(6)]
    found = {bool(torch.equal(each.target.pseudo_masks[0, 0], masks.flip(-1))) for each in mirrored}
    assert found == {True, False}


@dataclass(frozen=True)
class Columns:
    """Each column is a segment of its own."""

    @property
    def origin(self) -> CacheOrigin:
        return CacheOrigin(source="columns", settings={}, code_version=1)

    def masks(self, picture: MaskPicture) -> np.ndarray:
        height, width = read_image(picture.path).shape[:2]
        return np.broadcast_to(np.arange(width, dtype=np.uint16), (height, width)).copy()
