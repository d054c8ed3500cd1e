"""ProtoOcc's prototype optimisation: prototypes brought back to the pixels and told apart by masks (section 3.2.2).

Eq. 2 splits: with H(A) = A B, where B holds how much each query looks at each pixel, (G * A B)^T P_vox is
G * B^T (A^T P_vox), and A^T P_vox is what the mapping dispatched. So the pixel features are one sparse sum, and the
matrix of prototypes by pixels is never made (reference protoocc 2.4). Training only.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from occloom.geometry.precision import full_precision
from occloom.lifting.cross_attention import AttentionMaps
from occloom.ops.row_sums import pixel_corners, scatter_rows

LEAST_CELLS = 2
"""Cells of a mask that counts: what stands alone is its own centroid."""
LEAST_WEIGHT = 1e-6
"""Of a mean over nothing."""


@dataclass(frozen=True)
class PixelFeatures:
    """The prototypes of 3D space as the pixels of a map see them; M = B N pictures."""

    features: Float[Tensor, "M C h w"]
    """X of Eq. 2."""
    saliency: Float[Tensor, "M h w"]
    """G of Eq. 2: how much the queries of a picture look at a cell, 1 for the most looked at, 0 where none looks."""


def pixel_features(
    maps: AttentionMaps,
    dispatched: Float[Tensor, "pairs C"],
    *,
    level: int,
    cameras: int,
    images: int,
    size: tuple[int, int],
) -> PixelFeatures:
    """Prototype-aware pixel features (Eq. 2): what the queries that look at a cell were handed, by how much they look.

    A query looks at the four cells around each of its sampling points, by the point's weight and the bilinear shares,
    averaged over the heads. B is normalised over the queries of a cell, G is their sum over the picture's largest.

    Args:
        maps: Where the queries of a layer look.
        dispatched: A^T P_vox of each pair of the maps.
        level: Of the maps, the one whose cells get features.
        cameras: N.
        images: B N.
        size: h and w of the level.
    """
    height, width = size
    with full_precision(dispatched.device.type):
        places, heads = maps.locations[:, :, level], maps.locations.shape[1]
        x, y = places[..., 0] * width - 0.5, places[..., 1] * height - 0.5
        index, shares = pixel_corners(x, y, size)
        shares = shares * (maps.weights[:, :, level] / heads)[..., None]
        cells = (height + 2) * (width + 2)  # with a border, which takes what lies outside
        index = index + ((maps.sample * cameras + maps.camera) * cells)[:, None, None, None]
        rows = torch.cat([dispatched, torch.ones_like(dispatched[:, :1])], dim=1)
        splat = scatter_rows(rows.float(), index.flatten(1), shares.flatten(1).float(), images * cells)
        inner = splat.view(images, height + 2, width + 2, -1)[:, 1:-1, 1:-1].permute(0, 3, 1, 2)
        total, mass = inner[:, :-1], inner[:, -1]
        most = mass.flatten(1).amax(dim=1).clamp(min=LEAST_WEIGHT)
        saliency = mass / most[:, None, None]
        features = total / mass.clamp(min=LEAST_WEIGHT)[:, None] * saliency[:, None]
    return PixelFeatures(features, saliency)


def masks_of_cells(masks: Int64[Tensor, "M H W"], stride: int, size: tuple[int, int]) -> Int64[Tensor, "M h w"]:
    """The mask of the pixel nearest to the middle of each cell of a map; -1 for cells beyond the picture."""
    height, width = size
    first = round((stride - 1) / 2)  # half to even
    cut = masks[:, first::stride, first::stride][:, :height, :width]
    return F.pad(cut, (0, width - cut.shape[2], 0, height - cut.shape[1]), value=-1)


def prototype_contrast(
    features: Float[Tensor, "M C h w"],
    masks: Int64[Tensor, "M h w"],
    counted: Bool[Tensor, "M h w"],
    *,
    temperature: float,
) -> Float[Tensor, ""]:
    """Contrastive loss of pixel features and the centroids of their picture's masks (Eq. 3), averaged over the cells.

    Args:
        features: Of the pixels.
        masks: Which mask a cell is of; -1 for none.
        counted: Cells that count, if they are of a mask of two such cells or more.
        temperature: Divides the cosines.

    Returns:
        0 where no cell counts.
    """
    with full_precision(features.device.type):
        rows = features.flatten(2).transpose(1, 2).float()
        labels, taken = masks.flatten(1), (counted & (masks >= 0)).flatten(1)
        most = int(masks.max()) + 1 if masks.numel() else 0
        if most < 1:
            return features.sum() * 0
        of_mask = F.one_hot(torch.where(taken, labels, most), most + 1)[..., :most].to(rows.dtype)
        cells = of_mask.sum(dim=1)
        centroids = of_mask.transpose(1, 2) @ rows / cells.clamp(min=1)[..., None]
        cosines = F.normalize(rows, dim=-1) @ F.normalize(centroids, dim=-1).transpose(1, 2)
        large = cells >= LEAST_CELLS
        logits = (cosines / temperature).masked_fill(~large[:, None], -torch.inf)
        taken = taken & large.gather(1, labels.clamp(min=0))
        nll = F.cross_entropy(logits[taken], labels[taken], reduction="sum")
    return nll / taken.sum().clamp(min=1)
