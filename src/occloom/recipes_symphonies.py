"""Recipes of Symphonies, for `recipes.RECIPES`."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from occloom.data.semantickitti import SemanticKittiConfig
from occloom.engine.config import Cosine, Recipe, TrainConfig
from occloom.models.symphonies import SymphoniesConfig
from occloom.models.symphonies_decoder import SceneDecoderConfig
from occloom.models.voxdet_camera import SmallTrunk
from occloom.recipes_town import SHORT_RUN, TOWN_TRAIN, TOWN_VAL


def symphonies_base_semantickitti() -> Recipe:
    """Symphonies on SemanticKITTI as released: 370x1220 pictures, stereo depth, a scene of 128x128x8."""
    return Recipe(
        name="symphonies-base-semantickitti",
        model=SymphoniesConfig(),
        data=SemanticKittiConfig(
            root=Path("semantickitti"),
            image_size=(370, 1220),
            image_fit="crop",
            depth=Path("stereo-msnet3d"),
            colour_jitter=0.0,
        ),
        train=TrainConfig(
            steps=28_755,  # 30 epochs of 3834 frames
            batch_size=4,
            learning_rate=2e-4,
            weight_decay=1e-4,
            schedule=Cosine(warmup=0.01),
            ema_decay=0.0,
            workers=4,
            validate_every=1917,
            trunk_weights="imagenet",
        ),
    )


def symphonies_small_semantickitti() -> Recipe:
    """Symphonies with a scene of 64x64x8: the smaller size of ProtoOcc's comparison."""
    recipe = symphonies_base_semantickitti()
    decoder = SceneDecoderConfig(enlargements=((2, 2, 2), (2, 2, 2)))
    return replace(
        recipe,
        name="symphonies-small-semantickitti",
        model=SymphoniesConfig(decoder=decoder, volume_coarsening=(4, 4, 4)),
    )


def symphonies_base_town() -> Recipe:
    """Symphonies' small twin on the town: 96x320, a scene of 64x64x4, scored at 64x64x8 and interpolated from there."""
    recipe = symphonies_base_semantickitti()
    assert isinstance(recipe.data, SemanticKittiConfig)
    return replace(
        recipe,
        name="symphonies-base-town",
        model=SymphoniesConfig(
            trunk=SmallTrunk(),
            pixel_channels=32,
            pixel_layers=1,
            pixel_feedforward=64,
            pixel_groups=8,
            decoder=SceneDecoderConfig(
                channels=32, heads=4, image_points=2, scene_points=2, enlargements=((1, 1, 2),), deviation=0.02
            ),
            volume_coarsening=(4, 4, 8),
            queries=30,
            loss_stride=4,
        ),
        data=replace(
            recipe.data,
            root=Path("town"),
            image_size=(96, 320),
            image_fit="resize",
            depth=Path("stereo-sgbm"),
            train=TOWN_TRAIN,
            val=TOWN_VAL,
            colour_jitter=0.4,
        ),
        train=replace(SHORT_RUN, steps=600, learning_rate=3e-3),
    )


def symphonies_small_town() -> Recipe:
    """symphonies-base-town with an eighth of the voxels, 32x32x2, scored at the same 64x64x8."""
    recipe = symphonies_base_town()
    assert isinstance(recipe.model, SymphoniesConfig)
    decoder = replace(recipe.model.decoder, enlargements=((1, 1, 2), (2, 2, 2)))
    return replace(
        recipe,
        name="symphonies-small-town",
        model=replace(recipe.model, decoder=decoder, volume_coarsening=(8, 8, 16)),
    )


SYMPHONIES_RECIPES: dict[str, Callable[[], Recipe]] = {
    "symphonies-base-semantickitti": symphonies_base_semantickitti,
    "symphonies-small-semantickitti": symphonies_small_semantickitti,
    "symphonies-base-town": symphonies_base_town,
    "symphonies-small-town": symphonies_small_town,
}
