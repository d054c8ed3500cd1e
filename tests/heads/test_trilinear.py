import itertools
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from occloom.heads.trilinear import TrilinearHead, TrilinearScores


def coarse(shape=(5, 4, 3), batch=2, classes=4, seed=0, dtype=torch.float64):
    return torch.randn(batch, classes, *shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def tiny_head(channels=6, classes=4, hidden=8, factors=(2, 3, 1), groups=2):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        head = TrilinearHead(channels, classes, hidden=hidden, factors=factors, norm=partial(nn.GroupNorm, groups))
        nn.init.normal_(head.norm.weight)
        nn.init.normal_(head.norm.bias)
    return head.double()


def between(line, factor, i):
    """Where fine voxel i lies between the centres of coarse ones along one axis: two indices and their shares."""
    place = min(max((i + 0.5) / factor - 0.5, 0), line - 1)
    before = min(int(place), max(line - 2, 0))
    return ((before, 1 - (place - before)), (min(before + 1, line - 1), place - before))


@pytest.mark.parametrize(
    ("shape", "factors"),
    [((5, 4, 3), (2, 2, 2)), ((3, 2, 4), (2, 3, 1)), ((1, 3, 2), (4, 2, 2)), ((2, 1, 1), (1, 1, 1))],
)
def test_logits_against_a_loop_over_fine_voxels(shape, factors):
    scores = TrilinearScores(coarse(shape), factors)
    fine = tuple(n * f for n, f in zip(shape, factors, strict=True))
    expected = torch.zeros(2, 4, *fine, dtype=torch.float64)
    for place in itertools.product(*map(range, fine)):
        corners = [between(*axis) for axis in zip(shape, factors, place, strict=True)]
        for (x, wx), (y, wy), (z, wz) in itertools.product(*corners):
            expected[:, :, *place] += wx * wy * wz * scores.coarse[:, :, x, y, z]
    torch.testing.assert_close(scores.logits, expected)


@pytest.mark.parametrize("slab", [1, 2, 3, 5, 8])
@pytest.mark.parametrize("factors", [(2, 2, 2), (1, 2, 1), (3, 1, 2)])
def test_argmax_by_slabs_is_that_of_the_logits(slab, factors):
    scores = TrilinearScores(coarse((5, 3, 4), batch=3, seed=slab), factors)
    expected = scores.logits.argmax(dim=1)
    assert torch.equal(scores.argmax(slab=slab), expected)
    assert len(expected.unique()) == 4


def test_argmax_in_single_precision_is_that_of_the_logits_bit_by_bit():
    scores = TrilinearScores(coarse((19, 6, 4), dtype=torch.float32), (2, 2, 2))
    assert torch.equal(scores.argmax(), scores.logits.argmax(dim=1))


@pytest.mark.parametrize("axis", [2, 3, 4])
def test_a_mirrored_volume_has_mirrored_logits(axis):
    scores = coarse((3, 4, 5))
    mirrored = TrilinearScores(scores.flip(axis), (2, 2, 3)).logits
    torch.testing.assert_close(mirrored.flip(axis), TrilinearScores(scores, (2, 2, 3)).logits)


def test_head_against_the_textbook_layers_forward_and_backward():
    head, grads = tiny_head(), []
    volume = coarse((3, 4, 2), classes=6, seed=1)
    for apply in (
        lambda x: head(x).coarse,
        lambda x: F.conv3d(
            F.group_norm(F.conv3d(x, head.hidden.weight, padding=1), 2, head.norm.weight, head.norm.bias).clamp(min=0),
            head.classify.weight,
        ),
    ):
        x = volume.clone().requires_grad_()
        out = apply(x)
        head.zero_grad()
        (out * coarse((3, 4, 2), seed=2)).sum().backward()
        grads.append([out.detach(), x.grad, *(p.grad.clone() for p in head.parameters())])
    assert len(grads[0]) == 2 + 4
    for ours, plain in zip(*grads, strict=True):
        torch.testing.assert_close(ours, plain)


def test_head_answers_samples_of_a_batch_one_by_one_the_same():
    head, volume = tiny_head(), coarse((3, 2, 5), batch=3, classes=6)
    scores = head(volume)
    assert scores.factors == (2, 3, 1)
    assert scores.logits.shape == (3, 4, 6, 6, 5)
    for b in range(3):
        torch.testing.assert_close(head(volume[b : b + 1]).coarse, scores.coarse[b : b + 1])


def test_scores_leave_mixed_precision():
    head, volume = tiny_head().float(), coarse((3, 2, 5), classes=6, dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert head(volume).coarse.dtype == torch.float32


@pytest.mark.parametrize(("shape", "factors"), [((4, 3, 2), (2, 4, 3)), ((1, 2, 1), (3, 1, 2))])
def test_some_voxels_are_scored_as_among_all(shape, factors):
    scores = TrilinearScores(torch.randn(2, 5, *shape, generator=torch.Generator().manual_seed(0)), factors)
    x, y, z = (torch.arange(n * f).flip(0)[::2] for n, f in zip(shape, factors, strict=True))
    expected = scores.logits[:, :, x][:, :, :, y][..., z]
    torch.testing.assert_close(scores.at(x, y, z), expected, rtol=1e-4, atol=1e-5)
