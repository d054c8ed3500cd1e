"""Image changes carried into the intrinsics, so that a point keeps projecting to what shows it.

Sizes are (height, width) in pixels; pixel (0, 0) is the centre of the first pixel (docs/conventions.md).
"""

import math

from jaxtyping import Float
from torch import Tensor


def resized_intrinsics(
    intrinsics: Float[Tensor, "*b 3 3"], *, from_size: tuple[int, int], to_size: tuple[int, int]
) -> Float[Tensor, "*b 3 3"]:
    """Intrinsics of the image resized as a whole: u' = (u + 0.5) * scale - 0.5, each axis with its own scale."""
    scale_v, scale_u = (to / of for of, to in zip(from_size, to_size, strict=True))
    return _mapped(intrinsics, scale=(scale_u, scale_v), shift=(0.5 * scale_u - 0.5, 0.5 * scale_v - 0.5))


def cropped_intrinsics(intrinsics: Float[Tensor, "*b 3 3"], left: int, top: int) -> Float[Tensor, "*b 3 3"]:
    """Intrinsics after `left` columns and `top` rows are cut off; negative numbers pad, cuts at the end do nothing."""
    return _mapped(intrinsics, scale=(1.0, 1.0), shift=(-float(left), -float(top)))


def flipped_intrinsics(intrinsics: Float[Tensor, "*b 3 3"], width: int) -> Float[Tensor, "*b 3 3"]:
    """Intrinsics of the image mirrored left to right: u' = width - 1 - u, so fx changes its sign; poses stay."""
    return _mapped(intrinsics, scale=(-1.0, 1.0), shift=(width - 1.0, 0.0))


def turned_intrinsics(
    intrinsics: Float[Tensor, "*b 3 3"], *, degrees: float, size: tuple[int, int]
) -> Float[Tensor, "*b 3 3"]:
    """Intrinsics of the image turned about its middle, counter-clockwise as one looks at it; its size stays."""
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    height, width = size
    middle_u, middle_v = (width - 1) / 2, (height - 1) / 2
    turn = intrinsics.new_tensor(
        [
            [cosine, sine, middle_u - cosine * middle_u - sine * middle_v],
            [-sine, cosine, middle_v + sine * middle_u - cosine * middle_v],
            [0.0, 0.0, 1.0],
        ]
    )
    return turn @ intrinsics


def _mapped(
    intrinsics: Float[Tensor, "*b 3 3"], scale: tuple[float, float], shift: tuple[float, float]
) -> Float[Tensor, "*b 3 3"]:
    """Intrinsics followed by `pixel -> scale * pixel + shift`; the last row of intrinsics is (0, 0, 1)."""
    mapped = intrinsics.clone()
    for row in range(2):
        mapped[..., row, :] *= scale[row]
        mapped[..., row, 2] += shift[row]
    return mapped
