from dataclasses import replace

import pytest
import torch
from tiny_drocc import surround_scene, without_depth
from tiny_surround import LABELS, TINY, random_target, sample_of

from occloom.errors import InputError
from occloom.grid import VoxelGrid
from occloom.models.bevdet4d import BevDet4dConfig, LiftedFrames
from occloom.models.drocc import ModelFeatures, RecursiveExpertConfig, RefinementConfig, RegionExpertsConfig, StandIn
from occloom.models.drocc_bevdet4d import DrOccConfig

GRID = VoxelGrid(lower=(-8.0, -8.0, -1.0), voxel_size=(0.8, 0.8, 0.8), shape=(20, 20, 4))
BASELINE = replace(TINY, lifting=replace(TINY.lifting, image_channels=16))
REFINEMENT = RefinementConfig(heads=2, feedforward=12, dropout=0.0, depth_features=ModelFeatures(6))
CONFIG = DrOccConfig(baseline=BASELINE, refinement=REFINEMENT)
REGIONS = RegionExpertsConfig(heights=(-0.2, 1.0), distances=(4.0, 8.0), chosen=5)
VARIANTS = {
    "D2": replace(CONFIG, refinement=replace(REFINEMENT, experts=None)),
    "R": replace(CONFIG, refinement=replace(REFINEMENT, experts=REGIONS)),
    "R2": CONFIG,
    "stand-in": replace(CONFIG, refinement=replace(REFINEMENT, depth_features=StandIn(7))),
    "skip": replace(CONFIG, skip=True),
}


def built(config, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return config.build(GRID, LABELS)


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("cameras", [1, 2])
def test_batch_equals_one_by_one(name, cameras):
    model, scene = built(VARIANTS[name]).eval(), surround_scene(cameras=cameras)
    with torch.no_grad():
        together = model(scene)
        assert together.logits.shape == (2, 4, *GRID.shape)
        for b in range(2):
            alone = model(sample_of(scene, b))
            torch.testing.assert_close(alone.logits, together.logits[b : b + 1], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", VARIANTS)
def test_every_parameter_learns_from_the_baselines_losses(name):
    model, scene = built(VARIANTS[name]), surround_scene()
    terms = model.loss(model(scene), random_target(scene, GRID))
    assert terms.keys() == {"cross_entropy", "depth"}
    sum(terms.values()).backward()
    idle = {n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()}
    # At first offsets of attention are biases alone, and weights of attention 0; experts that are not chosen rest.
    assert not {n for n in idle if ".experts.experts." not in n and not n.startswith("lifting.depth_net.matching")}


def test_no_pixel_of_the_prior_known_and_no_picture_at_all():
    model, scene = built(CONFIG).eval(), surround_scene()
    with torch.no_grad():
        there, unknown = model(scene).logits, model(without_depth(scene)).logits
        assert unknown.isfinite().all()
        assert not torch.equal(there, unknown)
        blind = model(replace(scene, camera_valid=torch.zeros_like(scene.camera_valid)))
        assert blind.logits.isfinite().all()


def test_the_answer_depends_on_the_coarse_volume_alone_unless_it_skips():
    """Without a skip the head sees 20 x 20 voxels through 5 x 5."""
    scene = surround_scene(batch=1)
    for name, skips in (("R2", False), ("skip", True)):
        model = built(VARIANTS[name]).eval()
        seen = []
        model.head.register_forward_hook(lambda _m, inputs, _o, seen=seen: seen.append(inputs[0]))
        with torch.no_grad():
            model(scene)
        volume = seen[0]
        # Between block centres, values along x lie on a line: second differences vanish inside a block.
        bend = volume[:, :, 2:6].diff(dim=2).diff(dim=2).abs().max()
        assert bool(bend > 1e-4 * volume.abs().max()) == skips


def test_a_grid_that_the_coarsening_does_not_divide():
    model, scene = built(replace(CONFIG, coarsening=(3, 4, 3))).eval(), surround_scene(batch=1)
    assert model.refinement.grid.shape == (7, 5, 2)
    assert model.refinement.grid.upper == pytest.approx(GRID.upper)
    with torch.no_grad():
        assert model(scene).logits.shape == (1, 4, *GRID.shape)


def test_baseline_weights_go_over_by_name():
    config = CONFIG.baseline
    baseline, model = config.build(GRID, LABELS), built(CONFIG)
    assert baseline.state_dict().keys() <= model.state_dict().keys()
    missing = model.load_state_dict(baseline.state_dict(), strict=False).missing_keys
    assert all(name.startswith("refinement.") for name in missing)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="at least 1"):
        replace(CONFIG, coarsening=(0, 4, 1)).build(GRID, LABELS)
    with pytest.raises(InputError, match="heads"):
        replace(CONFIG, refinement=replace(REFINEMENT, heads=3)).build(GRID, LABELS)


# --- the paper's size ------------------------------------------------------------------------------------------------

FULL = VoxelGrid(lower=(-40.0, -40.0, -1.0), voxel_size=(0.4, 0.4, 0.4), shape=(200, 200, 16))
OCC3D_LIKE = replace(LABELS, names=("a",) * 18, empty=17, colours=((0, 0, 0),) * 18, frequencies=(10.0,) * 18)


@pytest.mark.parametrize(
    ("experts", "millions"), [(None, 36.36), (RegionExpertsConfig(), 40.16), (RecursiveExpertConfig(), 36.78)]
)
def test_parameters_of_the_papers_size_are_the_references(experts, millions):
    with torch.device("meta"):
        baseline = BevDet4dConfig().build(FULL, OCC3D_LIKE)
        model = DrOccConfig(refinement=RefinementConfig(experts=experts)).build(FULL, OCC3D_LIKE)
    count = sum(p.numel() for p in model.parameters())
    assert sum(p.numel() for p in baseline.parameters()) == 34_969_712
    assert count - 34_969_712 == sum(p.numel() for p in model.refinement.parameters())
    assert round(count / 1e6, 2) == millions


def test_shapes_of_the_papers_size(monkeypatch):
    """From what is lifted on, on the meta device; which voxels the refinement chooses needs values, so it rests."""
    with torch.device("meta"):
        model = DrOccConfig().build(FULL, OCC3D_LIKE).eval()
        lifted = LiftedFrames(
            volume=torch.empty(1, 64, 200, 200, 16),
            features=torch.empty(1, 6, 256, 16, 44),
            depth=torch.empty(1, 6, 88, 16, 44),
            stride=16,
            valid=torch.ones(1, 6, dtype=torch.bool),
        )
    given = {}

    def refine(_self, _scene, volume, features, stride):
        given.update(volume=volume.shape, features=features.shape, stride=stride)
        return volume

    monkeypatch.setattr(type(model.refinement), "forward", refine)
    monkeypatch.setattr(type(model), "lift", lambda _self, _scene: lifted)
    with torch.no_grad():
        logits = model(surround_scene(batch=1, cameras=6)).logits
    assert given == {"volume": (1, 32, 50, 50, 16), "features": (1, 6, 256, 16, 44), "stride": 16}
    assert logits.shape == (1, 18, 200, 200, 16)
