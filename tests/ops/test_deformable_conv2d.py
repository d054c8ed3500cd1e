import itertools
import math

import pytest
import torch
from torch.nn import functional as F

from occloom.errors import InputError
from occloom.ops import deformable_conv2d as module
from occloom.ops.deformable_conv2d import DeformableConv2d, deformable_conv2d

FORMS = [{"padding": 1}, {"padding": 0}, {"padding": 3}]


def problem(form, *, images=2, channels=6, outputs=4, groups=1, kernel=3, size=(6, 9), spread=1.5):
    generator = torch.Generator().manual_seed(0)

    def random(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    x, weight = random(images, channels, *size), random(outputs, channels // groups, kernel, kernel)
    answer = F.conv2d(x, weight, groups=groups, **form).shape[-2:]
    return x, random(images, 2 * kernel**2, *answer) * spread, weight


def naive(x, offsets, weight, *, padding):
    """Place by place and kernel point by kernel point, each over all pixels of the map."""
    (images, channels, height, width), (outputs, inputs, kernel, _) = x.shape, weight.shape
    groups = channels // inputs
    answer = x.new_zeros(images, outputs, *offsets.shape[-2:])
    for m, i, j, ky, kx in itertools.product(
        range(images), range(answer.shape[2]), range(answer.shape[3]), range(kernel), range(kernel)
    ):
        dy, dx = offsets[m, 2 * (ky * kernel + kx) : 2 * (ky * kernel + kx) + 2, i, j]
        y, across = i - padding + ky + dy, j - padding + kx + dx
        rows, columns = (1 - (y - torch.arange(height)).abs(), 1 - (across - torch.arange(width)).abs())
        read = (x[m] * torch.relu(rows)[:, None] * torch.relu(columns)).sum(dim=(1, 2)).view(groups, inputs, 1)
        product = weight[:, :, ky, kx].view(groups, -1, inputs) @ read
        place = torch.zeros_like(answer)
        place[m, :, i, j] = 1
        answer = answer + place * product.reshape(1, -1, 1, 1)
    return answer


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("chunk", [1, 500, 1 << 21])
def test_equals_the_naive_twin_forward_and_backward(form, groups, chunk, monkeypatch):
    monkeypatch.setattr(module, "CHUNK_ELEMENTS", chunk)
    inputs = [t.requires_grad_() for t in problem(form, groups=groups, size=(4, 5))]
    answers = []
    for convolve in (naive, deformable_conv2d):
        answer = convolve(*inputs, **form)
        grad = torch.randn(answer.shape, dtype=answer.dtype, generator=torch.Generator().manual_seed(1))
        answers.append((answer.detach(), *torch.autograd.grad(answer, inputs, grad)))
    for expected, ours in zip(*answers, strict=True):
        assert expected.any()
        torch.testing.assert_close(ours, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("groups", [1, 2])
def test_gradients_by_finite_differences(groups):
    inputs = [
        t.requires_grad_() for t in problem(FORMS[0], images=1, channels=2, outputs=2, groups=groups, size=(2, 3))
    ]
    assert torch.autograd.gradcheck(lambda *given: deformable_conv2d(*given, **FORMS[0]), inputs)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("groups", "kernel"), [(1, 3), (3, 3), (2, 1), (1, 2)])
def test_no_offsets_give_an_ordinary_convolution(form, groups, kernel):
    x, offsets, weight = problem(form, outputs=6, groups=groups, kernel=kernel, size=(13, 8))
    ours = deformable_conv2d(x, torch.zeros_like(offsets), weight, **form)
    torch.testing.assert_close(ours, F.conv2d(x, weight, groups=groups, **form))


@pytest.mark.parametrize(("dy", "dx"), [(1, 0), (0, 2), (-2, 1), (3, -3)])
def test_whole_offsets_read_the_shifted_input(dy, dx):
    x, offsets, weight = problem(FORMS[0], size=(7, 11))
    offsets[:, 0::2], offsets[:, 1::2] = dy, dx
    wide = F.pad(x, (4, 4, 4, 4))
    shifted = torch.roll(wide, (-dy, -dx), dims=(2, 3))
    # Padded by 4, a shift of at most 3 brings zeros in, as outside is zero.
    expected = F.conv2d(shifted, weight, padding=1)[:, :, 4:-4, 4:-4]
    torch.testing.assert_close(deformable_conv2d(x, offsets, weight, **FORMS[0]), expected)


def test_offsets_are_down_then_right_row_by_row():
    """A kernel that is one at point (0, 2) alone, sent to the right: only channels 4 and 5 of the offsets matter."""
    x, offsets, weight = problem(FORMS[0], images=1, channels=1, outputs=1, size=(5, 6))
    weight = torch.zeros_like(weight)
    weight[0, 0, 0, 2] = 1
    offsets[:, 4], offsets[:, 5] = 1, -1  # from (-1, 1) to the place itself
    torch.testing.assert_close(deformable_conv2d(x, offsets, weight, **FORMS[0]), x)


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (5, 1)])
def test_odd_sizes_and_many_images_equal_one_by_one(size):
    x, offsets, weight = problem(FORMS[0], images=3, size=size)
    together = deformable_conv2d(x, offsets, weight, **FORMS[0])
    torch.testing.assert_close(together, naive(x, offsets, weight, **FORMS[0]))
    for m in range(3):
        alone = deformable_conv2d(x[m : m + 1], offsets[m : m + 1], weight, **FORMS[0])
        torch.testing.assert_close(alone, together[m : m + 1])


