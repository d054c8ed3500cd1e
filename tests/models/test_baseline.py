from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from occloom.grid import LabelSpace, VoxelGrid
from occloom.losses.affinity import class_sums, geometric_affinity, semantic_affinity
from occloom.losses.cross_entropy import cross_entropy
from occloom.models.baseline import Baseline, BaselineConfig
from occloom.scene import Cameras, Scene, Target

GRID = VoxelGrid(lower=(0.0, -6.4, -2.0), voxel_size=(0.4, 0.4, 0.4), shape=(32, 32, 8))
TINY = BaselineConfig(
    trunk_width=8, image_channels=16, depth_bins=12, near=1.0, far=16.0, volume_channels=(8, 16), volume_blocks=(1, 1)
)


def label_space(classes=5, empty=0):
    frequencies = tuple(1e6 if c == empty else 1e3 * (c + 1) for c in range(classes))
    return LabelSpace(tuple(f"c{c}" for c in range(classes)), empty, ((0, 0, 0),) * classes, frequencies)


def random_scene(batch=2, cameras=1, frames=1, size=(32, 64), seed=0):
    generator = torch.Generator().manual_seed(seed)
    lead, (height, width) = (batch, frames, cameras), size
    intrinsics = torch.tensor([[width * 0.6, 0, width / 2], [0, width * 0.6, height / 2], [0, 0, 1]])
    camera_from_ego = torch.tensor([[0.0, -1, 0, 0], [0, 0, -1, 0], [1, 0, 0, -0.3], [0, 0, 0, 1]])
    depth = torch.rand(*lead, height, width, generator=generator) * 16
    return Scene(
        cameras=Cameras(
            intrinsics=intrinsics.repeat(*lead, 1, 1),
            camera_from_ego=camera_from_ego.repeat(*lead, 1, 1),
            time=torch.zeros(lead),
        ),
        now_from_then=torch.eye(4).repeat(batch, frames, 1, 1),
        time=torch.zeros(batch, frames),
        frame_valid=torch.ones(batch, frames, dtype=torch.bool),
        camera_valid=torch.ones(lead, dtype=torch.bool),
        images=torch.rand(*lead, 3, height, width, generator=generator),
        depth=torch.where(torch.rand(depth.shape, generator=generator) < 0.3, 0.0, depth),
    )


def random_target(batch=2, classes=5, empty=0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randint(0, classes, (batch, 8, 8, 2), generator=generator)
    labels = coarse.repeat_interleave(4, 1).repeat_interleave(4, 2).repeat_interleave(4, 3)
    observed = torch.rand(labels.shape, generator=generator) < 0.7
    return Target(labels=torch.where(observed, labels, empty), observed=observed)


def tiny_model(empty=0, seed=0, config=TINY):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return config.build(GRID, label_space(empty=empty))


@pytest.mark.parametrize("empty", [0, 4])
def test_shapes_and_prediction(empty):
    model, scene = tiny_model(empty).eval(), random_scene()
    outputs = model(scene)
    assert outputs.logits.shape == (2, 5, *GRID.shape)
    assert torch.equal(model.predict(scene), outputs.logits.argmax(dim=1))


@pytest.mark.parametrize("empty", [0, 4])
def test_loss_terms_are_the_plain_losses_of_the_logits(empty):
    model, scene, target = tiny_model(empty), random_scene(), random_target(empty=empty)
    outputs = model(scene)
    terms = model.loss(outputs, target)
    sums = class_sums(outputs.logits, target.labels, target.observed)
    expected = {
        "cross_entropy": cross_entropy(outputs.logits, target.labels, target.observed, model.class_weights),
        "semantic_affinity": semantic_affinity(sums),
        "geometric_affinity": geometric_affinity(sums, empty),
    }
    assert terms.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(terms[name], value, rtol=1e-4, atol=1e-5)


def test_every_parameter_gets_a_gradient():
    model = tiny_model()
    sum(model.loss(model(random_scene()), random_target()).values()).backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == []


def test_learns_one_sample():
    model, scene, target = tiny_model(), random_scene(batch=1), random_target(batch=1)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(80):
        loss = sum(model.loss(model(scene), target).values())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]
    right = (model.eval().predict(scene) == target.labels)[target.observed].float().mean()
    assert right > 0.8


