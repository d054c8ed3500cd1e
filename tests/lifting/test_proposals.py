import itertools
import math

import pytest
import torch

from occloom.errors import InputError
from occloom.grid import VoxelGrid
from occloom.lifting.proposals import coarser_proposals, depth_proposals, put_rows, ragged_to_padded, take_rows

GRID = VoxelGrid(lower=(0.0, -3.0, -1.0), voxel_size=(0.5, 0.4, 0.6), shape=(14, 15, 5))
FORWARD = torch.tensor([[0.0, -1, 0, 0], [0, 0, -1, 0], [1, 0, 0, 0], [0, 0, 0, 1]], dtype=torch.float64)


def turned(angle, shift):
    """camera_from_ego of a camera at `shift` that looks `angle` to the left of x."""
    c, s = math.cos(angle), math.sin(angle)
    turn = torch.tensor([[c, s, 0, 0], [-s, c, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]], dtype=torch.float64)
    move = torch.eye(4, dtype=torch.float64)
    move[:3, 3] = -torch.tensor(shift, dtype=torch.float64)
    return FORWARD @ turn @ move


def rig(batch, cameras):
    intrinsics = torch.tensor([[9.0, 0.3, 7.4], [0, 8.0, 4.1], [0, 0, 1]], dtype=torch.float64)
    poses = [turned(0.3 * k - 0.2, (0.1 * k, 0.2, 0.3)) for k in range(batch * cameras)]
    return intrinsics.repeat(batch, cameras, 1, 1), torch.stack(poses).unflatten(0, (batch, cameras))


def random_depth(batch, cameras, size=(9, 15), seed=0):
    generator = torch.Generator().manual_seed(seed)
    depth = torch.rand(batch, cameras, *size, generator=generator, dtype=torch.float64) * 9
    return torch.where(torch.rand(depth.shape, generator=generator) < 0.3, 0.0, depth)


def loop(depth, intrinsics, camera_from_ego, grid):
    proposed = torch.zeros(len(depth), *grid.shape, dtype=torch.bool)
    for b, n, v, u in itertools.product(*map(range, depth.shape)):
        d = depth[b, n, v, u].item()
        if not d > 0:
            continue
        ray = torch.linalg.solve(intrinsics[b, n], torch.tensor([u, v, 1.0], dtype=torch.float64)) * d
        point = torch.linalg.solve(camera_from_ego[b, n], torch.cat([ray, torch.ones(1, dtype=torch.float64)]))
        place = [math.floor((point[a].item() - grid.lower[a]) / grid.voxel_size[a]) for a in range(3)]
        if all(0 <= i < size for i, size in zip(place, grid.shape, strict=True)):
            proposed[b, *place] = True
    return proposed


@pytest.mark.parametrize(("batch", "cameras"), [(1, 1), (2, 3)])
def test_against_a_loop_over_pixels(batch, cameras):
    depth, (intrinsics, camera_from_ego) = random_depth(batch, cameras), rig(batch, cameras)
    expected = loop(depth, intrinsics, camera_from_ego, GRID)
    assert torch.equal(depth_proposals(depth, intrinsics, camera_from_ego, GRID), expected)
    assert all(10 < sample.sum() < GRID.num_voxels for sample in expected)


def test_a_pixel_of_the_depth_of_a_voxel_centre_proposes_that_voxel():
    # Fine enough that the pixel nearest to a centre looks well within the voxel.
    intrinsics = torch.tensor([[90.0, 0, 80], [0, 90, 60], [0, 0, 1]], dtype=torch.float64)
    camera_from_ego = turned(0.1, (-0.6, 0.1, 0.2))
    centres = GRID.centres(dtype=torch.float64).flatten(0, 2) @ camera_from_ego[:3, :3].mT + camera_from_ego[:3, 3]
    pixels = centres @ intrinsics.mT
    pixels = (pixels[:, :2] / pixels[:, 2:]).round().long()
    seen = ((pixels >= 0) & (pixels < torch.tensor([160, 120]))).all(dim=1) & (centres[:, 2] > 0)
    chosen = seen.nonzero()[::23, 0]
    count = len(chosen)
    assert count > 20
    depth = torch.zeros(count, 1, 120, 160, dtype=torch.float64)
    depth[torch.arange(count), 0, pixels[chosen, 1], pixels[chosen, 0]] = centres[chosen, 2]
    proposed = depth_proposals(depth, intrinsics.expand(count, 1, 3, 3), camera_from_ego.expand(count, 1, 4, 4), GRID)
    assert torch.equal(proposed.flatten(1).nonzero(), torch.stack([torch.arange(count), chosen], dim=1))


