"""Recipes of 2D pre-training, for `recipes.RECIPES`: trunks on all pixels of pictures of roads."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from occloom.backbones.internimage import INTERNIMAGE_T
from occloom.data.road_images import RoadImagesConfig
from occloom.engine.config import Cosine, OneCycle, Recipe, TrainConfig
from occloom.metrics.protocols import PICTURES
from occloom.models.segmentation_pretrain import SegmentationPretrainConfig
from occloom.models.voxdet_camera import SmallTrunk


def internimage_xl_vistas_pretrain() -> Recipe:
    """Step one of MonoOcc's pre-training: InternImage-XL from its public weights on the 124 classes of Vistas."""
    return Recipe(
        name="internimage-xl-vistas-pretrain",
        model=SegmentationPretrainConfig(),
        data=RoadImagesConfig(root=Path("road"), sets=("vistas",)),
        train=TrainConfig(
            steps=10_000,  # half of the 20,000 of both steps together
            batch_size=16,
            learning_rate=2e-5,
            weight_decay=0.05,
            schedule=Cosine(warmup=0.15),
            clip_norm=0.1,
            ema_decay=0.0,
            workers=4,
            validate_every=2500,
            trunk_weights="imagenet",
        ),
        protocol=PICTURES,
    )


def internimage_xl_road_pretrain() -> Recipe:
    """Step two: the 19 classes of roads on four sets; begins with step one's weights (`--train.start-from`)."""
    recipe = internimage_xl_vistas_pretrain()
    return replace(
        recipe,
        name="internimage-xl-road-pretrain",
        data=RoadImagesConfig(root=Path("road")),
        train=replace(recipe.train, trunk_weights=None, start_from=Path("runs/internimage-xl-vistas-pretrain")),
    )


def road_pretrain_town() -> Recipe:
    """The small trunk of voxformer-s-town and others, on the town's own pictures, for `--train.trunk-weights`."""
    recipe = internimage_xl_road_pretrain_town()
    return replace(
        recipe,
        name="road-pretrain-town",
        model=SegmentationPretrainConfig(trunk=SmallTrunk(), strides=(4, 8, 16, 32), channels=64),
        train=replace(recipe.train, steps=2000, learning_rate=3e-3, weight_decay=0.01, validate_every=400),
    )


def internimage_xl_road_pretrain_town() -> Recipe:
    """Step two on the town's own pictures (`occloom prepare road-images`): InternImage-T, from scratch."""
    return Recipe(
        name="internimage-xl-road-pretrain-town",
        model=SegmentationPretrainConfig(trunk=INTERNIMAGE_T, channels=64),
        data=RoadImagesConfig(
            root=Path("town-road"), sets=("cityscapes",), image_size=(96, 320), largest_zoom=1.5, colour_jitter=0.4
        ),
        train=TrainConfig(
            steps=300,
            batch_size=2,
            learning_rate=5e-4,
            weight_decay=0.05,
            schedule=OneCycle(warmup=0.1),
            clip_norm=5.0,
            ema_decay=0.97,
            validate_every=100,
            save_every=100,
        ),
        protocol=PICTURES,
    )


SEGMENTATION_RECIPES: dict[str, Callable[[], Recipe]] = {
    "internimage-xl-vistas-pretrain": internimage_xl_vistas_pretrain,
    "internimage-xl-road-pretrain": internimage_xl_road_pretrain,
    "road-pretrain-town": road_pretrain_town,
    "internimage-xl-road-pretrain-town": internimage_xl_road_pretrain_town,
}
