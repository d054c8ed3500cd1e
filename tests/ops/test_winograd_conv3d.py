import pytest
import torch
import torch.nn.functional as F
from torch import nn

from occloom.ops import in_place
from occloom.ops import winograd_conv3d as ops
from occloom.ops.winograd_conv3d import Conv3x3x3, winograd_conv3d

SIZES = [(1, 1, 1), (4, 8, 3), (5, 7, 1), (9, 2, 5), (3, 13, 4)]


def random(*shape, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=dtype)


@torch.no_grad()
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last_3d])
def test_is_the_convolution(size, memory_format):
    x, weight = random(2, 3, *size), random(5, 3, 3, 3, 3)
    ours = winograd_conv3d(x.contiguous(memory_format=memory_format), weight)
    torch.testing.assert_close(ours, F.conv3d(x, weight, padding=1))
    assert ours.is_contiguous(memory_format=torch.channels_last_3d)


@torch.no_grad()
@pytest.mark.parametrize("numbers", [1, 200, 400])
def test_does_not_depend_on_the_chunks(numbers, monkeypatch):
    monkeypatch.setattr(ops, "CHUNK_NUMBERS", numbers)
    x, weight = random(2, 3, 18, 6, 4), random(4, 3, 3, 3, 3)
    torch.testing.assert_close(winograd_conv3d(x, weight), F.conv3d(x, weight, padding=1))


@torch.no_grad()
def test_loses_little_to_rounding():
    x, weight = random(1, 128, 16, 16, 8).relu(), random(128, 128, 3, 3, 3)
    exact = F.conv3d(x, weight, padding=1)
    error = winograd_conv3d(x.float(), weight.float()) - exact
    assert error.abs().max() < 5e-6 * exact.abs().max()


@pytest.mark.parametrize("bias", [False, True])
def test_layer_is_the_plain_one_forward_and_backward(bias, monkeypatch):
    monkeypatch.setattr(ops, "FEWEST_PRODUCTS", 0)
    layer = Conv3x3x3(3, 5, bias=bias)
    plain = nn.Conv3d(3, 5, 3, padding=1, bias=bias)
    plain.load_state_dict(layer.state_dict())
    x = random(2, 3, 5, 6, 7, dtype=torch.float32).requires_grad_()
    ours, expected = layer(x), plain(x)
    torch.testing.assert_close(ours, expected, rtol=0, atol=0)
    for mine, other in zip(
        torch.autograd.grad(ours.square().sum(), [x, *layer.parameters()]),
        torch.autograd.grad(expected.square().sum(), [x, *plain.parameters()]),
        strict=True,
    ):
        torch.testing.assert_close(mine, other, rtol=0, atol=0)
    calls = []
    monkeypatch.setattr(ops, "winograd_conv3d", lambda *inputs: calls.append(inputs) or winograd_conv3d(*inputs))
    with torch.no_grad():
        torch.testing.assert_close(layer(x), expected.detach(), rtol=1e-5, atol=1e-5)
    assert len(calls) == 1


@torch.no_grad()
def test_layer_leaves_small_half_precise_and_shapeless_volumes_to_the_plain_one(monkeypatch):
    monkeypatch.setattr(ops, "winograd_conv3d", lambda *_: pytest.fail("called"))
    layer, x = Conv3x3x3(3, 5), torch.ones(1, 3, 4, 4, 4)
    layer(x)
    monkeypatch.setattr(ops, "FEWEST_PRODUCTS", 0)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16
    layer.double()(x.double())
    layer.to("meta")(x.to("meta").double())


@torch.no_grad()
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last_3d])
@pytest.mark.parametrize("size", [(8, 4, 3), (5, 8, 2)])
def test_overwriting_is_the_convolution(size, memory_format, monkeypatch):
    monkeypatch.setattr(ops, "CHUNK_NUMBERS", 1)
    monkeypatch.setattr(ops, "FEWEST_PRODUCTS", 0)
    monkeypatch.setattr(in_place, "FEWEST_NUMBERS", 0)
    layer = Conv3x3x3(3, 3)
    x = random(2, 3, *size, dtype=torch.float32).contiguous(memory_format=memory_format)
    expected, memory = nn.Conv3d.forward(layer, x), x.data_ptr()
    ours = layer.overwriting(x)
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)
    fits = size[0] % 4 == 0 and memory_format == torch.channels_last_3d
    assert (ours.data_ptr() == memory) == fits


def test_overwriting_with_gradients_is_the_plain_one():
    layer, x = Conv3x3x3(3, 3), random(2, 3, 8, 4, 3, dtype=torch.float32).requires_grad_()
    expected = nn.Conv3d.forward(layer, x)
    torch.testing.assert_close(layer.overwriting(x), expected, rtol=0, atol=0)
