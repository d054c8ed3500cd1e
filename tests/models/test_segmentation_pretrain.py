"""2D pre-training: small, by the laws it must keep; what it hands over, and to whom."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from occloom.backbones.internimage import INTERNIMAGE_XL, InternImageTrunk
from occloom.data.label_spaces import SEMANTIC_KITTI
from occloom.data.road_labels import ROAD
from occloom.engine import checkpoint
from occloom.errors import InputError
from occloom.grid import VoxelGrid
from occloom.models.segmentation_pretrain import SegmentationPretrainConfig
from occloom.models.voxdet_camera import SmallTrunk
from occloom.models.voxformer import AxisQueries, FrozenResNet50, VoxFormerConfig
from occloom.scene import Sample, Scene, Target, collate, scene_from_image

TRUNK = InternImageTrunk(width=16, depths=(1, 1, 1, 1), drop_path=0.0)
TINY = SegmentationPretrainConfig(trunk=TRUNK, channels=8)
SIZE = (26, 50)
GRID = VoxelGrid((0.0, -25.0, 0.0), (1.0, 1.0, 1.0), (*SIZE, 1))


def tiny_model(config=TINY, seed=0):
    torch.manual_seed(seed)
    return config.build(GRID, ROAD)


def scene(batch=2) -> Scene:
    """Noise, brighter on the right."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 50, (batch, *SIZE, 3), dtype=np.uint8)
    images[:, :, SIZE[1] // 2 :] += 200
    scenes = [scene_from_image(image, intrinsics=np.eye(3), camera_from_ego=np.eye(4)) for image in images]
    return collate([Sample(one, None, (str(number),)) for number, one in enumerate(scenes)]).scene


def target(batch=2, share=0.8) -> Target:
    generator = torch.Generator().manual_seed(1)
    observed = torch.rand(batch, *GRID.shape, generator=generator) < share
    labels = torch.randint(1, 20, observed.shape, generator=generator)
    return Target(labels=torch.where(observed, labels, ROAD.empty), observed=observed)


@pytest.mark.parametrize("trunk", [TRUNK, SmallTrunk(width=8), FrozenResNet50()])
def test_every_pixel_has_scores_and_a_class(trunk):
    model = tiny_model(replace(TINY, trunk=trunk)).eval()
    with torch.no_grad():
        outputs = model(scene())
        prediction = model.predict(scene())
    assert outputs.coarse.shape == (2, 20, 7, 13)
    assert outputs.logits.shape == (2, 20, 26, 50, 1)
    expected = F.interpolate(outputs.coarse, size=SIZE, mode="bilinear", align_corners=False)
    torch.testing.assert_close(outputs.logits[..., 0], expected)
    assert torch.equal(prediction, outputs.logits.argmax(dim=1))


def test_the_loss_is_the_mean_over_the_pixels_that_count():
    model, true = tiny_model(), target()
    outputs = model(scene())
    chosen = true.observed[..., 0]
    expected = F.cross_entropy(outputs.logits[..., 0].permute(0, 2, 3, 1)[chosen], true.labels[..., 0][chosen])
    loss = model.loss(outputs, true)
    assert loss.keys() == {"cross_entropy"}
    torch.testing.assert_close(loss["cross_entropy"], expected)
    nothing = model.loss(outputs, target(share=0.0))["cross_entropy"]
    assert float(nothing.detach()) == 0


def test_samples_of_a_batch_do_not_see_one_another():
    model, pair = tiny_model().eval(), scene()
    with torch.no_grad():
        together = model(pair).coarse
        alone = model(pair.map(lambda tensor: tensor[1:])).coarse
    torch.testing.assert_close(together[1:], alone)


def test_every_parameter_learns_and_bright_pixels_are_told_from_dark_ones():
    model, pair = tiny_model().train(), scene()
    halves = torch.ones(2, *GRID.shape, dtype=torch.int64)
    halves[:, :, SIZE[1] // 2 :] = 14
    true = Target(labels=halves, observed=torch.ones_like(halves, dtype=torch.bool))
    optimizer, losses = torch.optim.AdamW(model.parameters(), lr=3e-2), []
    for _ in range(12):
        loss = model.loss(model(pair), true)["cross_entropy"]
        optimizer.zero_grad()
        loss.backward()
        assert not [name for name, p in model.named_parameters() if p.grad is None]
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.6 * losses[0]


def test_the_following_model_takes_over_the_trunk_alone(tmp_path):
    """What the pre-trained trunk has, VoxFormer's has afterwards; neck and head do not fit."""
    save_file(tiny_model(seed=3).state_dict(), tmp_path / "pretrained.safetensors")
    grid = VoxelGrid((0.0, -6.4, -2.0), (0.4, 0.4, 0.4), (32, 32, 8))
    following = VoxFormerConfig(trunk=TRUNK, channels=16, queries=AxisQueries()).build(grid, SEMANTIC_KITTI)
    before = {name: tensor.clone() for name, tensor in following.state_dict().items()}
    taken = checkpoint.take_weights(following, tmp_path / "pretrained.safetensors")
    trunk = {name for name in before if name.startswith("images.trunk.")}
    assert set(taken.names) == trunk
    pretrained = tiny_model(seed=3).state_dict()
    for name, tensor in following.state_dict().items():
        assert torch.equal(tensor, pretrained[name] if name in trunk else before[name])


def test_step_two_takes_over_all_but_the_classes_of_step_one(tmp_path):
    from occloom.data.vistas_labels import VISTAS

    save_file(TINY.build(GRID, VISTAS).state_dict(), tmp_path / "one.safetensors")
    taken = checkpoint.take_weights(tiny_model(), tmp_path / "one.safetensors")
    assert set(taken.misshapen) == {"classify.5.weight", "classify.5.bias"}
    assert not taken.not_there


def test_trunk_weights_reach_the_trunk_and_a_missing_file_says_what_to_fetch(tmp_path):
    model = tiny_model()
    state = {name: tensor + 1 for name, tensor in TRUNK.build().state_dict().items()}
    save_file(state, tmp_path / "trunk.safetensors")
    model.load_trunk_weights(tmp_path / "trunk.safetensors")
    own = model.images.trunk.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in own.items())
    with pytest.raises(InputError, match="no ImageNet weights are published"):
        model.load_trunk_weights("imagenet")
    with pytest.raises(InputError, match=r"no such weights file.*--train.trunk-weights"):
        model.load_trunk_weights(tmp_path / "none.pth")


def test_the_full_size_builds_no_fourth_stage():
    with torch.device("meta"):
        model = SegmentationPretrainConfig().build(GRID, ROAD)
    trunk = sum(p.numel() for p in model.images.trunk.parameters())
    assert trunk + sum(INTERNIMAGE_XL.left_out.values()) == 328_971_228


@pytest.mark.parametrize(("changes", "named"), [({"strides": ()}, "strides is"), ({"channels": 0}, "channels is 0")])
def test_sizes_that_do_not_fit_are_refused(changes, named):
    with pytest.raises(InputError, match=named):
        replace(TINY, **changes)
