"""Against a twin that builds the whole warp, against synthetic planes, and what is never held."""

import math

import pytest
import torch
import torch.nn.functional as F

from occloom.geometry.rigid import rigid
from occloom.ops import plane_sweep as module
from occloom.ops.plane_sweep import plane_sweep


def turned(yaw, pitch=0.0):
    c, s, d, e = math.cos(yaw), math.sin(yaw), math.cos(pitch), math.sin(pitch)
    return torch.tensor([[c, 0, s], [0, 1, 0], [-s, 0, c]]) @ torch.tensor([[1, 0, 0], [0, d, -e], [0, e, d]])


def naive(features, others, intrinsics, other_intrinsics, other_from_camera, depths, stride, outside_cost):
    """The whole warp at once, by inverse matrices and `grid_sample`."""
    h, w = features.shape[-2:]
    v, u = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
    pixels = torch.stack([u * stride + (stride - 1) / 2, v * stride + (stride - 1) / 2, torch.ones(h, w)], -1)
    rays = torch.einsum("mij,hwj->mhwi", intrinsics.inverse(), pixels)
    points = rays[:, None] * depths[:, None, None, None]
    points = torch.einsum("mij,mdhwj->mdhwi", other_from_camera[:, :3, :3], points)
    points = points + other_from_camera[:, None, None, None, :3, 3]
    places = torch.einsum("mij,mdhwj->mdhwi", other_intrinsics, points)
    places = (places[..., :2] / places[..., 2:] + 0.5) / torch.tensor([w * stride, h * stride]) * 2 - 1
    places = torch.where(points[..., 2:] > 1e-3, places, -9.0)
    warped = F.grid_sample(others, places.flatten(1, 2), align_corners=False).unflatten(2, (len(depths), h))
    read = F.grid_sample(torch.ones_like(others[:, :1]), places.flatten(1, 2), align_corners=False)
    outside = read.unflatten(2, (len(depths), h))[:, 0] == 0
    return (features[:, :, None] - warped).abs().sum(1) + outside_cost * outside


