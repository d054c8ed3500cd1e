from dataclasses import fields, replace

import jaxtyping
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from occloom.scene import (
    Augmentation,
    Cameras,
    DepthPrior,
    Points,
    Sample,
    Scene,
    Target,
    TensorRecord,
    collate,
    scene_from_image,
)


def make_scene(
    batch: int = 1,
    frames: int = 2,
    cameras: int = 3,
    size: tuple[int, int] = (4, 6),
    *,
    points: int | None = 5,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
) -> Scene:
    """Random numbers of the right shapes; each sample of the batch has `points` points."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int, dtype: torch.dtype = dtype) -> Tensor:
        return torch.rand(*shape, dtype=dtype, generator=generator)

    return Scene(
        cameras=Cameras(
            intrinsics=random(batch, frames, cameras, 3, 3),
            camera_from_ego=random(batch, frames, cameras, 4, 4),
            time=-random(batch, frames, cameras),
        ),
        now_from_then=random(batch, frames, 4, 4),
        time=-random(batch, frames),
        frame_valid=random(batch, frames) > 0.5,
        camera_valid=random(batch, frames, cameras) > 0.5,
        images=random(batch, frames, cameras, 3, *size, dtype=torch.float32),
        depth=random(batch, frames, cameras, *size, dtype=torch.float32),
        points=None
        if points is None
        else Points(
            positions=random(batch * points, 3, dtype=torch.float32),
            features=random(batch * points, 1, dtype=torch.float32),
            batch_index=torch.arange(batch).repeat_interleave(points),
            time=torch.zeros(batch * points),
        ),
        prior=DepthPrior(
            depth=random(batch, cameras, 3, 5),
            intrinsics=random(batch, cameras, 3, 3),
            features=random(batch, cameras, 2, 1, 2),
        ),
        pseudo_voxels=random(batch, 4, 6, 2) > 0.5,
        proposals=random(batch, 2, 3, 1) > 0.5,
        augmentation=Augmentation(
            picture_from_source=random(batch, frames, cameras, 3, 3), ego_from_source=random(batch, 4, 4)
        ),
    )


def make_target(batch: int = 1, seed: int = 0) -> Target:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 4, (batch, 3, 2, 5), generator=generator)
    return Target(
        labels=labels,
        observed=labels != 3,
        image_labels=torch.full((batch, 3, 4, 6), -1),
        depth=torch.rand(batch, 3, 4, 6, generator=generator, dtype=torch.float64),
    )


def make_sample(batch: int = 1, seed: int = 0, *, points: int | None = 5) -> Sample:
    tokens = tuple(f"08/{seed:03}{i:03}" for i in range(batch))
    return Sample(scene=make_scene(batch, points=points, seed=seed), target=make_target(batch, seed), tokens=tokens)


def tensors(record: TensorRecord) -> dict[str, Tensor]:
    """Every tensor of a record by its dotted name."""
    found: dict[str, Tensor] = {}
    for field in fields(record):
        value = getattr(record, field.name)
        if isinstance(value, Tensor):
            found[field.name] = value
        elif isinstance(value, TensorRecord):
            found |= {f"{field.name}.{name}": tensor for name, tensor in tensors(value).items()}
    return found


class TestCollate:
    def test_every_tensor_is_joined_in_order_and_only_its_precision_changes(self):
        samples = [make_sample(1, 0), make_sample(2, 1), make_sample(1, 2, points=0)]
        joined, parts = tensors(collate(samples)), [tensors(sample) for sample in samples]
        assert len(joined) == 24
        for name, tensor in joined.items():
            if name != "scene.points.batch_index":
                assert torch.equal(tensor, torch.cat([part[name] for part in parts]).to(tensor.dtype)), name
            assert tensor.dtype in (torch.float32, torch.int64, torch.bool), name

    def test_calibration_is_float64_before_and_float32_after(self):
        sample = make_sample()
        assert sample.scene.cameras.intrinsics.dtype == torch.float64
        assert collate([sample]).scene.cameras.intrinsics.dtype == torch.float32

    def test_points_find_back_to_their_samples(self):
        samples = [make_sample(1, 0, points=2), make_sample(2, 1, points=0), make_sample(2, 2, points=3)]
        points = collate(samples).scene.points
        assert points is not None
        assert points.batch_index.tolist() == [0, 0, 3, 3, 3, 4, 4, 4]
        for sample, first in zip(samples, (0, 1, 3), strict=True):
            own = sample.scene.points
            assert own is not None
            for row in range(sample.scene.batch_size):
                found = points.positions[points.batch_index == first + row]
                assert torch.equal(found, own.positions[own.batch_index == row])

    def test_joining_one_by_one_is_joining_at_once(self):
        first, second, third = (make_sample(1, seed) for seed in range(3))
        at_once, in_steps = collate([first, second, third]), collate([collate([first, second]), third])
        assert at_once.tokens == in_steps.tokens
        for name, tensor in tensors(at_once).items():
            assert torch.equal(tensor, tensors(in_steps)[name]), name

    def test_the_tokens_follow(self):
        assert collate([make_sample(2, 4), make_sample(1, 7)]).tokens == ("08/004000", "08/004001", "08/007000")

    @pytest.mark.parametrize("part", ["images", "depth", "points"])
    @pytest.mark.parametrize("turned", [False, True])
    def test_a_part_that_some_samples_lack_is_refused(self, part, turned):
        whole, other = make_sample(1, 0), make_sample(1, 1)
        lacking = replace(other, scene=replace(other.scene, **{part: None}))
        with pytest.raises(ValueError, match=rf"some samples have {part} and others do not"):
            collate([lacking, whole] if turned else [whole, lacking])

    @pytest.mark.parametrize("turned", [False, True])
    def test_a_target_that_some_samples_lack_is_refused(self, turned):
        samples = [make_sample(1, 0), replace(make_sample(1, 1), target=None)]
        with pytest.raises(ValueError, match="with a target and samples without"):
            collate(samples[::-1] if turned else samples)

    def test_parts_that_all_lack_stay_absent(self):
        samples = [replace(make_sample(1, s, points=None), target=None) for s in range(2)]
        joined = collate(samples)
        assert (joined.target, joined.scene.points) == (None, None)

    def test_nothing_cannot_be_joined(self):
        with pytest.raises(ValueError, match="zero samples"):
            collate([])


@pytest.fixture
def no_shape_checks(monkeypatch):
    """As in production, where the records check one another by themselves alone."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