def test_losses_hold_in_mixed_precision():
    model, scene, target = tiny_model(), random_scene(), random_target()
    full = model.loss(model(scene), target)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = model.loss(model(scene), target)
    for name, value in full.items():
        assert mixed[name].dtype == torch.float32
        torch.testing.assert_close(mixed[name], value, rtol=0.02, atol=0.02)


def test_batch_equals_one_by_one():
    model, scene = tiny_model().eval(), random_scene(batch=3, cameras=2)
    together = model(scene).logits
    for b in range(3):
        alone = model(scene.map(lambda tensor, b=b: tensor[b : b + 1])).logits
        torch.testing.assert_close(alone, together[b : b + 1], rtol=1e-4, atol=1e-4)


def test_saved_weights_give_the_same_bits(tmp_path):
    model, scene = tiny_model(seed=0).eval(), random_scene()
    save_file(model.state_dict(), tmp_path / "weights.safetensors")
    other = tiny_model(seed=1).eval()
    assert not torch.equal(other(scene).logits, model(scene).logits)
    other.load_state_dict(load_file(tmp_path / "weights.safetensors"))
    assert torch.equal(other(scene).logits, model(scene).logits)


def test_older_frames_are_ignored():
    model, scene = tiny_model().eval(), random_scene(frames=3)
    present = replace(
        scene,
        cameras=scene.cameras.map(lambda t: t[:, :1]),
        now_from_then=scene.now_from_then[:, :1],
        time=scene.time[:, :1],
        frame_valid=scene.frame_valid[:, :1],
        camera_valid=scene.camera_valid[:, :1],
        images=scene.images[:, :1],
        depth=scene.depth[:, :1],
    )
    assert torch.equal(model(scene).logits, model(present).logits)


def test_a_missing_camera_does_not_contribute():
    model, scene = tiny_model().eval(), random_scene(cameras=2)
    missing = torch.tensor([[[True, False]], [[True, True]]])
    scene = replace(scene, camera_valid=missing)
    images = scene.images.clone()
    images[0, 0, 1] = 0.5
    other = model(replace(scene, images=images)).logits
    assert torch.equal(model(scene).logits, other)
    images[1, 0, 1] = 0.5
    assert not torch.equal(other[1], model(replace(scene, images=images)).logits[1])


def test_images_and_depth_both_matter():
    model, scene = tiny_model().eval(), random_scene()
    logits = model(scene).logits
    assert not torch.allclose(logits, model(replace(scene, images=scene.images.flip(0))).logits)
    assert not torch.allclose(logits, model(replace(scene, depth=scene.depth.flip(0))).logits)


@pytest.mark.parametrize(
    ("config", "grid", "size", "cameras"),
    [
        (BaselineConfig(), VoxelGrid((0.0, -25.6, -2.0), (0.2, 0.2, 0.2), (256, 256, 32)), (96, 320), 1),
        (
            BaselineConfig(feature_stride=8, depth_bins=112, volume_coarsening=(2, 2, 2)),
            VoxelGrid((0.0, -25.6, -2.0), (0.2, 0.2, 0.2), (256, 256, 32)),
            (384, 1280),
            1,
        ),
        (
            BaselineConfig(feature_stride=16, volume_coarsening=(2, 2, 1), class_coarsening=(1, 1, 1)),
            VoxelGrid((-40.0, -40.0, -1.0), (0.4, 0.4, 0.4), (200, 200, 16)),
            (256, 704),
            6,
        ),
    ],
)
def test_full_sizes_fit_together_within_five_million_parameters(config, grid, size, cameras):
    with torch.device("meta"):
        model = config.build(grid, label_space(20))
    scene = random_scene(batch=1, cameras=cameras, size=size).to("meta")
    scores = model(scene).scores
    assert scores.occupancy.shape == (1, *grid.shape)
    assert scores.classes.shape == (1, 19, *grid.coarsen(config.class_coarsening).shape)
    assert sum(p.numel() for p in model.parameters()) <= 5_000_000


def test_coarsenings_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="class_coarsening"):
        Baseline(replace(TINY, class_coarsening=(3, 2, 2)), GRID, label_space())
    with pytest.raises(ValueError, match="divide the shape"):
        Baseline(replace(TINY, volume_coarsening=(5, 4, 4)), GRID, label_space())
