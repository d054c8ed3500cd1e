"""Recipes for published weights, importable as `released_recipes:lidar` and `released_recipes:surround`."""

from pathlib import Path

from tiny_recipes import TinyData

from occloom.engine.config import Recipe, TrainConfig
from occloom.models.bevdet4d import BevDet4dConfig, LiftingConfig
from occloom.models.voxdet_camera import SmallTrunk
from occloom.models.voxdet_lidar import VoxDetLConfig


def lidar() -> Recipe:
    """VoxDet-L at its published size."""
    data = TinyData(root=Path("semantickitti"), kitti_classes=True, kitti_grid=True)
    return Recipe(name="released_recipes:lidar", model=VoxDetLConfig(), data=data, train=TrainConfig())


def surround() -> Recipe:
    """BEVDet4D with a small trunk: of a published one, little fits."""
    lifting = LiftingConfig(trunk=SmallTrunk(width=8), image_channels=8, depth_channels=8, pyramid_channels=4)
    return Recipe("released_recipes:surround", model=BevDet4dConfig(lifting), data=TinyData(), train=TrainConfig())