def test_several_cameras_propose_what_each_proposes():
    depth, (intrinsics, camera_from_ego) = random_depth(2, 3), rig(2, 3)
    together = depth_proposals(depth, intrinsics, camera_from_ego, GRID)
    each = [
        depth_proposals(depth[:, n : n + 1], intrinsics[:, n : n + 1], camera_from_ego[:, n : n + 1], GRID)
        for n in range(3)
    ]
    assert torch.equal(together, each[0] | each[1] | each[2])
    assert not torch.equal(together, each[0])


@pytest.mark.parametrize("nothing", [0.0, -1.0, float("nan"), float("inf")])
def test_what_is_no_depth_proposes_nothing(nothing):
    depth, (intrinsics, camera_from_ego) = random_depth(1, 2), rig(1, 2)
    hole = torch.rand(depth.shape, generator=torch.Generator().manual_seed(1)) < 0.5
    with_hole = depth_proposals(depth.masked_fill(hole, nothing), intrinsics, camera_from_ego, GRID)
    assert torch.equal(with_hole, loop(depth.masked_fill(hole, 0), intrinsics, camera_from_ego, GRID))
    nowhere = depth_proposals(torch.full_like(depth, nothing), intrinsics, camera_from_ego, GRID)
    assert nowhere.shape == (1, *GRID.shape)
    assert not nowhere.any()


def test_depth_outside_the_grid_proposes_nothing():
    intrinsics, camera_from_ego = rig(1, 1)
    assert not depth_proposals(torch.full((1, 1, 9, 15), 90.0).double(), intrinsics, camera_from_ego, GRID).any()


def test_a_mirrored_rig_proposes_the_mirrored_voxels():
    depth = random_depth(1, 1)
    intrinsics = torch.tensor([[9.0, 0, 7.37], [0, 8.0, 4.1], [0, 0, 1]], dtype=torch.float64)
    camera_from_ego = turned(0.0, (0.0, 0.0, 0.3))  # on the plane of symmetry, looking along it
    mirrored = intrinsics.clone()
    mirrored[0, 2] = depth.shape[-1] - 1 - intrinsics[0, 2]
    there = depth_proposals(depth.flip(-1), mirrored[None, None], camera_from_ego[None, None], GRID)
    here = depth_proposals(depth, intrinsics[None, None], camera_from_ego[None, None], GRID)
    assert torch.equal(there.flip(2), here)
    assert here.sum() > 10


def test_mixed_precision_moves_no_proposal():
    depth, (intrinsics, camera_from_ego) = random_depth(2, 2), rig(2, 2)
    inputs = [x.float() for x in (depth, intrinsics, camera_from_ego)]
    expected = depth_proposals(*inputs, GRID)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(depth_proposals(*inputs, GRID), expected)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.6, 1.0])
def test_ragged_to_padded_lists_the_chosen_in_order(share):
    chosen = torch.rand(3, 20, generator=torch.Generator().manual_seed(0)) < share
    chosen[1, 5:] = False
    index, real = ragged_to_padded(chosen)
    counts = [row.sum().item() for row in chosen]
    length = max(1, *counts)
    assert index.shape == real.shape == (3, length)
    for row, places, valid, count in zip(chosen, index, real, counts, strict=True):
        assert places[valid].tolist() == [i for i, c in enumerate(row.tolist()) if c]
        assert valid.tolist() == [True] * count + [False] * (length - count)


def test_rows_go_back_to_the_voxels_they_come_from():
    generator = torch.Generator().manual_seed(0)
    chosen = torch.rand(3, 20, generator=generator) < 0.3
    chosen[2] = False
    rows = torch.randn(3, 20, 4, generator=generator)
    index, real = ragged_to_padded(chosen)
    taken = take_rows(rows, index)
    answer = put_rows(torch.zeros(3, 20, 4), index, real, 2 * taken)
    assert torch.equal(answer, torch.where(chosen[..., None], 2 * rows, 0))


@pytest.mark.parametrize("shape", [(6, 4, 2), (3, 2, 1), (2, 4, 2)])
def test_a_coarser_voxel_is_proposed_where_one_within_it_is(shape):
    proposals = torch.rand(2, 6, 4, 2, generator=torch.Generator().manual_seed(0)) < 0.2
    factors = [n // m for n, m in zip((6, 4, 2), shape, strict=True)]
    expected = torch.zeros(2, *shape, dtype=torch.bool)
    for b, *place in proposals.nonzero().tolist():
        expected[(b, *(p // f for p, f in zip(place, factors, strict=True)))] = True
    assert torch.equal(coarser_proposals(proposals, shape), expected)


def test_proposals_of_another_grid_are_refused():
    with pytest.raises(InputError, match="volume_coarsening"):
        coarser_proposals(torch.zeros(1, 6, 4, 2, dtype=torch.bool), (4, 4, 2))
