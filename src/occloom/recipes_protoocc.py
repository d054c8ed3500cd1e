"""Recipes of ProtoOcc, on PanoOcc in three sizes, for `recipes.RECIPES`."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from occloom.data.occ3d import Occ3dConfig
from occloom.engine.config import Recipe
from occloom.models.panoocc import PanoOccConfig
from occloom.models.protoocc import ProtoOccConfig, PrototypeLooking
from occloom.models.protoocc_mapping import ClusterConfig
from occloom.recipes_panoocc import (
    panoocc_base_occ3d,
    panoocc_base_town,
    panoocc_small_occ3d,
    panoocc_small_town,
    panoocc_tiny_occ3d,
    panoocc_tiny_town,
)

MASKS = Path("seeds")
"""Superpixels: 299 of 350 asked for in a picture of nuScenes, 28 of 60 in one of the town (`occloom prepare masks`)."""
TOWN_MAPPING = PrototypeLooking(clusters=ClusterConfig(grid=(3, 8)))
"""24 prototypes of 12x32 pixel features: as at full size, one for sixteen."""


def protoocc_base_occ3d() -> Recipe:
    """ProtoOcc on panoocc-base-occ3d: 100x100x16 queries."""
    return _protoocc("protoocc-base-occ3d", panoocc_base_occ3d(), PrototypeLooking())


def protoocc_small_occ3d() -> Recipe:
    """ProtoOcc on panoocc-small-occ3d: 50x50x16 queries."""
    return _protoocc("protoocc-small-occ3d", panoocc_small_occ3d(), PrototypeLooking())


def protoocc_tiny_occ3d() -> Recipe:
    """ProtoOcc on panoocc-tiny-occ3d: 50x50x4 queries."""
    return _protoocc("protoocc-tiny-occ3d", panoocc_tiny_occ3d(), PrototypeLooking())


def protoocc_base_town() -> Recipe:
    """ProtoOcc's small twin on the surround town, on panoocc-base-town."""
    return _protoocc("protoocc-base-town", panoocc_base_town(), TOWN_MAPPING)


def protoocc_small_town() -> Recipe:
    """ProtoOcc's small twin on the surround town, on panoocc-small-town."""
    return _protoocc("protoocc-small-town", panoocc_small_town(), TOWN_MAPPING)


def protoocc_tiny_town() -> Recipe:
    """ProtoOcc's small twin on the surround town, on panoocc-tiny-town."""
    return _protoocc("protoocc-tiny-town", panoocc_tiny_town(), TOWN_MAPPING)


def _protoocc(name: str, baseline: Recipe, mapping: PrototypeLooking) -> Recipe:
    assert isinstance(baseline.model, PanoOccConfig)
    assert isinstance(baseline.data, Occ3dConfig)
    model = ProtoOccConfig(baseline=baseline.model, mapping=mapping)
    return replace(baseline, name=name, model=model, data=replace(baseline.data, masks=MASKS))


PROTOOCC_RECIPES: dict[str, Callable[[], Recipe]] = {
    "protoocc-base-occ3d": protoocc_base_occ3d,
    "protoocc-small-occ3d": protoocc_small_occ3d,
    "protoocc-tiny-occ3d": protoocc_tiny_occ3d,
    "protoocc-base-town": protoocc_base_town,
    "protoocc-small-town": protoocc_small_town,
    "protoocc-tiny-town": protoocc_tiny_town,
}
