import itertools
from dataclasses import dataclass

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from occloom.ops import deformable_attention as module
from occloom.ops.deformable_attention import (
    deformable_attention,
    deformable_attention_3d,
    dense_deformable_attention,
    dense_deformable_attention_3d,
)


@dataclass
class Problem:
    """Every query in every image."""

    values: tuple
    depths: tuple
    locations: torch.Tensor
    weights: torch.Tensor

    @property
    def image_index(self):
        images, queries = self.weights.shape[:2]
        return torch.arange(images).repeat_interleave(queries)

    def leaves(self):
        for tensor in (*self.values, *self.depths, self.locations, self.weights):
            tensor.requires_grad_()
        return self


def problem(
    *, images=2, queries=3, heads=2, channels=3, points=3, sizes=((5, 7), (2, 3)), planes=(4, 6), dtype=torch.float64
):
    """Maps that are not square, depth planes that differ, and places of which a third lie outside."""
    generator = torch.Generator().manual_seed(0)

    def random(*shape):
        return torch.randn(*shape, generator=generator, dtype=dtype)

    samples = (images, queries, heads, len(sizes), points)
    return Problem(
        values=tuple(random(images, heads * channels, *size) for size in sizes),
        depths=tuple(random(images, count, *size).softmax(1) for count, size in zip(planes, sizes, strict=True)),
        locations=torch.rand(*samples, 3, generator=generator, dtype=dtype) * 1.6 - 0.3,
        weights=random(*samples),
    )


def gathered(p, axes):
    locations, weights = p.locations[..., :axes].flatten(0, 1), p.weights.flatten(0, 1)
    if axes == 2:
        sums = deformable_attention(p.values, p.image_index, locations, weights)
    else:
        sums = deformable_attention_3d(p.values, p.depths, p.image_index, locations, weights)
    return sums.unflatten(0, p.weights.shape[:2])


def dense(p, axes):
    if axes == 2:
        return dense_deformable_attention(p.values, p.locations[..., :2], p.weights)
    return dense_deformable_attention_3d(p.values, p.depths, p.locations, p.weights)


def hat(fraction, count):
    """Share of each of `count` cells in a place between them."""
    return torch.relu(1 - (fraction * count - 0.5 - torch.arange(count)).abs())


def naive(p, axes):
    """Sample by sample; each over all cells of its map and, with depth, of the whole volume of feature times depth."""
    images, queries, heads, levels, points = p.weights.shape
    channels = p.values[0].shape[1] // heads
    sums = p.weights.new_zeros(images, queries, heads, channels)
    for m, q, head, level, point in itertools.product(*map(range, (images, queries, heads, levels, points))):
        at, weight = p.locations[m, q, head, level, point], p.weights[m, q, head, level, point]
        feature = p.values[level][m, head * channels : (head + 1) * channels]
        across = hat(at[1], feature.shape[1])[:, None] * hat(at[0], feature.shape[2])
        if axes == 3:
            depth = p.depths[level][m]
            across = (hat(at[2], len(depth))[:, None, None] * across * depth).sum(dim=0)
        one = torch.zeros_like(sums)
        one[m, q, head] = 1
        sums = sums + one * weight * (feature * across).sum(dim=(1, 2))
    return sums.flatten(2)


