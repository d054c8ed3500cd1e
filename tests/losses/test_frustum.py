import numpy as np
import pytest
import torch
from scipy.special import rel_entr

from occloom.losses.frustum import frustum_proportion


def given(seed=0):
    generator = torch.Generator().manual_seed(seed)
    shape = (2, 4, 3, 2)
    logits = torch.randn(2, 5, *shape[1:], generator=generator, dtype=torch.float64)
    labels = torch.randint(0, 5, shape, generator=generator)
    observed = torch.rand(shape, generator=generator) < 0.7
    frustums = torch.randint(-1, 6, shape, generator=generator)
    return logits, labels, observed, frustums


def test_equals_scipys_relative_entropy_frustum_by_frustum():
    logits, labels, observed, frustums = given()
    probability = logits.softmax(dim=1)
    terms = []
    for b in range(2):
        for f in range(6):
            voxels = (frustums[b] == f) & observed[b]
            if voxels.any():
                predicted = probability[b][:, voxels].sum(dim=1) / voxels.sum()
                truth = np.bincount(labels[b][voxels].numpy(), minlength=5) / int(voxels.sum())
                terms.append(rel_entr(truth, predicted.numpy()).sum())
    ours = frustum_proportion(logits, labels, observed, frustums, 6)
    assert float(ours) == pytest.approx(np.mean(terms), rel=1e-6)


def test_unobserved_voxels_and_those_out_of_view_do_not_matter():
    logits, labels, observed, frustums = given()
    ignored = ~observed | (frustums < 0)
    changed = torch.where(ignored, (labels + 1) % 5, labels)
    one, two = (frustum_proportion(logits, truth, observed, frustums, 6) for truth in (labels, changed))
    assert one == two


def test_nothing_in_view_costs_nothing():
    logits, labels, observed, frustums = given()
    logits.requires_grad_()
    loss = frustum_proportion(logits, labels, observed, torch.full_like(frustums, -1), 6)
    loss.backward()
    assert loss == 0
    assert not logits.grad.any()
