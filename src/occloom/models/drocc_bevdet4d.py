"""Dr.Occ on BEVDet4D: the volume is refined at a coarse resolution, then classified. See docs/models/drocc.md.

Stage 1 of D2-VFormer is the baseline's lifting and 3D encoder, whose levels are brought together at the coarse
resolution; the decoder is trilinear interpolation and the baseline's head.
"""

from dataclasses import dataclass, field, replace

from torch import nn

from occloom.grid import LabelSpace, Shape, VoxelGrid
from occloom.models.bevdet4d import BevDet4d, BevDet4dConfig, LiftedOutputs
from occloom.models.drocc import RefinementConfig
from occloom.scene import Scene
from occloom.voxel.three_level import enlarged


@dataclass(frozen=True)
class DrOccConfig:
    """Dr.Occ on BEVDet4D. The defaults are the paper's full size, with R2-EFormer."""

    baseline: BevDet4dConfig = field(default_factory=BevDet4dConfig)
    """Lifting, 3D encoder, head and losses."""
    coarsening: Shape = (4, 4, 1)
    """Voxels of the grid in a voxel that is refined, along x, y, z (lambda, section 4.1); where they do not divide it,
    refined voxels are a little smaller, and as many as reach all."""
    refinement: RefinementConfig = field(default_factory=RefinementConfig)
    """Of the coarse volume."""
    skip: bool = False
    """Whether the head also sees the encoder's first level, which was never coarse."""

    def build(self, grid: VoxelGrid, label_space: LabelSpace) -> "DrOcc":
        """Make the model, with random weights."""
        return DrOcc(self, grid, label_space)


class DrOcc(BevDet4d):
    """Dr.Occ on BEVDet4D; what it shares with the baseline has the baseline's names, so weights go over."""

    def __init__(self, config: DrOccConfig, grid: VoxelGrid, label_space: LabelSpace) -> None:
        """Make the model.

        Raises:
            ValueError: If sizes do not fit together.
        """
        coarse = grid.with_fewer_voxels(config.coarsening)
        super().__init__(config.baseline, grid, label_space)
        self.needs = replace(config.refinement.needs, true_depth=True)
        self.refinement = config.refinement.build(
            volume_channels=config.baseline.channels, image_channels=config.baseline.lifting.image_channels, grid=coarse
        )
        self.skip = None
        if config.skip:
            self.skip = nn.Conv3d(config.baseline.volume_channels[0], config.baseline.channels, 1)

    def forward(self, scene: Scene) -> LiftedOutputs:
        """Answer the present frame; cameras whose picture is missing do not contribute."""
        lifted = self.lift(scene)
        levels = self.encoder(lifted.volume)
        coarse = self.neck(levels, self.refinement.grid.shape)
        refined = self.refinement(scene, coarse, lifted.features, lifted.stride)
        volume = enlarged(refined, self.grid.shape)
        if self.skip is not None:
            volume = volume + self.skip(levels[0])
        return LiftedOutputs(logits=self.head(volume), depth=lifted.depth, stride=lifted.stride, valid=lifted.valid)
