"""Losses of masks over voxels, and the sums by class that say which mask fits which label best.

Masks are logits of "this voxel belongs to the object". Focal loss: Lin et al., "Focal Loss for Dense Object Detection",
ICCV 2017 (gamma 2, alpha 0.25); dice loss with 1 added above and below: Milletari et al., "V-Net", 3DV 2016, in the
form of MaskFormer, Cheng et al., NeurIPS 2021.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor

ALPHA = 0.25
"""Weight of the voxels that belong to an object; the others have 1 - ALPHA."""
CHUNK_ELEMENTS = 1 << 22
"""Logits that are held at a time where only sums are asked for."""


def focal_loss(logits: Float[Tensor, "P V"], truth: Bool[Tensor, "P V"]) -> Float[Tensor, ""]:
    """Mean over masks and voxels; 0 where there are none."""
    inside, outside = focal_terms(logits)
    return torch.where(truth, inside, outside).sum() / max(logits.numel(), 1)


def focal_terms(logits: Float[Tensor, "*b"]) -> tuple[Float[Tensor, "*b"], Float[Tensor, "*b"]]:
    """What a voxel costs if it belongs to the object, and what if it does not."""
    probability = logits.sigmoid()
    inside = ALPHA * (1 - probability).square() * F.softplus(-logits)
    return inside, (1 - ALPHA) * probability.square() * F.softplus(logits)


def dice_loss(logits: Float[Tensor, "P V"], truth: Bool[Tensor, "P V"]) -> Float[Tensor, ""]:
    """Mean over masks of 1 - (2 overlap + 1) / (both sizes + 1); 0 where there are none."""
    probability = logits.sigmoid()
    overlap = torch.where(truth, probability, 0).sum(dim=1)
    dice = (2 * overlap + 1) / (probability.sum(dim=1) + truth.sum(dim=1) + 1)
    return (1 - dice).sum() / max(len(logits), 1)


@dataclass(frozen=True)
class MaskSums:
    """Sums over the voxels of each class: from them the losses of a mask against any union of classes follow."""

    inside: Float[Tensor, "Q K"]
    """Of the focal terms of a query's mask if the voxels belong to its object."""
    outside: Float[Tensor, "Q K"]
    """Of those if they do not."""
    probability: Float[Tensor, "Q K"]
    """Of the mask."""
    voxels: Float[Tensor, " K"]
    """Their number."""

    def focal(self, members: Bool[Tensor, "K L"]) -> Float[Tensor, "Q L"]:
        """The focal loss of every mask against every union of classes."""
        total = self.inside @ members.to(self.inside) + self.outside @ (~members).to(self.outside)
        return total / self.voxels.sum().clamp(min=1)

    def dice(self, members: Bool[Tensor, "K L"]) -> Float[Tensor, "Q L"]:
        """The dice loss of every mask against every union of classes."""
        sizes = self.probability.sum(dim=1, keepdim=True) + self.voxels @ members.to(self.voxels)
        return 1 - (2 * self.probability @ members.to(self.probability) + 1) / (sizes + 1)


@torch.no_grad()
def mask_sums(
    embeddings: Float[Tensor, "Q C"], features: Float[Tensor, "V C"], labels: Int64[Tensor, " V"], classes: int
) -> MaskSums:
    """The sums of masks that are the products of embeddings and voxel features; the masks are never held as a whole.

    Args:
        embeddings: One a query.
        features: One a voxel that counts.
        labels: Dense class ids of the voxels.
        classes: K.
    """
    hot = F.one_hot(labels, classes).to(features.dtype)
    inside, outside, probability = (embeddings.new_zeros(len(embeddings), classes) for _ in range(3))
    step = max(1, CHUNK_ELEMENTS // max(1, len(embeddings)))
    for start in range(0, len(features), step):
        chunk = slice(start, start + step)
        logits, of_class = embeddings @ features[chunk].T, hot[chunk]
        for total, terms in zip((inside, outside, probability), (*focal_terms(logits), logits.sigmoid()), strict=True):
            total += terms @ of_class
    return MaskSums(inside, outside, probability, hot.sum(dim=0))
