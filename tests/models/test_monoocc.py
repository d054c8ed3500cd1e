"""MonoOcc's parts against their dense, slow and published forms, and the whole as a model."""

from dataclasses import replace

import naive_monoocc as naive
import pytest
import torch
from tiny_monoocc import SIZES, TINY, count, labelled, proposed_scene
from tiny_surround import GRID, LABELS, built, random_target, sample_of

from occloom.data.label_spaces import SEMANTIC_KITTI, SEMANTIC_KITTI_GRID
from occloom.models import monoocc as module
from occloom.models.monoocc import ImageConditioning, MonoOccConfig, PixelDecoder, pixel_labels
from occloom.models.voxformer import CoveredPixels

# --- the full size ---------------------------------------------------------------------------------------------------


def test_the_papers_small_model_has_the_published_parameters():
    """Reference monoocc 10: 58,972,924 with everything that is built there and never used."""
    with torch.device("meta"):
        model = MonoOccConfig().build(SEMANTIC_KITTI_GRID, SEMANTIC_KITTI)
    assert count(model.decoder) == 184_084
    assert count(model.conditioning) == 373_312 - 3 * 128
    assert sum(module.DEAD_HEADS.values()) == 235_540
    assert count(model) + sum(model.left_out.values()) == 58_972_924


def test_the_weights_are_those_of_eq_10():
    config = MonoOccConfig()
    weights = config.base.weights
    assert (config.pixel_class_weight, weights.cross_entropy) == (4.0, 2.0)
    assert (weights.semantic_affinity, weights.geometric_affinity) == (1.0, 0.5)


# --- the parts -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("images", "size"), [(1, (3, 5)), (2, (4, 4)), (3, (1, 2))])
def test_the_decoder_equals_the_transcription(images, size):
    decoder = PixelDecoder(8, 5, dropout=0.1).eval()
    state = naive.random_state({name: tuple(value.shape) for name, value in decoder.state_dict().items()})
    decoder.load_state_dict(state)
    names = {"enlarge.0": "upconv", "enlarge.1": "upconv2", "spread": "conv1", "mix": "pointwise", "classify": "head.4"}
    names |= {"enlarge.0.norm": "upconv.bn.0", "enlarge.1.norm": "upconv2.bn.0", "hidden": "head.0", "norm": "head.1"}
    released = {}
    for name, value in state.items():
        *parts, last = name.split(".")
        ours = ".".join(parts)
        theirs = names.get(ours) or f"{names['.'.join(parts[:2])]}.{names[parts[2]]}"
        released[f"{theirs}.{last}"] = value
    features = torch.randn(images, 8, *size, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        expected = naive.semantic_decoder(released, features)
        assert expected.shape[2:] == (4 * size[0], 4 * size[1])
        torch.testing.assert_close(decoder(features), expected, rtol=1e-4, atol=1e-5)


def conditioning(layers=2):
    """With parameters of which every one matters, and rows of all voxels."""
    volume = GRID.coarsen((2, 2, 2))
    part = ImageConditioning(16, volume, views=6, places=CoveredPixels(), config=replace(SIZES, layers=layers)).eval()
    generator = torch.Generator().manual_seed(4)
    for parameter in part.parameters():
        parameter.data += 0.3 * torch.randn(parameter.shape, generator=generator)
    return part, torch.randn(2, volume.num_voxels, 16, generator=generator)


@pytest.mark.parametrize("cameras", [1, 3])
def test_looking_only_from_within_the_frustum_equals_the_dense_form(cameras):
    """Eq. 6: every voxel by every layer in every picture, seen or not, with static shapes."""
    part, rows = conditioning()
    scene = proposed_scene(cameras=cameras, frames=2)
    features = built(TINY).base.image_features(scene)
    places = part.grid.centres().view(1, -1, 3).expand(2, -1, -1)
    references = part.places.references(scene, places, features.size, features.stride)
    seen = references.visible.any(dim=(1, 3))
    assert 0 < seen.float().mean() < 1
    expected, values = rows, part.attention.values(features.values)
    with torch.no_grad():
        for layer in part.attention.layers:
            looked = layer.attention.dense(expected, references, (values,))
            # Those that no picture shows get the bias of the projection.
            assert torch.equal(looked[~seen], layer.attention.output_proj.bias.expand(int((~seen).sum()), -1))
            expected = layer.attention_norm(expected + looked)
            expected = layer.feedforward_norm(expected + layer.feedforward(expected))
        torch.testing.assert_close(part(scene, features, rows), expected, rtol=1e-4, atol=1e-5)


def test_chunks_change_neither_answer_nor_gradient(monkeypatch):
    part, rows = conditioning()
    part.train()
    for dropout in (m for m in part.modules() if isinstance(m, torch.nn.Dropout)):
        dropout.p = 0.0
    scene = proposed_scene(cameras=2, frames=1)
    features = built(TINY).base.image_features(scene)
    features = replace(features, values=features.values.detach().requires_grad_())
    answers = []
    for chunk in (1 << 15, 100):  # 256 voxels
        monkeypatch.setattr(module, "CHUNK_VOXELS", chunk)
        given = rows.clone().requires_grad_()
        looked = part(scene, features, given)
        grads = torch.autograd.grad(
            looked.square().sum(), [given, features.values, *part.parameters()], allow_unused=True
        )
        answers.append([looked, *grads])
    for whole, chunked in zip(*answers, strict=True):
        if whole is not None:
            torch.testing.assert_close(whole, chunked, rtol=1e-4, atol=1e-4)


def test_only_points_with_a_class_on_pictures_that_are_there_supervise_pixels():
    labels = torch.tensor([[[[0, 3, -1]], [[1, 2, 3]]]])
    present = torch.tensor([[True, False]])
    assert pixel_labels(labels, present, empty=3).tolist() == [[[[0, -1, -1]], [[-1, -1, -1]]]]


# --- the whole -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("cameras", "frames", "size"), [(1, 1, (33, 61)), (2, 3, (24, 40))])
def test_a_batch_is_answered_as_one_by_one(cameras, frames, size):
    """Different numbers of proposals, none at all in one sample; pictures of any size."""
    model, scene = built(TINY).eval(), proposed_scene(batch=3, cameras=cameras, frames=frames, size=size)
    scene.proposals[1] = False
    with torch.no_grad():
        together = model(scene).logits
        for b in range(3):
            torch.testing.assert_close(together[b : b + 1], model(sample_of(scene, b)).logits, rtol=1e-4, atol=1e-4)
        assert torch.equal(model.predict(scene), together.argmax(dim=1))
    assert together.shape == (3, 4, *GRID.shape)


@pytest.mark.parametrize("pixel_classes", [True, False])
@pytest.mark.parametrize("conditioned", [True, False])
def test_every_part_can_be_left_out_and_every_parameter_learns(pixel_classes, conditioned):
    model = built(replace(TINY, pixel_classes=pixel_classes, conditioned=conditioned)).train()
    scene = proposed_scene(size=(33, 61))
    target = labelled(scene) if pixel_classes else random_target(scene)
    losses = model.loss(model(scene), target)
    named = {"cross_entropy", "semantic_affinity", "geometric_affinity"}
    assert losses.keys() == named | ({"pixel_classes"} if pixel_classes else set())
    assert model.needs.image_labels == pixel_classes
    torch.stack(list(losses.values())).sum().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not torch.isfinite(p.grad).all()] == []