@pytest.mark.usefixtures("no_shape_checks")
class TestMismatch:
    @pytest.mark.parametrize(
        "name", ["now_from_then", "time", "frame_valid", "camera_valid", "images", "depth", "cameras", "augmentation"]
    )
    @pytest.mark.parametrize("other", [{"batch": 2}, {"frames": 1}])
    def test_parts_of_other_batch_or_frames_are_refused(self, name, other):
        scene = make_scene()
        foreign = getattr(make_scene(**other), name)
        with pytest.raises(ValueError, match="to begin with shape"):
            replace(scene, **{name: foreign})

    @pytest.mark.parametrize("name", ["camera_valid", "images", "depth", "cameras", "prior", "augmentation"])
    def test_parts_of_other_cameras_are_refused(self, name):
        with pytest.raises(ValueError, match="to begin with shape"):
            replace(make_scene(), **{name: getattr(make_scene(cameras=1), name)})

    @pytest.mark.parametrize("name", ["pseudo_voxels", "proposals"])
    def test_volumes_of_another_batch_are_refused(self, name):
        with pytest.raises(ValueError, match=f"{name} to begin with shape"):
            replace(make_scene(), **{name: getattr(make_scene(batch=2), name)})

    @pytest.mark.parametrize("name", ["intrinsics", "features"])
    def test_a_prior_of_two_batches_is_refused(self, name):
        prior, foreign = make_scene().prior, make_scene(batch=2).prior
        assert prior is not None
        with pytest.raises(ValueError, match=f"prior.{name} to begin with shape"):
            replace(prior, **{name: getattr(foreign, name)})

    def test_depth_of_another_size_is_refused(self):
        with pytest.raises(ValueError, match=r"images' size \(4, 6\), got \(4, 5\)"):
            replace(make_scene(), depth=make_scene(size=(4, 5)).depth)

    def test_a_mask_of_another_shape_is_refused(self):
        target = make_target()
        with pytest.raises(ValueError, match=r"of one shape, got \(1, 3, 2, 5\) and \(1, 2, 2, 5\)"):
            replace(target, observed=target.observed[:, :2])

    def test_image_labels_of_another_batch_are_refused(self):
        with pytest.raises(ValueError, match=r"image_labels to begin with shape \(1,\)"):
            replace(make_target(), image_labels=make_target(2).image_labels)

    def test_depth_of_another_batch_or_size_than_the_image_labels_is_refused(self):
        with pytest.raises(ValueError, match=r"depth to begin with shape \(1,\)"):
            replace(make_target(), depth=make_target(2).depth)
        with pytest.raises(ValueError, match=r"image labels' shape \(1, 3, 4, 6\), got \(1, 3, 4, 5\)"):
            replace(make_target(), depth=make_target().depth[..., 1:])

    @pytest.mark.parametrize("tokens", [(), ("08/000000", "08/000001")])
    def test_tokens_of_another_number_are_refused(self, tokens):
        with pytest.raises(ValueError, match="Expected 1 tokens"):
            replace(make_sample(), tokens=tokens)

    def test_a_target_of_another_batch_is_refused(self):
        with pytest.raises(ValueError, match=r"target\.labels to begin with shape \(1,\)"):
            replace(make_sample(), target=make_target(2))