def test_no_images_give_none():
    x, offsets, weight = problem(FORMS[0])
    assert deformable_conv2d(x[:0], offsets[:0], weight, **FORMS[0]).shape == (0, 4, 6, 9)


def test_the_columns_are_never_held(monkeypatch):
    monkeypatch.setattr(module, "CHUNK_ELEMENTS", 1 << 12)
    inputs = [t.requires_grad_() for t in problem(FORMS[0], channels=16, size=(16, 16))]
    saved = []

    def note(tensor):
        saved.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        total = deformable_conv2d(*inputs, **FORMS[0]).sum()
    total.backward()
    columns = 9 * inputs[0].numel()
    assert sum(saved) < columns / 3
    assert all(t.grad.any() for t in inputs)


@pytest.mark.parametrize(("channels", "groups"), [(8, 1), (8, 4)])
def test_the_module_starts_like_an_ordinary_convolution(channels, groups):
    torch.manual_seed(0)
    module = DeformableConv2d(channels, 12, groups=groups)
    x = torch.randn(2, channels, 5, 7)
    with torch.no_grad():
        module.offset.weight.zero_()
        module.offset.bias.zero_()
        expected = F.conv2d(x, module.weight, padding=1, groups=groups)
        torch.testing.assert_close(module(x), expected)
    assert module.weight.abs().max() <= 1 / math.sqrt(channels // groups * 9)
    names = {name: tuple(p.shape) for name, p in module.named_parameters()}
    assert names == {
        "weight": (12, channels // groups, 3, 3),
        "offset.weight": (18, channels, 3, 3),
        "offset.bias": (18,),
    }


def test_mixed_precision_computes_in_float32():
    torch.manual_seed(0)
    x, offsets, weight = (t.float() for t in problem(FORMS[0]))
    plain = deformable_conv2d(x, offsets, weight, **FORMS[0])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = deformable_conv2d(x, offsets, weight, **FORMS[0])
    assert torch.equal(plain, mixed)


@pytest.mark.parametrize(("channels", "outputs"), [(6, 8), (8, 6)])
def test_groups_that_cannot_share_the_channels_are_refused(channels, outputs):
    with pytest.raises(InputError, match="4 groups"):
        DeformableConv2d(channels, outputs, groups=4)