def test_without_its_parts_it_is_voxformer_with_other_weights():
    model, scene = built(replace(TINY, pixel_classes=False, conditioned=False)).eval(), proposed_scene()
    with torch.no_grad():
        assert torch.equal(model(scene).logits, model.base(scene).logits)
        outputs, target = model(scene), random_target(scene)
        assert model.loss(outputs, target) == model.base.loss(model.base(scene), target)


def test_pixel_classes_count_as_a_plain_mean_over_labelled_cells():
    model, scene = built(TINY).eval(), proposed_scene(cameras=2, frames=2)
    target = labelled(scene)
    with torch.no_grad():
        outputs = model(scene)
        logits = model.decoder(outputs.features.values[:, :2].flatten(0, 1))
        losses = model.loss(outputs, target)
    values = []
    for scores, labels in zip(logits, target.image_labels.flatten(0, 1), strict=True):
        for i in range(scores.shape[1]):
            for j in range(scores.shape[2]):
                block = labels[2 * i : 2 * i + 2, 2 * j : 2 * j + 2].flatten().tolist()
                votes = [c for c in block if c not in (-1, LABELS.empty)]
                if votes:
                    best = min(set(votes), key=lambda c: (-votes.count(c), c))
                    values.append(-scores[:, i, j].log_softmax(0)[best])
    assert len(values) > 20
    torch.testing.assert_close(losses["pixel_classes"], 4.0 * torch.stack(values).mean(), rtol=1e-4, atol=1e-5)


def test_past_pictures_and_missing_ones_do_not_supervise_pixels():
    model, scene = built(TINY).eval(), proposed_scene(cameras=2, frames=2)
    present = replace(scene, camera_valid=scene.camera_valid.clone())
    present.camera_valid[:, 0, 1] = False
    target = labelled(scene)
    other = replace(target, image_labels=target.image_labels.clone())
    other.image_labels[:, 1] = 2
    with torch.no_grad():
        outputs = model(present)
        assert model.loss(outputs, target) == model.loss(outputs, other)
