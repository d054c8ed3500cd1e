"""Recipes of PanoOcc and BEVFormer, each in three sizes, for `recipes.RECIPES`."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from occloom.data.colour_distortion import PhotometricDistortion
from occloom.data.occ3d import Occ3dConfig
from occloom.data.surround_augment import SurroundAugmentation
from occloom.engine.config import Cosine, OneCycle, Recipe, TrainConfig
from occloom.grid import Shape
from occloom.metrics.protocols import OCC3D
from occloom.models.bevformer import BevFormerConfig
from occloom.models.panoocc import PanoOccConfig
from occloom.models.view_layers import ImageBranchConfig, ViewConfig
from occloom.models.voxdet_camera import SmallTrunk

OCC3D_DATA = Occ3dConfig(
    root=Path("nuscenes"),
    image_size=(432, 800),
    keyframes=(0, -4, -8, -12),
    augmentation=SurroundAugmentation(
        scale=(0.0, 0.0), degrees=0.0, flip_x=0.0, flip_y=0.0, colours=PhotometricDistortion()
    ),
)
"""432x800 pictures without the upper 18 rows, mirrored or not, their colours changed, of now and 2, 4 and 6 s ago."""
OCC3D_TRAIN = TrainConfig(
    steps=42_195,  # 12 epochs of 28,130 keyframes
    batch_size=8,
    learning_rate=2e-4,
    weight_decay=0.01,
    schedule=Cosine(warmup=0.012, end=1e-3),
    clip_norm=35.0,
    ema_decay=0.0,
    workers=4,
    validate_every=3517,
    trunk_weights="imagenet",
)
"""Of PanoOcc's "small" configuration (reference protoocc 1.9), on which ProtoOcc's paper trains all sizes."""
TOWN_DATA = replace(
    OCC3D_DATA,
    root=Path("town-surround"),
    image_size=(64, 176),
    keyframes=(0, -1),
    label_scale=4,
    augmentation=replace(OCC3D_DATA.augmentation, colours=None),
)
"""The present frame and the one half a second ago: a scene of the town has six."""
TOWN_TRAIN = TrainConfig(
    steps=600,
    batch_size=2,
    learning_rate=4e-3,
    weight_decay=0.01,
    schedule=OneCycle(warmup=0.05),
    clip_norm=5.0,
    ema_decay=0.98,
    validate_every=300,
)
"""Eight epochs of the town's 144 keyframes: short, so the rate is high and no part of anything is dropped."""
TOWN_IMAGES = ImageBranchConfig(trunk=SmallTrunk(), channels=32, extra_levels=0, hide=0.0)
"""The trunk of bevdet4d-town, so that it can begin with that of bevdet4d-pretrain-town."""
TOWN_VIEW = ViewConfig(heads=2, slice_points=4, image_points=2, feedforward=64, dropout=0.0)


def panoocc_base_occ3d() -> Recipe:
    """PanoOcc on Occ3D-nuScenes with 100x100x16 queries: ResNet-50, 432x800, three past frames."""
    return _panoocc_occ3d("panoocc-base-occ3d", (2, 2, 1))


def panoocc_small_occ3d() -> Recipe:
    """panoocc-base-occ3d with a quarter of the queries: 50x50x16."""
    return _panoocc_occ3d("panoocc-small-occ3d", (4, 4, 1))


def panoocc_tiny_occ3d() -> Recipe:
    """panoocc-base-occ3d with a sixteenth of the queries: 50x50x4."""
    return _panoocc_occ3d("panoocc-tiny-occ3d", (4, 4, 4))


def _panoocc_occ3d(name: str, coarsening: Shape) -> Recipe:
    model = PanoOccConfig(coarsening=coarsening)
    return Recipe(name=name, model=model, data=OCC3D_DATA, train=OCC3D_TRAIN, protocol=OCC3D)


