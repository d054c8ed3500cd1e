"""What a student's voxels lack of a teacher's: divergences of features (MonoOcc, ICRA 2024, Eq. 9).

A divergence gives a number a row, of rows of features: `mean_divergence` averages over those that count. All are summed
in float32, whatever the features are stored in.
"""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor


@runtime_checkable
class FeatureDivergence(Protocol):
    """How far a student's features are from a teacher's: a frozen dataclass."""

    def rows(self, teacher: Float[Tensor, "P C"], student: Float[Tensor, "P C"]) -> Float[Tensor, " P"]:
        """Of each pair of rows."""
        ...


@dataclass(frozen=True)
class ChannelDivergence:
    """KL(teacher || student) of the channels' softmax: the paper's words, with probabilities as in MonoScene's loss."""

    temperature: float = 1.0
    """By which features are divided first."""

    def rows(self, teacher: Float[Tensor, "P C"], student: Float[Tensor, "P C"]) -> Float[Tensor, " P"]:
        """Sums over the channels: 0 where both are the same but for a constant, never less."""
        truth = F.log_softmax(teacher / self.temperature, dim=1)
        return (truth.exp() * (truth - F.log_softmax(student / self.temperature, dim=1))).sum(dim=1)


@dataclass(frozen=True)
class RawDivergence:
    """As released: features stand for logarithms of probabilities, which they are not, so it has no lowest value."""

    def rows(self, teacher: Float[Tensor, "P C"], student: Float[Tensor, "P C"]) -> Float[Tensor, " P"]:
        """Means over the channels of exp(t) (t - s); its slope along the student, -exp(t) / C, knows no student."""
        return (teacher.exp() * (teacher - student)).mean(dim=1)


def mean_divergence(
    divergence: FeatureDivergence,
    teacher: Float[Tensor, "B C X Y Z"],
    student: Float[Tensor, "B C X Y Z"],
    where: Bool[Tensor, "B X Y Z"],
) -> Float[Tensor, ""]:
    """Mean over the voxels that count; 0 where none does.

    Args:
        divergence: Of a voxel.
        teacher: Features; no gradient is sent there.
        student: Features.
        where: Voxels that count.
    """
    taught, learnt = (
        volume.permute(0, 2, 3, 4, 1)[where].to(torch.promote_types(volume.dtype, torch.float32))
        for volume in (teacher.detach(), student)
    )
    return divergence.rows(taught, learnt).sum() / max(len(learnt), 1)
