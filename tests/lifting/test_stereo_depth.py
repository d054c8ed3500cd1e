import math

import pytest
import torch
import torch.nn.functional as F

from occloom.data.occ3d import Occ3dConfig
from occloom.geometry.rigid import invert, rigid
from occloom.interfaces import Needs
from occloom.lifting.depth import DepthPlanes
from occloom.lifting.stereo_depth import OUTSIDE_COST, StereoDepth, matching_probability
from occloom.ops.plane_sweep import plane_sweep


def count(module):
    return sum(p.numel() for p in module.parameters())


def test_parameters_of_the_full_size_are_those_of_the_reference():
    with torch.device("meta"):
        assert count(StereoDepth()) == 5_840_638  # reference drocc 7


def tiny(**sizes):
    torch.manual_seed(0)
    changes = {"in_channels": 6, "channels": 8, "context_channels": 3, "pyramid_channels": 4, "planes": 7, **sizes}
    return StereoDepth(**changes)


def inputs(images=3, size=(3, 5), ratio=4, planes=7):
    generator = torch.Generator().manual_seed(0)
    h, w = size
    matching = torch.randn(images, planes, h * ratio, w * ratio, generator=generator).softmax(dim=1)
    return torch.randn(images, 6, h, w, generator=generator), torch.randn(images, 27, generator=generator), matching


@pytest.mark.parametrize(("stride", "ratio"), [(16, 4), (8, 2), (4, 1)])
def test_context_and_probabilities_of_the_features_size(stride, ratio):
    estimate = tiny(stride=stride).eval()(*inputs(ratio=ratio))
    assert estimate.context.shape == (3, 3, 3, 5)
    assert estimate.depth.shape == (3, 7, 3, 5)
    torch.testing.assert_close(estimate.depth.sum(dim=1), torch.ones(3, 3, 5))


def test_features_camera_and_matching_all_count_and_only_what_should():
    net = tiny().eval()
    features, camera, matching = inputs()
    first = net(features, camera, matching)
    moved = net(features, camera + 1, matching)
    assert not torch.allclose(moved.context, first.context)
    assert not torch.allclose(moved.depth, first.depth)
    matched = net(features, camera, matching.flip(1))
    assert torch.equal(matched.context, first.context)
    assert not torch.allclose(matched.depth, first.depth)


def test_one_image_can_be_trained_on():
    net = tiny().train()
    features, camera, matching = inputs(images=1)
    for _ in range(3):
        estimate = net(features, camera * 1000, matching)
        (estimate.depth.square().sum() + estimate.context.sum()).backward()
    assert all(torch.isfinite(p.grad).all() for p in net.parameters())


def stereo(valid):
    generator = torch.Generator().manual_seed(0)
    features, others = torch.rand(2, 2, 4, 6, 8, generator=generator)
    intrinsics = torch.tensor([[20.0, 0, 15.5], [0, 20.0, 11.5], [0, 0, 1]]).repeat(2, 1, 1)
    c, s = math.cos(0.05), math.sin(0.05)
    motion = rigid(torch.tensor([[c, 0, s], [0, 1, 0], [-s, 0, c]]), torch.tensor([0.4, 0.0, 0.3])).repeat(2, 1, 1)
    planes = DepthPlanes(near=1.0, step=0.7, count=5)
    geometry = {"intrinsics": intrinsics, "other_intrinsics": intrinsics, "other_from_camera": motion, "stride": 4}
    return matching_probability(features, others, **geometry, planes=planes, valid=valid), plane_sweep(
        features, others, **geometry, depths=planes.centres(), outside_cost=OUTSIDE_COST
    )


def test_probability_falls_with_the_cost_of_the_planes():
    probability, cost = stereo(torch.tensor([True, True]))
    torch.testing.assert_close(probability, (-cost).exp() / (-cost).exp().sum(dim=1, keepdim=True))


def test_where_a_picture_is_missing_all_planes_are_equal():
    probability, _ = stereo(torch.tensor([True, False]))
    assert torch.equal(probability[1], torch.full_like(probability[1], 0.2))
    assert not torch.allclose(probability[0], torch.full_like(probability[0], 0.2))


@pytest.mark.real_data
def test_real_pictures_agree_best_near_the_depth_that_lidar_measures(real_data):
    """Neighbourhoods of grey pixels as features, the real motion against the reverse one."""
    root, scene_name = real_data / "nuscenes_scene0523", "scene-0523"
    cameras = ("CAM_FRONT_LEFT", "CAM_FRONT")
    config = Occ3dConfig(root=root, version="v1.0-mini", train=(scene_name,), keyframes=(0, -1), cameras=cameras)
    dataset = config.build("train", Needs(true_depth=True))
    scene = dataset.sample(4).scene
    true = dataset._true_depth(dataset._keyframes[4], scene)[0].float()
    grey = F.avg_pool2d(scene.images[0].mean(2), 2)
    patches = F.unfold(grey.flatten(0, 1)[:, None], 9, padding=4, stride=2).unflatten(2, (64, 176)).float()
    patches = patches - patches.mean(1, keepdim=True)
    features, others = (patches / (patches.std(1, keepdim=True) + 0.02)).chunk(2)
    planes = DepthPlanes(near=1.5, step=1.0, count=44)
    poses = scene.cameras.camera_from_ego[0]
    motion = (poses[1] @ invert(poses[0])).float()
    intrinsics = scene.cameras.intrinsics[0].float()
    reverse = rigid(motion[:, :3, :3], -motion[:, :3, 3])
    nearest = -F.max_pool2d(torch.where(true > 0, -true, -1e9)[:, None], 4)[:, 0]
    counted = (nearest > 2) & (nearest < 25)
    close = []
    for moved in (motion, reverse):
        geometry = {"intrinsics": intrinsics[0], "other_intrinsics": intrinsics[1], "other_from_camera": moved}
        probability = matching_probability(
            features, others, **geometry, planes=planes, stride=4, valid=torch.tensor([True, True])
        )
        depth = planes.centres()[probability.argmax(dim=1)]
        close.append((((depth - nearest).abs() < 0.15 * nearest) & counted).sum() / counted.sum())
    assert counted.sum() > 3000
    assert close[0] > 0.3
    assert close[1] < 0.15
