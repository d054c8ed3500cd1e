import math

import pytest
import torch

from occloom.ops.drop_path import drop_path


def branch(batch=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, 3, 2, 5, generator=generator, dtype=torch.float64) + 3


@pytest.mark.parametrize(("probability", "training"), [(0.4, False), (0.0, True), (0.0, False)])
def test_changes_nothing_where_nothing_is_to_be_dropped(probability, training):
    x = branch()
    assert torch.equal(drop_path(x, probability, training=training), x)


@pytest.mark.parametrize("probability", [0.1, 0.5, 0.8])
def test_whole_samples_vanish_and_the_others_grow_by_what_is_missing(probability):
    x, seen = branch(64), set()
    with torch.random.fork_rng():
        torch.manual_seed(1)
        out = drop_path(x, probability, training=True)
    for sample, dropped in zip(x, out, strict=True):
        kept = bool(dropped.any())
        torch.testing.assert_close(dropped, sample / (1 - probability) if kept else torch.zeros_like(sample))
        seen.add(kept)
    assert seen == {True, False}


@pytest.mark.parametrize("probability", [0.05, 0.3, 0.75])
def test_mean_over_many_draws_is_the_branch(probability):
    count = 40_000
    with torch.random.fork_rng():
        torch.manual_seed(2)
        mean = drop_path(torch.ones(count, 1), probability, training=True).mean().item()
    # Each draw is 0 or 1/keep: its variance is p / (1 - p).
    assert abs(mean - 1) < 4 * math.sqrt(probability / (1 - probability) / count)


def test_gradient_is_that_of_the_kept_samples():
    x = branch(32).requires_grad_()
    with torch.random.fork_rng():
        torch.manual_seed(3)
        out = drop_path(x, 0.5, training=True)
    out.sum().backward()
    kept = out.flatten(1).any(dim=1)
    assert kept.any()
    assert not kept.all()
    assert torch.equal(x.grad, torch.where(kept, 2.0, 0.0)[:, None, None, None].expand_as(x).to(x.dtype))


def test_the_same_seed_drops_the_same_samples():
    outs = []
    for seed in (4, 4, 5):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            outs.append(drop_path(branch(32), 0.5, training=True))
    assert torch.equal(outs[0], outs[1])
    assert not torch.equal(outs[0], outs[2])
