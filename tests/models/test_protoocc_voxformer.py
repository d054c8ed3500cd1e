from dataclasses import replace

import pytest
import torch
from test_voxformer import TINY as BASELINE
from test_voxformer import proposed_scene
from tiny_surround import GRID, built, random_target, sample_of
from torch.utils.flop_counter import FlopCounterMode

from occloom.data.label_spaces import SEMANTIC_KITTI, SEMANTIC_KITTI_GRID
from occloom.errors import InputError
from occloom.models import protoocc_voxformer as module
from occloom.models.protoocc import MultiPerspectiveDecoding
from occloom.models.protoocc_decoding import Flips, Transposition, scene_consistency
from occloom.models.protoocc_mapping import ClusterConfig
from occloom.models.protoocc_optimisation import prototype_contrast
from occloom.models.protoocc_voxformer import ProtoVoxFormerConfig
from occloom.models.voxformer import VoxFormerConfig

TINY = ProtoVoxFormerConfig(baseline=BASELINE, clusters=ClusterConfig((2, 3)))


def tiny(**changes):
    return built(replace(TINY, **changes))


def shaken(model):
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return model


def masked(scene):
    """A target whose pseudo masks are squares, with columns of none."""
    target = random_target(scene, GRID)
    batch, cameras, height, width = target.depth.shape
    squares = torch.arange(height)[:, None] // 12 * 100 + torch.arange(width) // 12
    squares = torch.where(torch.arange(width) < 4, -1, squares)
    return replace(target, pseudo_masks=squares.expand(batch, cameras, height, width).clone())


def count(part):
    return sum(parameter.numel() for parameter in part.parameters())


@pytest.mark.parametrize(("coarsening", "rows"), [((2, 2, 2), 128 * 128 * 16), ((4, 4, 4), 64 * 64 * 8)])
def test_the_full_sizes_have_three_linear_layers_more_in_each_of_three(coarsening, rows):
    """ "Base" and "Small" of section 4.1."""
    baseline = VoxFormerConfig(volume_coarsening=coarsening)
    with torch.device("meta"):
        models = [c.build(SEMANTIC_KITTI_GRID, SEMANTIC_KITTI) for c in (ProtoVoxFormerConfig(baseline), baseline)]
    assert count(models[0]) == count(models[1]) + 9 * (128 * 128 + 128)
    assert models[0].lifting.queries.rows.shape == (rows, 128)


def test_it_starts_as_the_baseline_whose_weights_go_over():
    baseline, model, scene = built(BASELINE), tiny(), proposed_scene()
    found = model.load_state_dict(baseline.state_dict(), strict=False)
    assert not found.unexpected_keys
    assert all(".mappings." in name for name in found.missing_keys)
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(scene).logits, baseline.eval()(scene).logits)
        assert not torch.allclose(shaken(model)(scene).logits, baseline(scene).logits)


@pytest.mark.parametrize("share", [0.2, 0.0])
def test_a_batch_equals_its_samples(share):
    model, scene = shaken(tiny()).eval(), proposed_scene(batch=2, share=share)
    scene.proposals[1, :4] = False
    with torch.no_grad():
        alone = torch.cat([model(sample_of(scene, b)).logits for b in range(2)])
        torch.testing.assert_close(model(scene).logits, alone, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("frames", [1, 3])
def test_the_losses_are_the_baselines_of_all_views_with_contrast_and_consistency(frames):
    """Every second voxel of a step is looked at; of several frames, the present one's pictures have masks."""
    model = shaken(tiny(baseline=replace(BASELINE, loss_stride=2))).train()
    scene = proposed_scene(frames=frames)
    target, outputs = masked(scene), model(scene)
    torch.manual_seed(7)
    terms = model.loss(outputs, target)
    assert list(terms) == ["cross_entropy", "semantic_affinity", "geometric_affinity", "contrast", "consistency"]
    torch.manual_seed(7)
    places, chosen = model.loss_voxels(target)
    views = [scores.at(*places) for scores in (outputs.scores, *outputs.views)]
    assert len(views) == 3
    for name in ("cross_entropy", "semantic_affinity", "geometric_affinity"):
        torch.testing.assert_close(terms[name], sum(model.voxel_loss(view, chosen)[name] for view in views))
    torch.testing.assert_close(terms["consistency"], scene_consistency(views, chosen.observed, temperature=0.5))
    own = torch.arange(4 * frames).view(2, -1)[:, :2].flatten()  # pictures of two samples, two cameras now
    pixels, masks = outputs.pixels, target.pseudo_masks[:, :, 4::8, 4::8].flatten(0, 1)
    seen = pixels.saliency[own] > 0
    torch.testing.assert_close(
        terms["contrast"], 0.1 * prototype_contrast(pixels.features[own], masks, seen, temperature=0.1)
    )
    sum(terms.values()).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize(
    ("changes", "extra"),
    [
        ({"prototypes": "none", "decoding": MultiPerspectiveDecoding(())}, set()),
        ({"prototypes": "mapped", "decoding": MultiPerspectiveDecoding(())}, set()),
        ({"decoding": MultiPerspectiveDecoding(())}, {"contrast"}),
        ({"prototypes": "none"}, {"consistency"}),
    ],
)
def test_each_part_can_be_left_out(changes, extra):
    model, scene = tiny(**changes).train(), proposed_scene()
    terms = model.loss(model(scene), masked(scene))
    assert set(terms) == {"cross_entropy", "semantic_affinity", "geometric_affinity"} | extra
    assert model.needs.pseudo_masks == ("contrast" in extra)


def test_decoding_and_optimisation_cost_nothing_where_nothing_is_trained(monkeypatch: pytest.MonkeyPatch):
    scene, plain = proposed_scene(), {"prototypes": "mapped", "decoding": MultiPerspectiveDecoding(())}

    def refuse(*_, **__):
        raise AssertionError("this is of training alone")

    monkeypatch.setattr(module, "pixel_features", refuse)
    counts = []
    for model in (tiny().eval().requires_grad_(False), tiny(**plain).eval().requires_grad_(False)):
        with FlopCounterMode(display=False) as counter:
            outputs = model(scene)
        assert outputs.views == ()
        assert outputs.pixels is None
        counts.append((counter.get_total_flops(), count(model)))
    assert counts[0] == counts[1]


def test_spatial_views_are_refused_since_the_head_answers_them_alike():
    with pytest.raises(InputError, match="has flips, transpose"):
        tiny(decoding=MultiPerspectiveDecoding(("flips", "dropout", "transpose")))
    model, volume = shaken(tiny()).eval(), torch.randn(1, 16, 8, 8, 4)
    for perspective in (Flips(1.0), Transposition()):
        view = perspective.view(volume)
        with torch.no_grad():
            torch.testing.assert_close(view.undo(model.head(view.volume).logits), model.head(volume).logits)
