from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from tiny_surround import LABELS, built, random_target, sample_of
from tiny_views import IMAGES, VIEW, moving_scene, shaken
from torch.utils.flop_counter import FlopCounterMode

from occloom.data.occ3d_labels import OCC3D, OCC3D_GRID
from occloom.errors import InputError
from occloom.grid import VoxelGrid
from occloom.models import protoocc as module
from occloom.models.panoocc import PanoOccConfig
from occloom.models.protoocc import MultiPerspectiveDecoding, ProtoOccConfig, PrototypeLooking
from occloom.models.protoocc_decoding import scene_consistency
from occloom.models.protoocc_mapping import ClusterConfig
from occloom.models.protoocc_optimisation import prototype_contrast

GRID = VoxelGrid(lower=(-8.0, -8.0, -1.0), voxel_size=(1.0, 1.0, 1.6), shape=(16, 16, 4))
ODD = VoxelGrid(lower=(-8.0, -8.0, -1.0), voxel_size=(1.0, 1.2, 1.6), shape=(13, 10, 3))
BASELINE = PanoOccConfig(images=IMAGES, view=VIEW, coarsening=(4, 4, 1), frames=3, voxel_channels=8, hidden=8)
TINY = ProtoOccConfig(baseline=BASELINE, mapping=PrototypeLooking(clusters=ClusterConfig((2, 3))))


def tiny(grid=GRID, **changes):
    return built(replace(TINY, **changes), grid=grid)


def count(part):
    return sum(parameter.numel() for parameter in part.parameters())


def masked(target, cell=12):
    """The target with pseudo masks: squares, and columns of none."""
    batch, cameras, height, width = target.depth.shape
    squares = torch.arange(height)[:, None] // cell * 100 + torch.arange(width) // cell
    squares = torch.where(torch.arange(width) < 4, -1, squares)
    return replace(target, pseudo_masks=squares.expand(batch, cameras, height, width).clone())


@pytest.mark.parametrize(
    ("coarsening", "view"),
    [((2, 2, 1), 46_827_456), ((4, 4, 1), 16_107_456), ((4, 4, 4), 8_427_456)],
    ids=["base", "small", "tiny"],
)
@pytest.mark.parametrize("form", ["scaled", "literal"])
def test_the_view_transformation_has_the_published_parameters(coarsening, view, form):
    """Table 3's 16.11 M (reference protoocc 4), in either form."""
    config = ProtoOccConfig(PanoOccConfig(coarsening=coarsening), mapping=PrototypeLooking(form=form))
    with torch.device("meta"):
        model = config.build(OCC3D_GRID, OCC3D)
        baseline = config.baseline.build(OCC3D_GRID, OCC3D)
    assert count(model.view_transformation) == view == count(baseline.view_transformation) + 592_128
    assert count(model) == count(baseline) + 592_128


def test_it_starts_as_the_baseline_whose_weights_go_over():
    baseline, model, scene = built(BASELINE, grid=GRID), tiny(), moving_scene()
    found = model.load_state_dict(baseline.state_dict(), strict=False)
    assert not found.unexpected_keys
    assert all(".mapping." in name for name in found.missing_keys)
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(scene).logits, baseline.eval()(scene).logits)
        assert not torch.allclose(shaken(model)(scene).logits, baseline(scene).logits)


@pytest.mark.parametrize("form", ["scaled", "literal"])
@pytest.mark.parametrize("grid", [GRID, ODD], ids=["even", "odd"])
def test_a_batch_equals_its_samples(grid, form):
    model = shaken(tiny(grid=grid, mapping=replace(TINY.mapping, form=form))).eval()
    scene = moving_scene(batch=3, cameras=3)
    scene = replace(scene, camera_valid=scene.camera_valid.clone())
    scene.camera_valid[1, 0, 2] = False
    with torch.no_grad():
        together = model(scene).logits
        alone = torch.cat([model(sample_of(scene, b)).logits for b in range(3)])
    assert together.shape == (3, LABELS.num_classes, *grid.shape)
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)


def test_a_picture_that_is_missing_and_what_is_in_it_count_for_nothing():
    model, scene = shaken(tiny()).eval(), moving_scene()
    scene = replace(scene, camera_valid=scene.camera_valid.clone())
    scene.camera_valid[:, :, 1] = False
    images = scene.images.clone()
    images[:, :, 1] = 1
    with torch.no_grad():
        torch.testing.assert_close(model(scene).logits, model(replace(scene, images=images)).logits)


