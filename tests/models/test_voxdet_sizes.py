"""Parameters of the published sizes, module by module, on the `meta` device."""

from dataclasses import replace

import pytest
import torch
from tiny_voxdet import VARIANTS, count, label_space

from occloom.grid import VoxelGrid
from occloom.models.voxdet import DenseDetector, DetectorConfig, LossWeights
from occloom.models.voxdet_camera import VoxDetConfig


@pytest.fixture(scope="module")
def full_size():
    """Detectors of the paper's size of all variants, without memory."""
    with torch.device("meta"):
        return {
            name: DenseDetector(
                replace(DetectorConfig(), **changes), channels=128, label_space=label_space(20), factors=(2, 2, 2)
            )
            for name, changes in VARIANTS.items()
        }


# Reference voxdet 6, 11: parameters of the released modules.
ENCODER, DECOUPLER, NECK, OFFSET_HEAD, AGGREGATION_LAYER, CLASS_HEAD = (
    6_639_360,
    571_958,
    951_296,
    221_696,
    66_560,
    222_592,
)


def test_parameters_of_each_module_are_those_of_the_reference(full_size):
    model = full_size["f"]
    assert count(model.encoder) == ENCODER
    for branch in (model.classification, model.regression):
        assert [count(part) for part in branch.decouplers] == [DECOUPLER] * 2
        assert count(branch.neck) == NECK
    assert count(model.offset_head) == OFFSET_HEAD
    assert [count(layer) for layer in model.aggregation] == [AGGREGATION_LAYER] * 4
    assert count(model.class_head) == count(model.auxiliary_head) == CLASS_HEAD
    # Whole SVE and TDP as the reference sums them up.
    assert count(model) == 6_639_360 + 2_287_832 + 1_902_592 + 710_528 + 222_592


def test_variants_differ_by_the_modules_that_table_4_adds(full_size):
    counts = {name: count(model) for name, model in full_size.items()}
    assert counts["a"] == ENCODER + NECK + 2 * CLASS_HEAD
    assert counts["b"] - counts["a"] == OFFSET_HEAD
    assert counts["c"] - counts["b"] == 4 * AGGREGATION_LAYER
    # A second branch, of which one decouples.
    assert counts["d"] - counts["c"] == counts["e"] - counts["c"] == NECK + 2 * DECOUPLER
    assert counts["f"] - counts["e"] == 2 * DECOUPLER


def test_full_widths_fit_together(full_size):
    outputs = full_size["f"](torch.empty(1, 128, 32, 24, 8, device="meta"))
    assert outputs.logits.shape == outputs.auxiliary.logits.shape == (1, 20, 64, 48, 16)
    assert outputs.offsets.shape == (1, 6, 16, 12, 4)


SEMANTICKITTI = VoxelGrid((0.0, -25.6, -2.0), (0.2, 0.2, 0.2), (256, 256, 32))


def whole(config, classes=20):
    with torch.device("meta"):
        return config.build(SEMANTICKITTI, label_space(classes))


def test_parameters_of_each_module_of_the_whole_are_those_of_the_reference():
    model = whole(VoxDetConfig())
    left_out = sum(model.left_out.values())
    # Reference voxdet 11. Of four rows of level embeddings the released code uses one.
    assert left_out == 3 * 128
    assert count(model.trunk) == 23_527_264
    assert count(model.neck) == 4_916_224
    assert count(model.depth_net) == 12_102_702
    assert count(model.lifting) + left_out == 448_064
    assert [count(layer) for layer in model.lifting.layers] == [132_480] * 3
    assert count(model.lifting.embed_volume) == 33_280
    assert count(model.lifting.embed_unproposed) == 16_704
    assert count(model.detector) == 6_639_360 + 2_287_832 + 1_902_592 + 710_528 + 222_592
    assert count(model) + left_out == 52_757_158


def test_parameters_on_kitti_360_are_those_of_the_reference():
    model = whole(VoxDetConfig(), classes=19)
    assert count(model) + sum(model.left_out.values()) == 52_757_030


def test_parameters_of_the_baseline_are_those_of_the_reference():
    detector = DetectorConfig(
        regress=False,
        aggregation_layers=0,
        decouple_regression=False,
        decouple_classification=False,
        weights=LossWeights(auxiliary=0.0),
    )
    model = whole(VoxDetConfig(detector=detector))
    assert count(model) + sum(model.left_out.values()) == 48_807_502
