"""Complete runs by name: a recipe is a function without arguments, a variant calls another and replaces fields."""

import importlib
import inspect
import sys
from collections.abc import Callable
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path

from occloom.data.kitti360 import Kitti360Config
from occloom.data.occ3d import Occ3dConfig
from occloom.data.semantickitti import SemanticKittiConfig
from occloom.engine.config import Constant, OneCycle, Recipe, TrainConfig
from occloom.errors import InputError
from occloom.lifting.depth import DepthPlanes
from occloom.losses.cross_entropy import BalancedClasses
from occloom.losses.voxnt import Refinement
from occloom.metrics.protocols import OCC3D, SSCBENCH
from occloom.models.baseline import BaselineConfig
from occloom.models.bevdet4d import BevDet4dConfig, LiftingConfig
from occloom.models.bevdet4d_pretrain import BevDet4dPretrainConfig
from occloom.models.cotr import CompactTransformer, CotrConfig
from occloom.models.cotr_groups import GroupConfig
from occloom.models.drocc import RecursiveExpertConfig, RefinementConfig, RegionExpertsConfig, StandIn
from occloom.models.drocc_bevdet4d import DrOccConfig
from occloom.models.drocc_controls import PriorControlConfig
from occloom.models.voxdet import DetectorConfig, FactorisedClasses, LossWeights
from occloom.models.voxdet_camera import PixelCentres, SmallTrunk, VoxDetConfig
from occloom.models.voxdet_lidar import VoxDetLConfig
from occloom.models.voxdet_pretrain import VoxDetPretrainConfig
from occloom.models.voxdet_released import ReleasedGeometry, ReleasedOffsetLoss, ReleasedSampling
from occloom.recipes_monoocc import MONOOCC_RECIPES
from occloom.recipes_panoocc import PANOOCC_RECIPES
from occloom.recipes_protoocc import PROTOOCC_RECIPES
from occloom.recipes_segmentation import SEGMENTATION_RECIPES
from occloom.recipes_symphonies import SYMPHONIES_RECIPES
from occloom.recipes_town import TOWN_TRAIN, TOWN_VAL
from occloom.recipes_voxformer import VOXFORMER_RECIPES


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
RELEASED_CAR = Refinement(classes=(1,), maximum=(31, 31, 31), minimum=None)
"""As released: above 30, so from 31 on, and no least length."""
KITTI360_WEIGHTS = LossWeights(cross_entropy=4.0, semantic_affinity=4.0, geometric_affinity=4.0)
"""Of the released KITTI-360 configuration (reference voxdet 8)."""


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
                aggregation_layers=2,
                scoring=FactorisedClasses(class_factors=(1, 1, 2)),
                refinement=CAR,
            ),
        ),
        train=replace(baseline_town().train, steps=750, learning_rate=1.5e-3, ema_decay=0.99, validate_every=250),
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
            clip_norm=None,  # not mentioned in the paper, and in the released code never passed on
            ema_decay=0.0,
            workers=4,
            validate_every=958,
            trunk_weights="imagenet",
        ),
    )


def voxdet_semantickitti_released() -> Recipe:
    """VoxDet on SemanticKITTI as released: for published checkpoints; its loss weights give the paper's dagger row."""
    recipe = voxdet_semantickitti()
    assert isinstance(recipe.data, SemanticKittiConfig)
    return replace(
        recipe,
        name="voxdet-semantickitti-released",
        model=VoxDetConfig(geometry=ReleasedGeometry(), detector=_released(DetectorConfig(refinement=RELEASED_CAR))),
        data=replace(recipe.data, image_fit="released-width"),
    )


def _released(detector: DetectorConfig) -> DetectorConfig:
    """The parts and weights of the released camera configuration."""
    return replace(
        detector,
        sampling=ReleasedSampling(),
        offset_loss=ReleasedOffsetLoss(),
        weights=LossWeights(cross_entropy=3.0),
    )


