"""Occupancy at full resolution, classes at a coarser one: p(class) = p(occupied) * p(class | occupied)."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from occloom.grid import Shape
from occloom.ops.voxel_shuffle import repeat_voxels, voxel_shuffle
from occloom.voxel.resnet3d import group_norm


@dataclass(frozen=True)
class FactorisedScores:
    """A distribution over K classes a voxel, in two factors of different resolution."""

    occupancy: Float[Tensor, "B X Y Z"]
    """Logit of being occupied, on the full grid."""
    classes: Float[Tensor, "B S x y z"]
    """Logits of the K - 1 classes that are not empty, given that the voxel is occupied; in the order of their ids."""
    empty: int
    """Id of the empty class."""

    @property
    def factors(self) -> Shape:
        """Voxels of the full grid in a voxel of `classes`, along x, y, z."""
        fx, fy, fz = (n // c for n, c in zip(self.occupancy.shape[1:], self.classes.shape[2:], strict=True))
        return (fx, fy, fz)

    @property
    def logits(self) -> Float[Tensor, "B K X Y Z"]:
        """Log-probabilities of all K classes on the full grid; large, made anew at each call."""
        given_occupied = repeat_voxels(F.log_softmax(self.classes, dim=1), self.factors)
        occupied = F.logsigmoid(self.occupancy)[:, None] + given_occupied
        free = F.logsigmoid(-self.occupancy)[:, None]
        return torch.cat([occupied[:, : self.empty], free, occupied[:, self.empty :]], dim=1)

    def argmax(self) -> Int64[Tensor, "B X Y Z"]:
        """The most likely of the K classes, without making `logits`."""
        best, index = F.log_softmax(self.classes, dim=1).max(dim=1)
        label = index + (index >= self.empty)
        # log p(best) - log p(empty) = log p(best | occupied) + occupancy logit.
        occupied = self.occupancy + repeat_voxels(best, self.factors) > 0
        return torch.where(occupied, repeat_voxels(label, self.factors), self.empty)


class FactorisedHead(nn.Module):
    """A coarse volume to factorised scores: sub-voxels are unfolded from channels."""

    def __init__(self, *, channels: int, num_classes: int, empty: int, factors: Shape, class_factors: Shape) -> None:
        """Make the head.

        Args:
            channels: Of the volume.
            num_classes: K, the empty class included.
            empty: Id of the empty class.
            factors: Voxels of the full grid in a voxel of the volume, along x, y, z.
            class_factors: Voxels of the class scores in a voxel of the volume, along x, y, z.
        """
        super().__init__()
        self.empty, self.factors, self.class_factors = empty, factors, class_factors
        self.shared = nn.Sequential(
            nn.Conv3d(channels, channels, 3, padding=1, bias=False), group_norm(channels), nn.ReLU()
        )
        fx, fy, fz = factors
        self.occupancy = nn.Conv3d(channels, fx * fy * fz, 1)
        cx, cy, cz = class_factors
        self.classes = nn.Conv3d(channels, (num_classes - 1) * cx * cy * cz, 1)

    def forward(self, volume: Float[Tensor, "B C x y z"]) -> FactorisedScores:
        """Score every voxel of the full grid."""
        shared = self.shared(volume)
        occupancy, classes = self.occupancy(shared), self.classes(shared)
        # The losses sum over millions of voxels: mixed precision ends here.
        dtype = torch.promote_types(occupancy.dtype, torch.float32)
        return FactorisedScores(
            occupancy=voxel_shuffle(occupancy.to(dtype), self.factors)[:, 0],
            classes=voxel_shuffle(classes.to(dtype), self.class_factors),
            empty=self.empty,
        )
