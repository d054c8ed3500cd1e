"""Between camera points and pixels: pinhole cameras, OpenCV axes, pixel (0, 0) is the centre of the first pixel.

Intrinsics are `[[fx, skew, cx], [0, fy, cy], [0, 0, 1]]` as a camera has them; their upper 2x2 part is of any kind once
the image was mirrored or turned. Pixels are (u, v): along the width, then along the height. Depth is z-depth in metres.
Conventions: docs/conventions.md.
"""

import torch
from jaxtyping import Float
from torch import Tensor


def project(
    points_camera: Float[Tensor, "*b P 3"], intrinsics: Float[Tensor, "*b 3 3"]
) -> tuple[Float[Tensor, "*b P 2"], Float[Tensor, "*b P"]]:
    """Pixels and depth of points given in the camera frame, in metres.

    Where depth is not positive nothing is seen: the pixel there is finite and means nothing, so test the depth.
    """
    depth = points_camera[..., 2]
    # Dividing by one where nothing is seen keeps values and gradients finite.
    divisor = torch.where(depth > 0, depth, torch.ones_like(depth))
    image_points = points_camera @ intrinsics[..., :2, :].mT
    return image_points / divisor[..., None], depth


def unproject(
    pixels: Float[Tensor, "*b P 2"], depth: Float[Tensor, "*b P"], intrinsics: Float[Tensor, "*b 3 3"]
) -> Float[Tensor, "*b P 3"]:
    """Points in the camera frame, in metres, seen at `pixels` at the z-depth `depth`."""
    u, v = (pixels - intrinsics[..., None, :2, 2]).unbind(-1)
    matrix = intrinsics[..., None, :2, :2]
    # Cramer's rule: a solver would cost more than all the rest here.
    determinant = matrix[..., 0, 0] * matrix[..., 1, 1] - matrix[..., 0, 1] * matrix[..., 1, 0]
    x = (matrix[..., 1, 1] * u - matrix[..., 0, 1] * v) / determinant
    y = (matrix[..., 0, 0] * v - matrix[..., 1, 0] * u) / determinant
    return torch.stack([x * depth, y * depth, depth], dim=-1)


def feature_pixels(
    size: tuple[int, int], stride: int, *, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
) -> Float[Tensor, "h w 2"]:
    """Where the features of a map of `size` (h, w) sit in the image, as (u, v).

    Feature (i, j) covers a block of `stride` x `stride` pixels and sits at its middle: u = stride*j + (stride - 1)/2,
    v = stride*i + (stride - 1)/2. A stride of 1 gives the pixel centres.
    """
    v, u = (stride * torch.arange(n, dtype=dtype, device=device) + (stride - 1) / 2 for n in size)
    return torch.stack(torch.meshgrid(u, v, indexing="xy"), dim=-1)


def frustum(
    intrinsics: Float[Tensor, "*b 3 3"], depths: Float[Tensor, " D"], size: tuple[int, int], stride: int
) -> Float[Tensor, "*b D h w 3"]:
    """Points in the camera frame, in metres, of every feature of a map of `size` (h, w) at every depth.

    Lift, Splat, Shoot (Philion and Fidler 2020), section 3.1. Features sit where `feature_pixels` says.
    """
    lead = intrinsics.shape[:-2]
    height, width = size
    pixels = feature_pixels(size, stride, dtype=intrinsics.dtype, device=intrinsics.device)
    pixels = pixels.expand(*lead, len(depths), height, width, 2).flatten(-4, -2)
    depth = depths[:, None, None].expand(*lead, len(depths), height, width).flatten(-3, -1)
    return unproject(pixels, depth, intrinsics).unflatten(-2, (len(depths), height, width))