class TestMoving:
    def test_a_precision_reaches_floating_point_tensors_only(self):
        sample = make_sample(2)
        before, after = tensors(sample), tensors(sample.to(dtype=torch.float16))
        assert list(before) == list(after)
        for name, tensor in after.items():
            assert tensor.dtype == (torch.float16 if before[name].is_floating_point() else before[name].dtype), name

    def test_a_device_reaches_every_tensor(self):
        moved = make_sample().to("meta")
        assert {tensor.device.type for tensor in tensors(moved).values()} == {"meta"}
        assert moved.tokens == make_sample().tokens

    def test_absent_parts_stay_absent(self):
        assert make_scene(points=None).to(dtype=torch.float32).points is None

    def test_a_record_is_frozen(self):
        with pytest.raises(AttributeError):
            make_scene().time = torch.zeros(1, 2)  # pyright: ignore[reportAttributeAccessIssue]


class Summary(nn.Module):
    """A module that looks at several parts of a scene."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def forward(self, scene: Scene) -> Tensor:
        assert scene.images is not None
        colour = scene.images.mean(dim=(1, 2, 4, 5))
        return self.layer(colour) + scene.cameras.intrinsics.sum(dim=(1, 2, 3, 4))[:, None]


def test_a_module_that_takes_a_scene_exports():
    module = Summary().eval()
    scene = make_scene(batch=2, dtype=torch.float32)
    exported = torch.export.export(module, (scene,)).module()
    other = make_scene(batch=2, seed=9, dtype=torch.float32)
    torch.testing.assert_close(exported(other), module(other))


def test_a_picture_becomes_a_scene_of_one():
    rng = np.random.default_rng(3)
    image = rng.integers(0, 256, (5, 7, 3), dtype=np.uint8)
    intrinsics, pose, depth = rng.normal(size=(3, 3)), rng.normal(size=(4, 4)), rng.random((5, 7))
    scene = scene_from_image(image, intrinsics=intrinsics, camera_from_ego=pose, depth=depth)
    assert scene.images is not None
    assert scene.depth is not None
    assert torch.equal((scene.images[0, 0, 0] * 255).round().to(torch.uint8), torch.from_numpy(image).permute(2, 0, 1))
    assert torch.allclose(scene.depth[0, 0, 0].double(), torch.from_numpy(depth))
    assert torch.allclose(scene.cameras.intrinsics[0, 0, 0].double(), torch.from_numpy(intrinsics))
    assert torch.allclose(scene.cameras.camera_from_ego[0, 0, 0].double(), torch.from_numpy(pose))
    assert scene.frame_valid.all()
    assert scene.camera_valid.all()
    assert scene_from_image(image, intrinsics=intrinsics, camera_from_ego=pose).depth is None