def voxdet_depth_pretrain_semantickitti() -> Recipe:
    """What VoxDet's image branch starts from: true depth and classes of all pictures' LiDAR pixels."""
    recipe = voxdet_semantickitti()
    assert isinstance(recipe.data, SemanticKittiConfig)
    return replace(
        recipe,
        name="voxdet-depth-pretrain-semantickitti",
        model=VoxDetPretrainConfig(),
        data=replace(recipe.data, train_frames="pictures"),
        train=replace(recipe.train, steps=50_000, batch_size=8, validate_every=5000, validate_samples=100),
    )


def voxdet_depth_pretrain_town() -> Recipe:
    """Depth pre-training for voxdet-town."""
    recipe = voxdet_town()
    model = recipe.model
    assert isinstance(model, VoxDetConfig)
    return replace(
        recipe,
        name="voxdet-depth-pretrain-town",
        model=VoxDetPretrainConfig(
            trunk=model.trunk,
            neck_channels=model.neck_channels,
            feature_stride=model.feature_stride,
            depth_channels=model.depth_channels,
            fusion_channels=model.fusion_channels,
            geometry=model.geometry,
            channels=model.channels,
            segmentation_channels=(32, 16),
        ),
    )


def voxdet_kitti360() -> Recipe:
    """VoxDet on SSCBench-KITTI-360: 384x1408, no refinement of labels; validates on drive 0006, never on 0009."""
    recipe = voxdet_semantickitti()
    return replace(
        recipe,
        name="voxdet-kitti360",
        model=VoxDetConfig(detector=DetectorConfig(weights=KITTI360_WEIGHTS)),
        data=Kitti360Config(root=Path("kitti360"), depth=Path("stereo-msnet3d"), flip_probability=0.0),
        train=replace(recipe.train, steps=27_000, batch_size=16, learning_rate=2e-4, validate_every=530),
        protocol=SSCBENCH,
    )


def voxdet_kitti360_released() -> Recipe:
    """VoxDet on SSCBench-KITTI-360 as released: for published checkpoints."""
    recipe = voxdet_kitti360()
    assert isinstance(recipe.data, Kitti360Config)
    detector = replace(_released(DetectorConfig()), weights=KITTI360_WEIGHTS)
    return replace(
        recipe,
        name="voxdet-kitti360-released",
        model=VoxDetConfig(geometry=ReleasedGeometry(), detector=detector),
        data=replace(recipe.data, image_fit="released-width"),
    )


def voxdet_kitti360_town() -> Recipe:
    """VoxDet's small twin on a town in the KITTI-360 layout (`occloom town --layout kitti360`)."""
    recipe = voxdet_town()
    assert isinstance(recipe.model, VoxDetConfig)
    detector = replace(recipe.model.detector, refinement=None)
    return replace(
        recipe,
        name="voxdet-kitti360-town",
        model=replace(recipe.model, detector=detector),
        data=Kitti360Config(
            root=Path("town-kitti360"),
            image_size=(96, 352),
            depth=Path("stereo-sgbm"),
            train=tuple(f"00{sequence}" for sequence in TOWN_TRAIN),
            val=tuple(f"00{sequence}" for sequence in TOWN_VAL),
        ),
        protocol=SSCBENCH,
    )


def voxdet_l_semantickitti() -> Recipe:
    """VoxDet-L on SemanticKITTI: one LiDAR sweep, no picture and no depth."""
    recipe = voxdet_semantickitti()
    return replace(
        recipe,
        name="voxdet-l-semantickitti",
        model=VoxDetLConfig(detector=DetectorConfig(blocks=(3, 3, 3), refinement=CAR)),
        data=SemanticKittiConfig(root=Path("semantickitti"), flip_probability=0.0),
        train=replace(recipe.train, trunk_weights=None),
    )


