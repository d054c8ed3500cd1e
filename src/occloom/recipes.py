"""Complete runs by name: a recipe is a function without arguments, a variant calls another and replaces fields."""

import importlib
import inspect
import sys
from collections.abc import Callable
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path

from occloom.data.semantickitti import SemanticKittiConfig
from occloom.engine.config import OneCycle, Recipe, TrainConfig
from occloom.errors import InputError
from occloom.lifting.depth import DepthPlanes
from occloom.losses.voxnt import Refinement
from occloom.models.baseline import BaselineConfig
from occloom.models.voxdet import DetectorConfig, FactorisedClasses
from occloom.models.voxdet_camera import PixelCentres, SmallTrunk, VoxDetConfig

TOWN_TRAIN = tuple(f"{sequence:02d}" for sequence in range(32))
"""Sequences 00 to 31 of the town are trained on."""
TOWN_VAL = tuple(f"{sequence:02d}" for sequence in range(32, 36))
"""Sequences 32 to 35 are validated on; 90 to 99 stay unseen, for `occloom demo`."""


def baseline_town() -> Recipe:
    """Lift-splat baseline on the town: left camera and stereo depth, 96x320."""
    return Recipe(
        name="baseline-town",
        model=BaselineConfig(),
        data=SemanticKittiConfig(
            root=Path("town"), image_size=(96, 320), depth=Path("stereo-sgbm"), train=TOWN_TRAIN, val=TOWN_VAL
        ),
        train=TrainConfig(
            steps=1600,
            batch_size=2,
            learning_rate=1.5e-3,
            weight_decay=0.01,
            schedule=OneCycle(warmup=0.05),
            clip_norm=10.0,
            ema_decay=0.995,
            validate_every=400,
            save_every=100,
        ),
    )


def baseline_semantickitti() -> Recipe:
    """Lift-splat baseline on SemanticKITTI: left camera and stereo depth, 370x1220, volume of 0.4 m."""
    return Recipe(
        name="baseline-semantickitti",
        model=BaselineConfig(feature_stride=8, depth_bins=112, volume_coarsening=(2, 2, 2)),
        data=SemanticKittiConfig(
            root=Path("semantickitti"), image_size=(370, 1220), image_fit="crop", depth=Path("stereo-sgbm")
        ),
        train=TrainConfig(
            steps=25_000,
            batch_size=4,
            learning_rate=3e-4,
            weight_decay=0.01,
            workers=4,
            validate_every=2500,
            ema_decay=0.999,
        ),
    )


CAR = Refinement(classes=(1,))
"""Cars of a length that none has are left out of training (VoxDet, Eq. 10-12); class 1 on SemanticKITTI."""


def voxdet_town() -> Recipe:
    """VoxDet's small twin on the town: the baseline's trunk, all of VoxDet's parts, volume of 0.8 m."""
    return replace(
        baseline_town(),
        name="voxdet-town",
        model=VoxDetConfig(
            trunk=SmallTrunk(),
            neck_channels=16,
            feature_stride=4,
            depth_channels=64,
            fusion_channels=8,
            geometry=PixelCentres(DepthPlanes(near=2.0, step=1.0, count=52)),
            channels=32,
            volume_coarsening=(4, 4, 4),
            heads=4,
            feedforward=64,
            detector=DetectorConfig(
                blocks=(1, 1, 1),
                drop_path=0.1,
                groups=8,
                offset_hidden=16,
                offset_stride=(2, 2, 1),
                scoring=FactorisedClasses(),
                refinement=CAR,
            ),
        ),
        train=replace(baseline_town().train, steps=600, learning_rate=1e-3, ema_decay=0.99, validate_every=200),
    )


def voxdet_semantickitti() -> Recipe:
    """VoxDet on SemanticKITTI as the paper describes it: ResNet-50-D, 384x1280, volume of 0.4 m."""
    return Recipe(
        name="voxdet-semantickitti",
        model=VoxDetConfig(detector=DetectorConfig(refinement=CAR)),
        data=SemanticKittiConfig(
            root=Path("semantickitti"),
            image_size=(384, 1280),
            image_fit="width",
            depth=Path("stereo-msnet3d"),
            flip_probability=0.0,
        ),
        train=TrainConfig(
            steps=25_000,
            batch_size=4,
            learning_rate=3e-4,
            weight_decay=0.01,
            schedule=OneCycle(warmup=0.05, end=4e-6),
            ema_decay=0.0,
            workers=4,
            validate_every=958,
            trunk_weights="imagenet",
        ),
    )


RECIPES: dict[str, Callable[[], Recipe]] = {
    "baseline-town": baseline_town,
    "baseline-semantickitti": baseline_semantickitti,
    "voxdet-town": voxdet_town,
    "voxdet-semantickitti": voxdet_semantickitti,
}


def resolve(name: str) -> Recipe:
    """The recipe of a name of `RECIPES`, or of any importable function, named `package.module:function`.

    Raises:
        InputError: If there is no such recipe.
    """
    if name in RECIPES:
        return RECIPES[name]()
    if ":" not in name:
        close = get_close_matches(name, RECIPES, n=1)
        raise InputError(
            f"no recipe named {name!r}",
            rule=f"perhaps you meant {close[0]}" if close else f"there are {', '.join(RECIPES)}",
            remedy="run `occloom recipes`, or name an importable function as package.module:function",
        )
    module_name, _, function_name = name.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)  # a console script does not see modules of the working folder by itself
    try:
        function = getattr(importlib.import_module(module_name), function_name)
    except (ImportError, AttributeError, ValueError) as error:
        raise InputError(f"cannot import recipe {name!r} ({error})", rule="package.module:function") from error
    try:
        inspect.signature(function).bind()
    except (TypeError, ValueError) as error:
        raise InputError(
            f"{name} cannot be called ({error})", rule="a recipe is a function without arguments"
        ) from error
    recipe = function()
    if not isinstance(recipe, Recipe):
        raise InputError(f"{name} returned {type(recipe).__name__}", rule="a recipe function returns a Recipe")
    return recipe
