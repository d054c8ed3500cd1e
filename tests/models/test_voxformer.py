from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_surround import GRID, LABELS, built, random_scene, random_target, sample_of

from occloom.data.label_spaces import SEMANTIC_KITTI, SEMANTIC_KITTI_GRID
from occloom.errors import InputError
from occloom.models.voxdet_camera import SmallTrunk
from occloom.models.voxformer import (
    AttentionConfig,
    AxisQueries,
    SceneLossWeights,
    VoxFormerConfig,
    voxformer_loss,
)
from occloom.scene import Target

TINY = VoxFormerConfig(
    trunk=SmallTrunk(width=8),
    strides=(8,),
    channels=16,
    views=6,
    lifting=AttentionConfig(layers=2, heads=2, points=2, feedforward=16),
    refinement=AttentionConfig(layers=1, heads=2, points=2, feedforward=16),
)


def proposed_scene(share=0.2, **sizes):
    """A rig with random proposals at the volume's 8x8x4 voxels, as many as they come."""
    scene = random_scene(**sizes)
    generator = torch.Generator().manual_seed(1)
    return replace(scene, proposals=torch.rand(scene.batch_size, 8, 8, 4, generator=generator) < share)


def count(part):
    return sum(parameter.numel() for parameter in part.parameters())


# --- the full size ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("views", "published"), [(1, 58_179_988), (5, 58_181_012)])
def test_the_full_size_has_the_published_parameters_by_module(views, published):
    """Reference monoocc 10: VoxFormer-S and -T, and their parts."""
    with torch.device("meta"):
        model = VoxFormerConfig(views=views).build(SEMANTIC_KITTI_GRID, SEMANTIC_KITTI)
    assert count(model.images.trunk) == 23_508_032 - model.left_out["images.trunk.layer4"]
    assert count(model.images.neck) == 278_784 - 128 * 1024 - 128 + 1024 * 128 + 128
    assert count(model.lifting.queries) == 33_554_432
    assert count(model.lifting.unproposed) == 128
    assert count(model.refinement.positions) == 65_536
    for layer in model.lifting.attention.layers:
        assert count(layer) == 16_512 + 8_256 + 16_512 + 16_512 + 65_920 + 512
    for layer in model.refinement.layers:
        assert count(layer) == 65_792 + 32_896 + 16_512 + 16_512 + 65_920 + 512
    assert count(model.head) == 2_836
    assert count(model) + sum(model.left_out.values()) == published


def test_the_light_queries_have_a_thousandth_of_the_parameters():
    with torch.device("meta"):
        model = VoxFormerConfig(queries=AxisQueries()).build(SEMANTIC_KITTI_GRID, SEMANTIC_KITTI)
    assert count(model.lifting.queries) == 48 * 128 + 48 * 128 + 32 * 16


def test_what_batch_normalisation_and_the_first_stage_know_is_not_trained():
    with torch.device("meta"):
        model = VoxFormerConfig().build(SEMANTIC_KITTI_GRID, SEMANTIC_KITTI).train()
    trained = {name for name, parameter in model.images.trunk.named_parameters() if parameter.requires_grad}
    assert trained
    assert all(name.startswith(("layer2", "layer3")) and ("conv" in name or "downsample.0" in name) for name in trained)
    assert not any(module.training for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d))


# --- the whole -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampling", ["flattened", "volume"])
@pytest.mark.parametrize(("cameras", "frames", "size"), [(1, 1, (33, 61)), (2, 3, (32, 64)), (3, 2, (24, 40))])
def test_a_batch_is_answered_as_one_by_one(sampling, cameras, frames, size):
    """Different numbers of proposals, none at all in one sample; pictures of any size."""
    model = built(replace(TINY, sampling=sampling)).eval()
    scene = proposed_scene(batch=3, cameras=cameras, frames=frames, size=size)
    scene.proposals[1] = False
    with torch.no_grad():
        together = model(scene).logits
        for b in range(3):
            torch.testing.assert_close(together[b : b + 1], model(sample_of(scene, b)).logits, rtol=1e-4, atol=1e-4)
        assert torch.equal(model.predict(scene), together.argmax(dim=1))
    assert together.shape == (3, 4, *GRID.shape)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("queries", [TINY.queries, AxisQueries()])
def test_every_parameter_learns(share, queries):
    model, scene = built(replace(TINY, queries=queries)).train(), proposed_scene(share)
    losses = model.loss(model(scene), random_target(scene))
    assert losses.keys() == {"cross_entropy", "semantic_affinity", "geometric_affinity"}
    torch.stack(list(losses.values())).sum().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not torch.isfinite(p.grad).all()] == []


def test_voxels_that_are_not_proposed_hold_the_token():
    model, scene = built(TINY).eval(), proposed_scene()
    rows = model.lifting(scene, model.image_features(scene), scene.proposals)
    proposed = scene.proposals.flatten(1)
    assert torch.equal(rows[~proposed], model.lifting.unproposed.token.expand(int((~proposed).sum()), -1))
    assert not (rows[proposed] == model.lifting.unproposed.token).all(dim=-1).any()