def voxdet_l_semantickitti_released() -> Recipe:
    """VoxDet-L on SemanticKITTI as released: for published checkpoints."""
    recipe = voxdet_l_semantickitti()
    weights = LossWeights(cross_entropy=3.0, geometric_affinity=5.0, auxiliary=0.5)
    detector = _released(DetectorConfig(blocks=(3, 3, 3), refinement=RELEASED_CAR))
    return replace(
        recipe,
        name="voxdet-l-semantickitti-released",
        model=VoxDetLConfig(detector=replace(detector, weights=weights)),
    )


def voxdet_l_town() -> Recipe:
    """VoxDet-L's small twin on the town: the same sequences as voxdet-town, LiDAR only."""
    camera = voxdet_town()
    assert isinstance(camera.model, VoxDetConfig)
    return replace(
        camera,
        name="voxdet-l-town",
        model=VoxDetLConfig(
            point_channels=(32, 64, 128),
            channels=32,
            volume_coarsening=(4, 4, 4),
            blocks=(1, 1, 1),
            drop_path=0.1,
            detector=camera.model.detector,
        ),
    )


def bevdet4d_occ3d() -> Recipe:
    """BEVDet4D-stereo-Occ on Occ3D-nuScenes, as released: ResNet-50, 256x704, two frames and a stereo reference."""
    return Recipe(
        name="bevdet4d-occ3d",
        model=BevDet4dConfig(),
        data=Occ3dConfig(root=Path("nuscenes")),
        train=TrainConfig(
            steps=21_096,  # 24 epochs of 28,130 keyframes
            batch_size=32,
            learning_rate=1e-4,
            weight_decay=0.01,
            schedule=Constant(),
            clip_norm=5.0,
            ema_decay=0.999,
            workers=4,
            validate_every=2637,
            trunk_weights="imagenet",
        ),
        protocol=OCC3D,
    )


TOWN_LIFTING = LiftingConfig(
    trunk=SmallTrunk(),
    image_channels=48,
    feature_stride=4,
    depth_channels=48,
    pyramid_channels=24,
    planes=DepthPlanes(near=1.5, step=1.0, count=44),
    channels=24,
)
"""Features of 16x44 a picture, as at full size."""


def bevdet4d_pretrain_town() -> Recipe:
    """What bevdet4d-town and all models on its lifting start from, as the full-size ones do from a detector."""
    recipe = bevdet4d_town()
    return replace(
        recipe,
        name="bevdet4d-pretrain-town",
        model=BevDet4dPretrainConfig(lifting=TOWN_LIFTING),
        train=replace(recipe.train, steps=1500, learning_rate=3e-3, validate_every=500),
    )


def bevdet4d_town() -> Recipe:
    """BEVDet4D's small twin on a town in the nuScenes layout (`occloom town --layout nuscenes`), voxels of 1.6 m."""
    return Recipe(
        name="bevdet4d-town",
        model=BevDet4dConfig(
            lifting=TOWN_LIFTING,
            volume_channels=(32, 48, 64),
            volume_blocks=(1, 1, 2),
            channels=32,
            hidden=48,
        ),
        data=Occ3dConfig(root=Path("town-surround"), image_size=(64, 176), label_scale=4),
        train=TrainConfig(
            steps=250,
            batch_size=2,
            learning_rate=1e-3,
            weight_decay=0.01,
            schedule=OneCycle(warmup=0.05),
            clip_norm=5.0,
            ema_decay=0.99,
            validate_every=125,
        ),
        protocol=OCC3D,
    )


TOWN_PRIOR = Path("town-exact")
"""The town's exact depth with the usual noise (`occloom prepare depth-prior --source town-exact`)."""
TOWN_REGIONS = RegionExpertsConfig(heights=(0.6, 2.2))
"""Between the four layers of the town's voxels: the ground's, the one above it, and two more."""
TOWN_REFINEMENT = RefinementConfig(heads=4, feedforward=128, depth_features=StandIn())
"""Of the town's recipes; 1.6 m wide voxels are refined, as at full size."""


