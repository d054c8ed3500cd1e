import itertools

import pytest
import torch

from occloom.ops.neighbourhood_attention import neighbourhood_attention


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def inputs(size, *, images=2, channels=3, values=4, kernel=5):
    query, key = random(images, *size, channels, seed=1), random(images, *size, channels, seed=2)
    return query, key, random(images, *size, values, seed=3), random(2 * kernel - 1, 2 * kernel - 1, seed=4)


def naive(query, key, value, bias):
    """One pixel and one neighbour at a time."""
    kernel, (images, height, width) = (len(bias) + 1) // 2, query.shape[:3]
    answer = torch.zeros(*query.shape[:3], value.shape[-1], dtype=query.dtype)
    for m, i, j in itertools.product(range(images), range(height), range(width)):
        top = min(max(i - kernel // 2, 0), height - kernel)
        left = min(max(j - kernel // 2, 0), width - kernel)
        window = list(itertools.product(range(top, top + kernel), range(left, left + kernel)))
        scores = [query[m, i, j] @ key[m, y, x] + bias[y - i + kernel - 1, x - j + kernel - 1] for y, x in window]
        weights = torch.stack(scores).exp()
        for weight, (y, x) in zip(weights / weights.sum(), window, strict=True):
            answer[m, i, j] += weight * value[m, y, x]
    return answer


@pytest.mark.parametrize("size", [(5, 5), (5, 23), (9, 8), (16, 7), (17, 13)])
def test_against_a_loop_over_pixels(size):
    arguments = inputs(size)
    torch.testing.assert_close(neighbourhood_attention(*arguments), naive(*arguments))


@pytest.mark.parametrize(("kernel", "size"), [(1, (3, 2)), (3, (3, 11)), (7, (10, 9)), (11, (11, 30))])
def test_other_windows_against_the_loop(kernel, size):
    arguments = inputs(size, images=1, kernel=kernel)
    torch.testing.assert_close(neighbourhood_attention(*arguments), naive(*arguments))


@pytest.mark.parametrize(("kernel", "size"), [(3, (3, 4)), (3, (9, 10)), (5, (5, 6))])
def test_gradients(kernel, size):
    arguments = [x.requires_grad_() for x in inputs(size, images=1, channels=2, values=1, kernel=kernel)]
    assert torch.autograd.gradcheck(neighbourhood_attention, arguments, fast_mode=True)


def test_every_bias_has_a_gradient():
    query, key, value, bias = inputs((9, 9), images=1)
    bias.requires_grad_()
    neighbourhood_attention(query, key, value, bias).square().sum().backward()
    assert (bias.grad != 0).all()


def test_a_batch_equals_its_images_one_by_one():
    query, key, value, bias = inputs((7, 10), images=3)
    together = neighbourhood_attention(query, key, value, bias)
    for m in range(3):
        alone = neighbourhood_attention(query[m : m + 1], key[m : m + 1], value[m : m + 1], bias)
        torch.testing.assert_close(together[m : m + 1], alone)


def test_without_images_there_is_no_answer():
    assert neighbourhood_attention(*inputs((6, 7), images=0)).shape == (0, 6, 7, 4)


def test_answers_are_means_of_the_values():
    query, key, value, bias = inputs((12, 9))
    ones = torch.ones_like(value)
    torch.testing.assert_close(neighbourhood_attention(query, key, ones, bias), ones)


@pytest.mark.parametrize("size", [(4, 9), (9, 4)])
def test_a_map_smaller_than_the_window_is_refused(size):
    with pytest.raises(ValueError, match="at least 5 x 5 pixels"):
        neighbourhood_attention(*inputs(size))
