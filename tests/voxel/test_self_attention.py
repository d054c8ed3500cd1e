import math

import pytest
import torch
from scipy.ndimage import map_coordinates

from occloom.errors import InputError
from occloom.voxel import self_attention as module
from occloom.voxel.self_attention import (
    FlattenedPositions,
    FlattenedSelfAttention,
    SelfAttentionLayer,
    VolumeSelfAttention,
    picture_size,
)


@pytest.mark.parametrize(
    ("shape", "size"),
    [
        ((128, 128, 16), (512, 512)),  # reference monoocc 0.7: four rows per x
        ((100, 100, 8), (200, 400)),  # reference monoocc 4, nuScenes
        ((64, 64, 8), (128, 256)),
        ((5, 3, 2), (5, 6)),
        ((3, 7, 1), (3, 7)),
        ((9, 2, 1), (9, 2)),
    ],
)
def test_the_picture_is_that_of_the_released_models(shape, size):
    assert picture_size(shape) == size
    assert size[0] * size[1] == math.prod(shape)
    assert size[0] % shape[0] == 0


def test_positions_are_those_of_column_and_row():
    positions = FlattenedPositions(6, (4, 6, 2))
    rows, columns = picture_size((4, 6, 2))
    index = torch.tensor([0, 1, columns, rows * columns - 1, 17])
    answer = positions(index)
    for number, row in zip(index.tolist(), answer, strict=True):
        expected = torch.cat([positions.columns[number % columns], positions.rows[number // columns]])
        assert torch.equal(row, expected)


def naive_update(attention, rows, positions, axes_sizes):
    """The layer written out with SciPy's interpolation: heads, places of the queue, points, one by one."""
    heads, queue, points = attention.layout
    told = torch.cat([rows, rows + positions], dim=1)
    offsets = attention.sampling_offsets(told).view(len(rows), heads, queue, points, -1).double().numpy()
    weights = attention.attention_weights(told).view(len(rows), heads, queue, points).softmax(-1).double().numpy()
    values = attention.value_proj(rows).double().numpy()
    channels = values.shape[1] // heads
    volume = values.reshape(*axes_sizes, heads, channels)
    looked = torch.zeros(len(rows), heads, channels, dtype=torch.float64)
    for q in range(len(rows)):
        centre = torch.tensor(range(len(rows))).view(*axes_sizes).eq(q).nonzero()[0].tolist()
        for h in range(heads):
            for c in range(channels):
                for k in range(queue):
                    for p in range(points):
                        offset = offsets[q, h, k, p]
                        # In the picture offsets are (u, v): columns before rows.
                        moved = offset[::-1] if len(axes_sizes) == 2 else offset
                        place = [[a + b] for a, b in zip(centre, moved, strict=True)]
                        sample = map_coordinates(volume[..., h, c], place, order=1, mode="grid-constant")[0]
                        looked[q, h, c] += weights[q, h, k, p] * sample / queue
    return attention.output_proj(looked.flatten(1).float())


@pytest.mark.parametrize("kind", [FlattenedSelfAttention, VolumeSelfAttention])
def test_equals_a_loop_over_samples_whatever_the_chunks(kind, monkeypatch):
    torch.manual_seed(0)
    shape = (3, 4, 2)
    attention = kind(6, shape, heads=2, points=3)
    for parameter in attention.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    rows, positions = torch.randn(2, 24, 6), FlattenedPositions(6, shape)
    layer = SelfAttentionLayer(attention, 6, feedforward=8, dropout=0.3).eval()
    sizes = picture_size(shape) if kind is FlattenedSelfAttention else shape
    with torch.no_grad():
        answers = []
        for chunk in (5, 1000):
            monkeypatch.setattr(module, "CHUNK_VOXELS", chunk)
            answers.append(layer(rows, positions))
        where = positions(torch.arange(24))
        for sample, answer, chunked in zip(rows, *answers, strict=True):
            update = naive_update(attention, sample, where, sizes)
            x = layer.attention_norm(sample + update)
            expected = layer.feedforward_norm(x + layer.feedforward(x))
            torch.testing.assert_close(answer, expected, rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(chunked, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", [FlattenedSelfAttention, VolumeSelfAttention])
def test_gradients_do_not_depend_on_the_chunks(kind, monkeypatch):
    torch.manual_seed(0)
    layer = SelfAttentionLayer(kind(6, (3, 4, 2), heads=2, points=3), 6, feedforward=8, dropout=0.0)
    torch.nn.init.normal_(layer.attention.sampling_offsets.weight, std=0.3)
    positions, rows, grad = FlattenedPositions(6, (3, 4, 2)), torch.randn(2, 24, 6), torch.randn(2, 24, 6)
    grads = []
    for chunk in (7, 1000):
        monkeypatch.setattr(module, "CHUNK_VOXELS", chunk)
        given = rows.clone().requires_grad_()
        inputs = [given, *layer.parameters(), *positions.parameters()]
        grads.append(torch.autograd.grad(layer(given, positions), inputs, grad))
    for one, two in zip(*grads, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("kind", "axes"), [(FlattenedSelfAttention, 2), (VolumeSelfAttention, 3)])
def test_heads_start_in_a_ring_of_eight_directions(kind, axes):
    """Reference monoocc 3: on the square ring, point i at i + 1 cells, with z = 0 in the volume."""
    attention = kind(16, (4, 4, 2), heads=8, points=4)
    bias = attention.sampling_offsets.bias.view(8, 2, 4, axes)
    ring = [(1, 0), (1, 1), (0, 1), (-1, 1), (-1, 0), (-1, -1), (0, -1), (1, -1)]
    for head, (a, b) in enumerate(ring):
        for point in range(4):
            expected = torch.tensor([float(a), float(b), 0.0][:axes]) * (point + 1)
            torch.testing.assert_close(bias[head, :, point], expected.expand(2, -1), atol=1e-5, rtol=0)
    assert not attention.sampling_offsets.weight.any()


def test_sizes_that_do_not_divide_are_refused():
    with pytest.raises(InputError, match="5 heads"):
        FlattenedSelfAttention(16, (2, 2, 2), heads=5)
    with pytest.raises(InputError, match="7 channels"):
        FlattenedPositions(7, (2, 2, 2))
