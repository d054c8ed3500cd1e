import itertools

import pytest
import torch
from torch.nn import functional as F

from occloom.ops import deformable_conv_v3 as module
from occloom.ops.deformable_conv_v3 import deformable_conv_v3

CPU = torch.device("cpu")


def problem(*, images=2, size=(3, 4), groups=2, channels=3, points=9, spread=1.5):
    generator = torch.Generator().manual_seed(0)

    def random(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    offsets = random(images, *size, groups, points, 2) * spread
    return random(images, *size, groups * channels), offsets, random(images, *size, groups, points)


def naive(values, offsets, weights, *, offset_scale=1.0):
    """Pixel by pixel, group by group and point by point, each over all pixels of the map."""
    images, height, width, groups, points = weights.shape
    edge, rows = round(points**0.5), []
    for m, i, j, g in itertools.product(range(images), range(height), range(width), range(groups)):
        own, total = values[m].chunk(groups, dim=-1)[g], values.new_zeros(())
        for k in range(points):
            step_x, step_y = k // edge - edge // 2, k % edge - edge // 2
            x = j + offset_scale * (step_x + offsets[m, i, j, g, k, 0])
            y = i + offset_scale * (step_y + offsets[m, i, j, g, k, 1])
            near_y, near_x = (1 - (y - torch.arange(height)).abs(), 1 - (x - torch.arange(width)).abs())
            share = torch.relu(near_y)[:, None] * torch.relu(near_x)
            total = total + weights[m, i, j, g, k] * (own * share[..., None]).sum(dim=(0, 1))
        rows.append(total)
    return torch.stack(rows).view(images, height, width, -1)


@pytest.mark.parametrize(
    ("sizes", "offset_scale", "chunk"),
    [
        ({}, 2.0, 1 << 21),
        ({}, 1.0, 1),
        ({"groups": 1, "channels": 4}, 1.5, 200),
        ({"groups": 5, "channels": 1, "size": (3, 2)}, 2.0, 60),
        ({"points": 1}, 1.0, 1 << 21),
    ],
)
def test_equals_the_naive_twin_forward_and_backward(sizes, offset_scale, chunk, monkeypatch):
    monkeypatch.setattr(module, "CHUNK_ELEMENTS", chunk)
    inputs = [t.requires_grad_() for t in problem(**sizes)]
    answers = []
    for convolve in (naive, deformable_conv_v3):
        answer = convolve(*inputs, offset_scale=offset_scale)
        grad = torch.randn(answer.shape, dtype=answer.dtype, generator=torch.Generator().manual_seed(1))
        answers.append((answer.detach(), *torch.autograd.grad(answer, inputs, grad)))
    for expected, ours in zip(*answers, strict=True):
        assert expected.any()
        torch.testing.assert_close(ours, expected, rtol=1e-10, atol=1e-10)


def test_gradients_by_finite_differences():
    inputs = [t.requires_grad_() for t in problem(images=2, size=(1, 2), groups=2, channels=2)]
    assert torch.autograd.gradcheck(lambda *given: deformable_conv_v3(*given, offset_scale=2.0), inputs)


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (5, 1), (7, 9)])
@pytest.mark.parametrize("points", [1, 9, 25])
def test_no_offsets_and_one_weight_everywhere_give_an_ordinary_depthwise_convolution(size, points):
    values, offsets, weights = problem(size=size, points=points)
    edge, kernel = round(points**0.5), weights[0, 0, 0]
    same = kernel.expand_as(weights)
    ours = deformable_conv_v3(values, torch.zeros_like(offsets), same)
    # Column by column: x is the slow axis of the points, but the fast one of a convolution's kernel.
    matrix = kernel.view(2, edge, edge).mT.repeat_interleave(3, dim=0)[:, None]
    expected = F.conv2d(values.permute(0, 3, 1, 2), matrix, padding=edge // 2, groups=6)
    torch.testing.assert_close(ours.permute(0, 3, 1, 2), expected)


@pytest.mark.parametrize(("x", "y"), [(1, 0), (0, 2), (-2, 1), (30, -30)])
def test_whole_offsets_read_the_shifted_input_and_zero_outside(x, y):
    values, offsets, weights = problem(size=(6, 8))
    offsets[..., 0], offsets[..., 1] = x, y
    wide = F.pad(values, (0, 0, 40, 40, 40, 40))
    read = torch.roll(wide, (-y, -x), dims=(1, 2))
    expected = deformable_conv_v3(read, offsets.new_zeros(2, 86, 88, 2, 9, 2), _framed(weights))[:, 40:-40, 40:-40]
    torch.testing.assert_close(deformable_conv_v3(values, offsets, weights), expected)


def _framed(weights):
    return F.pad(weights, (0, 0, 0, 0, 40, 40, 40, 40))


def test_points_go_down_first_then_to_the_right():
    points = module.kernel_points(9, dtype=torch.float64, device=CPU).tolist()
    assert points[:4] == [[-1, -1], [-1, 0], [-1, 1], [0, -1]]


def test_images_do_not_see_one_another_and_none_give_none():
    inputs = problem(images=3)
    together = deformable_conv_v3(*inputs)
    for m in range(3):
        torch.testing.assert_close(deformable_conv_v3(*(t[m : m + 1] for t in inputs)), together[m : m + 1])
    assert deformable_conv_v3(*(t[:0] for t in inputs)).shape == (0, 3, 4, 6)


def test_what_is_sampled_is_never_held(monkeypatch):
    monkeypatch.setattr(module, "CHUNK_ELEMENTS", 1 << 12)
    inputs = [t.requires_grad_() for t in problem(size=(16, 16), groups=1, channels=64)]
    saved = []

    def note(tensor):
        saved.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        total = deformable_conv_v3(*inputs).sum()
    total.backward()
    assert sum(saved) < 9 * inputs[0].numel() / 3
    assert all(t.grad.any() for t in inputs)


def test_mixed_precision_computes_in_float32():
    inputs = [t.float() for t in problem()]
    plain = deformable_conv_v3(*inputs)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = deformable_conv_v3(*inputs)
    assert torch.equal(plain, mixed)
    halved = deformable_conv_v3(inputs[0].bfloat16(), *inputs[1:])
    torch.testing.assert_close(halved, deformable_conv_v3(inputs[0].bfloat16().float(), *inputs[1:]))
