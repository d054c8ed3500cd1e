"""What every data set promises, asked of each: made, town and real frames."""

from pathlib import Path

import numpy as np
import pytest
import torch

from occloom.data.kitti360 import Kitti360Config
from occloom.data.semantickitti import SemanticKittiConfig
from occloom.data.transforms import mirror
from occloom.geometry.projection import project
from occloom.geometry.rigid import transform_points
from occloom.interfaces import Needs, SceneDataset
from occloom.scene import Sample, Scene, collate

SIZE = (36, 122)
CAMERAS = ("image_2", "image_3")


def made(folder: Path) -> SceneDataset:
    config = SemanticKittiConfig(root=folder, image_size=SIZE, frames=(0, -2), cameras=CAMERAS, train=("00", "08"))
    return config.build("train", Needs(points=True))


def made_coarse(folder: Path) -> SceneDataset:
    config = SemanticKittiConfig(root=folder, image_size=(30, 100), image_fit="crop", label_scale=4)
    return config.build("val", Needs())


def made_drives(folder: Path) -> SceneDataset:
    config = Kitti360Config(root=folder, image_size=(96, 352), cameras=("image_00", "image_01"), train=("0000", "0006"))
    return config.build("train", Needs(points=True))


def town(folder: Path) -> SceneDataset:
    sequences = tuple(sorted(path.name for path in (folder / "sequences").iterdir()))
    config = SemanticKittiConfig(root=folder, image_size=(48, 160), frames=(0, -5), cameras=CAMERAS, train=sequences)
    return config.build("train", Needs(points=True))


def real(folder: Path) -> SceneDataset:
    config = SemanticKittiConfig(root=folder / "semantickitti", image_size=(96, 320), frames=(0, -3))
    return config.build("val", Needs(points=True))


@pytest.fixture(
    scope="module",
    params=[("made_kitti", made), ("made_kitti", made_coarse), ("made_kitti360", made_drives), ("tiny_town", town)],
    ids=["made", "made_coarse", "made_drives", "town"],
)
def dataset(request: pytest.FixtureRequest) -> SceneDataset:
    fixture, opened = request.param
    return opened(request.getfixturevalue(fixture))


def same(one: Sample, other: Sample, tolerance: float) -> bool:
    """Whether two samples hold the same numbers."""

    def tensors(sample: Sample) -> list[torch.Tensor]:
        found: list[torch.Tensor] = []
        sample.map(lambda tensor: (found.append(tensor), tensor)[1])
        return found

    pairs = zip(tensors(one), tensors(other), strict=True)
    return all(torch.allclose(a.double(), b.double(), rtol=0, atol=tolerance) for a, b in pairs)


def samples_have_the_promised_shapes_and_collate(dataset: SceneDataset):
    samples = [dataset.sample(i) for i in range(min(len(dataset), 3))]
    batch = collate(samples)
    assert batch.tokens == dataset.tokens[: len(samples)]
    assert batch.target is not None
    assert tuple(batch.target.labels.shape) == (len(samples), *dataset.grid.shape)
    assert int(batch.target.labels.max()) < dataset.label_space.num_classes
    assert (batch.target.labels[~batch.target.observed] == dataset.label_space.empty).all()
    assert batch.target.observed.any()
    images = batch.scene.images
    assert images is not None
    assert images.dtype == torch.float32
    assert float(images.min()) >= 0
    assert 0.1 < float(images.max()) <= 1  # a night may be dark, not black
    assert samples[0].scene.cameras.intrinsics.dtype == torch.float64
    assert batch.scene.cameras.intrinsics.dtype == torch.float32


def now_comes_first_and_missing_frames_repeat(dataset: SceneDataset):
    for index in range(len(dataset)):
        scene = dataset.sample(index).scene
        assert torch.equal(scene.now_from_then[0, 0], torch.eye(4, dtype=torch.float64))
        assert scene.time[0, 0] == 0
        assert scene.frame_valid[0, 0]
        assert (scene.time[:, 1:] <= 0).all()
        for t in range(1, scene.time.shape[1]):
            if scene.frame_valid[0, t]:
                assert scene.time[0, t] < 0
            else:
                assert torch.equal(scene.images[0, t], scene.images[0, t - 1])
                assert torch.equal(scene.cameras.camera_from_ego[0, t], scene.cameras.camera_from_ego[0, t - 1])


