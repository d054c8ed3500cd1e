"""Recipes for published weights, importable as `released_recipes:lidar`."""

from pathlib import Path

from tiny_recipes import TinyData

from occloom.engine.config import Recipe, TrainConfig
from occloom.models.voxdet_lidar import VoxDetLConfig


def lidar() -> Recipe:
    """VoxDet-L at its published size."""
    data = TinyData(root=Path("semantickitti"), kitti_classes=True, kitti_grid=True)
    return Recipe(name="released_recipes:lidar", model=VoxDetLConfig(), data=data, train=TrainConfig())
