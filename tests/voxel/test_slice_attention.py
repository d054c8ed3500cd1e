import itertools

import pytest
import torch

from occloom.errors import InputError
from occloom.voxel.slice_attention import SliceAttention

SHAPE = (3, 4, 2)


def built(channels=4, heads=2, points=2):
    """An attention whose every parameter matters."""
    attention = SliceAttention(channels, heads=heads, points=points).double()
    generator = torch.Generator().manual_seed(1)
    for parameter in attention.parameters():
        parameter.data += 0.4 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return attention


def inputs(batch=2, channels=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    count = SHAPE[0] * SHAPE[1] * SHAPE[2]
    return tuple(
        torch.randn(*lead, channels, generator=generator, dtype=torch.float64)
        for lead in ((batch, count), (count,), (batch, count))
    )


def hat(place, count):
    return torch.relu(1 - (place - torch.arange(count)).abs())


def naive(attention, queries, position, before):
    """Reference protoocc 1.5, sample by sample: the queue's first entry is the past, its second the present."""
    heads, _, points = attention.layout
    rows = []
    for b, (x, y, z) in itertools.product(range(len(queries)), itertools.product(*map(range, SHAPE))):
        i = (x * SHAPE[1] + y) * SHAPE[2] + z
        told = torch.cat([before[b, i], queries[b, i] + position[i]])
        offsets = attention.sampling_offsets(told).view(heads, 2, points, 2)
        weights = attention.attention_weights(told).view(heads, 2, points).softmax(-1)
        entries = []
        for entry, volume in enumerate((before, queries)):
            values = attention.value_proj(volume[b]).view(*SHAPE, heads, -1)[:, :, z]
            found = [torch.zeros_like(values[0, 0, 0])] * heads
            for head, point in itertools.product(range(heads), range(points)):
                dx, dy = offsets[head, entry, point]
                share = hat(x + dx, SHAPE[0])[:, None] * hat(y + dy, SHAPE[1])
                found[head] = found[head] + weights[head, entry, point] * (values[:, :, head] * share[..., None]).sum(
                    (0, 1)
                )
            entries.append(torch.cat(found))
        rows.append(attention.output_proj((entries[0] + entries[1]) / 2))
    return torch.stack(rows).view_as(queries)


@pytest.mark.parametrize("history", [True, False])
def test_equals_the_naive_twin_forward_and_backward(history):
    attention, (queries, position, past) = built(), inputs()
    leaves = [queries.requires_grad_(), position.requires_grad_(), *([past.requires_grad_()] if history else [])]
    answers = []
    for update in (
        attention(queries, position, SHAPE, past if history else None),
        naive(attention, queries, position, past if history else queries),
    ):
        grad = torch.randn(update.shape, dtype=update.dtype, generator=torch.Generator().manual_seed(3))
        answers.append((update, *torch.autograd.grad(update, [*leaves, *attention.parameters()], grad)))
    for ours, expected in zip(*answers, strict=True):
        assert expected.any()
        torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-9)


def test_nothing_crosses_from_slice_to_slice_or_from_sample_to_sample():
    attention, (queries, position, past) = built(), inputs()
    changed_queries, changed_past = queries.clone(), past.clone()
    rows = torch.arange(queries.shape[1]) % SHAPE[2] == 0
    changed_queries[1, rows] += 1
    changed_past[1, rows] += 1
    update, changed = (
        attention(queries, position, SHAPE, past),
        attention(changed_queries, position, SHAPE, changed_past),
    )
    assert torch.equal(changed[0], update[0])
    assert torch.equal(changed[1, ~rows], update[1, ~rows])
    assert not torch.isclose(changed[1, rows], update[1, rows]).all(-1).any()


def test_heads_first_look_around_at_one_voxel_and_two():
    """A queue that tells its place: x in the first channel of each head, y in the second."""
    attention = SliceAttention(32, heads=8, points=2)
    torch.nn.init.eye_(attention.value_proj.weight)
    torch.nn.init.eye_(attention.output_proj.weight)
    shape = (9, 9, 1)
    x, y = torch.meshgrid(torch.arange(9.0), torch.arange(9.0), indexing="ij")
    places = torch.stack([x, y, torch.zeros_like(x), torch.zeros_like(x)], dim=-1).view(1, 81, 4).repeat(1, 1, 8)
    found = attention(places, torch.zeros(81, 32), shape)[0, 4 * 9 + 4].view(8, 4)[:, :2] - 4
    assert torch.allclose(found.abs().amax(1), torch.full((8,), 1.5))
    assert torch.allclose(found[0], torch.tensor([1.5, 0.0]), atol=1e-5)
    assert torch.allclose(found[1], torch.tensor([1.5, 1.5]), atol=1e-5)
    assert torch.allclose(found[2], torch.tensor([0.0, 1.5]), atol=1e-5)


def test_the_full_size_has_the_published_parameters():
    """Reference protoocc 4."""
    assert sum(p.numel() for p in SliceAttention(256).parameters()) == 328_576


def test_heads_that_do_not_divide_the_channels_are_refused():
    with pytest.raises(InputError, match="heads divide"):
        SliceAttention(10, heads=4)
