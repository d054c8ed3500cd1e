"""Classes of features that are enlarged first and normalised then: VoxFormer's head.

The head reads: enlarge the volume trilinearly (outermost centres on outermost centres, `align_corners=True`), layer
normalisation, a linear map to classes, voxel by voxel. Enlarged features would take twenty classes' memory six times
over, and need not be made. Features are centred before they are enlarged, which changes nothing, since the mean over
channels is linear; then a class's score is the enlarged score of the coarse volume, divided by the deviation of the
enlarged features. Their variance is a few numbers a coarse voxel: between two places a and b, t of the way,

    |(1 - t) a + t b|^2 = (1 - t) |a|^2 + t |b|^2 - t (1 - t) |a - b|^2,

and so on along each further axis.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from occloom.grid import Shape


@dataclass(frozen=True)
class Between:
    """Where fine places lie between coarse ones along an axis."""

    before: Int64[Tensor, " N"]
    """The coarse place before each."""
    after: Int64[Tensor, " N"]
    """The one behind; the same where there is but one."""
    share: Float[Tensor, " N"]
    """Of the one behind."""


def between(places: Int64[Tensor, " N"], coarse: int, fine: int) -> Between:
    """Places of an axis of `fine` cells among `coarse` ones whose outermost centres lie on theirs."""
    position = places * ((coarse - 1) / max(fine - 1, 1))
    before = position.floor().long().clamp(max=max(coarse - 2, 0))
    return Between(before, (before + 1).clamp(max=coarse - 1), position - before)


def interpolated(values: Float[Tensor, "..."], axis: int, at: Between) -> Float[Tensor, "..."]:
    """Values at places between the cells of an axis."""
    share = _along(at.share.to(values.dtype), values.ndim, axis)
    return torch.lerp(values.index_select(axis, at.before), values.index_select(axis, at.after), share)


def _along(numbers: Float[Tensor, " N"], ndim: int, axis: int) -> Tensor:
    """Numbers of an axis, to be spread over the others."""
    shape = [1] * ndim
    shape[axis] = -1
    return numbers.view(shape)


@dataclass(frozen=True)
class NormalisedScores:
    """Scores of a coarse volume whose enlarged features are normalised."""

    coarse: Float[Tensor, "B K x y z"]
    """Scores of the centred features."""
    spreads: tuple[Float[Tensor, "B x y z"], ...]
    """Mean squares over the channels of the centred features and of their steps to the next voxel: along x, y, x and y,
    z, x and z, y and z, all three."""
    bias: Float[Tensor, " K"]
    """Of each class, after normalisation."""
    size: Shape
    """Of the full grid."""
    eps: float
    """Added to variances."""

    @property
    def logits(self) -> Float[Tensor, "B K X Y Z"]:
        """Class scores on the full grid; large, made anew at each call."""
        return self.at(*(torch.arange(n, device=self.coarse.device) for n in self.size))

    def at(self, x: Int64[Tensor, " X"], y: Int64[Tensor, " Y"], z: Int64[Tensor, " Z"]) -> Float[Tensor, "B K X Y Z"]:
        """Class scores of the voxels of the full grid with these indices along each axis."""
        scores, spreads = self.coarse, list(self.spreads)
        # Along x first: a slab costs no more than its share.
        for axis, places in ((1, x), (2, y), (3, z)):
            at = between(places, self.coarse.shape[axis + 1], self.size[axis - 1])
            scores = interpolated(scores, axis + 1, at)
            product = _along((at.share * (1 - at.share)).to(scores.dtype), 4, axis)
            # Neighbours in the list are what differs along this axis alone.
            spreads = [
                interpolated(plain, axis, at) - product * step.index_select(axis, at.before)
                for plain, step in zip(spreads[::2], spreads[1::2], strict=True)
            ]
        (variance,) = spreads
        deviation = (variance.clamp(min=0) + self.eps).sqrt()
        return scores / deviation[:, None] + self.bias[:, None, None, None]

    def argmax(self, *, slab: int = 16) -> Int64[Tensor, "B X Y Z"]:
        """The most likely class of every voxel, without making all of `logits` at once.

        Args:
            slab: Voxels along x that are classified at a time.
        """
        x, y, z = (torch.arange(n, device=self.coarse.device) for n in self.size)
        return torch.cat([self.at(part, y, z).argmax(dim=1) for part in x.split(slab)], dim=1)


class NormalisedHead(nn.Module):
    """Trilinear enlargement, layer normalisation, linear map to classes."""

    def __init__(self, channels: int, num_classes: int, *, factors: Shape) -> None:
        """Make the head.

        Args:
            channels: Of the volume.
            num_classes: K.
            factors: Voxels of the full grid in a voxel of the volume, along x, y, z.
        """
        super().__init__()
        self.factors = factors
        self.norm = nn.LayerNorm(channels)
        self.classify = nn.Linear(channels, num_classes)

    def forward(self, volume: Float[Tensor, "B C x y z"]) -> NormalisedScores:
        """Score every voxel."""
        volume = volume.to(torch.promote_types(volume.dtype, torch.float32))  # mixed precision ends here
        centred = volume - volume.mean(dim=1, keepdim=True)
        weight = self.classify.weight * self.norm.weight
        scores = torch.einsum("kc,bcxyz->bkxyz", weight, centred)
        (x, y, z), (fx, fy, fz) = volume.shape[2:], self.factors
        return NormalisedScores(
            coarse=scores,
            spreads=tuple(_spreads(centred, (4, 3, 2))),
            bias=self.classify.weight @ self.norm.bias + self.classify.bias,
            size=(x * fx, y * fy, z * fz),
            eps=self.norm.eps,
        )


def _spreads(values: Float[Tensor, "B C x y z"], axes: tuple[int, ...]) -> list[Float[Tensor, "B x y z"]]:
    """Mean squares of the values, and of their steps along each set of axes; the last axis differs fastest."""
    if not axes:
        return [values.square().mean(dim=1)]
    first, *others = axes
    last = values.narrow(first, values.shape[first] - 1, 1)
    steps = values.diff(dim=first, append=last)  # as long as the axis: nothing lies behind the last voxel
    return [*_spreads(values, tuple(others)), *_spreads(steps, tuple(others))]
