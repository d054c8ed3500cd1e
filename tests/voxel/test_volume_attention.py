import itertools

import pytest
import torch

from occloom.errors import InputError
from occloom.geometry.voxelize import voxel_coordinates
from occloom.grid import VoxelGrid
from occloom.voxel.volume_attention import DeformableVolumeAttention, voxel_fractions

SIZE = (5, 4, 3)


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def lively(attention):
    for i, parameter in enumerate(attention.parameters()):
        parameter.data += 0.3 * random(*parameter.shape, seed=i)
    return attention


def hat(fraction, count):
    return torch.relu(1 - (fraction * count - 0.5 - torch.arange(count)).abs())


def naive(attention, queries, references, volume):
    """The samples one by one, each over all voxels."""
    heads, points = attention.layout
    values = attention.value_proj(volume.movedim(1, -1)).unflatten(-1, (heads, -1))
    looked = []
    for b, q in itertools.product(*map(range, queries.shape[:2])):
        offsets = attention.sampling_offsets(queries[b, q]).view(heads, points, 3)
        weights = attention.attention_weights(queries[b, q]).view(heads, points).softmax(1)
        for head in range(heads):
            found = 0
            for point in range(points):
                place = references[b, q] + offsets[head, point] / torch.tensor(SIZE)
                shares = [hat(fraction, count) for fraction, count in zip(place, SIZE, strict=True)]
                found = found + weights[head, point] * torch.einsum("xyzc,x,y,z->c", values[b, ..., head, :], *shares)
            looked.append(found)
    return attention.output_proj(torch.stack(looked).view(queries.shape))


def test_equals_the_naive_twin_forward_and_backward():
    attention = lively(DeformableVolumeAttention(6, heads=3, points=2).double())
    inputs = [random(2, 3, 6, seed=1), random(2, 3, 3, seed=2).sigmoid(), random(2, 6, *SIZE, seed=3)]
    answers = []
    for attend in (attention, lambda *x: naive(attention, *x)):
        leaves = [x.clone().requires_grad_() for x in inputs]
        out = attend(*leaves)
        gradients = torch.autograd.grad((out * random(*out.shape, seed=4)).sum(), [*leaves, *attention.parameters()])
        answers.append((out.detach(), *gradients))
    for ours, theirs in zip(*answers, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_at_first_each_head_looks_from_its_reference_in_its_own_direction():
    attention = DeformableVolumeAttention(8, heads=4, points=3)
    offsets = attention.sampling_offsets(torch.randn(8)).view(4, 3, 3)
    torch.testing.assert_close(offsets.abs().amax(-1), torch.arange(1.0, 4).expand(4, 3))
    torch.testing.assert_close(offsets[:, 2], 3 * offsets[:, 0])
    assert len({tuple(direction) for direction in offsets[:, 0].round(decimals=3).tolist()}) == 4


def test_query_i_reads_voxel_i():
    """Without offsets and with identical projections, the answer is the volume itself, in the order of its voxels."""
    attention = DeformableVolumeAttention(4, heads=2, points=2).double()
    for name, parameter in attention.named_parameters():
        parameter.data.zero_()
        if name in ("value_proj.weight", "output_proj.weight"):
            parameter.data.copy_(torch.eye(4))
    volume = random(2, 4, *SIZE)
    references = voxel_fractions(SIZE).double().expand(2, -1, -1)
    read = attention(random(2, 60, 4), references, volume)
    torch.testing.assert_close(read, volume.flatten(2).transpose(1, 2), rtol=1e-5, atol=1e-6)


def test_fractions_are_those_of_the_grids_centres():
    grid = VoxelGrid(lower=(-40.0, -4.0, -1.0), voxel_size=(16.0, 2.0, 0.4), shape=SIZE)
    expected = voxel_coordinates(grid.centres(), grid) / torch.tensor(SIZE)
    torch.testing.assert_close(voxel_fractions(SIZE), expected.view(-1, 3))


def test_what_does_not_divide_is_refused():
    with pytest.raises(InputError, match="10 channels for 4 heads"):
        DeformableVolumeAttention(10, heads=4)
