"""Recipes of MonoOcc: its monocular branch, its privileged one, and the one that learns from the other."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from occloom.backbones.internimage import INTERNIMAGE_T, INTERNIMAGE_XL, InternImageTrunk
from occloom.data.semantickitti import SemanticKittiConfig
from occloom.engine.config import Recipe
from occloom.models.monoocc import EQUATION_10, MonoOccConfig
from occloom.models.monoocc_distillation import MonoOccDistillationConfig
from occloom.models.monoocc_teacher import MonoOccTeacherConfig
from occloom.models.voxdet_camera import SmallTrunk
from occloom.models.voxformer import AttentionConfig, AxisQueries, FrozenResNet50, VoxFormerConfig
from occloom.recipes_voxformer import voxformer_s_semantickitti, voxformer_s_town

SWEEPS = (0, -1, -2, -3, -4)
"""Scans whose points supervise pixels (`occloom prepare image-labels`): the paper leaves their number open."""
TEACHER_FRAMES = (0, -3, -6, -9, -12)
"""VoxFormer-T's, in the order of time: paper and code leave the teacher's open."""
TOWN_TEACHER_FRAMES = (0, -5, -10)
"""The town has every fifth picture."""
TOWN_ATTENTION = AttentionConfig(layers=2, heads=4, points=2, feedforward=64, dropout=0.0)
"""Of proposed voxels into the pictures; of all voxels once."""


def monoocc_s_semantickitti() -> Recipe:
    """MonoOcc-S on SemanticKITTI as the paper describes it, less its distillation: ResNet-50, 370x1220."""
    recipe = voxformer_s_semantickitti()
    assert isinstance(recipe.data, SemanticKittiConfig)
    return replace(
        recipe,
        name="monoocc-s-semantickitti",
        model=MonoOccConfig(),
        data=replace(recipe.data, image_labels=Path("sweeps-5"), label_sweeps=SWEEPS),
    )


def monoocc_l_semantickitti() -> Recipe:
    """MonoOcc-L on SemanticKITTI, less its distillation: InternImage-XL, from its public weights or those of a file."""
    recipe = monoocc_s_semantickitti()
    return replace(recipe, name="monoocc-l-semantickitti", model=_branch(INTERNIMAGE_XL, views=1))


def monoocc_teacher_semantickitti() -> Recipe:
    """MonoOcc's privileged branch on SemanticKITTI: five frames that enrich one another, and InternImage-XL."""
    return _teacher("monoocc-teacher-semantickitti", INTERNIMAGE_XL)


def monoocc_teacher_s_semantickitti() -> Recipe:
    """monoocc-teacher-semantickitti with the student's ResNet-50: what the paper's table calls (S)."""
    return _teacher("monoocc-teacher-s-semantickitti", FrozenResNet50())


def _teacher(name: str, trunk: FrozenResNet50 | InternImageTrunk) -> Recipe:
    recipe = monoocc_s_semantickitti()
    assert isinstance(recipe.data, SemanticKittiConfig)
    return replace(
        recipe,
        name=name,
        model=MonoOccTeacherConfig(branch=_branch(trunk, views=len(TEACHER_FRAMES))),
        data=replace(recipe.data, frames=TEACHER_FRAMES),
    )


def _branch(trunk: FrozenResNet50 | InternImageTrunk, *, views: int) -> MonoOccConfig:
    """The full size with a trunk, for some pictures a sample."""
    return MonoOccConfig(base=VoxFormerConfig(trunk=trunk, views=views, weights=EQUATION_10))


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
    """MonoOcc-S's small twin on the town, less its distillation: 96x320, a volume of 64x64x4."""
    recipe = voxformer_s_town()
    return replace(recipe, name="monoocc-s-town", model=_town_branch(SmallTrunk(), views=1))


def monoocc_l_town() -> Recipe:
    """MonoOcc-L's small twin on the town, less its distillation: InternImage-T, the largest that trains there."""
    recipe = monoocc_s_town()
    return replace(
        recipe,
        name="monoocc-l-town",
        model=_town_branch(INTERNIMAGE_T, views=1),
        train=replace(recipe.train, steps=700),
    )


def monoocc_teacher_town() -> Recipe:
    """MonoOcc's privileged branch on the town: three frames that enrich one another, and a wider trunk."""
    recipe = monoocc_s_town()
    assert isinstance(recipe.data, SemanticKittiConfig)
    return replace(
        recipe,
        name="monoocc-teacher-town",
        model=MonoOccTeacherConfig(branch=_town_branch(SmallTrunk(width=48), views=len(TOWN_TEACHER_FRAMES))),
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


def _town_branch(trunk: SmallTrunk | InternImageTrunk, *, views: int) -> MonoOccConfig:
    """The town's sizes with a trunk, for some pictures a sample."""
    base = VoxFormerConfig(
        trunk=trunk,
        strides=(8, 16),
        channels=32,
        views=views,
        volume_coarsening=(4, 4, 8),
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
    "monoocc-l-semantickitti": monoocc_l_semantickitti,
    "monoocc-teacher-semantickitti": monoocc_teacher_semantickitti,
    "monoocc-teacher-s-semantickitti": monoocc_teacher_s_semantickitti,
    "monoocc-s-town": monoocc_s_town,
    "monoocc-s-distilled-town": monoocc_s_distilled_town,
    "monoocc-l-town": monoocc_l_town,
    "monoocc-teacher-town": monoocc_teacher_town,
}
