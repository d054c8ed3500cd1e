import pytest
import torch

from occloom.heads.factorised import FactorisedScores
from occloom.losses.affinity import class_sums, geometric_affinity, semantic_affinity
from occloom.losses.cross_entropy import cross_entropy
from occloom.losses.factorised import factorised_losses
from occloom.scene import Target

CLASSES = 6


def problem(empty, factors, occupied_share=0.3):
    generator = torch.Generator().manual_seed(3)
    coarse = (3, 4, 2)
    fine = tuple(n * f for n, f in zip(coarse, factors, strict=True))
    occupancy = torch.randn(2, *fine, generator=generator, dtype=torch.float64)
    classes = torch.randn(2, CLASSES - 1, *coarse, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, CLASSES, (2, *fine), generator=generator)
    labels[labels == 3] = empty  # one class is absent
    labels = torch.where(torch.rand(2, *fine, generator=generator) < occupied_share, labels, empty)
    observed = torch.rand(2, *fine, generator=generator) < 0.8
    labels = torch.where(observed, labels, empty)
    weights = torch.rand(CLASSES, generator=generator, dtype=torch.float64) + 0.1
    return occupancy, classes, Target(labels=labels, observed=observed), weights


def generic(scores, target, weights):
    sums = class_sums(scores.logits, target.labels, target.observed)
    return cross_entropy(scores.logits, target.labels, target.observed, weights), sums


@pytest.mark.parametrize("occupied_share", [0.3, 0.0])
@pytest.mark.parametrize("factors", [(2, 2, 2), (1, 1, 1), (2, 3, 1)])
@pytest.mark.parametrize("empty", [0, 2, 5])
def test_equals_the_losses_of_the_composed_logits(empty, factors, occupied_share):
    occupancy, classes, target, weights = problem(empty, factors, occupied_share)
    answers = []
    for losses in (factorised_losses, generic):
        o, c = occupancy.clone().requires_grad_(), classes.clone().requires_grad_()
        entropy, sums = losses(FactorisedScores(occupancy=o, classes=c, empty=empty), target, weights)
        terms = [entropy, semantic_affinity(sums), geometric_affinity(sums, empty)]
        torch.stack([t * (i + 1) for i, t in enumerate(terms)]).sum().backward()
        answers.append((*(t.detach() for t in terms), o.grad, c.grad, sums.predicted, sums.matched, sums.truth))
    for ours, expected in zip(*answers, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-12)
