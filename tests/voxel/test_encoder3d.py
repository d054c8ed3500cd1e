from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from occloom.voxel.encoder3d import EncoderBlock3d, VolumeEncoder3d, VolumeNeck

NORM = partial(nn.GroupNorm, 2)


def volume(shape=(5, 6, 3), batch=2, channels=4, seed=0):
    return torch.randn(batch, channels, *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def lively(module, seed=0):
    """A module whose weights, norms and running statistics are all random."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        if tensor.is_floating_point():
            scale = 1.0 if tensor.ndim == 1 else tensor[0].numel() ** -0.5
            drawn = torch.randn(tensor.shape, generator=generator) * scale
            tensor.data.copy_(drawn.abs() + 0.5 if name.endswith("running_var") else drawn)
    return module.double()


def outputs_and_gradients(module, function, *inputs):
    """What a function gives, and the gradients of a random weighting of it for inputs and parameters."""
    module.zero_grad()
    inputs = [x.clone().requires_grad_() for x in inputs]
    out = function(*inputs)
    outs = out if isinstance(out, list) else [out]
    generator = torch.Generator().manual_seed(9)
    sum((o * torch.randn(o.shape, generator=generator, dtype=o.dtype)).sum() for o in outs).backward()
    grads = [p.grad.clone() for p in module.parameters()]
    return [o.detach() for o in outs] + [x.grad for x in inputs] + grads


def assert_same(ours, plain):
    assert len(ours) == len(plain)
    for a, b in zip(ours, plain, strict=True):
        torch.testing.assert_close(a, b)


def normalised(x, norm):
    """A batch or group normalisation written out."""
    if isinstance(norm, nn.BatchNorm3d):
        if norm.training:
            mean, var = x.mean(dim=(0, 2, 3, 4), keepdim=True), x.var(dim=(0, 2, 3, 4), keepdim=True, correction=0)
        else:
            mean, var = (s.view(1, -1, 1, 1, 1) for s in (norm.running_mean, norm.running_var))
        y = (x - mean) / (var + norm.eps).sqrt()
    else:
        grouped = x.reshape(len(x), norm.num_groups, -1)
        mean, var = grouped.mean(dim=2, keepdim=True), grouped.var(dim=2, keepdim=True, correction=0)
        y = ((grouped - mean) / (var + norm.eps).sqrt()).view(x.shape)
    return y * norm.weight.view(1, -1, 1, 1, 1) + norm.bias.view(1, -1, 1, 1, 1)


def plain_block(block, x, stride):
    y = normalised(F.conv3d(x, block.conv1.weight, stride=stride, padding=1), block.norm1).clamp(min=0)
    y = normalised(F.conv3d(y, block.conv2.weight, padding=1), block.norm2)
    if block.shortcut is not None:
        x = normalised(F.conv3d(x, block.shortcut[0].weight, stride=stride, padding=1), block.shortcut[1])
    return (x + y).clamp(min=0)


def plain_encoder(encoder, x):
    levels = []
    for number, stage in enumerate(encoder.stages):
        for position, block in enumerate(stage):
            x = plain_block(block, x, 2 if number > 0 and position == 0 else 1)
        levels.append(x)
    return levels


def plain_neck(neck, levels):
    """The textbook form: enlarge, concatenate, 1x1x1, 3x3x3."""
    x = levels[-1]
    for i in reversed(range(len(levels) - 1)):
        raised = F.interpolate(x, size=levels[i].shape[2:], mode="trilinear", align_corners=False)
        x = F.conv3d(torch.cat([levels[i], raised], dim=1), neck.reduce[i].weight)
        x = normalised(x, neck.reduce_norm[i]).clamp(min=0)
        x = normalised(F.conv3d(x, neck.smooth[i].weight, padding=1), neck.smooth_norm[i]).clamp(min=0)
    return x


def encoder(blocks=(2, 1, 2), drop_path=0.0, norm=NORM):
    return lively(VolumeEncoder3d(4, blocks, drop_path=drop_path, shortcut_norm=norm))


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("norm", [NORM, nn.BatchNorm3d])
@pytest.mark.parametrize("shape", [(5, 6, 3), (8, 4, 1)])
def test_encoder_against_plain_layers_forward_and_backward(shape, norm, training):
    network, x = encoder(norm=norm).train(training), volume(shape)
    assert_same(
        outputs_and_gradients(network, network, x), outputs_and_gradients(network, partial(plain_encoder, network), x)
    )


@pytest.mark.parametrize("shape", [(5, 6, 3), (8, 8, 4), (1, 2, 7)])
@pytest.mark.parametrize("blocks", [(2, 2, 2), (1, 3), (1, 1, 1, 1)])
def test_each_stage_but_the_first_halves_the_volume_rounding_up(blocks, shape):
    for level, out in enumerate(encoder(blocks).eval()(volume(shape))):
        assert out.shape == (2, 4, *(-(-n // 2**level) for n in shape))


@pytest.mark.parametrize("blocks", [(2, 2, 2), (3, 3, 3), (1, 2)])
def test_only_the_first_block_of_a_stage_has_a_convolution_on_its_shortcut(blocks):
    for stage, count in zip(encoder(blocks).stages, blocks, strict=True):
        assert [block.shortcut is not None for block in stage] == [True] + [False] * (count - 1)


def test_drop_path_grows_evenly_towards_its_last_value():
    rates = [block.drop_path for stage in encoder((2, 2, 2), drop_path=0.3).stages for block in stage]
    # Reference voxdet 5.
    assert rates == pytest.approx([0, 0.05, 0.10, 0.15, 0.20, 0.25])


def test_a_dropped_branch_leaves_the_shortcut():
    block = lively(EncoderBlock3d(4, stride=1, drop_path=0.5, shortcut_norm=None))
    x = volume(batch=16)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        out = block(x)
    branch = normalised(F.conv3d(x, block.conv1.weight, padding=1), block.norm1).clamp(min=0)
    branch = normalised(F.conv3d(branch, block.conv2.weight, padding=1), block.norm2)
    dropped = []
    for b in range(16):
        dropped.append(torch.equal(out[b], x[b].clamp(min=0)))
        if not dropped[-1]:
            torch.testing.assert_close(out[b], (x[b] + 2 * branch[b]).clamp(min=0))
    assert set(dropped) == {True, False}
    assert torch.equal(block.eval()(x), block(x))


def test_encoder_and_neck_answer_a_batch_as_one_by_one():
    network, neck = encoder().eval(), lively(VolumeNeck(4, 3, norm=NORM))
    x = volume(batch=3)
    together = network(x)
    merged = neck(together)
    for b in range(3):
        alone = network(x[b : b + 1])
        for one, all_ in zip(alone, together, strict=True):
            torch.testing.assert_close(one, all_[b : b + 1])
        torch.testing.assert_close(neck(alone), merged[b : b + 1])


@pytest.mark.parametrize(
    "shapes",
    [
        [(4, 6, 2), (2, 3, 1)],
        [(5, 7, 3), (3, 4, 2), (2, 2, 1)],
        [(6, 5, 4), (6, 5, 4)],
        [(3, 2, 2)],
    ],
)
def test_neck_against_concatenation_forward_and_backward(shapes):
    neck = lively(VolumeNeck(4, len(shapes), norm=NORM))
    levels = [volume(shape, seed=i) for i, shape in enumerate(shapes)]
    if len(shapes) == 1:
        assert neck(levels) is levels[0]
        return
    assert_same(
        outputs_and_gradients(neck, lambda *x: neck(list(x)), *levels),
        outputs_and_gradients(neck, lambda *x: plain_neck(neck, list(x)), *levels),
    )


def test_neck_reaches_from_the_coarsest_level_to_the_finest():
    neck = lively(VolumeNeck(4, 3, norm=NORM))
    levels = [volume(shape, seed=i).requires_grad_() for i, shape in enumerate([(8, 4, 4), (4, 2, 2), (2, 1, 1)])]
    neck(levels).square().sum().backward()
    assert all(level.grad.abs().sum() > 0 for level in levels)


@pytest.mark.parametrize("axis", [2, 3, 4])
def test_mirrored_kernels_on_a_mirrored_volume_mirror_the_neck(axis):
    neck = lively(VolumeNeck(4, 2, norm=NORM))
    levels = [volume((6, 4, 2)), volume((3, 2, 1), seed=1)]
    expected = neck(levels).flip(axis)
    with torch.no_grad():
        for conv in neck.smooth:
            conv.weight.copy_(conv.weight.flip(axis))
    torch.testing.assert_close(neck([level.flip(axis) for level in levels]), expected)


def test_parameters_of_the_released_sizes():
    with torch.device("meta"):
        network = VolumeEncoder3d(128, (2, 2, 2), drop_path=0.3, shortcut_norm=partial(nn.GroupNorm, 32))
        deeper = VolumeEncoder3d(128, (2, 2, 2), drop_path=0.3, shortcut_norm=nn.BatchNorm3d)
        neck = VolumeNeck(128, 3, norm=partial(nn.GroupNorm, 32))
    # Reference voxdet 10 and 11: encoder with group or batch normalisation, each of its stages, and neck.
    assert [sum(p.numel() for p in stage.parameters()) for stage in network.stages] == [2_213_120] * 3
    assert sum(p.numel() for p in deeper.parameters()) == 6_639_360
    assert sum(p.numel() for p in neck.parameters()) == 951_296
