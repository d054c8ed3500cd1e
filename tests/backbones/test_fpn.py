import torch
import torch.nn.functional as F

from occloom.backbones.fpn import PyramidNeck, TopDownNeck
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


def test_the_whole_pyramid_has_every_level_and_coarser_ones_behind():
    torch.manual_seed(0)
    neck = PyramidNeck(in_channels=(4, 6, 8), channels=5, extra=2)
    features = pyramid([(9, 13), (5, 7), (3, 4)], (4, 6, 8))
    out = neck(features)
    assert out.strides == (8, 16, 32, 64, 128)
    assert [tuple(level.shape) for level in out.levels] == [
        (2, 5, 9, 13),
        (2, 5, 5, 7),
        (2, 5, 3, 4),
        (2, 5, 2, 2),
        (2, 5, 1, 1),
    ]
    top = neck.lateral[2](features.levels[2])
    torch.testing.assert_close(out.levels[2], neck.smooth[2](top))
    torch.testing.assert_close(out.levels[3], neck.behind[0](F.relu(out.levels[2])))
    torch.testing.assert_close(out.levels[4], neck.behind[1](F.relu(out.levels[3])))


def test_in_even_sizes_the_pyramid_repeats_coarse_pixels():
    torch.manual_seed(0)
    neck = PyramidNeck(in_channels=(4, 6), channels=5, extra=0)
    features = pyramid([(4, 6), (2, 3)], (4, 6))
    fine, coarse = (lateral(level) for lateral, level in zip(neck.lateral, features.levels, strict=True))
    expected = neck.smooth[0](fine + coarse.repeat_interleave(2, 2).repeat_interleave(2, 3))
    torch.testing.assert_close(neck(features).levels[0], expected)
