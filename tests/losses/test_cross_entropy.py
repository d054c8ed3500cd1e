import numpy as np
import pytest
import torch

from occloom.grid import LabelSpace
from occloom.losses.cross_entropy import BalancedClasses, EqualClasses, cross_entropy, cross_entropy_by_voxels


def test_against_a_plain_loop():
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(2, 4, 3, 2, 5)), rng.integers(0, 4, (2, 3, 2, 5))
    observed, weights = rng.random((2, 3, 2, 5)) < 0.6, rng.random(4)
    total = weight_sum = 0.0
    for b, x, y, z in np.ndindex(labels.shape):
        if observed[b, x, y, z]:
            scores = logits[b, :, x, y, z]
            nll = np.log(np.exp(scores).sum()) - scores[labels[b, x, y, z]]
            total += weights[labels[b, x, y, z]] * nll
            weight_sum += weights[labels[b, x, y, z]]
    given = [torch.from_numpy(a) for a in (logits, labels, observed, weights)]
    np.testing.assert_allclose(cross_entropy(*given).item(), total / weight_sum, rtol=1e-12)
    np.testing.assert_allclose(cross_entropy_by_voxels(*given).item(), total / observed.sum(), rtol=1e-12)


@pytest.mark.parametrize("function", [cross_entropy, cross_entropy_by_voxels])
def test_nothing_observed_costs_nothing(function):
    logits = torch.randn(1, 4, 2, 2, 2, generator=torch.Generator().manual_seed(0), requires_grad=True)
    labels = torch.zeros(1, 2, 2, 2, dtype=torch.int64)
    loss = function(logits, labels, torch.zeros_like(labels, dtype=torch.bool), torch.ones(4))
    loss.backward()
    assert loss.item() == 0
    assert not logits.grad.any()


def test_class_weights_are_parts():
    space = LabelSpace(("a", "b", "free"), 2, ((0, 0, 0),) * 3, (1e3, 2e4, 1e6))
    assert EqualClasses().weights(space).tolist() == [1, 1, 1]
    assert torch.equal(BalancedClasses().weights(space), space.class_weights())
