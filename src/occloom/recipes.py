"""Complete runs by name: a recipe is a function without arguments, a variant calls another and replaces fields."""

import importlib
import inspect
import sys
from collections.abc import Callable
from difflib import get_close_matches
from pathlib import Path

from occloom.data.semantickitti import SemanticKittiConfig
from occloom.engine.config import OneCycle, Recipe, TrainConfig
from occloom.errors import InputError
from occloom.models.baseline import BaselineConfig

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


RECIPES: dict[str, Callable[[], Recipe]] = {
    "baseline-town": baseline_town,
    "baseline-semantickitti": baseline_semantickitti,
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
