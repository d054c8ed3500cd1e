"""The exponential moving average of a model's weights."""

import copy
from typing import TypeVar

import torch
from torch import nn

Model = TypeVar("Model", bound=nn.Module)


def start_average(weights: Model) -> Model:
    """A copy of the model, in evaluation mode, that `update_average` moves."""
    return copy.deepcopy(weights).eval().requires_grad_(False)


@torch.no_grad()
def update_average(average: nn.Module, weights: nn.Module, *, decay: float, step: int) -> None:
    """Move the average a step towards the weights; buffers are copied.

    The decay begins low, (1 + step) / (10 + step), so that the random start is soon forgotten.
    """
    share = 1 - min(decay, (1 + step) / (10 + step))
    for averaged, weight in zip(average.parameters(), weights.parameters(), strict=True):
        averaged.lerp_(weight, share)
    for averaged, buffer in zip(average.buffers(), weights.buffers(), strict=True):
        averaged.copy_(buffer)
