import pytest
import torch
from torch import nn

from occloom.engine.average import start_average, update_average


def test_the_average_follows_the_formula_and_leaves_the_weights_alone():
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    average = start_average(model)
    assert not average.training
    expected = model[0].weight.detach().clone()
    for step in range(30):
        with torch.no_grad():
            model[0].weight.add_(1.0)
            model[1].running_mean.add_(2.0)
        update_average(average, model, decay=0.9, step=step)
        decay = min(0.9, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * model[0].weight.detach()
    assert torch.allclose(average[0].weight, expected)
    assert torch.equal(average[1].running_mean, model[1].running_mean)
    assert not average[0].weight.requires_grad
    assert model[0].weight.requires_grad


def test_without_decay_the_average_is_the_weights():
    model = nn.Linear(4, 4)
    average = start_average(model)
    with torch.no_grad():
        model.weight.normal_(generator=torch.Generator().manual_seed(0))
    assert not torch.equal(average.weight, model.weight)
    update_average(average, model, decay=0.0, step=5)
    assert torch.equal(average.weight, model.weight)


def test_models_that_differ_are_refused():
    with pytest.raises(ValueError, match="zip"):
        update_average(nn.Sequential(nn.Linear(2, 2)), nn.Sequential(), decay=0.5, step=0)
