"""Lovasz-softmax: a loss whose least values are those of the highest IoU (Berman et al., CVPR 2018, section 3).

The loss of a class is the Lovasz extension of its Jaccard loss at the vector of errors: voxels sorted by error, each
error weighed by how much the IoU falls when its voxel joins those that are wrong (equations 8 and 9).
"""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor


def lovasz_softmax(
    logits: Float[Tensor, "B K X Y Z"], labels: Int64[Tensor, "B X Y Z"], counted: Bool[Tensor, "B X Y Z"]
) -> Float[Tensor, ""]:
    """Mean over the classes that the counted voxels of the batch have; 0 if none is counted.

    Args:
        logits: Unnormalised class scores.
        labels: Dense class ids.
        counted: Voxels that count; the papers that use this loss leave the empty ones out.
    """
    chosen = counted.flatten().nonzero()[:, 0]
    rows = logits.movedim(1, -1).flatten(0, -2).index_select(0, chosen)
    truth = labels.flatten().index_select(0, chosen)
    probabilities = F.softmax(rows.to(torch.promote_types(rows.dtype, torch.float32)), dim=1)
    terms = [lovasz_jaccard(probabilities[:, c], truth == c) for c in truth.unique().tolist()]
    return torch.stack(terms).mean() if terms else probabilities.sum()


def lovasz_jaccard(probability: Float[Tensor, " V"], member: Bool[Tensor, " V"]) -> Float[Tensor, ""]:
    """The loss of one class.

    Args:
        probability: Of the class at each voxel.
        member: Voxels that are of the class; at least one.
    """
    errors, order = torch.where(member, 1 - probability, probability).sort(descending=True)
    inside = member.index_select(0, order).to(errors.dtype)
    # With the first i voxels wrong, the class loses its members among them and gains the others.
    kept, joined = inside.sum() - inside.cumsum(0), (1 - inside).cumsum(0)
    jaccard = 1 - kept / (inside.sum() + joined)
    return errors @ torch.diff(jaccard, prepend=jaccard.new_zeros(1))