def views(images=3, channels=5, size=(6, 9), stride=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    features, others = torch.randn(2, images, channels, *size, generator=generator)
    height, width = size[0] * stride, size[1] * stride
    intrinsics = torch.tensor([[0.7 * width, 0.0, width / 2], [0.0, 0.7 * width, height / 2], [0, 0, 1]])
    # Pictures may be scaled, turned and mirrored.
    done = torch.eye(3).repeat(images, 1, 1)
    done[0, :2, :2] = torch.tensor([[1.1, 0.1], [-0.08, 0.9]])
    done[-1, 0] = torch.tensor([-1.0, 0.0, width - 1.0])
    motions = [(turned(0.1 * m, 0.03), torch.tensor([0.2, 0.05 * m, -0.8])) for m in range(images)]
    return {
        "features": features,
        "others": others,
        "intrinsics": done @ intrinsics,
        "other_intrinsics": (done @ intrinsics).flip(0),
        "other_from_camera": torch.stack([rigid(rotation, place) for rotation, place in motions]),
        # The first planes lie behind the other camera.
        "depths": torch.tensor([0.5, 0.79, 0.81, 1.5, 3.0, 6.0, 12.0]),
        "stride": stride,
        "outside_cost": 2.5,
    }


@pytest.mark.parametrize("size", [(6, 9), (1, 1), (5, 3)])
@pytest.mark.parametrize("chunk", [1, 7 * 5 * 4, 1 << 20])
def test_equals_the_whole_warp(size, chunk, monkeypatch):
    monkeypatch.setattr(module, "CHUNK_ELEMENTS", chunk)
    inputs = views(size=size)
    cost = plane_sweep(**inputs)
    assert cost.shape == (3, 7, *size)
    torch.testing.assert_close(cost, naive(**inputs), rtol=1e-4, atol=1e-4)


def test_the_answer_does_not_depend_on_the_batch():
    inputs = views()
    together = plane_sweep(**inputs)
    for m in range(3):
        one = {
            name: value[m : m + 1] if torch.is_tensor(value) and value.ndim > 1 else value
            for name, value in inputs.items()
        }
        assert torch.equal(plane_sweep(**one), together[m : m + 1])


def texture(u, v):
    """Features of a picture of a wall that is painted all over."""
    return torch.stack(
        [torch.sin(0.11 * u + 0.05 * v + k) + torch.cos(0.07 * v - 0.09 * u * (k % 2)) for k in range(6)]
    )


def wall_seen(intrinsics, camera_from_first, depth, size, stride):
    """What a camera sees of a wall across the first camera's view, painted in that camera's pixels."""
    h, w = size
    v, u = torch.meshgrid(
        torch.arange(h) * stride + (stride - 1) / 2, torch.arange(w) * stride + (stride - 1) / 2, indexing="ij"
    )
    rays = torch.stack([u, v, torch.ones(h, w)], -1) @ intrinsics.inverse().T
    first_from_camera = camera_from_first.inverse()
    directions, start = rays @ first_from_camera[:3, :3].T, first_from_camera[:3, 3]
    points = directions * ((depth - start[2]) / directions[..., 2:]) + start
    pixels = points @ intrinsics.T
    return texture(pixels[..., 0] / depth, pixels[..., 1] / depth)


@pytest.mark.parametrize("plane", [2, 5, 9])
def test_a_wall_costs_least_at_its_depth(plane):
    size, stride, depths = (12, 20), 4, torch.arange(12) * 0.5 + 2
    intrinsics = torch.tensor([[60.0, 0, 39.5], [0, 60.0, 23.5], [0, 0, 1]])
    # A step to the side, a little forward, and a turn.
    motion = rigid(turned(0.03, -0.02), torch.tensor([0.5, 0.1, -0.2]))
    wall = depths[plane].item()
    cost = plane_sweep(
        wall_seen(intrinsics, torch.eye(4), wall, size, stride)[None],
        wall_seen(intrinsics, motion, wall, size, stride)[None],
        intrinsics=intrinsics[None],
        other_intrinsics=intrinsics[None],
        other_from_camera=motion[None],
        depths=depths,
        stride=stride,
        outside_cost=5.0,
    )
    # Away from the border, beyond which the other picture ends.
    best = cost[0, :, 3:-3, 4:-5].argmin(dim=0)
    assert (best == plane).float().mean() > 0.95


def test_a_camera_that_stands_still_cannot_tell_planes_apart():
    inputs = views(images=1)
    changes = {"others": inputs["features"], "other_intrinsics": inputs["intrinsics"]}
    cost = plane_sweep(**{**inputs, **changes, "other_from_camera": torch.eye(4)[None]})
    assert cost.max() < 1e-4


def test_there_is_no_gradient():
    inputs = views()
    inputs["features"].requires_grad_()
    assert not plane_sweep(**inputs).requires_grad


def test_the_sampled_features_are_never_held(monkeypatch):
    largest = 0
    row_sums = module.row_sums

    def watched(table, index, shares):
        nonlocal largest
        sampled = row_sums(table, index, shares)
        largest = max(largest, sampled.numel())
        return sampled

    monkeypatch.setattr(module, "row_sums", watched)
    monkeypatch.setattr(module, "CHUNK_ELEMENTS", 400)
    plane_sweep(**views())
    assert 0 < largest <= 400


def test_sums_are_the_same_for_any_number_of_threads():
    inputs = views(size=(16, 20), channels=32)
    one = plane_sweep(**inputs)
    try:
        torch.set_num_threads(2)
        assert torch.equal(plane_sweep(**inputs), one)
    finally:
        torch.set_num_threads(1)


def test_mixed_precision_does_not_move_places():
    inputs = views()
    plain = plane_sweep(**inputs)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(plane_sweep(**inputs), plain)
