import itertools

import pytest
import torch
import torch.nn.functional as F

from occloom.ops import deformable_attention_volume as module
from occloom.ops.deformable_attention_volume import deformable_attention_volume


def problem(*, batch=2, queries=4, heads=2, channels=3, points=3, size=(5, 4, 3), dtype=torch.float64):
    """Volumes without equal sides, and places of which a third lie outside."""
    generator = torch.Generator().manual_seed(0)

    def random(*shape):
        return torch.randn(*shape, generator=generator, dtype=dtype)

    samples = (batch, queries, heads, points)
    locations = torch.rand(*samples, 3, generator=generator, dtype=dtype) * 1.6 - 0.3
    return random(batch, heads * channels, *size), locations, random(*samples)


def naive(volumes, locations, weights):
    """PyTorch's own sampling, which names the last axis first; every sample is held."""
    batch, queries, heads, points = weights.shape
    folded = volumes.unflatten(1, (heads, -1)).flatten(0, 1)
    grid = (2 * locations - 1).flip(-1).transpose(1, 2).reshape(batch * heads, queries, points, 1, 3)
    sampled = F.grid_sample(folded, grid, align_corners=False)[..., 0].unflatten(0, (batch, heads))
    return (sampled * weights.transpose(1, 2)[:, :, None]).sum(-1).flatten(1, 2).transpose(1, 2)


def naive_loop(volumes, locations, weights):
    """Sample by sample, each over all voxels of its volume."""
    heads = weights.shape[2]
    sums = torch.zeros(*weights.shape[:3], volumes.shape[1] // heads, dtype=volumes.dtype)
    for b, q, head, point in itertools.product(*map(range, weights.shape)):
        hats = [
            torch.relu(1 - (fraction * count - 0.5 - torch.arange(count)).abs())
            for fraction, count in zip(locations[b, q, head, point], volumes.shape[2:], strict=True)
        ]
        feature = torch.einsum("cxyz,x,y,z->c", volumes[b].unflatten(0, (heads, -1))[head], *hats)
        sums[b, q, head] += weights[b, q, head, point] * feature
    return sums.flatten(2)


@pytest.mark.parametrize("chunk", [1, 300, 1 << 21])
def test_equals_pytorchs_sampling_and_a_loop_forward_and_backward(chunk, monkeypatch):
    monkeypatch.setattr(module, "CHUNK_ELEMENTS", chunk)
    inputs = problem()
    torch.testing.assert_close(deformable_attention_volume(*inputs), naive_loop(*inputs))
    answers = []
    for attend in (naive, deformable_attention_volume):
        leaves = [x.clone().requires_grad_() for x in inputs]
        sums = attend(*leaves)
        grad = torch.randn(sums.shape, dtype=sums.dtype, generator=torch.Generator().manual_seed(1))
        answers.append((sums.detach(), *torch.autograd.grad(sums, leaves, grad)))
    for ours, theirs in zip(*answers, strict=True):
        assert theirs.any()
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


def test_gradients_by_finite_differences():
    inputs = [x.requires_grad_() for x in problem(queries=1, channels=2, points=2, size=(2, 3, 2))]
    assert torch.autograd.gradcheck(deformable_attention_volume, inputs)


@pytest.mark.parametrize(
    ("batch", "heads", "points", "size"), [(1, 1, 1, (1, 1, 1)), (3, 4, 1, (1, 9, 1)), (2, 1, 5, (8, 1, 2))]
)
def test_odd_sizes(batch, heads, points, size):
    inputs = problem(batch=batch, heads=heads, points=points, size=size)
    torch.testing.assert_close(deformable_attention_volume(*inputs), naive(*inputs))


def test_the_centre_of_a_voxel_gives_its_feature():
    volumes, locations, weights = problem(batch=1, queries=1, heads=1, points=1)
    i, j, k = 3, 1, 2
    locations[:] = torch.tensor([(i + 0.5) / 5, (j + 0.5) / 4, (k + 0.5) / 3], dtype=torch.float64)
    weights[:] = 2
    torch.testing.assert_close(
        deformable_attention_volume(volumes, locations, weights)[0, 0], 2 * volumes[0, :, i, j, k]
    )


def test_outside_is_zero_on_every_side():
    volumes, locations, weights = problem()
    for axis, side in itertools.product(range(3), (-0.8, 1.8)):
        locations[:] = 0.5
        assert deformable_attention_volume(volumes, locations, weights).any()
        locations[..., axis] = side
        assert not deformable_attention_volume(volumes, locations, weights).any()


def test_no_queries_give_no_sums_and_zero_gradients():
    volumes, locations, weights = problem(queries=0)
    sums = deformable_attention_volume(volumes.requires_grad_(), locations, weights)
    assert sums.shape == (2, 0, 6)
    (grad,) = torch.autograd.grad(sums.sum(), volumes)
    assert grad.shape == volumes.shape
    assert not grad.any()


def test_half_precision_is_summed_in_float32():
    volumes, locations = torch.ones(1, 2, 3, 3, 3, dtype=torch.bfloat16), torch.full((1, 1, 1, 1024, 3), 0.5)
    sums = deformable_attention_volume(volumes, locations, torch.ones(1, 1, 1, 1024, dtype=torch.bfloat16))
    assert torch.equal(sums, torch.full((1, 1, 2), 1024.0))  # bfloat16 stops counting at 256
