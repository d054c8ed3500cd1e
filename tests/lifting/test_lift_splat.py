import itertools
import math

import torch

from occloom.grid import VoxelGrid
from occloom.lifting.depth import DepthBins
from occloom.lifting.lift_splat import frustum_voxels, lift_splat

GRID = VoxelGrid(lower=(0.0, -6.0, -2.0), voxel_size=(1.0, 1.5, 0.8), shape=(12, 8, 5))
BINS = DepthBins(near=1.0, far=14.0, count=7)
SIZE, STRIDE = (3, 5), 8


def rig(batch):
    """Two cameras, one looking forward and one to the left, shifted a little from sample to sample."""
    intrinsics = torch.tensor([[30.0, 0, 19.5], [0, 32.0, 11.5], [0, 0, 1]], dtype=torch.float64)
    forward = torch.tensor([[0.0, -1, 0], [0, 0, -1], [1, 0, 0]], dtype=torch.float64)
    left = torch.tensor([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]], dtype=torch.float64)
    camera_from_ego = torch.eye(4, dtype=torch.float64).repeat(batch, 2, 1, 1)
    for b in range(batch):
        camera_from_ego[b, 0, :3, :3], camera_from_ego[b, 1, :3, :3] = forward, left
        camera_from_ego[b, :, :3, 3] = torch.tensor([0.1 * b, 0.2, -0.3])
    return intrinsics.expand(batch, 2, 3, 3), camera_from_ego


def naive_volume(features, depth, intrinsics, camera_from_ego, valid):
    """Point by point in plain Python."""
    batch, cameras, channels = features.shape[:3]
    volume = torch.zeros(batch, channels, *GRID.shape, dtype=features.dtype)
    centres = BINS.centres(dtype=torch.float64).tolist()
    for b, n, i, j in itertools.product(range(batch), range(cameras), range(SIZE[0]), range(SIZE[1])):
        if not valid[b, n]:
            continue
        ray = torch.linalg.inv(intrinsics[b, n]) @ torch.tensor(
            [STRIDE * j + (STRIDE - 1) / 2, STRIDE * i + (STRIDE - 1) / 2, 1.0], dtype=torch.float64
        )
        for d, metres in enumerate(centres):
            point = torch.linalg.inv(camera_from_ego[b, n]) @ torch.cat([ray * metres, ray.new_ones(1)])
            index = [
                math.floor((p - low) / s)
                for p, low, s in zip(point.tolist(), GRID.lower, GRID.voxel_size, strict=False)
            ]
            if all(0 <= k < m for k, m in zip(index, GRID.shape, strict=True)):
                volume[b, :, *index] += depth[b, n, d, i, j] * features[b, n, :, i, j]
    return volume


def inputs(batch):
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(batch, 2, 4, *SIZE, generator=generator, dtype=torch.float64)
    depth = torch.rand(batch, 2, BINS.count, *SIZE, generator=generator, dtype=torch.float64)
    return features, depth, *rig(batch)


def test_equals_the_naive_twin_with_two_cameras_one_missing():
    features, depth, intrinsics, camera_from_ego = inputs(3)
    valid = torch.tensor([[True, True], [True, False], [False, False]])
    voxels = frustum_voxels(intrinsics, camera_from_ego, GRID, BINS, SIZE, STRIDE)
    ours = lift_splat(features, depth, voxels, valid, GRID.shape)
    naive = naive_volume(features, depth, intrinsics, camera_from_ego, valid)
    torch.testing.assert_close(ours, naive)
    assert (voxels < 0).any()
    assert naive[0].any()
    assert not ours[2].any()


def test_batch_equals_one_by_one():
    features, depth, intrinsics, camera_from_ego = inputs(3)
    valid = torch.ones(3, 2, dtype=torch.bool)
    voxels = frustum_voxels(intrinsics, camera_from_ego, GRID, BINS, SIZE, STRIDE)
    together = lift_splat(features, depth, voxels, valid, GRID.shape)
    for b in range(3):
        one = slice(b, b + 1)
        alone = frustum_voxels(intrinsics[one], camera_from_ego[one], GRID, BINS, SIZE, STRIDE)
        assert torch.equal(lift_splat(features[one], depth[one], alone, valid[one], GRID.shape), together[one])


def test_mixed_precision_does_not_move_points():
    intrinsics, camera_from_ego = (t.float() for t in rig(1))
    plain = frustum_voxels(intrinsics, camera_from_ego, GRID, BINS, SIZE, STRIDE)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = frustum_voxels(intrinsics, camera_from_ego, GRID, BINS, SIZE, STRIDE)
    assert torch.equal(plain, mixed)