def test_a_missing_picture_or_frame_is_not_looked_at():
    model, scene = built(TINY).eval(), proposed_scene(share=0.5)
    camera_valid, frame_valid = scene.camera_valid.clone(), scene.frame_valid.clone()
    camera_valid[:, 1, 0], frame_valid[:, 2] = False, False
    scene = replace(scene, camera_valid=camera_valid, frame_valid=frame_valid)
    images = scene.images.clone()
    images[:, 1, 0], images[:, 2] = 0.5, 0.1
    with torch.no_grad():
        assert torch.equal(model.volume(scene), model.volume(replace(scene, images=images)))
        images[:, 1, 1] = 0.5
        assert not torch.equal(model.volume(scene), model.volume(replace(scene, images=images)))


def test_proposals_finer_than_the_volume_count_by_blocks():
    model, scene = built(TINY).eval(), proposed_scene()
    fine = scene.proposals.repeat_interleave(2, 1).repeat_interleave(2, 2).repeat_interleave(2, 3)
    fine[:, ::2] = False
    with torch.no_grad():
        assert torch.equal(model.volume(scene), model.volume(replace(scene, proposals=fine)))


def test_more_pictures_than_embeddings_are_refused():
    with pytest.raises(InputError, match="6 pictures, the model knows 5"):
        built(replace(TINY, views=5))(proposed_scene())


@pytest.mark.parametrize("change", [{"strides": ()}, {"strides": (16, 8)}, {"strides": (5,)}, {"views": 0}])
def test_sizes_that_mean_nothing_are_refused(change):
    with pytest.raises(InputError):
        replace(TINY, **change)


# --- the loss --------------------------------------------------------------------------------------------------------


def test_the_loss_is_that_of_the_reference():
    """Reference monoocc 3: cross-entropy weighted by class and divided by the number of voxels; affinities of all."""
    logits = torch.randn(2, 4, 5, 4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    generator = torch.Generator().manual_seed(1)
    labels = torch.randint(0, 4, (2, 5, 4, 3), generator=generator)
    observed = torch.rand(labels.shape, generator=generator) < 0.7
    class_weights = torch.tensor([0.5, 1.0, 2.0, 3.0], dtype=torch.float64)
    weights = SceneLossWeights(cross_entropy=2.0, semantic_affinity=1.0, geometric_affinity=0.5)
    losses = voxformer_loss(logits, Target(labels, observed), class_weights, weights, LABELS.empty)
    rows, truth = logits.softmax(dim=1).permute(0, 2, 3, 4, 1)[observed].numpy(), labels[observed].numpy()

    total = -sum(float(class_weights[c]) * np.log(row[c]) for row, c in zip(rows, truth, strict=True))
    assert float(losses["cross_entropy"]) == pytest.approx(2 * total / len(truth), rel=1e-9)

    def affinity(p, true):
        precision = p[true].sum() / p.sum()
        recall = p[true].sum() / true.sum()
        specificity = (1 - p[~true]).sum() / (~true).sum()
        return -np.log([precision, recall, specificity]).sum()

    terms = [affinity(rows[:, c], truth == c) for c in range(4) if (truth == c).any()]
    assert float(losses["semantic_affinity"]) == pytest.approx(np.mean(terms), rel=1e-4)
    occupied = affinity(1 - rows[:, LABELS.empty], truth != LABELS.empty)
    assert float(losses["geometric_affinity"]) == pytest.approx(0.5 * occupied, rel=1e-4)


def test_a_step_may_look_at_some_voxels_and_validation_looks_at_all():
    scene = proposed_scene()
    target = random_target(scene)
    model, whole = (built(replace(TINY, loss_stride=stride)) for stride in (2, 1))
    whole.load_state_dict(model.state_dict())
    with torch.no_grad():
        outputs, all_of_them = model.eval()(scene), whole.eval()(scene)
        assert model.loss(outputs, target) == whole.loss(all_of_them, target)
        model.train()
        drawn = {float(model.loss(outputs, target)["cross_entropy"]) for _ in range(20)}
    assert 2 <= len(drawn) <= 8


def test_class_weights_are_ten_over_the_logarithm_of_frequency():
    """Reference monoocc 1, rounded as it is released."""
    with torch.device("cpu"):
        weights = (
            VoxFormerConfig(trunk=SmallTrunk(8), strides=(32,), queries=AxisQueries())
            .build(SEMANTIC_KITTI_GRID, SEMANTIC_KITTI)
            .class_weights
        )
    released = [0.446, 0.603, 0.852, 0.856, 0.747, 0.734, 0.801, 0.796, 0.818, 0.557]
    released += [0.653, 0.568, 0.683, 0.560, 0.603, 0.530, 0.688, 0.574, 0.716, 0.786]
    torch.testing.assert_close(weights, torch.tensor(released), atol=6e-4, rtol=0)
