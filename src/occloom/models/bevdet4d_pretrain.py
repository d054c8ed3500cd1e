"""Pre-training of BEVDet4D's image branch: true depth where the LiDAR hit, and the classes of the voxels it lifts to.

BEVDet4D-Occ starts from a detector whose trunk and depth network are trained already. Where there is none, as on the
town, this takes its place: `TemporalLifting` without its 3D convolutions, under the same names, so that
`train.start_from` hands it over; a linear layer that classifies each lifted voxel by itself is left behind.
See docs/models/bevdet4d.md.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from occloom.backbones.pretrained import load_trunk
from occloom.grid import LabelSpace, VoxelGrid
from occloom.interfaces import Needs, OccupancyModel, Outputs
from occloom.losses.cross_entropy import EqualClasses, cross_entropy
from occloom.models.bevdet4d import LiftedOutputs, LiftingConfig, TemporalLifting, camera_vector, depth_loss
from occloom.scene import Scene, Target


@dataclass(frozen=True)
class BevDet4dPretrainConfig:
    """Sizes of the lifting, which must be those of the `BevDet4dConfig` that starts from it."""

    lifting: LiftingConfig = field(default_factory=LiftingConfig)
    """From pictures to a volume."""
    depth_weight: float = 1.0
    """Of the loss of depth."""

    def build(self, grid: VoxelGrid, label_space: LabelSpace) -> "BevDet4dPretrain":
        """Make the model, with random weights."""
        return BevDet4dPretrain(self, grid, label_space)


class BevDet4dPretrain(OccupancyModel):
    """Lifts the present frame alone, helped by the one before it, and classifies what fell into each voxel."""

    needs = Needs(images=True, true_depth=True)
    class_weights: Tensor

    def __init__(self, config: BevDet4dPretrainConfig, grid: VoxelGrid, label_space: LabelSpace) -> None:
        super().__init__()
        self.config, self.grid, self.label_space = config, grid, label_space
        self.lifting = TemporalLifting(config.lifting, grid)
        del self.lifting.refine  # what follows the lifted volume is not trained here
        self.classify = nn.Linear(config.lifting.channels, label_space.num_classes)
        self.register_buffer("class_weights", EqualClasses().weights(label_space), persistent=False)

    def forward(self, scene: Scene) -> LiftedOutputs:
        """Depth of the present pictures, and class scores of the voxels that their features fall into."""
        with torch.no_grad():
            older = self.lifting.trunk.first_stage(self.lifting.pictures(scene, 1))
        _, estimate, _ = self.lifting.estimate(scene, 0, camera_vector(scene), older)
        volume = self.lifting.splat(scene, 0, estimate)
        return LiftedOutputs(
            logits=self.classify(volume.movedim(1, -1)).movedim(-1, 1),
            depth=estimate.depth.unflatten(0, (scene.batch_size, -1)),
            stride=self.config.lifting.feature_stride,
            valid=scene.camera_valid[:, 0],
        )

    def loss(self, outputs: Outputs, target: Target) -> dict[str, Float[Tensor, ""]]:
        """Of the depth of pixels that the LiDAR hit, and cross-entropy of the voxels that count."""
        assert isinstance(outputs, LiftedOutputs), "outputs must be this model's own"
        return {
            "depth": self.config.depth_weight * depth_loss(outputs, target, self.config.lifting.planes),
            "cross_entropy": cross_entropy(outputs.logits, target.labels, target.observed, self.class_weights),
        }

    def load_trunk_weights(self, source: Path | Literal["imagenet"]) -> None:
        """Fill the trunk with weights of a file, or with those published for ImageNet.

        Raises:
            InputError: If they cannot be had, or are of another trunk.
        """
        load_trunk(self.lifting.trunk, source, imagenet=self.config.lifting.trunk.imagenet)
