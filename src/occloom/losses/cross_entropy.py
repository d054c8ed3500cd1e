"""Class-weighted cross-entropy over the voxels that count."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from occloom.grid import LabelSpace


@dataclass(frozen=True)
class EqualClasses:
    """Every voxel that counts weighs the same."""

    def weights(self, label_space: LabelSpace) -> Float[Tensor, " K"]:
        """All 1."""
        return torch.ones(label_space.num_classes)


@dataclass(frozen=True)
class BalancedClasses:
    """Voxels of rare classes weigh more."""

    def weights(self, label_space: LabelSpace) -> Float[Tensor, " K"]:
        """`LabelSpace.class_weights`."""
        return label_space.class_weights(device=torch.get_default_device())


def cross_entropy(
    logits: Float[Tensor, "B K X Y Z"],
    labels: Int64[Tensor, "B X Y Z"],
    observed: Bool[Tensor, "B X Y Z"],
    weights: Float[Tensor, " K"],
) -> Float[Tensor, ""]:
    """Mean of -log p(label) over observed voxels, weighted by class: `sum(w * nll) / sum(w)`; 0 if none is observed.

    Args:
        logits: Unnormalised class scores.
        labels: Dense class ids.
        observed: Voxels that count.
        weights: One a class (MonoScene: `LabelSpace.class_weights`).
    """
    nll = F.cross_entropy(logits, labels, reduction="none")
    weight = weights.index_select(0, labels.reshape(-1)).view(labels.shape) * observed
    return (weight * nll).sum() / weight.sum().clamp(min=1e-12)


def cross_entropy_by_voxels(
    logits: Float[Tensor, "B K X Y Z"],
    labels: Int64[Tensor, "B X Y Z"],
    observed: Bool[Tensor, "B X Y Z"],
    weights: Float[Tensor, " K"],
) -> Float[Tensor, ""]:
    """`cross_entropy` divided by the number of observed voxels, not by the sum of their weights: VoxFormer's."""
    nll = F.cross_entropy(logits, labels, weight=weights, reduction="none")
    return (nll * observed).sum() / observed.sum().clamp(min=1)
