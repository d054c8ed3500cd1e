"""VoxDet as a list of formulas over a released state dict: slow, explicit, and free of everything of occloom.

Written from the facts of the released structure (key names, layer order, indices), for comparison only. A `state` is a
dictionary of tensors under the released names, and every function takes the part of the name it works on.
"""

from .image import (
    backbone,
    depth_fusion,
    mono_depth,
    neck,
    neighbourhood_attention,
    stereo_encoder,
    stereo_one_hot,
)
from .lidar import point_features, scattered
from .lifting import (
    Camera,
    Grid,
    centre_references,
    cross_attention_layers,
    depth_attention,
    lifted,
    lss_pool,
    mlp,
    proposals,
)
from .losses import affinity_losses, cross_entropy, refined, regression_loss, run_lengths
from .states import released_state, released_table
from .volume import (
    aggregated,
    class_scores,
    detected,
    encoder,
    offset_field,
    plain_pyramid,
    sampling_grids,
    task_pyramid,
    tpv,
)

__all__ = [
    "Camera",
    "Grid",
    "affinity_losses",
    "aggregated",
    "backbone",
    "centre_references",
    "class_scores",
    "cross_attention_layers",
    "cross_entropy",
    "depth_attention",
    "depth_fusion",
    "detected",
    "encoder",
    "lifted",
    "lss_pool",
    "mlp",
    "mono_depth",
    "neck",
    "neighbourhood_attention",
    "offset_field",
    "plain_pyramid",
    "point_features",
    "proposals",
    "refined",
    "regression_loss",
    "released_state",
    "released_table",
    "run_lengths",
    "sampling_grids",
    "scattered",
    "stereo_encoder",
    "stereo_one_hot",
    "task_pyramid",
    "tpv",
]
