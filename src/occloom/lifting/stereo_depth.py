"""Depth from features, camera and a plane-sweep cost volume: the depth net of BEVDepth and BEVStereo (AAAI 2023)."""

from math import log2

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from occloom.backbones.resnet import BasicBlock, Norm
from occloom.lifting.depth import DepthPlanes
from occloom.lifting.geometry_depth import AtrousPyramid, BatchNormOfVectors, CameraMlp, DepthAndContext, Gate
from occloom.ops.plane_sweep import plane_sweep

OUTSIDE_COST = 5.0
"""Added to the cost of a plane at which a pixel is not in the other picture."""


class StereoDepth(nn.Module):
    """Context and depth from features gated by the camera; depth also from how well an older picture agrees."""

    def __init__(
        self,
        *,
        in_channels: int = 256,
        channels: int = 256,
        context_channels: int = 32,
        pyramid_channels: int = 96,
        planes: int = 88,
        camera_numbers: int = 27,
        matching_stride: int = 4,
        stride: int = 16,
    ) -> None:
        """Make the network.

        Args:
            in_channels: Of the features.
            channels: Inner ones.
            context_channels: Of the context that comes out.
            pyramid_channels: Of each side of the atrous pyramid.
            planes: D.
            camera_numbers: F, that describe a camera.
            matching_stride: Image pixels a cell of `matching`.
            stride: Image pixels a feature pixel; `matching_stride` times a power of two.
        """
        super().__init__()
        self.reduce = nn.Sequential(
            nn.Conv2d(in_channels, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.ReLU(inplace=True)
        )
        self.camera_norm = BatchNormOfVectors(camera_numbers)
        self.context_mlp = CameraMlp(camera_numbers, channels)
        self.context_gate = Gate(channels)
        self.context_conv = nn.Conv2d(channels, context_channels, 1)
        self.depth_mlp = CameraMlp(camera_numbers, channels)
        self.depth_gate = Gate(channels)
        # No ReLU between the halvings, as in BEVDet.
        self.matching_conv = nn.Sequential(
            *(
                layer
                for _ in range(round(log2(stride / matching_stride)))
                for layer in (nn.Conv2d(planes, planes, 3, 2, padding=1), nn.BatchNorm2d(planes))
            )
        )
        self.depth_conv = nn.Sequential(
            BasicBlock(channels + planes, channels, stride=1, norm=nn.BatchNorm2d, shortcut=biased_projection),
            BasicBlock(channels, channels, stride=1, norm=nn.BatchNorm2d),
            BasicBlock(channels, channels, stride=1, norm=nn.BatchNorm2d),
            AtrousPyramid(channels, inner=pyramid_channels),
            nn.Conv2d(channels, planes, 1),
        )

    def forward(
        self,
        features: Float[Tensor, "M C h w"],
        camera: Float[Tensor, "M F"],
        matching: Float[Tensor, "M D H W"],
    ) -> DepthAndContext:
        """Estimate the depth of each feature pixel.

        Args:
            features: Image features.
            camera: Numbers that describe each camera and what was done to its picture.
            matching: From `matching_probability`.
        """
        features = self.reduce(features)
        camera = self.camera_norm(camera)
        context = self.context_conv(self.context_gate(features, self.context_mlp(camera)))
        gated = self.depth_gate(features, self.depth_mlp(camera))
        logits = self.depth_conv(torch.cat([gated, self.matching_conv(matching)], dim=1))
        return DepthAndContext(context=context, depth=logits.softmax(dim=1))


def biased_projection(in_channels: int, out_channels: int, *, stride: int, norm: Norm) -> nn.Module | None:  # noqa: ARG001
    """A shortcut of one biased 1x1 convolution, not normalised, where channels change."""
    return None if in_channels == out_channels else nn.Conv2d(in_channels, out_channels, 1, stride)


def matching_probability(
    features: Float[Tensor, "M C h w"],
    others: Float[Tensor, "M C h w"],
    *,
    intrinsics: Float[Tensor, "M 3 3"],
    other_intrinsics: Float[Tensor, "M 3 3"],
    other_from_camera: Float[Tensor, "M 4 4"],
    valid: Bool[Tensor, " M"],
    planes: DepthPlanes,
    stride: int,
) -> Float[Tensor, "M D h w"]:
    """How likely each plane is by how well an older picture agrees; no gradient, as in BEVStereo.

    A camera that has not moved, and one whose older picture is missing, learns nothing: all planes are equal.

    Args:
        features: Of the pictures.
        others: Of the older ones.
        intrinsics: For the pictures.
        other_intrinsics: For the older ones.
        other_from_camera: From each camera to the older picture's.
        valid: False where one of the two pictures is missing.
        planes: D depths.
        stride: Image pixels a feature pixel.
    """
    cost = plane_sweep(
        features,
        others,
        intrinsics=intrinsics,
        other_intrinsics=other_intrinsics,
        other_from_camera=other_from_camera,
        depths=planes.centres(dtype=intrinsics.dtype, device=intrinsics.device),
        stride=stride,
        outside_cost=OUTSIDE_COST,
    )
    return F.softmax(-cost * valid[:, None, None, None], dim=1)
