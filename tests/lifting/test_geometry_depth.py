import re

import naive_voxdet
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from occloom.errors import InputError
from occloom.lifting.geometry_depth import (
    LAYERS_2D,
    LAYERS_3D,
    BatchNormOfVectors,
    DepthFusion,
    GeometryDepth,
    NeighbourhoodCrossAttention,
    StereoEncoder,
    UNet,
)

SMALL = {"in_channels": 6, "channels": 8, "context_channels": 5, "planes": 8, "fusion_channels": 8}


def count(module):
    return sum(p.numel() for p in module.parameters())


def randomised(module, seed=0):
    """The module in evaluation with random parameters and statistics; no scale is zero."""
    generator = torch.Generator().manual_seed(seed)
    for name, x in module.state_dict().items():
        if x.is_floating_point():
            drawn = 0.3 * torch.randn(x.shape, generator=generator)
            positive = name.endswith(("running_var", "gamma", "layer_scale"))
            x.copy_(0.5 + drawn.abs() if positive else drawn)
    return module.eval()


def inputs(size, *, images=2, planes=8):
    """Features, one-hot planes with unknown pixels, camera vectors."""
    generator = torch.Generator().manual_seed(1)
    plane = torch.randint(0, planes + 3, (images, *size), generator=generator)
    one_hot = F.one_hot(plane, planes + 3)[..., :planes].permute(0, 3, 1, 2).float()
    features = torch.randn(images, 6, *size, generator=generator)
    return features, one_hot, torch.randn(images, 33, generator=generator)


RELEASED = (
    (r"^mono\.depth_conv\.3\.branches\.(\d)\.conv", r"mono.depth_conv.3.aspp\1.atrous_conv"),
    (r"^mono\.depth_conv\.3\.branches\.(\d)\.norm", r"mono.depth_conv.3.aspp\1.bn"),
    (r"^mono\.depth_conv\.3\.pooled_conv", "mono.depth_conv.3.global_avg_pool.1"),
    (r"^mono\.depth_conv\.3\.pooled_norm", "mono.depth_conv.3.global_avg_pool.2"),
    (r"^mono\.depth_conv\.3\.conv", "mono.depth_conv.3.conv1"),
    (r"^mono\.depth_conv\.3\.norm", "mono.depth_conv.3.bn1"),
    (r"^mono\.depth_conv\.4\.offset", "mono.depth_conv.4.conv_offset"),
    (r"^mono\.camera_norm", "mono.bn"),
    (r"^mono\.reduce", "mono.reduce_conv"),
    (r"^mono\.(\w+)_gate", r"mono.\1_se"),
    (r"unet\.conv([1-4])\.", r"unet.conv\1.0."),
    (r"unet\.conv([56])\.", r"unet.conv\1.0."),
    (r"unet\.norm([56])\.", r"unet.conv\1.1."),
    (r"unet\.skip", "unet.redir"),
    (r"^stereo\.unet", "stereo.Unet.0"),
    (r"^fusion\.unet", "fusion.UNet_3D"),
    (r"_asks\.gamma", "_asks.gamma_"),
    (r"_asks\.bias", "_asks.neighbor_atttention.rpb"),
    (r"_asks\.(q|kv|proj)\.", r"_asks.neighbor_atttention.\1."),
    (r"_asks\.gamma_", "_asks.gamma"),
    (r"^fusion\.mono_asks", "fusion.mono_stereo_attention"),
    (r"^fusion\.stereo_asks", "fusion.stereo_mono_attention"),
    (r"channel_attention\.conv2", "channel_attention.conv"),
    (r"channel_attention\.squeeze", "channel_attention.conv2.0"),
    (r"channel_attention\.expand", "channel_attention.conv2.2"),
    (r"^fusion\.conv_out", "fusion.out_conv"),
    (r"^fusion\.", "depth_aggregation."),
    (r"^stereo\.", "stereo_volume_encoder."),
    (r"^mono\.", "depth_net."),
)
"""From our names to the released ones, applied one after the other."""


def released(network):
    state = {}
    for name, x in network.state_dict().items():
        if match := re.match(r"mono\.depth_conv\.3\.branches\.(\d)", name):
            # Released names count the branches from 1.
            name = name.replace(match[0], f"mono.depth_conv.3.branches.{int(match[1]) + 1}")
        for ours, theirs in RELEASED:
            name = re.sub(ours, theirs, name)
        state[f"depth_net.{name}"] = x[None] if name.endswith("rpb") else x
    return state


