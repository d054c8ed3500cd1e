"""Plane-sweep cost volumes: how well two views agree if what a pixel sees stands at some depth.

A pixel at a depth is a point, the point is a pixel of another view, and the features there should be alike (Collins,
CVPR 1996; for occupancy BEVStereo, AAAI 2023). The sampled features (D x C numbers a pixel) are never held: the work
goes through the pixels in chunks, all planes of one at once, since their places in the other view lie close together.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from occloom.geometry.precision import full_precision
from occloom.geometry.projection import feature_pixels, unproject
from occloom.ops.row_sums import pad_pixels, pixel_corners, row_sums

CHUNK_ELEMENTS = 1 << 20
"""Sampled numbers a chunk may hold (4 MiB in float32, which stays in the cache of a CPU)."""
NEAREST = 1e-3
"""Depth in metres before the other camera up to which it sees nothing."""


@torch.no_grad()
def plane_sweep(
    features: Float[Tensor, "M C h w"],
    others: Float[Tensor, "M C h w"],
    *,
    intrinsics: Float[Tensor, "M 3 3"],
    other_intrinsics: Float[Tensor, "M 3 3"],
    other_from_camera: Float[Tensor, "M 4 4"],
    depths: Float[Tensor, " D"],
    stride: int,
    outside_cost: float,
) -> Float[Tensor, "M D h w"]:
    """Sum over channels of |features - others|, the latter where each pixel would lie at each depth.

    Bilinear; beyond the other map is zero, and where nothing of it is read `outside_cost` is added. No gradient.
    Sums are the same on a CPU whatever the number of threads.

    Args:
        features: Of the views whose depth is asked for.
        others: Of the same places from elsewhere: an older picture, or another camera's.
        intrinsics: For the images of which `features` are cells.
        other_intrinsics: For those of `others`.
        other_from_camera: From the camera of a view to that of its other view.
        depths: z-depths in metres.
        stride: Image pixels a feature pixel, of both.
        outside_cost: Added where a point is not in the other view.
    """
    (images, channels, height, width), count = features.shape, len(depths)
    with full_precision(features.device.type):
        pixels = feature_pixels((height, width), stride, dtype=intrinsics.dtype, device=intrinsics.device)
        pixels = pixels.reshape(1, -1, 2).expand(images, -1, -1)
        rays = unproject(pixels, torch.ones_like(pixels[..., 0]), intrinsics)
        # K' (R d ray + t): a line in homogeneous pixels of the other view.
        steps = rays @ (other_intrinsics @ other_from_camera[:, :3, :3]).mT
        starts = (other_intrinsics @ other_from_camera[:, :3, 3:])[..., 0]
        rows = features.float().permute(0, 2, 3, 1).flatten(1, 2)
        tables = pad_pixels(others.float()).flatten(1, 2)
        cost = rows.new_empty(images, height * width, count)
        chunk = max(1, CHUNK_ELEMENTS // (count * channels))
        for image in range(images):
            for first in range(0, height * width, chunk):
                part = slice(first, first + chunk)
                index, shares, outside = _places(steps[image, part], starts[image], depths, (height, width), stride)
                sampled = row_sums(tables[image], index.flatten(0, 1), shares.flatten(0, 1)).unflatten(0, (-1, count))
                cost[image, part] = torch.cdist(rows[image, part, None], sampled, p=1)[:, 0] + outside_cost * outside
    return cost.mT.unflatten(2, (height, width))


def _places(
    steps: Float[Tensor, "P 3"],
    start: Float[Tensor, "3"],
    depths: Float[Tensor, " D"],
    size: tuple[int, int],
    stride: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Corners and shares "P D 4" of where each pixel lies at each depth, and "P D" where that is beyond the map."""
    points = steps[:, None] * depths[:, None] + start
    depth = points[..., 2]
    ahead = depth > NEAREST
    # Far enough outside that only zeros are read.
    u, v = (torch.where(ahead, points[..., axis] / depth, -4.0 * stride) for axis in (0, 1))
    x, y = (u + 0.5) / stride - 0.5, (v + 0.5) / stride - 0.5
    index, shares = pixel_corners(x, y, size)
    outside = (x <= -1) | (x >= size[1]) | (y <= -1) | (y >= size[0])
    return index, shares, outside
