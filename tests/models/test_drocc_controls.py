import itertools
import math
from dataclasses import replace

import pytest
import torch
from tiny_drocc import mirrored, surround_scene, without_depth
from tiny_surround import LABELS, TINY, augmented, random_target, sample_of

from occloom.grid import VoxelGrid
from occloom.models.drocc_controls import (
    FourChannelLifting,
    PriorControlConfig,
    PriorLifting,
    point_features,
    prior_in_pictures,
)

GRID = VoxelGrid(lower=(-8.0, -8.0, -1.0), voxel_size=(0.8, 0.8, 0.8), shape=(20, 20, 4))
USES = ["channel", "points", "lift"]


def built(use, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return PriorControlConfig(baseline=TINY, use=use).build(GRID, LABELS)


@pytest.mark.parametrize("stride", [1, 8])
def test_the_priors_depth_is_that_of_the_same_ray(stride):
    """Pictures are turned, scaled and shifted; the prior's are not."""
    scene = augmented(surround_scene(cameras=2), 1, turn=0.2, scale=0.8, shift=(3.0, -2.0))
    scene.camera_valid[0, 0, 1] = False
    size = (32 // stride, 64 // stride)
    found = prior_in_pictures(scene, size, stride)
    known = 0
    for b, n, i, j in itertools.product(range(2), range(2), range(0, size[0], 3), range(0, size[1], 3)):
        pixel = [stride * j + (stride - 1) / 2, stride * i + (stride - 1) / 2, 1.0]
        ray = torch.linalg.solve(scene.cameras.intrinsics[b, 0, n].double(), torch.tensor(pixel, dtype=torch.float64))
        u, v, w = (scene.prior.intrinsics[b, n].double() @ ray).tolist()
        column, row = round(u / w), round(v / w)
        expected = 0.0
        if 0 <= column < 30 and 0 <= row < 18 and scene.camera_valid[b, 0, n]:
            expected = scene.prior.depth[b, n, row, column].item()
        assert found[b, n, i, j].item() == expected
        known += expected > 0
    assert known > 5


def test_points_of_a_voxel_are_counted_and_averaged():
    scene = surround_scene(cameras=2)
    poses, prior = scene.cameras.camera_from_ego[:, 0], scene.prior
    found = point_features(prior, poses, GRID)
    inside = {}
    for b, n, v, u in itertools.product(*map(range, prior.depth.shape)):
        d = prior.depth[b, n, v, u].item()
        if d > 0:
            ray = torch.linalg.solve(prior.intrinsics[b, n], torch.tensor([u, v, 1.0])) * d
            point = torch.linalg.solve(poses[b, n], torch.cat([ray, torch.ones(1)]))[:3].tolist()
            places = [(p - low) / size for p, low, size in zip(point, GRID.lower, GRID.voxel_size, strict=True)]
            if all(0 <= p < count for p, count in zip(places, GRID.shape, strict=True)):
                offsets = [p - math.floor(p) - 0.5 for p in places]
                inside.setdefault((b, *map(math.floor, places)), []).append(offsets)
    expected = torch.zeros_like(found)
    for place, offsets in inside.items():
        expected[place] = torch.tensor([math.log1p(len(offsets)), *torch.tensor(offsets).mean(dim=0).tolist()])
    # A point on a border may fall to either side in float32.
    wrong = ((found - expected).abs() > 1e-3).any(dim=-1).sum()
    assert len(inside) > 100
    assert wrong <= 2


def test_lifting_by_the_prior_puts_features_at_its_depth():
    scene = surround_scene(cameras=2)
    with torch.device("meta"):
        lifting = PriorLifting(TINY.lifting, GRID)
    estimate = torch.rand(2, 2, 8, 4, 8)
    believed = lifting.believed(scene, 0, estimate)
    assert torch.equal(lifting.believed(scene, 1, estimate), estimate)
    depth, centres = prior_in_pictures(scene, (4, 8), 8), TINY.lifting.planes.centres()
    chosen = 0
    for b, n, i, j in itertools.product(range(2), range(2), range(4), range(8)):
        gaps = (centres - depth[b, n, i, j]).abs()
        expected = (gaps == gaps.min()) & (gaps < 0.5) & (depth[b, n, i, j] > 0)
        assert torch.equal(believed[b, n, :, i, j], expected.float())
        chosen += expected.sum().item()
    assert chosen > 20


def test_the_fourth_channel_is_depth_now_and_nothing_before():
    scene = surround_scene(cameras=2)
    lifting = FourChannelLifting(TINY.lifting, GRID)
    for t in range(3):
        pictures = lifting.pictures(scene, t)
        assert torch.equal(pictures[:, :3], scene.images[:, t].flatten(0, 1))
        expected = prior_in_pictures(scene, (32, 64), 1).flatten(0, 1) if t == 0 else torch.zeros(4, 32, 64)
        assert torch.equal(pictures[:, 3], expected)
    assert lifting.trunk.conv1.weight.shape[1] == 4


@pytest.mark.parametrize("use", USES)
def test_controls_look_at_the_prior_and_learn(use):
    model, scene = built(use), surround_scene()
    assert model.needs.prior_depth
    assert not model.needs.prior_features
    terms = model.loss(model(scene), random_target(scene, GRID))
    sum(terms.values()).backward()
    idle = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert idle == []
    model.eval()
    with torch.no_grad():
        known, unknown = model(scene).logits, model(without_depth(scene)).logits
        assert unknown.isfinite().all()
        assert not torch.equal(known, unknown)
        for b in range(2):
            alone = model(sample_of(scene, b)).logits
            torch.testing.assert_close(alone, known[b : b + 1], rtol=1e-3, atol=1e-4)


def test_controls_are_the_baseline_where_no_depth_is_known():
    scene = without_depth(surround_scene())
    baseline, points = TINY.build(GRID, LABELS).eval(), built("points").eval()
    points.load_state_dict(baseline.state_dict(), strict=False)
    with torch.no_grad():
        assert torch.equal(points(scene).logits, baseline(scene).logits)


@pytest.mark.parametrize(("x", "y"), [(True, False), (True, True)])
def test_points_are_mirrored_with_the_ego_frame(x, y):
    scene = surround_scene()
    exact = scene.to(dtype=torch.float64)
    axes = [axis for axis, flip in ((1, x), (2, y)) if flip]
    found = point_features(exact.prior, mirrored(exact, x=x, y=y).cameras.camera_from_ego[:, 0], GRID)
    expected = point_features(exact.prior, exact.cameras.camera_from_ego[:, 0], GRID).flip(axes)
    sign = torch.tensor([1.0, -1.0 if x else 1.0, -1.0 if y else 1.0, 1.0], dtype=torch.float64)
    torch.testing.assert_close(found, expected * sign)


def test_missing_pictures_give_no_points():
    model, scene = built("points").eval(), surround_scene(cameras=2)
    scene.camera_valid[:, 0, 1] = False
    other = scene.prior.depth.clone()
    other[:, 1] = 1.5
    with torch.no_grad():
        before = model(scene).logits
        assert torch.equal(before, model(replace(scene, prior=replace(scene.prior, depth=other))).logits)
