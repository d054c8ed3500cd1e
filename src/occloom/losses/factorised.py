"""Cross-entropy and class sums of factorised scores, equal to those of the composed logits but never making them.

With o the occupancy logit of a voxel v and q the class distribution of the coarse voxel V(v) around it:
log p(empty) = log sigmoid(-o), log p(c) = log sigmoid(o) + log q_c. Classes are gathered at occupied voxels only (a few
per cent), and sums over all voxels become sums over coarse ones: sum_v sigmoid(o_v) q_c(V(v)) = sum_V q_c sum_v
sigmoid(o_v).
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from occloom.heads.factorised import FactorisedScores
from occloom.losses.affinity import ClassSums
from occloom.ops.voxel_shuffle import sum_sub_voxels
from occloom.scene import Target


@dataclass(frozen=True)
class _Gathered:
    """What is looked at in the O observed voxels that are truly occupied."""

    labels: Int64[Tensor, " O"]
    log_occupied: Float[Tensor, " O"]
    log_class: Float[Tensor, " O"]
    """log q of the true class."""


def factorised_losses(
    scores: FactorisedScores, target: Target, weights: Float[Tensor, " K"]
) -> tuple[Float[Tensor, ""], ClassSums]:
    """Weighted cross-entropy, and the sums for the affinity losses.

    Args:
        scores: Of a batch.
        target: Its truth.
        weights: One a class.

    Returns:
        `cross_entropy(scores.logits, ...)` and `class_sums(scores.logits, ...)`, in a fraction of the time and memory.
    """
    log_classes = F.log_softmax(scores.classes, dim=1)
    gathered = _gather(scores, log_classes, target)
    return _cross_entropy(scores, gathered, target, weights), _class_sums(scores, log_classes, gathered, target)


def _gather(scores: FactorisedScores, log_classes: Float[Tensor, "B S x y z"], target: Target) -> _Gathered:
    """Pick the truly occupied voxels (index_select: its backward is deterministic on CPU, that of x[i] is not)."""
    occupied = target.observed & (target.labels != scores.empty)
    voxel = occupied.view(-1).nonzero()[:, 0]
    labels = target.labels.view(-1).index_select(0, voxel)
    b, x, y, z = torch.unravel_index(voxel, target.labels.shape)
    _, classes, nx, ny, nz = log_classes.shape
    fx, fy, fz = scores.factors
    channel = labels - (labels > scores.empty).long()
    place = (((b * classes + channel) * nx + x // fx) * ny + y // fy) * nz + z // fz
    return _Gathered(
        labels=labels,
        log_occupied=F.logsigmoid(scores.occupancy.reshape(-1).index_select(0, voxel)),
        log_class=log_classes.reshape(-1).index_select(0, place),
    )


def _cross_entropy(
    scores: FactorisedScores, gathered: _Gathered, target: Target, weights: Float[Tensor, " K"]
) -> Float[Tensor, ""]:
    """The empty class weighs the same everywhere, the others are weighted where they are."""
    free = (target.observed & (target.labels == scores.empty)).to(scores.occupancy.dtype)
    free_nll = (F.softplus(scores.occupancy) * free).sum() * weights[scores.empty]
    weight = weights.index_select(0, gathered.labels)
    occupied_nll = -(weight * (gathered.log_occupied + gathered.log_class)).sum()
    total = weight.sum() + weights[scores.empty] * free.sum()
    return (free_nll + occupied_nll) / total.clamp(min=1e-12)


def _class_sums(
    scores: FactorisedScores, log_classes: Float[Tensor, "B S x y z"], gathered: _Gathered, target: Target
) -> ClassSums:
    """Sums over all observed voxels, class by class."""
    empty, num_classes = scores.empty, log_classes.shape[1] + 1
    observed = target.observed.to(scores.occupancy.dtype)
    free = observed * (target.labels == empty)
    occupied_probability = torch.sigmoid(scores.occupancy) * observed
    free_probability = torch.sigmoid(-scores.occupancy) * observed
    coarse = sum_sub_voxels(occupied_probability, scores.factors)
    classes = (log_classes.exp() * coarse[:, None]).sum(dim=(0, 2, 3, 4))
    matched = classes.new_zeros(num_classes).index_add(
        0, gathered.labels, (gathered.log_occupied + gathered.log_class).exp()
    )
    matched_free = (free_probability * free).sum()
    of_empty = torch.arange(num_classes, device=matched.device) == empty
    counts = torch.bincount(gathered.labels, minlength=num_classes).to(matched.dtype)
    return ClassSums(
        predicted=torch.cat([classes[:empty], free_probability.sum()[None], classes[empty:]]),
        matched=torch.where(of_empty, matched_free, matched),
        truth=torch.where(of_empty, free.sum(), counts),
    )
