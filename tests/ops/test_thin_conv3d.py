import pytest
import torch
import torch.nn.functional as F

from occloom.ops.thin_conv3d import few_to_many, many_to_one, pointwise

SIZES = [(1, 1, 1), (2, 3, 1), (5, 4, 7)]


def random(*shape):
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(*shape, generator=generator, dtype=torch.float64, requires_grad=True)


def agrees(ours, expected, inputs):
    """Values and all gradients, of a sum with random weights."""
    torch.testing.assert_close(ours, expected)
    weights = random(*expected.shape).detach()
    for mine, other in zip(
        torch.autograd.grad((ours * weights).sum(), inputs),
        torch.autograd.grad((expected * weights).sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(mine, other)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("channels", [1, 2])
def test_few_to_many_is_the_convolution_and_its_gradient(size, channels):
    inputs = random(2, channels, *size), random(6, channels, 3, 3, 3), random(6)
    agrees(few_to_many(*inputs), F.conv3d(*inputs, padding=1), inputs)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dilation", [2, 3])
def test_few_to_many_may_be_dilated(size, dilation):
    inputs = random(2, 3, *size), random(4, 3, 3, 3, 3), random(4)
    expected = F.conv3d(*inputs, padding=dilation, dilation=dilation)
    agrees(few_to_many(*inputs, dilation), expected, inputs)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last_3d])
def test_many_to_one_is_the_convolution_and_its_gradient(size, memory_format):
    inputs = random(2, 6, *size), random(1, 6, 3, 3, 3), random(1)
    ours = many_to_one(inputs[0].contiguous(memory_format=memory_format), *inputs[1:])
    agrees(ours, F.conv3d(*inputs, padding=1)[:, 0], inputs)


def test_a_bias_may_be_left_out():
    x = random(1, 2, 4, 3, 5)
    few, one = random(4, 2, 3, 3, 3), random(1, 2, 3, 3, 3)
    torch.testing.assert_close(few_to_many(x, few, None), F.conv3d(x, few, padding=1))
    torch.testing.assert_close(many_to_one(x, one, None), F.conv3d(x, one, padding=1)[:, 0])


def test_pointwise_is_the_convolution_and_keeps_the_memory_format():
    inputs = random(2, 6, 5, 4, 7), random(3, 6, 1, 1, 1)
    x = inputs[0].contiguous(memory_format=torch.channels_last_3d)
    ours = pointwise(x, inputs[1])
    assert ours.is_contiguous(memory_format=torch.channels_last_3d)
    agrees(ours, F.conv3d(*inputs), inputs)
    assert few_to_many(x, random(4, 6, 3, 3, 3), None).is_contiguous(memory_format=torch.channels_last_3d)