def reading_twice_and_without_augmentation_is_exact(dataset: SceneDataset):
    assert same(dataset.sample(0), dataset.sample(0), 0)
    drawn = [dataset.sample(0, np.random.default_rng(seed)) for seed in (1, 1, 2)]
    assert same(drawn[0], drawn[1], 0)
    assert not same(drawn[0], drawn[2], 1e-3)


def mirroring_twice_is_the_identity_and_once_is_not(dataset: SceneDataset):
    sample = dataset.sample(0)
    width = sample.scene.images.shape[-1]
    once = mirror(sample, dataset.grid, width=width)
    assert same(mirror(once, dataset.grid, width=width), sample, 1e-9)
    assert not same(once, sample, 1e-3)


def seen_voxels(dataset: SceneDataset, sample: Sample) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Index, label and present pixel of the occupied voxels that the first camera shows."""
    scene: Scene = sample.scene
    index = torch.nonzero(sample.target.labels[0] != dataset.label_space.empty)
    centres = dataset.grid.centres(dtype=torch.float64)[tuple(index.T)]
    camera = transform_points(scene.cameras.camera_from_ego[0, 0, 0], centres)
    pixels, depth = project(camera, scene.cameras.intrinsics[0, 0, 0])
    height, width = scene.images.shape[-2:]
    inside = (depth > 0) & (pixels >= -0.5).all(1) & (pixels < pixels.new_tensor([width - 0.5, height - 0.5])).all(1)
    return index[inside], sample.target.labels[0][tuple(index[inside].T)], pixels[inside]


def mirrored_voxels_fall_on_the_mirrored_pixels(dataset: SceneDataset):
    sample = dataset.sample(len(dataset) - 1)
    width = sample.scene.images.shape[-1]
    index, labels, pixels = seen_voxels(dataset, sample)
    assert len(index) > 100
    new_index, new_labels, new_pixels = seen_voxels(dataset, mirror(sample, dataset.grid, width=width))
    row = torch.full(dataset.grid.shape, -1)
    row[tuple(new_index.T)] = torch.arange(len(new_index))
    found = row.flip(1)[tuple(index.T)]
    assert float((found >= 0).double().mean()) > 0.999  # at the very border a rounding may decide
    found, index = found[found >= 0], found >= 0
    assert torch.equal(new_labels[found], labels[index])
    expected = torch.stack([width - 1 - pixels[index, 0], pixels[index, 1]], dim=1)
    assert torch.allclose(new_pixels[found], expected, atol=1e-6)


def past_cameras_see_present_voxels_through_the_ego_motion(dataset: SceneDataset):
    scene = dataset.sample(len(dataset) - 1).scene
    points = dataset.grid.centres(dtype=torch.float64)[::16, ::16, ::4].reshape(-1, 3)
    for t in range(scene.time.shape[1]):
        then = transform_points(torch.linalg.inv(scene.now_from_then[0, t]), points)
        for n in range(scene.camera_valid.shape[2]):
            expected = transform_points(scene.cameras.camera_from_ego[0, 0, n], then)
            found = transform_points(scene.cameras.camera_from_ego[0, t, n], points)
            assert torch.allclose(found, expected, atol=1e-9)


CONTRACT = (
    samples_have_the_promised_shapes_and_collate,
    now_comes_first_and_missing_frames_repeat,
    reading_twice_and_without_augmentation_is_exact,
    mirroring_twice_is_the_identity_and_once_is_not,
    mirrored_voxels_fall_on_the_mirrored_pixels,
    past_cameras_see_present_voxels_through_the_ego_motion,
)


@pytest.mark.parametrize("clause", CONTRACT)
def test_contract(clause, dataset: SceneDataset):
    clause(dataset)


@pytest.mark.real_data
@pytest.mark.parametrize("clause", CONTRACT)
def test_contract_on_real_frames(clause, real_data: Path):
    clause(real(real_data))