def bevdet4d_balanced_town() -> Recipe:
    """bevdet4d-town with a loss in which rare classes weigh more: a control for Dr.Occ, whose paper names no loss."""
    recipe = bevdet4d_town()
    assert isinstance(recipe.model, BevDet4dConfig)
    return replace(recipe, name="bevdet4d-balanced-town", model=replace(recipe.model, classes=BalancedClasses()))


def bevdet4d_prior_town() -> Recipe:
    """bevdet4d-town with a depth prior in a way that is not Dr.Occ's (`--model.use`): its negative results."""
    recipe = bevdet4d_town()
    assert isinstance(recipe.model, BevDet4dConfig)
    assert isinstance(recipe.data, Occ3dConfig)
    return replace(
        recipe,
        name="bevdet4d-prior-town",
        model=PriorControlConfig(baseline=recipe.model),
        data=replace(recipe.data, prior=TOWN_PRIOR),
    )


def drocc_bevdet4d_occ3d() -> Recipe:
    """Dr.Occ on BEVDet4D as the paper describes it: D2-VFormer and R2-EFormer, MoGe-2's depth and features."""
    return _drocc_occ3d("drocc-bevdet4d-occ3d", RecursiveExpertConfig())


def drocc_r_bevdet4d_occ3d() -> Recipe:
    """drocc-bevdet4d-occ3d with R-EFormer: an expert a region of height and distance."""
    return _drocc_occ3d("drocc-r-bevdet4d-occ3d", RegionExpertsConfig())


def drocc_d2_bevdet4d_occ3d() -> Recipe:
    """drocc-bevdet4d-occ3d with D2-VFormer alone."""
    return _drocc_occ3d("drocc-d2-bevdet4d-occ3d", None)


def _drocc_occ3d(name: str, experts: RegionExpertsConfig | RecursiveExpertConfig | None) -> Recipe:
    recipe = bevdet4d_occ3d()
    assert isinstance(recipe.model, BevDet4dConfig)
    assert isinstance(recipe.data, Occ3dConfig)
    return replace(
        recipe,
        name=name,
        model=DrOccConfig(baseline=recipe.model, refinement=RefinementConfig(experts=experts)),
        data=replace(recipe.data, prior=Path("moge")),
        train=replace(recipe.train, steps=42_192, batch_size=16, validate_every=5274),  # 24 epochs again
    )


def drocc_bevdet4d_town() -> Recipe:
    """Dr.Occ's small twin on the town: D2-VFormer and R2-EFormer; a small network on the prior makes its features."""
    return _drocc_town("drocc-bevdet4d-town", RecursiveExpertConfig())


def drocc_r_bevdet4d_town() -> Recipe:
    """drocc-bevdet4d-town with R-EFormer: an expert a region of height and distance."""
    return _drocc_town("drocc-r-bevdet4d-town", TOWN_REGIONS)


def drocc_d2_bevdet4d_town() -> Recipe:
    """drocc-bevdet4d-town with D2-VFormer alone."""
    return _drocc_town("drocc-d2-bevdet4d-town", None)


def _drocc_town(name: str, experts: RegionExpertsConfig | RecursiveExpertConfig | None) -> Recipe:
    recipe = bevdet4d_town()
    assert isinstance(recipe.model, BevDet4dConfig)
    assert isinstance(recipe.data, Occ3dConfig)
    refinement = replace(TOWN_REFINEMENT, experts=experts)
    return replace(
        recipe,
        name=name,
        model=DrOccConfig(baseline=recipe.model, coarsening=(1, 1, 1), refinement=refinement),
        data=replace(recipe.data, prior=TOWN_PRIOR),
    )


def cotr_occ3d() -> Recipe:
    """COTR on Occ3D-nuScenes as released: compact transformer, U-Net and six groups on BEVDet4D's lifting."""
    recipe = bevdet4d_occ3d()
    return replace(
        recipe,
        name="cotr-occ3d",
        model=CotrConfig(),
        train=replace(recipe.train, steps=84_384, batch_size=8, learning_rate=2e-4, validate_every=10_548),
    )


