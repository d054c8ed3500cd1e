"""Stochastic depth (Huang et al., ECCV 2016): whole residual branches are left out at random in training."""

from jaxtyping import Float
from torch import Tensor


def drop_path(branch: Float[Tensor, "B *size"], probability: float, *, training: bool) -> Float[Tensor, "B *size"]:
    """The branch, zeroed for some samples of the batch and scaled up for the others, so that its mean stays.

    Args:
        branch: What would be added to the shortcut.
        probability: Of a sample to be left out; below 1.
        training: Does nothing unless true.
    """
    if not training or probability == 0:
        return branch
    keep = 1 - probability
    kept = branch.new_empty(len(branch), *[1] * (branch.ndim - 1)).bernoulli_(keep)
    return branch * (kept / keep)
