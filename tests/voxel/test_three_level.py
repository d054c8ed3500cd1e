import pytest
import torch
import torch.nn.functional as F

from occloom.voxel.three_level import LevelSum, ThreeLevelEncoder, enlarged, shrunk


def test_levels_halve_and_round_up():
    encoder = ThreeLevelEncoder(3, channels=(4, 6, 8), blocks=(1, 2, 1))
    levels = encoder(torch.randn(2, 3, 9, 6, 5))
    assert [tuple(level.shape) for level in levels] == [(2, 4, 9, 6, 5), (2, 6, 5, 3, 3), (2, 8, 3, 2, 2)]


def test_only_the_first_block_of_a_level_has_a_convolution_on_its_shortcut():
    encoder = ThreeLevelEncoder(3, channels=(4, 4, 4), blocks=(1, 2, 3))
    assert [[block.shortcut is None for block in stage] for stage in encoder.stages] == [
        [False],
        [False, True],
        [False, True, True],
    ]


@pytest.mark.parametrize("size", [(8, 6, 4), (4, 3, 4), (2, 3, 4), (16, 6, 2)])
def test_the_sum_equals_one_convolution_of_levels_side_by_side_forward_and_backward(size):
    torch.manual_seed(0)
    shapes = ((2, 3, 8, 6, 4), (2, 4, 4, 3, 2), (2, 5, 2, 2, 1))
    levels = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    neck = LevelSum((3, 4, 5), 6).double().eval()
    side_by_side = torch.cat([enlarged(shrunk(level, size), size) for level in levels], dim=1)
    expected = F.relu(neck.norm(neck.conv(side_by_side)))
    ours = neck(levels, size)
    assert ours.shape == (2, 6, *size)
    torch.testing.assert_close(ours, expected)
    weight = torch.randn(ours.shape, dtype=torch.float64)
    for one, other in zip(
        torch.autograd.grad((ours * weight).sum(), [*levels, neck.conv.weight]),
        torch.autograd.grad((expected * weight).sum(), [*levels, neck.conv.weight]),
        strict=True,
    ):
        torch.testing.assert_close(one, other)


def test_sizes_change_by_means_of_blocks_and_between_their_centres():
    volume = torch.arange(4.0)[None, None, :, None, None].expand(1, 1, 4, 2, 2)
    assert shrunk(volume, (2, 2, 4))[0, 0, :, 0, 0].tolist() == [0.5, 2.5]
    assert enlarged(volume[:, :, 1:3], (4, 2, 2))[0, 0, :, 0, 0].tolist() == [1.0, 1.25, 1.75, 2.0]
    assert shrunk(volume, (4, 2, 4)) is volume
    assert enlarged(volume, (4, 2, 2)) is volume