def cotr_town() -> Recipe:
    """COTR's small twin on the town: the pictures, lifting and 3D encoder of bevdet4d-town."""
    recipe = bevdet4d_town()
    baseline = recipe.model
    assert isinstance(baseline, BevDet4dConfig)
    return replace(
        recipe,
        name="cotr-town",
        model=CotrConfig(
            lifting=baseline.lifting,
            volume_channels=baseline.volume_channels,
            volume_blocks=baseline.volume_blocks,
            channels=baseline.channels,
            encoder=CompactTransformer(heads=4, volume_points=2, image_points=4, feedforward=128),
            voxel_channels=32,
            hidden=baseline.hidden,
            groups=GroupConfig(queries=20, heads=4, points=2, hidden=64),
        ),
        train=replace(recipe.train, steps=500, validate_every=250),  # its groups start from nothing
    )


def drocc_cotr_occ3d() -> Recipe:
    """Dr.Occ on COTR: its refinement of the compact volume in place of COTR's transformer."""
    recipe = drocc_bevdet4d_occ3d()
    return replace(recipe, name="drocc-cotr-occ3d", model=CotrConfig(encoder=RefinementConfig()))


def drocc_cotr_town() -> Recipe:
    """Dr.Occ on COTR's small twin on the town."""
    recipe, base = drocc_bevdet4d_town(), cotr_town()
    assert isinstance(base.model, CotrConfig)
    model = replace(base.model, encoder=TOWN_REFINEMENT)
    return replace(recipe, name="drocc-cotr-town", model=model, train=base.train)


RECIPES: dict[str, Callable[[], Recipe]] = {
    "baseline-town": baseline_town,
    "baseline-semantickitti": baseline_semantickitti,
    "voxdet-town": voxdet_town,
    "voxdet-semantickitti": voxdet_semantickitti,
    "voxdet-semantickitti-released": voxdet_semantickitti_released,
    "voxdet-depth-pretrain-town": voxdet_depth_pretrain_town,
    "voxdet-depth-pretrain-semantickitti": voxdet_depth_pretrain_semantickitti,
    "voxdet-kitti360": voxdet_kitti360,
    "voxdet-kitti360-released": voxdet_kitti360_released,
    "voxdet-kitti360-town": voxdet_kitti360_town,
    "voxdet-l-semantickitti": voxdet_l_semantickitti,
    "voxdet-l-semantickitti-released": voxdet_l_semantickitti_released,
    "voxdet-l-town": voxdet_l_town,
    "bevdet4d-occ3d": bevdet4d_occ3d,
    "bevdet4d-pretrain-town": bevdet4d_pretrain_town,
    "bevdet4d-town": bevdet4d_town,
    "bevdet4d-balanced-town": bevdet4d_balanced_town,
    "bevdet4d-prior-town": bevdet4d_prior_town,
    "drocc-bevdet4d-occ3d": drocc_bevdet4d_occ3d,
    "drocc-r-bevdet4d-occ3d": drocc_r_bevdet4d_occ3d,
    "drocc-d2-bevdet4d-occ3d": drocc_d2_bevdet4d_occ3d,
    "drocc-bevdet4d-town": drocc_bevdet4d_town,
    "drocc-r-bevdet4d-town": drocc_r_bevdet4d_town,
    "drocc-d2-bevdet4d-town": drocc_d2_bevdet4d_town,
    "cotr-occ3d": cotr_occ3d,
    "cotr-town": cotr_town,
    "drocc-cotr-occ3d": drocc_cotr_occ3d,
    "drocc-cotr-town": drocc_cotr_town,
    **PANOOCC_RECIPES,
    **VOXFORMER_RECIPES,
    **SYMPHONIES_RECIPES,
    **PROTOOCC_RECIPES,
    **SEGMENTATION_RECIPES,
    **MONOOCC_RECIPES,
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
