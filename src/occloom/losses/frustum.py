"""Proportions of classes within parts of a camera's view (MonoScene: Cao and de Charette, CVPR 2022, section 3.5)."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor


def frustum_proportion(
    logits: Float[Tensor, "B K X Y Z"],
    labels: Int64[Tensor, "B X Y Z"],
    observed: Bool[Tensor, "B X Y Z"],
    frustums: Int64[Tensor, "B X Y Z"],
    count: int,
) -> Float[Tensor, ""]:
    """Mean over the frustums of KL(share of each class among the labels, predicted share of each class).

    Frustums of a sample in which no voxel is observed do not count; 0 where there are no others.

    Args:
        logits: Unnormalised class scores.
        labels: Dense class ids.
        observed: Voxels that count.
        frustums: The frustum of each voxel, from 0 on; -1 where it lies in none.
        count: Frustums of a sample.
    """
    batch, classes = logits.shape[:2]
    kept = (observed & (frustums >= 0)).flatten()
    sample = torch.arange(batch, device=labels.device)[:, None, None, None]
    place = (frustums + sample * count).flatten()[kept]
    probability = F.softmax(logits, dim=1).movedim(1, -1).flatten(0, 3)[kept]
    predicted = probability.new_zeros(batch * count, classes).index_add(0, place, probability)
    truth = torch.bincount(place * classes + labels.flatten()[kept], minlength=batch * count * classes)
    truth = truth.view(-1, classes).to(predicted.dtype)
    total = truth.sum(dim=1, keepdim=True).clamp(min=1)
    wanted = truth / total
    # Of classes without a label nothing is asked; where there is one, the tiny addend keeps the logarithm finite.
    terms = torch.where(wanted > 0, wanted * ((wanted + 1e-12).log() - (predicted / total + 1e-12).log()), 0)
    return terms.sum() / (truth.sum(dim=1) > 0).sum().clamp(min=1)
