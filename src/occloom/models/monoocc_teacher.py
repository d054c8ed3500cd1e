"""MonoOcc's privileged branch: frames of the past enrich one another's features before they are lifted (section III-C).

Pictures of several frames -> image branch -> each pair of neighbours in time through a cross-view transformer, with
sine positions (`lifting/cross_view`) -> MonoOcc, whose attention takes the mean over the frames that see a voxel. Paper
and code leave the frames open; the recipes take VoxFormer-T's, in the order of time (docs/models/monoocc.md).

Suffixes: B batch, T frames, N cameras, C channels, h w feature pixels.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from jaxtyping import Float, Int64
from torch import Tensor, nn

from occloom.grid import LabelSpace, VoxelGrid
from occloom.interfaces import OccupancyModel, Outputs
from occloom.lifting.cross_view import CrossView, JointViews, enrich_neighbours
from occloom.models.monoocc import EQUATION_10, MonoOccConfig, MonoOccOutputs
from occloom.models.voxformer import VoxFormerConfig
from occloom.scene import Scene, Target


@dataclass(frozen=True)
class MonoOccTeacherConfig:
    """The privileged branch. The defaults are five frames of one camera."""

    branch: MonoOccConfig = field(
        default_factory=lambda: MonoOccConfig(base=VoxFormerConfig(views=5, weights=EQUATION_10))
    )
    """Everything but the exchange between frames; its volume has the student's size and channels."""
    cross_view: CrossView = field(default_factory=JointViews)
    """How neighbours in time enrich one another."""

    def build(self, grid: VoxelGrid, label_space: LabelSpace) -> "MonoOccTeacher":
        """Make the model, with random weights.

        Raises:
            InputError: If sizes do not fit together.
        """
        return MonoOccTeacher(self, grid, label_space)


class MonoOccTeacher(OccupancyModel):
    """The privileged branch, a model of its own until its volumes are distilled."""

    def __init__(self, config: MonoOccTeacherConfig, grid: VoxelGrid, label_space: LabelSpace) -> None:
        """Make the model.

        Raises:
            ValueError: If the coarsening does not divide the grid.
            InputError: If sizes do not fit together.
        """
        super().__init__()
        self.config, self.grid, self.label_space = config, grid, label_space
        self.branch = config.branch.build(grid, label_space)
        self.cross_view: nn.Module = config.cross_view.build(config.branch.base.channels)
        self.needs, self.left_out = self.branch.needs, self.branch.left_out

    def forward(self, scene: Scene) -> MonoOccOutputs:
        """Answer the present frame; pictures that are missing are not looked at."""
        features = self.branch.base.image_features(scene)
        enriched = self.enriched(features.values, frames=scene.time.shape[1])
        return self.branch.answer(scene, replace(features, values=enriched))

    def enriched(self, values: Float[Tensor, "B W C h w"], *, frames: int) -> Float[Tensor, "B W C h w"]:
        """Features of views after neighbours in time have met, the oldest pair first: the present one sees all others.

        Args:
            values: View t * N + n is camera n of frame t; frame 0 is now, then older. Where a past frame does not
                exist the nearest one stands, and meets itself.
            frames: T.
        """
        by_camera = values.unflatten(1, (frames, -1)).transpose(1, 2)
        met = enrich_neighbours(self.cross_view, by_camera.flatten(0, 1).flip(1)).flip(1)
        return met.unflatten(0, by_camera.shape[:2]).transpose(1, 2).flatten(1, 2)

    def loss(self, outputs: Outputs, target: Target) -> dict[str, Float[Tensor, ""]]:
        """The terms of the monocular branch."""
        return self.branch.loss(outputs, target)

    def predict(self, scene: Scene) -> Int64[Tensor, "B X Y Z"]:
        """The most likely class of every voxel: the argmax of `logits`, without making them."""
        return self.forward(scene).scores.argmax()

    def load_trunk_weights(self, source: Path | Literal["imagenet"]) -> None:
        """Fill the trunk with weights of a file, or with those published for ImageNet.

        Raises:
            InputError: If they cannot be had, or are of another trunk.
        """
        self.branch.load_trunk_weights(source)
