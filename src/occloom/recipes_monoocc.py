"""Recipes of MonoOcc: its monocular branch, its privileged one, and the one that learns from the other."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from occloom.data.semantickitti import SemanticKittiConfig
from occloom.engine.config import OneCycle, Recipe, TrainConfig
from occloom.models.monoocc import EQUATION_10, MonoOccConfig
from occloom.models.monoocc_distillation import MonoOccDistillationConfig
from occloom.models.monoocc_teacher import MonoOccTeacherConfig
from occloom.models.voxdet_camera import SmallTrunk
from occloom.models.voxformer import AttentionConfig, AxisQueries, VoxFormerConfig
from occloom.recipes_town import TOWN_TRAIN, TOWN_VAL

SWEEPS = (0, -1, -2, -3, -4)
"""Scans whose points supervise pixels (`occloom prepare image-labels`): the paper leaves their number open."""
TEACHER_FRAMES = (0, -3, -6, -9, -12)
"""VoxFormer-T's, in the order of time: paper and code leave the teacher's open."""
TOWN_TEACHER_FRAMES = (0, -5, -10)
"""The town has every fifth picture."""
TOWN_ATTENTION = AttentionConfig(layers=2, heads=4, points=2, feedforward=64)
"""Of proposed voxels into the pictures; of all voxels once."""


def monoocc_s_semantickitti() -> Recipe:
    """MonoOcc-S on SemanticKITTI as the paper describes it, less its distillation: ResNet-50, 370x1220."""
    return Recipe(
        name="monoocc-s-semantickitti",
        model=MonoOccConfig(),
        data=SemanticKittiConfig(
            root=Path("semantickitti"),
            image_fit="crop",
            queries=Path("corrected-stereo-msnet3d"),
            image_labels=Path("sweeps-5"),
            label_sweeps=SWEEPS,
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
            validate_every=958,
            trunk_weights="imagenet",
        ),
    )


def monoocc_teacher_semantickitti() -> Recipe:
    """MonoOcc's privileged branch on SemanticKITTI: five frames that enrich one another, with the student's trunk."""
    recipe = monoocc_s_semantickitti()
    assert isinstance(recipe.data, SemanticKittiConfig)
    return replace(
        recipe,
        name="monoocc-teacher-semantickitti",
        model=MonoOccTeacherConfig(),
        data=replace(recipe.data, frames=TEACHER_FRAMES),
    )


def monoocc_s_distilled_semantickitti() -> Recipe:
    """MonoOcc-S on SemanticKITTI with everything: it learns from the trained teacher that --model.checkpoint names."""
    recipe, teacher = monoocc_s_semantickitti(), monoocc_teacher_semantickitti()
    assert isinstance(recipe.model, MonoOccConfig)
    assert isinstance(teacher.model, MonoOccTeacherConfig)
    return replace(
        recipe,
        name="monoocc-s-distilled-semantickitti",
        model=MonoOccDistillationConfig(student=recipe.model, teacher=teacher.model),
        data=teacher.data,
    )


def monoocc_s_town() -> Recipe:
    """MonoOcc-S's small twin on the town, less its distillation: 96x320, volume of 0.8 m."""
    return Recipe(
        name="monoocc-s-town",
        model=_town_branch(views=1, width=32),
        data=SemanticKittiConfig(
            root=Path("town"), image_size=(96, 320), queries=Path("raw-stereo-sgbm"), train=TOWN_TRAIN, val=TOWN_VAL
        ),
        train=TrainConfig(
            steps=300,
            batch_size=2,
            learning_rate=1.5e-3,
            weight_decay=0.01,
            schedule=OneCycle(warmup=0.05),
            ema_decay=0.99,
            validate_every=150,
        ),
    )


def monoocc_teacher_town() -> Recipe:
    """MonoOcc's privileged branch on the town: three frames that enrich one another, and a wider trunk."""
    recipe = monoocc_s_town()
    assert isinstance(recipe.data, SemanticKittiConfig)
    return replace(
        recipe,
        name="monoocc-teacher-town",
        model=MonoOccTeacherConfig(branch=_town_branch(views=len(TOWN_TEACHER_FRAMES), width=48)),
        data=replace(recipe.data, frames=TOWN_TEACHER_FRAMES),
    )


def monoocc_s_distilled_town() -> Recipe:
    """monoocc-s-town with its distillation: it learns from the trained teacher that --model.checkpoint names."""
    recipe, teacher = monoocc_s_town(), monoocc_teacher_town()
    assert isinstance(recipe.model, MonoOccConfig)
    assert isinstance(teacher.model, MonoOccTeacherConfig)
    return replace(
        recipe,
        name="monoocc-s-distilled-town",
        model=MonoOccDistillationConfig(student=recipe.model, teacher=teacher.model),
        data=teacher.data,
    )


def _town_branch(*, views: int, width: int) -> MonoOccConfig:
    """The town's sizes.

    Args:
        views: Pictures of a sample.
        width: Channels of the trunk's first stage.
    """
    base = VoxFormerConfig(
        trunk=SmallTrunk(width=width),
        strides=(8, 16),
        channels=32,
        views=views,
        volume_coarsening=(4, 4, 4),
        queries=AxisQueries(),
        lifting=TOWN_ATTENTION,
        refinement=replace(TOWN_ATTENTION, layers=1),
        weights=EQUATION_10,
        loss_stride=3,
    )
    return MonoOccConfig(base=base, conditioning=replace(TOWN_ATTENTION, layers=1))


MONOOCC_RECIPES: dict[str, Callable[[], Recipe]] = {
    "monoocc-s-semantickitti": monoocc_s_semantickitti,
    "monoocc-s-distilled-semantickitti": monoocc_s_distilled_semantickitti,
    "monoocc-teacher-semantickitti": monoocc_teacher_semantickitti,
    "monoocc-s-town": monoocc_s_town,
    "monoocc-s-distilled-town": monoocc_s_distilled_town,
    "monoocc-teacher-town": monoocc_teacher_town,
}
