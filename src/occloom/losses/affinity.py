"""Scene-class affinity losses (MonoScene: Cao and de Charette, CVPR 2022, section 3.4).

Each drives a soft precision, recall and specificity, counted over all observed voxels of the batch, towards 1. All
they need of a prediction are three sums a class, so a model that can give these cheaper than by full logits may.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor

EPSILON = 1e-5
"""Voxels added to numerator and denominator: no logarithm of zero, and the gradient never dies."""


@dataclass(frozen=True)
class ClassSums:
    """Sums over the observed voxels of a batch, one a class."""

    predicted: Float[Tensor, " K"]
    """Sum of the predicted probability."""
    matched: Float[Tensor, " K"]
    """Sum of the predicted probability over the voxels that are of the class."""
    truth: Float[Tensor, " K"]
    """Number of voxels of the class."""


def class_sums(
    logits: Float[Tensor, "B K X Y Z"], labels: Int64[Tensor, "B X Y Z"], observed: Bool[Tensor, "B X Y Z"]
) -> ClassSums:
    """Count what the affinity losses need.

    Args:
        logits: Unnormalised class scores.
        labels: Dense class ids.
        observed: Voxels that count.
    """
    probability = F.softmax(logits, dim=1)
    ids = torch.arange(logits.shape[1], device=logits.device).view(-1, 1, 1, 1)
    of_class = (labels[:, None] == ids) & observed[:, None]
    over = (0, 2, 3, 4)
    return ClassSums(
        predicted=torch.where(observed[:, None], probability, 0).sum(dim=over),
        matched=torch.where(of_class, probability, 0).sum(dim=over),
        truth=of_class.sum(dim=over).to(logits.dtype),
    )


def semantic_affinity(sums: ClassSums) -> Float[Tensor, ""]:
    """Mean over the classes present, empty included, of -log precision - log recall - log specificity."""
    total = sums.truth.sum()
    terms = _affinity(sums.matched, sums.predicted, sums.truth, total)
    present = sums.truth > 0
    return torch.where(present, terms, 0.0).sum() / present.sum().clamp(min=1)


def geometric_affinity(sums: ClassSums, empty: int) -> Float[Tensor, ""]:
    """The same three terms for "occupied", which is every class but empty; 0 where nothing observed is occupied."""
    total = sums.truth.sum()
    truth = total - sums.truth[empty]
    predicted = total - sums.predicted[empty]
    # Occupied probability on occupied voxels: their number less the empty probability that lies on them.
    matched = truth - (sums.predicted[empty] - sums.matched[empty])
    return torch.where(truth > 0, _affinity(matched, predicted, truth, total), 0.0)


def _affinity(
    matched: Float[Tensor, "*k"], predicted: Float[Tensor, "*k"], truth: Float[Tensor, "*k"], total: Float[Tensor, ""]
) -> Float[Tensor, "*k"]:
    """-log precision - log recall - log specificity."""
    rejected = (total - truth) - (predicted - matched)
    return -(_log_ratio(matched, predicted) + _log_ratio(matched, truth) + _log_ratio(rejected, total - truth))


def _log_ratio(part: Float[Tensor, "*k"], whole: Float[Tensor, "*k"]) -> Float[Tensor, "*k"]:
    """Logarithm of a share; 0 for a share of nothing. Rounding may bring a difference of sums below zero."""
    return torch.log((part.clamp(min=0) + EPSILON) / (whole.clamp(min=0) + EPSILON))
