import torch

from occloom.backbones.fpn import TopDownNeck
from occloom.interfaces import FeaturePyramid


def pyramid(sizes, channels):
    generator = torch.Generator().manual_seed(0)
    levels = tuple(torch.randn(2, c, *size, generator=generator) for c, size in zip(channels, sizes, strict=True))
    return FeaturePyramid(levels=levels, strides=tuple(8 * 2**i for i in range(len(sizes))))


def test_answers_at_the_finest_level_for_odd_sizes():
    neck = TopDownNeck(in_channels=(4, 6, 8), channels=5)
    out = neck(pyramid([(9, 13), (5, 7), (3, 4)], (4, 6, 8)))
    assert out.strides == (8,)
    assert out.levels[0].shape == (2, 5, 9, 13)


def test_coarse_levels_reach_the_finest():
    neck = TopDownNeck(in_channels=(4, 6), channels=5)
    features = pyramid([(4, 6), (2, 3)], (4, 6))
    changed = FeaturePyramid(levels=(features.levels[0], features.levels[1] + 1), strides=features.strides)
    assert not torch.allclose(neck(features).levels[0], neck(changed).levels[0])


def test_nearest_repeats_coarse_pixels():
    torch.manual_seed(0)
    neck = TopDownNeck(in_channels=(4, 6), channels=5, enlarging="nearest")
    features = pyramid([(4, 6), (2, 3)], (4, 6))
    fine, coarse = (lateral(level) for lateral, level in zip(neck.lateral, features.levels, strict=True))
    expected = neck.smooth(fine + coarse.repeat_interleave(2, 2).repeat_interleave(2, 3))
    torch.testing.assert_close(neck(features).levels[0], expected)
