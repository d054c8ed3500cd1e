"""Recipes of ProtoOcc, on PanoOcc in three sizes, on VoxFormer and Symphonies in two, for `recipes.RECIPES`."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from occloom.data.occ3d import Occ3dConfig
from occloom.data.semantickitti import SemanticKittiConfig
from occloom.engine.config import Recipe
from occloom.grid import Shape
from occloom.lifting.depth import DepthPlanes
from occloom.models.panoocc import PanoOccConfig
from occloom.models.panoocc_depth import DepthAwareLooking
from occloom.models.protoocc import ProtoOccConfig, PrototypeLooking
from occloom.models.protoocc_mapping import ClusterConfig
from occloom.models.protoocc_symphonies import ProtoSymphoniesConfig
from occloom.models.protoocc_voxformer import ProtoVoxFormerConfig
from occloom.models.symphonies import SymphoniesConfig
from occloom.models.voxformer import VoxFormerConfig
from occloom.recipes_panoocc import (
    panoocc_base_occ3d,
    panoocc_base_town,
    panoocc_small_occ3d,
    panoocc_small_town,
    panoocc_tiny_occ3d,
    panoocc_tiny_town,
)
from occloom.recipes_symphonies import (
    symphonies_base_semantickitti,
    symphonies_base_town,
    symphonies_small_semantickitti,
    symphonies_small_town,
)
from occloom.recipes_voxformer import voxformer_s_semantickitti, voxformer_s_town

MASKS = Path("seeds")
"""Superpixels: 299 of 350 asked for in a picture of nuScenes, 10 of 20 in one of the town (`occloom prepare masks`)."""
TOWN_MAPPING = PrototypeLooking(clusters=ClusterConfig(grid=(2, 6)))
"""12 prototypes of 8x22 pixel features: as at full size, one for sixteen."""
TOWN_CLUSTERS = ClusterConfig(grid=(3, 10))
"""30 prototypes of 12x40 pixel features, in the front town; its pictures have 30 superpixels of 30 asked for."""


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


def panoocc_small_depth_occ3d() -> Recipe:
    """panoocc-small-occ3d whose queries also look along depth: the DFA3D row of ProtoOcc's Table 3."""
    return _depth_aware(panoocc_small_occ3d(), "panoocc-small-depth-occ3d", DepthAwareLooking())


def panoocc_small_depth_town() -> Recipe:
    """panoocc-small-town whose queries also look along depth."""
    planes = DepthPlanes(near=1.0, step=2.0, count=30)
    return _depth_aware(panoocc_small_town(), "panoocc-small-depth-town", DepthAwareLooking(planes))


def _depth_aware(recipe: Recipe, name: str, looking: DepthAwareLooking) -> Recipe:
    assert isinstance(recipe.model, PanoOccConfig)
    view = replace(recipe.model.view, looking=looking)
    return replace(recipe, name=name, model=replace(recipe.model, view=view))


def voxformer_small_semantickitti() -> Recipe:
    """VoxFormer-S with an eighth of the voxels, 64x64x8: the baseline of ProtoOcc's "Small"."""
    return _small(voxformer_s_semantickitti(), "voxformer-small-semantickitti", (4, 4, 4))


def voxformer_small_town() -> Recipe:
    """voxformer-s-town with an eighth of the voxels, 32x32x2; its steps are fast, and it takes more of them."""
    recipe = _small(voxformer_s_town(), "voxformer-small-town", (8, 8, 16))
    return replace(recipe, train=replace(recipe.train, steps=1000))


def protoocc_voxformer_base_semantickitti() -> Recipe:
    """ProtoOcc on voxformer-s-semantickitti: 128x128x16 voxels."""
    name = "protoocc-voxformer-base-semantickitti"
    return _protoocc_voxformer(name, voxformer_s_semantickitti(), ClusterConfig(grid=(6, 19)))


def protoocc_voxformer_small_semantickitti() -> Recipe:
    """ProtoOcc on voxformer-small-semantickitti: 64x64x8 voxels."""
    name = "protoocc-voxformer-small-semantickitti"
    return _protoocc_voxformer(name, voxformer_small_semantickitti(), ClusterConfig(grid=(6, 19)))


