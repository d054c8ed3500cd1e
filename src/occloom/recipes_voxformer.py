"""Recipes of VoxFormer, for `recipes.RECIPES`."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from occloom.data.semantickitti import SemanticKittiConfig
from occloom.engine.config import OneCycle, Recipe, TrainConfig
from occloom.metrics.protocols import QUERIES
from occloom.models.lmscnet import LmscNetConfig
from occloom.models.voxdet_camera import SmallTrunk
from occloom.models.voxformer import AttentionConfig, AxisQueries, TableQueries, VoxFormerConfig
from occloom.models.voxformer_released import ReleasedPlaces
from occloom.recipes_town import SHORT_RUN, TOWN_TRAIN, TOWN_VAL


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
        # An IoU of x is highest where a voxel is called occupied from a probability of x / (1 + x) on: 0.3 at 0.42.
        model=LmscNetConfig(class_weights=(0.3, 0.7)),
        data=replace(
            recipe.data,
            root=Path("town"),
            pseudo_voxels=Path("stereo-sgbm"),
            train=TOWN_TRAIN,
            val=TOWN_VAL,
            flip_probability=0.5,
        ),
        train=TrainConfig(
            steps=900,
            batch_size=1,
            learning_rate=2e-3,
            weight_decay=0.01,
            schedule=OneCycle(warmup=0.05),
            ema_decay=0.98,
            validate_every=150,
        ),
    )


def voxformer_s_semantickitti() -> Recipe:
    """VoxFormer-S on SemanticKITTI: one picture of 370x1220, corrected queries, a volume of 0.4 m."""
    return Recipe(
        name="voxformer-s-semantickitti",
        model=VoxFormerConfig(),
        data=SemanticKittiConfig(
            root=Path("semantickitti"),
            image_size=(370, 1220),
            image_fit="crop",
            queries=Path("corrected-stereo-msnet3d"),
            flip_probability=0.0,
            colour_jitter=0.0,
        ),
        train=TrainConfig(
            steps=19_170,  # 20 epochs of 3834 frames
            batch_size=4,
            learning_rate=2e-4,
            weight_decay=0.01,
            schedule=OneCycle(warmup=500 / 19_170, start=1 / 3, end=1e-3),
            ema_decay=0.0,
            workers=4,
            validate_every=1917,
            trunk_weights="imagenet",
        ),
    )


def voxformer_t_semantickitti() -> Recipe:
    """VoxFormer-T on SemanticKITTI: the picture of now and those of 3, 6, 9 and 12 scans before."""
    return _temporal(voxformer_s_semantickitti(), "voxformer-t-semantickitti", frames=(0, -3, -6, -9, -12))


def voxformer_s_semantickitti_released() -> Recipe:
    """VoxFormer-S as released: for published checkpoints."""
    return _released(voxformer_s_semantickitti())


def voxformer_t_semantickitti_released() -> Recipe:
    """VoxFormer-T as released: for published checkpoints."""
    return _released(voxformer_t_semantickitti())


def voxformer_s_3d_semantickitti() -> Recipe:
    """VoxFormer-S whose self-attention samples in the volume, the authors' later form ("deform3D")."""
    recipe = voxformer_s_semantickitti()
    assert isinstance(recipe.model, VoxFormerConfig)
    return replace(recipe, name="voxformer-s-3d-semantickitti", model=replace(recipe.model, sampling="volume"))


def voxformer_s_town() -> Recipe:
    """VoxFormer-S's small twin on the town: 96x320, a volume of 64x64x4, a step's loss at one voxel of 27."""
    recipe = voxformer_s_semantickitti()
    assert isinstance(recipe.data, SemanticKittiConfig)
    attention = AttentionConfig(heads=4, points=4, feedforward=64, dropout=0.0)
    return replace(
        recipe,
        name="voxformer-s-town",
        model=VoxFormerConfig(
            trunk=SmallTrunk(),
            strides=(8, 16, 32),
            channels=32,
            volume_coarsening=(4, 4, 8),
            queries=TableQueries(deviation=0.02),
            lifting=attention,
            refinement=replace(attention, layers=2, points=2),
            loss_stride=3,
        ),
        data=replace(
            recipe.data,
            root=Path("town"),
            image_size=(96, 320),
            image_fit="resize",
            queries=Path("corrected-stereo-sgbm"),
            train=TOWN_TRAIN,
            val=TOWN_VAL,
            flip_probability=0.5,
            colour_jitter=0.4,
        ),
        train=replace(SHORT_RUN, learning_rate=3e-3),
    )


def voxformer_t_town() -> Recipe:
    """VoxFormer-T's small twin on the town, which has a picture each fifth scan: those of 5 and 10 scans before too."""
    return _temporal(voxformer_s_town(), "voxformer-t-town", frames=(0, -5, -10))


def voxformer_s_3d_town() -> Recipe:
    """voxformer-s-town whose self-attention samples in the volume."""
    recipe = voxformer_s_town()
    assert isinstance(recipe.model, VoxFormerConfig)
    return replace(recipe, name="voxformer-s-3d-town", model=replace(recipe.model, sampling="volume"))


def voxformer_s_light_town() -> Recipe:
    """voxformer-s-town whose queries are told apart along each axis, without a row for each voxel; twice as long."""
    recipe = voxformer_s_town()
    assert isinstance(recipe.model, VoxFormerConfig)
    return replace(
        recipe,
        name="voxformer-s-light-town",
        model=replace(recipe.model, queries=AxisQueries()),
        train=replace(recipe.train, steps=800),
    )


def _temporal(recipe: Recipe, name: str, *, frames: tuple[int, ...]) -> Recipe:
    """A recipe of one picture with those of some frames, the present one first."""
    assert isinstance(recipe.model, VoxFormerConfig)
    assert isinstance(recipe.data, SemanticKittiConfig)
    return replace(
        recipe,
        name=name,
        model=replace(recipe.model, views=len(frames)),
        data=replace(recipe.data, frames=frames),
    )


def _released(recipe: Recipe) -> Recipe:
    """A recipe with the places and the camera of the released code."""
    assert isinstance(recipe.model, VoxFormerConfig)
    assert isinstance(recipe.data, SemanticKittiConfig)
    return replace(
        recipe,
        name=f"{recipe.name}-released",
        model=replace(recipe.model, places=ReleasedPlaces()),
        data=replace(recipe.data, camera_offset=False),
    )


VOXFORMER_RECIPES: dict[str, Callable[[], Recipe]] = {
    "voxformer-queries-semantickitti": voxformer_queries_semantickitti,
    "voxformer-queries-town": voxformer_queries_town,
    "voxformer-s-semantickitti": voxformer_s_semantickitti,
    "voxformer-s-semantickitti-released": voxformer_s_semantickitti_released,
    "voxformer-s-3d-semantickitti": voxformer_s_3d_semantickitti,
    "voxformer-t-semantickitti": voxformer_t_semantickitti,
    "voxformer-t-semantickitti-released": voxformer_t_semantickitti_released,
    "voxformer-s-town": voxformer_s_town,
    "voxformer-s-light-town": voxformer_s_light_town,
    "voxformer-s-3d-town": voxformer_s_3d_town,
    "voxformer-t-town": voxformer_t_town,
}
