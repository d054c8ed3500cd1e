"""What VoxFormer's released code does otherwise than this library: a part for the recipes that load its weights.

Weights that were trained with it mean less with another. Facts: reference monoocc 1 and 3; docs/models/voxformer.md.

Suffixes: B batch, W views, Q queries.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from occloom.geometry.precision import full_precision
from occloom.geometry.projection import project
from occloom.geometry.rigid import transform_points
from occloom.lifting.cross_attention import NEAREST, ReferencePoints
from occloom.models.voxformer import present_views
from occloom.scene import Scene


@dataclass(frozen=True)
class ReleasedPlaces:
    """Fractions of the picture, whatever the feature map covers, from a corner of its first pixel on.

    A map of 24x77 features of a picture of 370x1220 covers 384x1232 pixels, yet its borders are taken for those of the
    picture: places are stretched by 4 and 1 per cent. The centre of a pixel lacks its half.
    """

    def references(
        self,
        scene: Scene,
        points: Float[Tensor, "B Q 3"],
        size: tuple[int, int],  # noqa: ARG002
        stride: int,  # noqa: ARG002
    ) -> ReferencePoints:
        """Seen where strictly within the picture and in front; `size` and `stride` do not matter."""
        assert scene.images is not None, "needs asks for images"
        height, width = scene.images.shape[-2:]
        cameras, views = scene.cameras, scene.camera_valid[0].numel()
        with full_precision(points.device.type):
            seen_from = points[:, None].expand(-1, views, -1, -1)
            camera_points = transform_points(cameras.camera_from_ego.flatten(1, 2), seen_from)
            pixels, depth = project(camera_points, cameras.intrinsics.flatten(1, 2))
            shares = pixels / pixels.new_tensor((width, height))
        inside = ((shares > 0) & (shares < 1)).all(dim=-1) & (depth > NEAREST)
        visible = inside & present_views(scene)[:, :, None]
        locations = torch.cat([shares, depth[..., None]], dim=-1)  # depth is not used in the plane
        return ReferencePoints(locations[:, :, :, None], visible[..., None])
