"""ProtoOcc's multi-perspective decoding: changed copies of the voxel queries, decoded to one scene (section 3.3).

In training the volume is decoded beside P changed copies of itself, all by the same decoder; every copy is compared
with the truth, and all with their mean (Eq. 4, 5). Where nothing is trained, only the volume itself is decoded.
Amounts that the paper leaves open are those of reference protoocc 2.6.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from occloom.errors import InputError


@dataclass(frozen=True)
class View:
    """A volume seen otherwise."""

    volume: Float[Tensor, "B C x y z"]
    undo: Callable[[Tensor], Tensor]
    """Brings what was decoded from it, "B K X Y Z", back to the places of the scene."""


@runtime_checkable
class Perspective(Protocol):
    """One way to see a volume otherwise."""

    def view(self, volume: Float[Tensor, "B C x y z"]) -> View:
        """A view of the volume; where it is random, drawn anew."""
        ...


@dataclass(frozen=True)
class Dropout:
    """Feature level: numbers are dropped at random, the others enlarged to make up for them."""

    share: float = 0.1

    def __post_init__(self) -> None:
        if not 0 <= self.share < 1:
            raise InputError(f"share is {self.share}", rule="what is dropped is a share, from 0 to below 1")

    def view(self, volume: Float[Tensor, "B C x y z"]) -> View:
        """The volume with some numbers dropped."""
        return View(F.dropout(volume, self.share), undo=_same)


@dataclass(frozen=True)
class GaussianNoise:
    """Feature level: normal noise, as large as a share of the standard deviation of its channel."""

    scale: float = 0.1

    def view(self, volume: Float[Tensor, "B C x y z"]) -> View:
        """The volume with noise."""
        std = volume.detach().std(dim=(0, 2, 3, 4), keepdim=True, correction=0)
        return View(volume + self.scale * std * torch.randn_like(volume), undo=_same)


@dataclass(frozen=True)
class Transposition:
    """Spatial level: x and y change places."""

    def view(self, volume: Float[Tensor, "B C x y z"]) -> View:
        """The volume transposed.

        Raises:
            InputError: If it is not as long as it is wide: it could not be decoded beside itself.
        """
        if volume.shape[2] != volume.shape[3]:
            raise InputError(
                f"a volume of {volume.shape[2]}x{volume.shape[3]} cannot be transposed",
                rule="x and y have as many voxels",
                remedy="leave Transposition out of perspectives",
            )
        return View(_transposed(volume), undo=_transposed)


@dataclass(frozen=True)
class Flips:
    """Spatial level: x and y are reversed, each or both, at random."""

    share: float = 0.5
    """Of volumes, along each axis."""

    def view(self, volume: Float[Tensor, "B C x y z"]) -> View:
        """The volume with some axes reversed, or none."""
        reverse = (torch.rand(2) < self.share).tolist()
        axes = [axis for axis, reversed_ in zip((2, 3), reverse, strict=True) if reversed_]
        return View(volume.flip(axes), undo=lambda decoded: decoded.flip(axes))


def decode_all(
    volume: Float[Tensor, "B C x y z"],
    perspectives: Sequence[Perspective],
    decode: Callable[[Tensor], Tensor],
) -> tuple[Float[Tensor, "B K X Y Z"], ...]:
    """Logits of the volume and of a view of each perspective, decoded in one batch, all at the places of the scene."""
    views = [View(volume, undo=_same), *(perspective.view(volume) for perspective in perspectives)]
    decoded = decode(torch.cat([view.volume for view in views])).chunk(len(views))
    return tuple(view.undo(logits) for view, logits in zip(views, decoded, strict=True))


def scene_consistency(
    logits: Sequence[Float[Tensor, "B K X Y Z"]], observed: Bool[Tensor, "B X Y Z"], *, temperature: float
) -> Float[Tensor, ""]:
    """Mean squared distance of each view's class distribution from their sharpened mean (Eq. 4, 5).

    The sharpened mean is not trained (GRAND, which the paper follows).

    Args:
        logits: Of the views, at the same places.
        observed: Voxels that count.
        temperature: Below 1 it sharpens the mean.

    Returns:
        The mean over views and voxels of the distance summed over classes; 0 if none is observed.
    """
    probability = torch.stack([torch.movedim(view, 1, -1)[observed] for view in logits]).float().softmax(dim=-1)
    with torch.no_grad():
        powers = probability.mean(dim=0) ** (1 / temperature)
        sharpened = powers / powers.sum(dim=-1, keepdim=True)
    distance = (sharpened - probability).square().sum(dim=-1)
    return distance.sum() / max(1, distance.numel())


def _same(volume: Tensor) -> Tensor:
    return volume


def _transposed(volume: Tensor) -> Tensor:
    return volume.transpose(2, 3)