class TestTheReleasedStructure:
    def test_parameters_are_the_released_counts(self):
        with torch.device("meta"):
            network = GeometryDepth()
        parts = (network, network.mono, network.stereo, network.fusion)
        assert [count(part) for part in parts] == [12_102_702, 6_122_324, 4_708_368, 1_272_010]

    def test_shapes_at_full_size(self):
        with torch.device("meta"):
            network = GeometryDepth().eval()
            out = network(torch.empty(1, 512, 48, 160), torch.empty(1, 112, 48, 160), torch.empty(1, 33))
        assert out.context.shape == (1, 128, 48, 160)
        assert out.depth.shape == (1, 112, 48, 160)

    def test_every_part_against_plain_formulas(self):
        network = randomised(GeometryDepth(**SMALL))
        features, one_hot, camera = inputs((8, 12))
        state = released(network)
        with torch.no_grad():
            context, mono = naive_voxdet.mono_depth(state, features, camera)
            stereo = naive_voxdet.stereo_encoder(state, one_hot)
            depth = naive_voxdet.depth_fusion(state, mono, stereo)
            ours = network(features, one_hot, camera)
            torch.testing.assert_close(network.mono(features, camera), (context, mono))
            torch.testing.assert_close(network.stereo(one_hot), stereo)
        torch.testing.assert_close(ours.context, context)
        torch.testing.assert_close(ours.depth, depth, rtol=1e-4, atol=1e-6)
        assert depth.std(dim=1).min() > 1e-3, "a flat distribution would compare nothing"


