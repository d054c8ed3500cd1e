"""Divergences against loops, PyTorch's own and the laws that each obeys."""

import math

import pytest
import torch
from torch import nn

from occloom.losses.distillation import ChannelDivergence, RawDivergence, mean_divergence

KINDS = (ChannelDivergence(), ChannelDivergence(temperature=2.5), RawDivergence())


def volumes(batch=2, channels=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shape = (batch, channels, 3, 4, 2)
    where = torch.rand(shape[:1] + shape[2:], generator=generator) < 0.4
    return torch.randn(shape, generator=generator), torch.randn(shape, generator=generator), where


@pytest.mark.parametrize("kind", KINDS, ids=repr)
def test_equals_a_loop_over_voxels_and_channels(kind):
    teacher, student, where = volumes()
    values = []
    for b, x, y, z in where.nonzero().tolist():
        t, s = teacher[b, :, x, y, z].tolist(), student[b, :, x, y, z].tolist()
        if isinstance(kind, RawDivergence):
            values.append(sum(math.exp(a) * (a - c) for a, c in zip(t, s, strict=True)) / len(t))
            continue
        p, q = ([math.exp(v / kind.temperature) for v in part] for part in (t, s))
        p, q = [v / sum(p) for v in p], [v / sum(q) for v in q]
        values.append(sum(a * math.log(a / c) for a, c in zip(p, q, strict=True)))
    assert mean_divergence(kind, teacher, student, where).item() == pytest.approx(sum(values) / len(values), rel=1e-5)


def test_the_raw_form_is_pytorchs_on_features_that_are_no_logarithms():
    """Reference monoocc 0.5: KLDivLoss of the mean over channels and occupied voxels."""
    teacher, student, where = volumes()
    rows = [volume.permute(0, 2, 3, 4, 1)[where] for volume in (teacher, student)]
    expected = nn.KLDivLoss(reduction="none", log_target=True)(rows[1], rows[0]).mean()
    torch.testing.assert_close(mean_divergence(RawDivergence(), teacher, student, where), expected)


def test_the_channel_form_is_pytorchs_of_logarithms():
    teacher, student, where = volumes()
    rows = [volume.permute(0, 2, 3, 4, 1)[where].log_softmax(1) for volume in (teacher, student)]
    expected = nn.KLDivLoss(reduction="batchmean", log_target=True)(rows[1], rows[0])
    torch.testing.assert_close(mean_divergence(ChannelDivergence(), teacher, student, where), expected)


def test_the_channel_form_is_zero_for_equals_and_never_below():
    teacher, student, where = volumes()
    assert mean_divergence(ChannelDivergence(), teacher, teacher + 3, where).item() == pytest.approx(0, abs=1e-6)
    assert mean_divergence(ChannelDivergence(), teacher, student, where) > 0
    assert mean_divergence(RawDivergence(), teacher, student + 100, where) < -1  # no bound


@pytest.mark.parametrize("kind", KINDS, ids=repr)
def test_only_the_student_learns_and_only_where_it_counts(kind):
    teacher, student, where = volumes()
    teacher.requires_grad_()
    student.requires_grad_()
    mean_divergence(kind, teacher, student, where).backward()
    assert teacher.grad is None
    assert torch.equal(student.grad.abs().sum(1) > 0, where)


@pytest.mark.parametrize("kind", KINDS, ids=repr)
def test_where_nothing_counts_it_is_zero_with_a_gradient(kind):
    teacher, student, where = volumes()
    student.requires_grad_()
    loss = mean_divergence(kind, teacher.half(), student, torch.zeros_like(where))
    loss.backward()
    assert loss == 0
    assert not student.grad.any()


def test_half_precision_is_summed_in_full():
    teacher, student, where = volumes()
    loss = mean_divergence(ChannelDivergence(), teacher.half(), student, where)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(
        loss, mean_divergence(ChannelDivergence(), teacher, student, where), rtol=1e-2, atol=1e-3
    )