def protoocc_voxformer_base_town() -> Recipe:
    """ProtoOcc's small twin on voxformer-s-town, with more steps: its views learn later."""
    recipe = _protoocc_voxformer("protoocc-voxformer-base-town", voxformer_s_town(), TOWN_CLUSTERS)
    return replace(recipe, train=replace(recipe.train, steps=600))


def protoocc_voxformer_small_town() -> Recipe:
    """ProtoOcc's small twin on voxformer-small-town."""
    return _protoocc_voxformer("protoocc-voxformer-small-town", voxformer_small_town(), TOWN_CLUSTERS)


def _small(recipe: Recipe, name: str, coarsening: Shape) -> Recipe:
    assert isinstance(recipe.model, VoxFormerConfig)
    return replace(recipe, name=name, model=replace(recipe.model, volume_coarsening=coarsening))


def _protoocc_voxformer(name: str, baseline: Recipe, clusters: ClusterConfig) -> Recipe:
    assert isinstance(baseline.model, VoxFormerConfig)
    assert isinstance(baseline.data, SemanticKittiConfig)
    model = ProtoVoxFormerConfig(baseline=baseline.model, clusters=clusters)
    return replace(baseline, name=name, model=model, data=replace(baseline.data, masks=MASKS))


def protoocc_symphonies_base_semantickitti() -> Recipe:
    """ProtoOcc on symphonies-base-semantickitti."""
    return _protoocc_symphonies(symphonies_base_semantickitti(), ClusterConfig(grid=(11, 38)))


def protoocc_symphonies_small_semantickitti() -> Recipe:
    """ProtoOcc on symphonies-small-semantickitti: 64x64x8 voxels."""
    return _protoocc_symphonies(symphonies_small_semantickitti(), ClusterConfig(grid=(11, 38)))


def protoocc_symphonies_base_town() -> Recipe:
    """ProtoOcc's small twin on symphonies-base-town."""
    return _protoocc_symphonies(symphonies_base_town(), TOWN_CLUSTERS)


def protoocc_symphonies_small_town() -> Recipe:
    """ProtoOcc's small twin on symphonies-small-town."""
    return _protoocc_symphonies(symphonies_small_town(), TOWN_CLUSTERS)


def _protoocc_symphonies(baseline: Recipe, clusters: ClusterConfig) -> Recipe:
    assert isinstance(baseline.model, SymphoniesConfig)
    assert isinstance(baseline.data, SemanticKittiConfig)
    model = ProtoSymphoniesConfig(baseline=baseline.model, clusters=clusters)
    data = replace(baseline.data, masks=MASKS)
    return replace(baseline, name=f"protoocc-{baseline.name}", model=model, data=data)


PROTOOCC_RECIPES: dict[str, Callable[[], Recipe]] = {
    "protoocc-base-occ3d": protoocc_base_occ3d,
    "protoocc-small-occ3d": protoocc_small_occ3d,
    "protoocc-tiny-occ3d": protoocc_tiny_occ3d,
    "protoocc-base-town": protoocc_base_town,
    "protoocc-small-town": protoocc_small_town,
    "protoocc-tiny-town": protoocc_tiny_town,
    "panoocc-small-depth-occ3d": panoocc_small_depth_occ3d,
    "panoocc-small-depth-town": panoocc_small_depth_town,
    "voxformer-small-semantickitti": voxformer_small_semantickitti,
    "voxformer-small-town": voxformer_small_town,
    "protoocc-voxformer-base-semantickitti": protoocc_voxformer_base_semantickitti,
    "protoocc-voxformer-small-semantickitti": protoocc_voxformer_small_semantickitti,
    "protoocc-voxformer-base-town": protoocc_voxformer_base_town,
    "protoocc-voxformer-small-town": protoocc_voxformer_small_town,
    "protoocc-symphonies-base-semantickitti": protoocc_symphonies_base_semantickitti,
    "protoocc-symphonies-small-semantickitti": protoocc_symphonies_small_semantickitti,
    "protoocc-symphonies-base-town": protoocc_symphonies_base_town,
    "protoocc-symphonies-small-town": protoocc_symphonies_small_town,
}