def test_the_losses_are_those_of_equation_6():
    model, scene = shaken(tiny()).train(), moving_scene()
    target = masked(random_target(scene, GRID))
    outputs = model(scene)
    assert len(outputs.views) == 2
    terms = model.loss(outputs, target)
    assert list(terms) == ["cross_entropy", "lovasz", "contrast", "consistency"]
    views = (outputs.logits, *outputs.views)
    nll = sum(F.cross_entropy(view, target.labels, reduction="none")[target.observed].mean() for view in views)
    torch.testing.assert_close(terms["cross_entropy"], 10 * nll)
    baseline = built(BASELINE, grid=GRID)
    lovasz = sum(baseline.loss(module.PanoOccOutputs(view), target)["lovasz"] for view in views)
    torch.testing.assert_close(terms["lovasz"], lovasz)
    torch.testing.assert_close(terms["consistency"], scene_consistency(views, target.observed, temperature=0.5))
    # The masks of the pixels in the middle of 8x8 blocks; every query counts that sees a picture.
    masks = target.pseudo_masks[:, :, 4::8, 4::8].flatten(0, 1)
    pixels = outputs.pixels
    contrast = prototype_contrast(pixels.features, masks, pixels.saliency > 0, temperature=0.1)
    torch.testing.assert_close(terms["contrast"], 0.1 * contrast)
    assert contrast > 0


def test_contrast_trains_prototypes_and_pixels_alone():
    """It reaches the trunk and the last layer's projection; the decoder and the head have no part in it."""
    model, scene = shaken(tiny()).train(), moving_scene()
    model.loss(model(scene), masked(random_target(scene, GRID)))["contrast"].backward()
    moved = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert "view_transformation.layers.1.cross_attention.mapping.project.0.weight" in moved
    assert "view_transformation.layers.1.cross_attention.sampling_offsets.weight" in moved
    assert any(name.startswith("image_branch.trunk") for name in moved)
    assert not any(name.startswith(("decoder", "head", "view_transformation.fuser")) for name in moved)


ROWS = {
    "none": ({"prototypes": "none", "decoding": MultiPerspectiveDecoding(())}, False, 0),
    "mapping": ({"prototypes": "mapped", "decoding": MultiPerspectiveDecoding(())}, False, 0),
    "optimisation": ({"decoding": MultiPerspectiveDecoding(())}, True, 0),
    "decoding": ({"prototypes": "none"}, False, 2),
    "spatial": ({"decoding": MultiPerspectiveDecoding(("transpose", "flips"))}, True, 2),
}


@pytest.mark.parametrize("row", ROWS)
def test_each_row_of_table_4_can_be_had(row):
    changes, optimised, views = ROWS[row]
    model, scene = tiny(**changes).train(), moving_scene()
    assert model.needs.pseudo_masks == optimised
    target = random_target(scene, GRID)
    outputs = model(scene)
    terms = model.loss(outputs, masked(target) if optimised else target)
    assert len(outputs.views) == views
    assert set(terms) == {"cross_entropy", "lovasz"} | ({"contrast"} if optimised else set()) | (
        {"consistency"} if views else set()
    )
    sum(terms.values()).backward()
    assert all(p.grad is not None for p in model.parameters())
    assert any(".mapping." in name for name, _ in model.named_parameters()) == (changes.get("prototypes") != "none")


def test_decoding_and_optimisation_cost_nothing_where_nothing_is_trained(monkeypatch: pytest.MonkeyPatch):
    """Neither runs in evaluation, and the operations counted are those of mapping alone; nor do they have weights."""
    scene, plain = moving_scene(), {"prototypes": "mapped", "decoding": MultiPerspectiveDecoding(())}

    def refuse(*_, **__):
        raise AssertionError("this is of training alone")

    for name in ("decode_all", "pixel_features", "scene_consistency", "prototype_contrast"):
        monkeypatch.setattr(module, name, refuse)
    counts = []
    for model in (tiny().eval().requires_grad_(False), tiny(**plain).eval().requires_grad_(False)):
        decoded = []
        model.decoder.register_forward_hook(lambda _, inputs, __, seen=decoded: seen.append(len(inputs[0])))
        with FlopCounterMode(display=False) as counter:
            outputs = model(scene)
        assert outputs.views == ()
        assert outputs.pixels is None
        assert decoded == [2]
        counts.append((counter.get_total_flops(), count(model)))
    assert counts[0] == counts[1]
    with pytest.raises(AssertionError, match="of training alone"):
        tiny().train()(scene)


def test_prototypes_are_clustered_once_a_frame_for_all_layers(monkeypatch: pytest.MonkeyPatch):
    calls = []

    def counting(features, config):
        calls.append(features.shape)
        return cluster(features, config)

    cluster = module.cluster
    monkeypatch.setattr(module, "cluster", counting)
    with torch.no_grad():
        tiny().eval()(moving_scene(cameras=3))
    assert calls == [(6, 16, 4, 8)] * 3


def test_a_stride_that_no_level_has():
    with pytest.raises(InputError, match=r"mapping\.stride is 4"):
        tiny(mapping=PrototypeLooking(stride=4)).eval()(moving_scene())
