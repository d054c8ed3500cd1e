"""Recipes of VoxFormer, for `recipes.RECIPES`."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from occloom.data.semantickitti import SemanticKittiConfig
from occloom.engine.config import OneCycle, Recipe, TrainConfig
from occloom.metrics.protocols import QUERIES
from occloom.models.lmscnet import LmscNetConfig
from occloom.recipes_town import TOWN_TRAIN, TOWN_VAL


def voxformer_queries_semantickitti() -> Recipe:
    """VoxFormer's stage 1 on SemanticKITTI: LMSCNet corrects which voxels of 0.4 m the depth of ten scans proposes."""
    return Recipe(
        name="voxformer-queries-semantickitti",
        model=LmscNetConfig(),
        data=SemanticKittiConfig(
            root=Path("semantickitti"),
            pseudo_voxels=Path("stereo-msnet3d"),
            label_scale=2,
            label_reduction="monoscene",
            classes="occupancy",
            flip_probability=0.0,
        ),
        train=TrainConfig(
            steps=23_004,  # 24 epochs of 3834 frames
            batch_size=4,
            learning_rate=2e-4,
            weight_decay=0.01,
            schedule=OneCycle(warmup=500 / 23_004, start=1 / 3, end=1e-3),
            ema_decay=0.0,
            workers=4,
            validate_every=1917,
        ),
        protocol=QUERIES,
    )


def voxformer_queries_town() -> Recipe:
    """VoxFormer's stage 1 on the town, at its full size: fewer, faster steps with mirrored samples among them."""
    recipe = voxformer_queries_semantickitti()
    assert isinstance(recipe.data, SemanticKittiConfig)
    return replace(
        recipe,
        name="voxformer-queries-town",
        data=replace(
            recipe.data,
            root=Path("town"),
            pseudo_voxels=Path("stereo-sgbm"),
            train=TOWN_TRAIN,
            val=TOWN_VAL,
            flip_probability=0.5,
        ),
        train=TrainConfig(
            steps=400,
            batch_size=1,
            learning_rate=2e-3,
            weight_decay=0.01,
            schedule=OneCycle(warmup=0.05),
            ema_decay=0.98,
            validate_every=200,
        ),
    )


VOXFORMER_RECIPES: dict[str, Callable[[], Recipe]] = {
    "voxformer-queries-semantickitti": voxformer_queries_semantickitti,
    "voxformer-queries-town": voxformer_queries_town,
}