def panoocc_base_town() -> Recipe:
    """PanoOcc's small twin on the surround town with 25x25x4 queries, one past frame, voxels of 1.6 m."""
    return _panoocc_town("panoocc-base-town", (2, 2, 1))


def panoocc_small_town() -> Recipe:
    """panoocc-base-town with about a quarter of the queries: 13x13x4."""
    return _panoocc_town("panoocc-small-town", (4, 4, 1))


def panoocc_tiny_town() -> Recipe:
    """panoocc-base-town with about a sixteenth of the queries: 13x13x1."""
    return _panoocc_town("panoocc-tiny-town", (4, 4, 4))


def _panoocc_town(name: str, coarsening: Shape) -> Recipe:
    model = PanoOccConfig(
        images=TOWN_IMAGES, view=TOWN_VIEW, coarsening=coarsening, frames=2, voxel_channels=16, hidden=32
    )
    return Recipe(name=name, model=model, data=TOWN_DATA, train=TOWN_TRAIN, protocol=OCC3D)


def bevformer_base_occ3d() -> Recipe:
    """BEVFormer on the pictures of panoocc-base-occ3d, a plane of 200x200, frames half a second apart."""
    return _bevformer_occ3d("bevformer-base-occ3d", (1, 1))


def bevformer_small_occ3d() -> Recipe:
    """bevformer-base-occ3d with a quarter of the queries: 100x100."""
    return _bevformer_occ3d("bevformer-small-occ3d", (2, 2))


def bevformer_tiny_occ3d() -> Recipe:
    """bevformer-base-occ3d with a sixteenth of the queries: 50x50."""
    return _bevformer_occ3d("bevformer-tiny-occ3d", (4, 4))


def _bevformer_occ3d(name: str, coarsening: tuple[int, int]) -> Recipe:
    data = replace(OCC3D_DATA, keyframes=(0, -1, -2, -3))
    return Recipe(name=name, model=BevFormerConfig(coarsening=coarsening), data=data, train=OCC3D_TRAIN, protocol=OCC3D)


def bevformer_base_town() -> Recipe:
    """BEVFormer's small twin on the surround town: a plane of 50x50, one past frame, voxels of 1.6 m."""
    return _bevformer_town("bevformer-base-town", (1, 1))


def bevformer_small_town() -> Recipe:
    """bevformer-base-town with a quarter of the queries: 25x25."""
    return _bevformer_town("bevformer-small-town", (2, 2))


def bevformer_tiny_town() -> Recipe:
    """bevformer-base-town with about a sixteenth of the queries: 13x13."""
    return _bevformer_town("bevformer-tiny-town", (4, 4))


def _bevformer_town(name: str, coarsening: tuple[int, int]) -> Recipe:
    model = BevFormerConfig(
        images=TOWN_IMAGES,
        view=replace(TOWN_VIEW, image_points=4),
        coarsening=coarsening,
        anchors=4,
        voxel_channels=16,
        hidden=32,
    )
    return Recipe(name=name, model=model, data=TOWN_DATA, train=TOWN_TRAIN, protocol=OCC3D)


PANOOCC_RECIPES: dict[str, Callable[[], Recipe]] = {
    "panoocc-base-occ3d": panoocc_base_occ3d,
    "panoocc-small-occ3d": panoocc_small_occ3d,
    "panoocc-tiny-occ3d": panoocc_tiny_occ3d,
    "panoocc-base-town": panoocc_base_town,
    "panoocc-small-town": panoocc_small_town,
    "panoocc-tiny-town": panoocc_tiny_town,
    "bevformer-base-occ3d": bevformer_base_occ3d,
    "bevformer-small-occ3d": bevformer_small_occ3d,
    "bevformer-tiny-occ3d": bevformer_tiny_occ3d,
    "bevformer-base-town": bevformer_base_town,
    "bevformer-small-town": bevformer_small_town,
    "bevformer-tiny-town": bevformer_tiny_town,
}
