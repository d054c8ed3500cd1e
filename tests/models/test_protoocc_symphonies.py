from dataclasses import replace

import pytest
import torch
from test_symphonies import TINY as BASELINE
from test_symphonies import deep_scene
from tiny_surround import GRID, built, random_target, sample_of
from torch.utils.flop_counter import FlopCounterMode

from occloom.data.label_spaces import SEMANTIC_KITTI, SEMANTIC_KITTI_GRID
from occloom.interfaces import FeaturePyramid
from occloom.lifting.cross_attention import ReferencePoints
from occloom.models import protoocc_symphonies as module
from occloom.models.protoocc import MultiPerspectiveDecoding
from occloom.models.protoocc_decoding import scene_consistency
from occloom.models.protoocc_mapping import ClusterConfig
from occloom.models.protoocc_optimisation import prototype_contrast
from occloom.models.protoocc_symphonies import ProtoSymphoniesConfig, splat_of_voxels
from occloom.models.symphonies import SymphoniesConfig

TINY = ProtoSymphoniesConfig(baseline=BASELINE, clusters=ClusterConfig((2, 3)))


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


def test_the_full_size_has_three_linear_layers_more_in_each_of_three():
    with torch.device("meta"):
        models = [c.build(SEMANTIC_KITTI_GRID, SEMANTIC_KITTI) for c in (ProtoSymphoniesConfig(), SymphoniesConfig())]
    assert count(models[0]) == count(models[1]) + 9 * (128 * 128 + 128)


def test_it_starts_as_the_baseline_whose_weights_go_over():
    baseline, model, scene = built(BASELINE), tiny(), deep_scene()
    found = model.load_state_dict(baseline.state_dict(), strict=False)
    assert not found.unexpected_keys
    assert all(name.startswith("mappings.") for name in found.missing_keys)
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(scene).logits, baseline.eval()(scene).logits)
        assert not torch.allclose(shaken(model)(scene).logits, baseline(scene).logits)


@pytest.mark.parametrize("size", [(32, 64), (33, 61)])
def test_a_batch_equals_its_samples_also_where_a_picture_is_missing(size):
    model, scene = shaken(tiny()).eval(), deep_scene(batch=3, size=size)
    scene = replace(scene, camera_valid=scene.camera_valid.clone())
    scene.camera_valid[1] = False
    with torch.no_grad():
        alone = torch.cat([model(sample_of(scene, b)).logits for b in range(3)])
        torch.testing.assert_close(model(scene).logits, alone, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("views", [("dropout", "noise"), ("transpose", "flips")])
def test_the_losses_are_the_baselines_the_views_contrast_and_consistency(views):
    model = shaken(tiny(decoding=MultiPerspectiveDecoding(views))).train()
    scene = deep_scene()
    target, outputs = masked(scene), model(scene)
    assert len(outputs.scores) == len(outputs.views) == 2
    terms = model.loss(outputs, target)
    chosen = model.chosen_voxels(outputs, target)
    logits = [scores.at(*chosen.places) for scores in (outputs.scores[-1], *outputs.views)]
    of_layers = model.supervised(outputs.scores, chosen)
    for name, term in of_layers.items():
        torch.testing.assert_close(terms[name], term + sum(model.voxel_loss(v, chosen)[name] for v in logits[1:]))
    torch.testing.assert_close(terms["consistency"], scene_consistency(logits, chosen.observed, temperature=0.5))
    pixels, masks = outputs.pixels, target.pseudo_masks[:, :, 4::8, 4::8].flatten(0, 1)
    expected = prototype_contrast(pixels.features, masks, pixels.saliency > 0, temperature=0.1)
    torch.testing.assert_close(terms["contrast"], 0.1 * expected)
    sum(terms.values()).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_a_voxel_gives_what_it_was_handed_to_the_cells_around_its_place():
    """Two voxels in one cell are averaged; one that is not in view gives nothing, whatever its place."""
    features = FeaturePyramid(tuple(torch.zeros(2, 1, n, 2 * n) for n in (8, 4, 2)), (4, 8, 16))
    places = torch.tensor([[2.5 / 8, 1.5 / 4], [2.5 / 8, 1.5 / 4], [6.0 / 8, 0.5 / 4], [0.5, 0.5]])
    locations = torch.cat([places, torch.zeros(4, 1)], dim=1)[None, None, :, None].expand(2, -1, -1, -1, -1)
    visible = torch.tensor([[True, True, True, False], [False, False, True, False]])[:, None, :, None]
    handed = torch.tensor([[1.0, 0.0], [3.0, 2.0], [5.0, 5.0], [7.0, 8.0]])
    pixels = splat_of_voxels(ReferencePoints(locations, visible), handed, features)
    assert pixels.features.shape == (2, 2, 4, 8)
    torch.testing.assert_close(pixels.saliency[0, 1, 2], torch.tensor(1.0))
    torch.testing.assert_close(pixels.features[0, :, 1, 2], torch.tensor([2.0, 1.0]))
    # Between cells 5 and 6, half of it falls on each: a quarter of the two voxels' sum.
    torch.testing.assert_close(pixels.saliency[0, 0, 5:7], torch.tensor([0.25, 0.25]))
    torch.testing.assert_close(pixels.features[0, :, 0, 5], 0.25 * torch.tensor([5.0, 5.0]))
    torch.testing.assert_close(pixels.features[1, :, 0, 6], torch.tensor([7.0, 8.0]))
    assert int((pixels.saliency > 0).sum()) == 5


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
    model, scene = tiny(**changes).train(), deep_scene()
    terms = model.loss(model(scene), masked(scene))
    assert set(terms) == {"cross_entropy", "semantic_affinity", "geometric_affinity", "frustum"} | extra
    assert model.needs.pseudo_masks == ("contrast" in extra)


def test_decoding_and_optimisation_cost_nothing_where_nothing_is_trained(monkeypatch: pytest.MonkeyPatch):
    scene, plain = deep_scene(), {"prototypes": "mapped", "decoding": MultiPerspectiveDecoding(())}

    def refuse(*_, **__):
        raise AssertionError("this is of training alone")

    for name in ("pixel_features", "decode_all"):
        monkeypatch.setattr(module, name, refuse)
    counts = []
    for model in (tiny().eval().requires_grad_(False), tiny(**plain).eval().requires_grad_(False)):
        with FlopCounterMode(display=False) as counter:
            outputs = model(scene)
        assert len(outputs.scores) == 1
        assert outputs.views == ()
        assert outputs.pixels is None
        counts.append((counter.get_total_flops(), count(model)))
    assert counts[0] == counts[1]
