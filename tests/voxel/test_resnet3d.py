import pytest
import torch

from occloom.voxel.resnet3d import ResidualUNet3d, group_norm


@pytest.mark.parametrize("shape", [(8, 8, 4), (7, 5, 3), (1, 1, 1)])
def test_keeps_any_shape(shape):
    network = ResidualUNet3d(channels=(4, 8, 12), blocks=(1, 1, 2))
    out = network(torch.randn(2, 4, *shape, generator=torch.Generator().manual_seed(0)))
    assert out.shape == (2, 4, *shape)


def test_sees_far_by_its_coarse_scales():
    network = ResidualUNet3d(channels=(4, 8, 8), blocks=(1, 1, 1))
    volume = torch.randn(1, 4, 24, 4, 4, generator=torch.Generator().manual_seed(0), requires_grad=True)
    network(volume)[0, :, 0].sum().backward()
    reach = volume.grad.abs().sum(dim=(0, 1, 3, 4)).nonzero().max()
    assert reach >= 8  # one block at full resolution alone reaches two voxels


@pytest.mark.parametrize(("channels", "groups"), [(1, 1), (3, 1), (4, 1), (20, 5), (32, 8), (96, 8), (48, 8)])
def test_groups_divide_the_channels(channels, groups):
    assert group_norm(channels).num_groups == groups
