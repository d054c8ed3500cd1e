"""Each step in place against the plain expression, which it is where gradients follow."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from occloom.ops import in_place
from occloom.ops.in_place import add_enlarged, by_slabs, enlarged_slabs, may_overwrite, normalise

SIZES = [(3, 1, 1), (4, 6, 2), (5, 3, 7), (16, 5, 3)]
FORMATS = [torch.contiguous_format, torch.channels_last_3d]


@pytest.fixture(autouse=True)
def small_slabs(monkeypatch):
    monkeypatch.setattr(in_place, "FEWEST_NUMBERS", 0)
    monkeypatch.setattr(in_place, "SLAB_NUMBERS", 100)


def random(*shape, memory_format=torch.contiguous_format):
    made = torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape))) * 2 + 3
    return made.contiguous(memory_format=memory_format)


def trained(norm):
    with torch.no_grad():
        norm.weight.copy_(random(len(norm.weight)))
        norm.bias.copy_(random(len(norm.bias)))
        if isinstance(norm, nn.BatchNorm3d):
            norm.running_mean.copy_(random(len(norm.bias)))
            norm.running_var.copy_(random(len(norm.bias)).square())
    return norm.eval()


NORMS = [nn.GroupNorm(3, 6), nn.GroupNorm(1, 6), nn.GroupNorm(6, 6), nn.BatchNorm3d(6)]


@torch.no_grad()
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("norm", NORMS, ids=str)
@pytest.mark.parametrize("relu", [False, True])
def test_normalise_in_place(norm, size, memory_format, relu):
    norm, x = trained(norm), random(2, 6, *size, memory_format=memory_format)
    expected = F.relu(norm(x)) if relu else norm(x)
    ours = normalise(norm, x, relu=relu)
    assert ours.data_ptr() == x.data_ptr()
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_normalise_loses_no_more_than_the_plain_one_where_means_are_far_above_deviations():
    norm, x = trained(nn.GroupNorm(3, 6)), 1000 + random(2, 6, 16, 5, 3, memory_format=torch.channels_last_3d)
    exact = norm.double()(x.double())
    plain = norm.float()(x)
    assert (normalise(norm, x) - exact).abs().max() < 2 * (plain - exact).abs().max()


@pytest.mark.parametrize("norm", NORMS, ids=str)
def test_normalise_with_gradients_is_the_plain_expression(norm):
    norm = trained(norm)
    x, twin = random(2, 6, 5, 3, 7).requires_grad_(), random(2, 6, 5, 3, 7).requires_grad_()
    ours, expected = normalise(norm, x, relu=True), F.relu(norm(twin))
    torch.testing.assert_close(ours, expected, rtol=0, atol=0)
    weights = random(*x.shape)
    for mine, other in zip(
        torch.autograd.grad((ours * weights).sum(), [x, *norm.parameters()]),
        torch.autograd.grad((expected * weights).sum(), [twin, *norm.parameters()]),
        strict=True,
    ):
        torch.testing.assert_close(mine, other, rtol=0, atol=0)
    assert torch.equal(x, twin)


@torch.no_grad()
def test_batch_statistics_and_other_norms_are_left_to_the_module():
    x = random(2, 6, 5, 3, 7)
    ours, twin = nn.BatchNorm3d(6), nn.BatchNorm3d(6)
    torch.testing.assert_close(normalise(ours, x.clone()), twin(x))
    assert torch.equal(ours.running_mean, twin.running_mean)
    torch.testing.assert_close(normalise(nn.Identity(), x.clone(), relu=True), x.relu())


@torch.no_grad()
@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("coarse", [(4, 3, 2), (2, 3, 2), (4, 5, 3), (8, 6, 4), (3, 3, 2), (1, 1, 1)])
def test_add_enlarged_in_place(coarse, memory_format):
    x, small = random(2, 3, 8, 6, 4, memory_format=memory_format), random(2, 3, *coarse, memory_format=memory_format)
    expected = x + F.interpolate(small, size=x.shape[2:], mode="trilinear", align_corners=False)
    torch.testing.assert_close(add_enlarged(x, small), expected)


@pytest.mark.parametrize("coarse", [(4, 3, 2), (8, 6, 4)])
def test_add_enlarged_with_gradients_is_the_plain_expression(coarse):
    x, small = random(2, 3, 8, 6, 4).requires_grad_(), random(2, 3, *coarse).requires_grad_()
    expected = x + F.interpolate(small, size=x.shape[2:], mode="trilinear", align_corners=False)
    ours, weights = add_enlarged(x, small), random(*x.shape)
    torch.testing.assert_close(ours, expected)
    for mine, other in zip(
        torch.autograd.grad((ours * weights).sum(), [x, small]),
        torch.autograd.grad((expected * weights).sum(), [x, small]),
        strict=True,
    ):
        torch.testing.assert_close(mine, other)


@pytest.mark.parametrize("slab", [1, 2, 5])
def test_enlarged_slabs_are_the_enlarged_volume(slab):
    small = random(2, 3, 5, 3, 2)
    whole = F.interpolate(small, size=(15, 7, 4), mode="trilinear", align_corners=False)
    torch.testing.assert_close(torch.cat(list(enlarged_slabs(small, (15, 7, 4), slab=slab)), dim=2), whole)


@pytest.mark.parametrize("axis", [1, 2])
def test_by_slabs_overwrites_without_gradients_only(axis):
    layer = nn.Linear(3, 3)
    x = random(2, 19, 11, 3)
    expected = layer(x)
    torch.testing.assert_close(by_slabs(layer, x, axis), expected, rtol=0, atol=0)
    assert torch.equal(x, random(2, 19, 11, 3))
    with torch.no_grad():
        torch.testing.assert_close(by_slabs(layer, x, axis), expected)
        torch.testing.assert_close(x, expected)


def test_only_large_plain_volumes_are_overwritten(monkeypatch):
    x = random(2, 3, 4, 4, 4)
    assert not may_overwrite(x)
    with torch.no_grad():
        assert may_overwrite(x)
        assert not may_overwrite(x.double())
        assert not may_overwrite(x.to("meta"))
        with torch.autocast("cpu", torch.bfloat16):
            assert not may_overwrite(x)
        monkeypatch.setattr(in_place, "FEWEST_NUMBERS", x.numel() + 1)
        assert not may_overwrite(x)