class TestAnySize:
    @pytest.mark.parametrize("size", [(5, 5), (7, 9), (6, 13)])
    def test_the_size_stays_and_probabilities_sum_to_one(self, size):
        out = randomised(GeometryDepth(**SMALL))(*inputs(size))
        assert out.context.shape == (2, 5, *size)
        assert out.depth.shape == (2, 8, *size)
        torch.testing.assert_close(out.depth.sum(dim=1), torch.ones(2, *size))

    @pytest.mark.parametrize("sizes", [{"planes": 10}, {"planes": 0}, {"fusion_channels": 12}, {"fusion_channels": 0}])
    def test_numbers_that_cannot_be_shared_out_are_refused(self, sizes):
        with pytest.raises(InputError, match="it is a multiple of"):
            GeometryDepth(**{**SMALL, **sizes})

    def test_a_map_smaller_than_the_neighbourhood_is_refused(self):
        with pytest.raises(ValueError, match="at least 5 x 5"):
            randomised(GeometryDepth(**SMALL))(*inputs((4, 8)))

    def test_images_of_a_batch_do_not_meet(self):
        network = randomised(GeometryDepth(**SMALL))
        features, one_hot, camera = inputs((6, 7), images=3)
        together = network(features, one_hot, camera)
        for m in range(3):
            alone = network(features[m : m + 1], one_hot[m : m + 1], camera[m : m + 1])
            torch.testing.assert_close(together.depth[m : m + 1], alone.depth)
            torch.testing.assert_close(together.context[m : m + 1], alone.context)

    @pytest.mark.parametrize("size", [(1, 1), (5, 7), (6, 9), (8, 3)])
    def test_u_net_against_plain_arithmetic(self, size):
        """At odd sizes: what a transposed convolution with one row more would give, cut."""
        unet = randomised(UNet(4, LAYERS_2D))

        def normalised(part, x, stride=1):
            conv, norm = part
            return F.group_norm(
                F.conv2d(x, conv.weight, stride=stride, padding=conv.weight.shape[-1] // 2), 2, norm.weight, norm.bias
            )

        def up(deconv, norm, x, like):
            y = F.conv_transpose2d(x, deconv.weight, stride=2, padding=1, output_padding=1)
            y = y[..., : like.shape[-2], : like.shape[-1]]
            return F.batch_norm(y, norm.running_mean, norm.running_var, norm.weight, norm.bias)

        x = torch.randn(2, 4, *size, generator=torch.Generator().manual_seed(0))
        half = normalised(unet.conv2, normalised(unet.conv1, x, 2).relu()).relu()
        low = normalised(unet.conv4, normalised(unet.conv3, half, 2).relu()).relu()
        y = (up(unet.conv5, unet.norm5, low, half) + normalised(unet.skip2, half)).relu()
        expected = (up(unet.conv6, unet.norm6, y, x) + normalised(unet.skip1, x)).relu()
        torch.testing.assert_close(unet(x), expected)

    def test_u_net_of_three_axes_keeps_odd_sizes(self):
        x = torch.randn(1, 4, 7, 5, 9, generator=torch.Generator().manual_seed(0))
        assert randomised(UNet(4, LAYERS_3D))(x).shape == x.shape


class TestBeforeTraining:
    def test_attention_adds_nothing(self):
        _, asked, _ = inputs((6, 7))
        attention = NeighbourhoodCrossAttention(8)
        torch.testing.assert_close(attention(torch.rand_like(asked), asked), asked, rtol=0, atol=0)

    def test_fusion_is_the_plain_network_over_both_distributions(self):
        fusion = DepthFusion(planes=8, channels=8).eval()
        _, stereo, _ = inputs((6, 7))
        mono = torch.full_like(stereo, 1 / 8)
        both = torch.stack([stereo, mono], dim=1)
        volume = fusion.unet(F.conv3d(both, fusion.stem.weight, fusion.stem.bias, padding=1).relu())
        logits = F.conv3d(volume, fusion.conv_out.weight, fusion.conv_out.bias, padding=1)
        torch.testing.assert_close(fusion(mono, stereo), logits[:, 0].softmax(dim=1))

    def test_the_deformable_convolution_starts_undeformed(self):
        network = GeometryDepth(**SMALL).eval()
        deformable = network.mono.depth_conv[4]
        x = torch.randn(2, 8, 6, 7, generator=torch.Generator().manual_seed(0))
        torch.testing.assert_close(deformable(x), F.conv2d(x, deformable.weight, padding=1, groups=4))


class TestTraining:
    @pytest.mark.parametrize("images", [1, 2])
    def test_every_parameter_has_a_gradient(self, images):
        network = randomised(GeometryDepth(**SMALL)).train()
        features, one_hot, camera = inputs((7, 9), images=images)
        out = network(features.requires_grad_(), one_hot, camera)
        (out.depth.square().sum() + out.context.square().sum()).backward()
        missing = [name for name, p in network.named_parameters() if p.grad is None]
        assert not missing
        assert all(p.grad.isfinite().all() for p in network.parameters())
        assert features.grad.isfinite().all()

    def test_stereo_depth_reaches_the_answer(self):
        features, one_hot, camera = inputs((6, 7))
        network = randomised(GeometryDepth(**SMALL))
        other = network(features, one_hot.roll(1, dims=1), camera)
        assert not torch.allclose(network(features, one_hot, camera).depth, other.depth)

    def test_unknown_stereo_depth_is_still_a_distribution(self):
        stereo = StereoEncoder(8).eval()(torch.zeros(1, 8, 6, 7))
        torch.testing.assert_close(stereo.sum(dim=1), torch.ones(1, 6, 7))


class TestBatchNormOfVectors:
    def test_is_batch_normalisation_for_more_samples_and_in_evaluation(self):
        ours, plain = BatchNormOfVectors(4), nn.BatchNorm1d(4)
        x = torch.randn(5, 4, generator=torch.Generator().manual_seed(0)) * 3 + 2
        torch.testing.assert_close(ours(x), plain(x))
        torch.testing.assert_close(ours.eval()(x[:1]), plain.eval()(x[:1]))

    def test_one_sample_stays_within_three_whatever_its_unit(self):
        norm = BatchNormOfVectors(3)
        vector = torch.tensor([[700.0, 1e-3, -1e5]])
        for _ in range(20):
            assert (norm(vector).abs() <= 3.001).all()

    def test_single_samples_teach_the_mean_and_variance_of_all(self):
        norm = BatchNormOfVectors(2)
        norm.momentum = 0.005
        generator = torch.Generator().manual_seed(0)
        for _ in range(3000):
            norm(torch.randn(1, 2, generator=generator) * torch.tensor([5.0, 0.5]) + 4)
        torch.testing.assert_close(norm.running_mean, torch.full((2,), 4.0), atol=0.5, rtol=0)
        torch.testing.assert_close(norm.running_var, torch.tensor([25.0, 0.25]), atol=0, rtol=0.2)

    def test_two_forwards_before_one_backward(self):
        norm = BatchNormOfVectors(2)
        x = torch.ones(1, 2, requires_grad=True)
        (norm(x) + norm(2 * x)).sum().backward()
        assert x.grad.isfinite().all()
