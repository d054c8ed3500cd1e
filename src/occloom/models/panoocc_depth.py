"""PanoOcc whose queries also look along depth: the DFA3D row beside which ProtoOcc is measured (its Table 3).

A small network on the maps of stride 8 says how probable each depth plane is; the other levels have its means, or what
lies between. Each layer's attention samples features where their depth is probable (Li et al., "DFA3D", ICCV 2023).
Depth is learned from occupancy alone. The paper does not say how its row was made; its 22.33 M parameters of view
transformation stand for a larger depth network than this one.
"""

from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from occloom.errors import InputError
from occloom.lifting.cross_attention import DepthAwareCrossAttention, ReferencePoints
from occloom.lifting.depth import DepthPlanes
from occloom.models.view_layers import Looked, Pictures


@dataclass(frozen=True)
class DepthAwareLooking:
    """Deformable attention with depth into the cameras that see a query: `view_layers.Looking`."""

    planes: DepthPlanes = field(default_factory=lambda: DepthPlanes(near=1.0, step=1.0, count=60))
    """Of depth."""
    stride: int = 8
    """Of the maps that the depth is estimated from."""

    def build_summary(self, channels: int) -> nn.Module | None:
        """The depth of a frame's pictures, once for all layers."""
        return FrameDepth(self, channels)

    def build_layer(self, channels: int, *, heads: int, points: int, levels: int, references: int) -> nn.Module:
        """`DepthAwareCrossAttention`."""
        return DepthAwareLook(
            channels, heads=heads, points=points, levels=levels, references=references, planes=self.planes
        )


class FrameDepth(nn.Module):
    """How probable each depth plane is at each cell of each level of a frame's pictures."""

    def __init__(self, config: DepthAwareLooking, channels: int) -> None:
        super().__init__()
        self.stride = config.stride
        self.estimate = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, config.planes.count, 1),
        )

    def forward(self, pictures: Pictures) -> tuple[Float[Tensor, "B N D _ _"], ...]:
        """One map a level.

        Raises:
            InputError: If no level has the stride.
        """
        if self.stride not in pictures.strides:
            raise InputError(
                f"looking.stride is {self.stride}",
                rule=f"it is one of the pictures' levels: {', '.join(map(str, pictures.strides))}",
            )
        level = pictures.levels[pictures.strides.index(self.stride)]
        depth = self.estimate(level.flatten(0, 1)).softmax(dim=1)
        return tuple(
            _resized(depth, (each.shape[3], each.shape[4])).unflatten(0, each.shape[:2]) for each in pictures.levels
        )


def _resized(depth: Float[Tensor, "M D h w"], size: tuple[int, int]) -> Float[Tensor, "M D _ _"]:
    """Means of the cells of a coarser map, or what lies between those of a finer one; still sums to 1."""
    if size[0] <= depth.shape[2]:
        return F.adaptive_avg_pool2d(depth, size)
    return F.interpolate(depth, size, mode="bilinear", align_corners=False)


class DepthAwareLook(DepthAwareCrossAttention):
    """`DepthAwareCrossAttention` as a layer calls it."""

    def __init__(
        self, channels: int, *, heads: int, points: int, levels: int, references: int, planes: DepthPlanes
    ) -> None:
        super().__init__(channels, heads=heads, points=points, levels=levels, references=references)
        self.planes = planes

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        queries: Float[Tensor, "B Q C"],
        references: ReferencePoints,
        pictures: Pictures,
        depths: tuple[Tensor, ...],
    ) -> Looked:
        """Look; the references' depth is in metres."""
        picture, metres = references.locations[..., :2], references.locations[..., 2:]
        share = (metres - self.planes.nearest) / (self.planes.farthest - self.planes.nearest)
        placed = replace(references, locations=torch.cat([picture, share], dim=-1))
        return Looked(super().forward(queries, placed, pictures.values, depths))
