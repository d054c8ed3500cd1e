"""Rigid maps as 4x4 matrices acting on column vectors; `a_from_b` maps b to a (docs/conventions.md)."""

import torch
from jaxtyping import Float
from torch import Tensor


def invert(a_from_b: Float[Tensor, "*b 4 4"]) -> Float[Tensor, "*b 4 4"]:
    """The map `b_from_a` of a rotation (or reflection) and a translation.

    The rotation is transposed, not inverted, so its upper 3x3 part must be orthogonal; the last row stays exact.
    """
    b_from_a_rotation = a_from_b[..., :3, :3].mT
    return rigid(b_from_a_rotation, -(b_from_a_rotation @ a_from_b[..., :3, 3:])[..., 0])


def rigid(rotation: Float[Tensor, "*b 3 3"], translation: Float[Tensor, "*b 3"]) -> Float[Tensor, "*b 4 4"]:
    """The map `point -> rotation @ point + translation` as a matrix; the translation is in metres."""
    top = torch.cat([rotation, translation[..., None]], dim=-1)
    bottom = torch.zeros_like(top[..., :1, :])
    bottom[..., 3] = 1.0
    return torch.cat([top, bottom], dim=-2)


def transform_points(a_from_b: Float[Tensor, "*b 4 4"], points_b: Float[Tensor, "*b P 3"]) -> Float[Tensor, "*b P 3"]:
    """Points of frame b in frame a, in metres."""
    return points_b @ a_from_b[..., :3, :3].mT + a_from_b[..., None, :3, 3]