@pytest.mark.parametrize("axes", [2, 3])
@pytest.mark.parametrize("chunk", [1, 300, 1 << 21])
def test_gathered_dense_and_naive_agree_forward_and_backward(axes, chunk, monkeypatch):
    monkeypatch.setattr(module, "CHUNK_ELEMENTS", chunk)
    p = problem().leaves()
    inputs = (*p.values, *(p.depths if axes == 3 else ()), p.locations, p.weights)
    answers = []
    for attend in (naive, dense, gathered):
        sums = attend(p, axes)
        grad = torch.randn(sums.shape, dtype=sums.dtype, generator=torch.Generator().manual_seed(1))
        answers.append((sums.detach(), *torch.autograd.grad(sums, inputs, grad)))
    for expected, *others in zip(*answers, strict=True):
        assert expected.any()
        for other in others:
            torch.testing.assert_close(other, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("axes", [2, 3])
def test_gradients_by_finite_differences(axes):
    p = problem(queries=1, channels=2, points=2, sizes=((2, 3),), planes=(2,)).leaves()

    def attend(value, depth, locations, weights):
        return gathered(Problem((value,), (depth,), locations, weights), axes)

    assert torch.autograd.gradcheck(attend, (*p.values, *p.depths, p.locations, p.weights))


@pytest.mark.parametrize("axes", [2, 3])
@pytest.mark.parametrize(
    ("images", "heads", "points", "size"), [(1, 1, 1, (1, 1)), (3, 4, 1, (1, 9)), (2, 1, 5, (8, 1))]
)
def test_odd_sizes(axes, images, heads, points, size):
    p = problem(images=images, heads=heads, points=points, sizes=(size,), planes=(1,))
    torch.testing.assert_close(gathered(p, axes), naive(p, axes))
    torch.testing.assert_close(dense(p, axes), naive(p, axes))


@pytest.mark.parametrize("axes", [2, 3])
def test_any_pairs_in_any_order(axes):
    p = problem(images=3, queries=4)
    whole = gathered(p, axes).flatten(0, 1)
    chosen = torch.tensor([7, 0, 11, 7, 3])
    locations, weights = p.locations[..., :axes].flatten(0, 1)[chosen], p.weights.flatten(0, 1)[chosen]
    if axes == 2:
        some = deformable_attention(p.values, p.image_index[chosen], locations, weights)
    else:
        some = deformable_attention_3d(p.values, p.depths, p.image_index[chosen], locations, weights)
    assert torch.equal(some, whole[chosen])


@pytest.mark.parametrize("axes", [2, 3])
def test_no_queries_give_no_sums_and_zero_gradients(axes):
    p = problem(queries=0).leaves()
    for attend in (gathered, dense):
        sums = attend(p, axes)
        assert sums.shape == (2, 0, 6)
        (grad,) = torch.autograd.grad(sums.sum(), p.values[0])
        assert grad.shape == p.values[0].shape
        assert not grad.any()


@pytest.mark.parametrize("axes", [2, 3])
def test_outside_is_zero_on_every_side(axes):
    p = problem()
    for axis, side in itertools.product(range(axes), (-0.8, 1.8)):
        p.locations = torch.full_like(p.locations, 0.5)
        assert gathered(p, axes).any()
        p.locations[..., axis] = side
        assert not gathered(p, axes).any()
        assert not dense(p, axes).any()


def test_the_centre_of_a_cell_gives_its_feature_times_its_probability():
    p = problem(images=1, queries=1, heads=1, points=1, sizes=((5, 7),), planes=(4,))
    i, j, d = 3, 5, 2
    p.locations[:] = torch.tensor([(j + 0.5) / 7, (i + 0.5) / 5, (d + 0.5) / 4], dtype=torch.float64)
    p.weights[:] = 2
    feature = p.values[0][0, :, i, j]
    torch.testing.assert_close(gathered(p, 2)[0, 0], 2 * feature)
    torch.testing.assert_close(gathered(p, 3)[0, 0], 2 * feature * p.depths[0][0, d, i, j])


def test_half_precision_is_summed_in_float32():
    value, image_index = torch.ones(1, 2, 3, 3, dtype=torch.bfloat16), torch.zeros(1, dtype=torch.int64)
    locations, weights = torch.full((1, 1, 1, 1024, 2), 0.5), torch.ones(1, 1, 1, 1024, dtype=torch.bfloat16)
    sums = deformable_attention((value,), image_index, locations, weights)
    assert torch.equal(sums, torch.full((1, 2), 1024.0))  # bfloat16 stops counting at 256


class LargestTensor(TorchDispatchMode):
    """Remembers the most elements any operation returned."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(tensor, torch.Tensor):
                self.elements = max(self.elements, tensor.untyped_storage().nbytes() // tensor.element_size())
        return result


@pytest.mark.parametrize("axes", [2, 3])
@pytest.mark.parametrize("attend", [gathered, dense])
def test_the_samples_are_never_held(axes, attend, monkeypatch):
    monkeypatch.setattr(module, "CHUNK_ELEMENTS", 1 << 14)
    p = problem(queries=200, channels=16, points=4, sizes=((6, 9),), planes=(8,), dtype=torch.float32).leaves()
    samples, saved = p.weights.numel() * 16, []

    def note(tensor):
        saved.append(tensor.numel())
        return tensor

    with LargestTensor() as largest:
        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            total = attend(p, axes).sum()
        total.backward()
    assert (largest.elements >= samples) == (attend is dense)
    assert (sum(saved) >= samples) == (attend is dense)


@pytest.mark.parametrize("axes", [2, 3])
def test_same_bits_on_one_thread_and_two(axes):
    p = problem(queries=300, channels=8, sizes=((9, 12),), planes=(5,), dtype=torch.float32).leaves()
    inputs, threads, answers = (*p.values, *p.depths, p.locations, p.weights), torch.get_num_threads(), []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            sums = gathered(p, axes)
            answers.append((sums, *torch.autograd.grad((sums**2).sum(), inputs, allow_unused=True)))
    finally:
        torch.set_num_threads(threads)
    for one, two in zip(*answers, strict=True):
        assert (one is None and two is None) or torch.equal(one, two)
