import numpy as np
import pytest
import torch

from occloom.losses.affinity import class_sums, geometric_affinity, semantic_affinity


def binary_terms(probability, truth):
    """Precision, recall and specificity as binary cross-entropies to 1, straight from their definitions."""
    precision = (probability * truth).sum() / probability.sum()
    recall = (probability * truth).sum() / truth.sum()
    specificity = ((1 - probability) * (1 - truth)).sum() / (1 - truth).sum()
    return -np.log(precision) - np.log(recall) - np.log(specificity)


def problem(classes=5, absent=3):
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(2, classes, 6, 5, 4)), rng.integers(0, classes, (2, 6, 5, 4))
    labels[labels == absent] = 0
    return logits, labels, rng.random((2, 6, 5, 4)) < 0.7


@pytest.mark.parametrize("empty", [0, 4])
def test_against_definitions(empty):
    logits, labels, observed = problem()
    probability = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    chosen = np.moveaxis(probability, 1, -1)[observed]
    truth = labels[observed]
    semantic = np.mean([binary_terms(chosen[:, c], (truth == c) * 1.0) for c in range(5) if (truth == c).any()])
    geometric = binary_terms(1 - chosen[:, empty], (truth != empty) * 1.0)
    sums = class_sums(*(torch.from_numpy(a) for a in (logits, labels, observed)))
    assert semantic_affinity(sums).item() == pytest.approx(semantic, rel=1e-4)
    assert geometric_affinity(sums, empty).item() == pytest.approx(geometric, rel=1e-4)


def test_a_perfect_answer_costs_nothing_and_a_wrong_one_stays_finite():
    _, labels, observed = (torch.from_numpy(a) for a in problem())
    perfect = torch.movedim(torch.nn.functional.one_hot(labels, 5), -1, 1).double() * 200
    sums = class_sums(perfect, labels, observed)
    assert semantic_affinity(sums).item() == pytest.approx(0, abs=1e-6)
    assert geometric_affinity(sums, 0).item() == pytest.approx(0, abs=1e-6)
    wrong = torch.roll(perfect, 1, dims=1).requires_grad_()
    loss = semantic_affinity(class_sums(wrong, labels, observed)) + geometric_affinity(
        class_sums(wrong, labels, observed), 0
    )
    loss.backward()
    assert loss.item() > 10
    assert wrong.grad.isfinite().all()


@pytest.mark.parametrize("seen", [False, True])
def test_nothing_observed_or_nothing_occupied_stays_finite(seen):
    logits = torch.randn(1, 5, 2, 3, 2, generator=torch.Generator().manual_seed(0), requires_grad=True)
    labels = torch.zeros(1, 2, 3, 2, dtype=torch.int64)
    sums = class_sums(logits, labels, torch.full_like(labels, seen, dtype=torch.bool))
    (semantic_affinity(sums) + geometric_affinity(sums, 0)).backward()
    assert geometric_affinity(sums, 0).item() == 0
    assert (semantic_affinity(sums).item() > 0) == seen
    assert logits.grad.isfinite().all()
