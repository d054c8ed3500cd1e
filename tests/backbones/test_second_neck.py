import pytest
import torch
import torch.nn.functional as F
from torch import nn

from occloom.backbones.resnet import resnet18
from occloom.backbones.second_neck import SecondNeck, slow_batch_norm
from occloom.interfaces import FeaturePyramid

STRIDES = (4, 8, 16, 32)


def pyramid(size, channels, strides=STRIDES, images=2):
    """Levels as a trunk makes them of images of a size."""
    generator = torch.Generator().manual_seed(0)
    levels = tuple(
        torch.randn(images, c, -(-size[0] // s), -(-size[1] // s), generator=generator)
        for c, s in zip(channels, strides, strict=True)
    )
    return FeaturePyramid(levels=levels, strides=strides)


def test_parameters_are_the_released_count():
    with torch.device("meta"):
        neck = SecondNeck(in_channels=(256, 512, 1024, 2048))
    assert sum(p.numel() for p in neck.parameters()) == 4_916_224
    assert neck.channels == 512


@pytest.mark.parametrize("out_stride", STRIDES)
@pytest.mark.parametrize("size", [(64, 96), (40, 72), (37, 53), (33, 65), (1, 1)])
def test_any_image_gives_a_map_of_its_size_over_the_stride_rounded_up(size, out_stride):
    channels = (2, 3, 4, 5)
    neck = SecondNeck(in_channels=channels, channels=3, out_stride=out_stride, norm=lambda _: nn.Identity())
    out = neck(pyramid(size, channels))
    assert out.strides == (out_stride,)
    assert out.levels[0].shape == (2, 12, -(-size[0] // out_stride), -(-size[1] // out_stride))


def test_each_pixel_against_plain_products():
    """Level by level: a pixel of the map is a sum over the pixels of a finer level, or a share of a coarser one."""
    neck = SecondNeck(in_channels=(2, 3, 4), channels=3, strides=(4, 8, 16)).eval()
    for norm in (deblock[1] for deblock in neck.deblocks):
        norm.running_mean.copy_(torch.tensor([0.1, -0.2, 0.3]))
        norm.running_var.copy_(torch.tensor([0.5, 2.0, 1.5]))
    features = pyramid((48, 80), (2, 3, 4), (4, 8, 16))
    (out,) = neck(features).levels
    fine, same, coarse = (deblock[0].weight for deblock in neck.deblocks)
    for i, j in [(0, 0), (3, 7), (5, 9)]:
        block = features.levels[0][:, :, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2]
        raw = (
            torch.einsum("mcyx,ocyx->mo", block, fine),
            torch.einsum("mc,co->mo", features.levels[1][:, :, i, j], same[:, :, 0, 0]),
            torch.einsum("mc,co->mo", features.levels[2][:, :, i // 2, j // 2], coarse[:, :, i % 2, j % 2]),
        )
        mean, deviation = torch.tensor([0.1, -0.2, 0.3]), (torch.tensor([0.5, 2.0, 1.5]) + 1e-3).sqrt()
        expected = torch.cat([F.relu((x - mean) / deviation) for x in raw], dim=1)
        torch.testing.assert_close(out[:, :, i, j], expected)


def test_serves_a_trunk_of_another_width_and_normalisation():
    def norm(channels):
        return nn.GroupNorm(2, channels)

    trunk = resnet18(width=8, norm=norm)
    neck = SecondNeck(in_channels=trunk.channels, channels=6, out_stride=4, norm=norm)
    (out,) = neck(trunk(torch.rand(1, 3, 45, 70, generator=torch.Generator().manual_seed(0)))).levels
    assert out.shape == (1, 24, 12, 18)
    out.sum().backward()
    assert all(p.grad is not None for p in (*neck.parameters(), *trunk.parameters()))


def test_running_statistics_average_over_many_steps():
    norm = slow_batch_norm(2)
    x = torch.randn(4, 2, 8, 8, generator=torch.Generator().manual_seed(0)) + 3
    norm(x)
    torch.testing.assert_close(norm.running_mean, 0.01 * x.mean(dim=(0, 2, 3)))


def test_levels_of_other_strides_are_a_mistake():
    neck = SecondNeck(in_channels=(2, 3), strides=(8, 16))
    with pytest.raises(AssertionError):
        neck(pyramid((64, 64), (2, 3), (4, 8)))
