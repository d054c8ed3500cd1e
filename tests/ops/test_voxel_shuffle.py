import itertools

import pytest
import torch

from occloom.ops.voxel_shuffle import repeat_voxels, sum_sub_voxels, voxel_shuffle

FACTORS = [(1, 1, 1), (2, 3, 1), (4, 2, 3)]


@pytest.mark.parametrize("factors", FACTORS)
def test_shuffle_follows_the_documented_channel_order(factors):
    fx, fy, fz = factors
    volume = torch.randn(2, 3 * fx * fy * fz, 3, 2, 5, generator=torch.Generator().manual_seed(0))
    fine = voxel_shuffle(volume, factors)
    assert fine.shape == (2, 3, 3 * fx, 2 * fy, 5 * fz)
    for c, i, j, k in itertools.product(range(3), range(fx), range(fy), range(fz)):
        channel = ((c * fx + i) * fy + j) * fz + k
        assert torch.equal(fine[:, c, i::fx, j::fy, k::fz], volume[:, channel])


def test_shuffle_in_the_plane_is_pixel_shuffle():
    volume = torch.randn(2, 8, 3, 5, generator=torch.Generator().manual_seed(0))
    ours = voxel_shuffle(volume[..., None], (2, 2, 1))[..., 0]
    assert torch.equal(ours, torch.nn.functional.pixel_shuffle(volume, 2))


@pytest.mark.parametrize("factors", FACTORS)
def test_repeat_and_sum_follow_floor_division(factors):
    fx, fy, fz = factors
    coarse = torch.randn(2, 3, 2, 4, generator=torch.Generator().manual_seed(0))
    fine = repeat_voxels(coarse, factors)
    for x, y, z in itertools.product(range(3 * fx), range(2 * fy), range(4 * fz)):
        assert torch.equal(fine[:, x, y, z], coarse[:, x // fx, y // fy, z // fz])
    torch.testing.assert_close(sum_sub_voxels(fine, factors), coarse * (fx * fy * fz))
