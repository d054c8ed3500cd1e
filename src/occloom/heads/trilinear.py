"""Class scores of a coarse volume, meant on a finer grid by trilinear interpolation."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from occloom.grid import Shape
from occloom.heads.normalised import Between, interpolated
from occloom.ops.in_place import enlarged_slabs, normalise
from occloom.ops.winograd_conv3d import Conv3x3x3


@dataclass(frozen=True)
class TrilinearScores:
    """Logits at the centres of coarse voxels; between them they are interpolated."""

    coarse: Float[Tensor, "B K x y z"]
    """Unnormalised class scores of the coarse volume."""
    factors: Shape
    """Voxels of the full grid in a coarse voxel, along x, y, z."""

    @property
    def logits(self) -> Float[Tensor, "B K X Y Z"]:
        """Class scores on the full grid; large, made anew at each call."""
        return F.interpolate(self.coarse, size=self._size, mode="trilinear", align_corners=False)

    def at(self, x: Int64[Tensor, " X"], y: Int64[Tensor, " Y"], z: Int64[Tensor, " Z"]) -> Float[Tensor, "B K X Y Z"]:
        """Those of `logits` at the voxels of the full grid with these indices along each axis."""
        scores = self.coarse
        for axis, (places, factor) in enumerate(zip((x, y, z), self.factors, strict=True), start=2):
            count = scores.shape[axis]
            # The centres of the outermost coarse voxels go on to the border.
            position = ((places + 0.5) / factor - 0.5).clamp(0, count - 1)
            before = position.floor().long()
            scores = interpolated(scores, axis, Between(before, (before + 1).clamp(max=count - 1), position - before))
        return scores

    def argmax(self, *, slab: int = 8) -> Int64[Tensor, "B X Y Z"]:
        """The most likely class of every voxel, without making all of `logits` at once.

        Args:
            slab: Coarse voxels along x that are enlarged at a time.
        """
        slabs = enlarged_slabs(self.coarse, self._size, slab=slab)
        return torch.cat([logits.argmax(dim=1) for logits in slabs], dim=1)

    @property
    def _size(self) -> Shape:
        """Of the full grid."""
        (x, y, z), (fx, fy, fz) = self.coarse.shape[2:], self.factors
        return x * fx, y * fy, z * fz


class TrilinearHead(nn.Module):
    """3x3x3 convolution, normalisation, ReLU, 1x1x1 convolution to classes (VoxDet, appendix C.2)."""

    def __init__(
        self, channels: int, num_classes: int, *, hidden: int, factors: Shape, norm: Callable[[int], nn.Module]
    ) -> None:
        """Make the head.

        Args:
            channels: Of the volume.
            num_classes: K.
            hidden: Channels between the two convolutions.
            factors: Voxels of the full grid in a voxel of the volume, along x, y, z.
            norm: Makes the normalisation.
        """
        super().__init__()
        self.factors = factors
        self.hidden = Conv3x3x3(channels, hidden)
        self.norm = norm(hidden)
        self.classify = nn.Conv3d(hidden, num_classes, 1, bias=False)

    def forward(self, volume: Float[Tensor, "B C x y z"]) -> TrilinearScores:
        """Score every voxel."""
        scores = self.classify(normalise(self.norm, self.hidden(volume), relu=True))
        # The losses sum over millions of voxels: mixed precision ends here.
        return TrilinearScores(scores.to(torch.promote_types(scores.dtype, torch.float32)), self.factors)
