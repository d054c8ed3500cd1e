"""Weights that VoxDet's authors published, under the names of this library's modules.

Released names are those of reference state_dicts/voxdet_*.tsv. In the tables below `*` stands for a number and is
kept, as is what follows a listed name (`.weight`, `.bias`, statistics). Where several names fit, the longest counts.
"""

import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from pickle import UnpicklingError

import torch
from torch import Tensor

from occloom.errors import InputError
from occloom.interfaces import OccupancyModel
from occloom.models.voxdet_camera import VoxDet
from occloom.models.voxdet_lidar import VoxDetL

Names = tuple[tuple[str, str], ...]
"""Pairs of a released name and ours."""

_TASKS = (("cls", "classification"), ("reg", "regression"))
_PLANES = (("xy", 0), ("yz", 1), ("zx", 2))
_SHARED = "occ_encoder_backbone.local_aggregator"


def _blocks(released: str, ours: str, shortcut_norm: str) -> Names:
    """Residual blocks of a 3D encoder."""
    return (
        (f"{released}.layers.*.*.conv1.conv", f"{ours}.stages.*.*.conv1"),
        (f"{released}.layers.*.*.conv1.bn", f"{ours}.stages.*.*.norm1"),
        (f"{released}.layers.*.*.conv2.conv", f"{ours}.stages.*.*.conv2"),
        (f"{released}.layers.*.*.conv2.bn", f"{ours}.stages.*.*.norm2"),
        (f"{released}.layers.*.*.downsample.conv", f"{ours}.stages.*.*.shortcut.0"),
        (f"{released}.layers.*.*.downsample.{shortcut_norm}", f"{ours}.stages.*.*.shortcut.1"),
    )


def _neck(lateral: str, smooth: str, ours: str) -> Names:
    """Top-down merging of a 3D encoder's levels."""
    return (
        (f"{lateral}.*.conv", f"{ours}.reduce.*"),
        (f"{lateral}.*.gn", f"{ours}.reduce_norm.*"),
        (f"{smooth}.*.conv", f"{ours}.smooth.*"),
        (f"{smooth}.*.gn", f"{ours}.smooth_norm.*"),
    )


def _decoupler(released: str, ours: str) -> Names:
    """Projection onto three planes and back."""
    planes = (
        pair
        for plane, number in _PLANES
        for pair in (
            (f"{released}.conv1x1_{plane}", f"{ours}.refine.{number}"),
            (f"{released}.offset_{plane}", f"{ours}.deform.{number}.offset"),
            (f"{released}.defconv_{plane}", f"{ours}.deform.{number}"),
            (f"{released}.gn_{plane}", f"{ours}.norm.{number}"),
        )
    )
    return (
        (f"{released}.weights_conv", f"{ours}.project"),
        *planes,
        (f"{released}.fuse_conv", f"{ours}.fuse"),
        (f"{released}.fuse_gn", f"{ours}.fuse_norm"),
    )


def _detector() -> Names:
    """What follows the lifted volume: the same for cameras and LiDAR."""
    neck = f"{_SHARED}.local_encoder_neck"
    tasks = (
        pair
        for task, ours in _TASKS
        for pair in (
            *_decoupler(f"{neck}.sp_tpvs_{task}.*", f"detector.{ours}.decouplers.*"),
            *_neck(f"{neck}.lateral_convs_{task}", f"{neck}.fpn_convs_{task}", f"detector.{ours}.neck"),
        )
    )
    return (
        *_blocks(f"{_SHARED}.local_encoder_backbone", "detector.encoder", "gn"),
        *tasks,
        ("pts_bbox_head.bbox_convs.0.0", "detector.offset_head.hidden"),
        ("pts_bbox_head.bbox_convs.0.1", "detector.offset_head.norm"),
        ("pts_bbox_head.bbox_convs.0.3", "detector.offset_head.offsets"),
        ("pts_bbox_head.refine_conv.*.query_conv", "detector.aggregation.*.query"),
        ("pts_bbox_head.refine_conv.*.query_norm", "detector.aggregation.*.query_norm"),
        ("pts_bbox_head.refine_conv.*.key_conv", "detector.aggregation.*.key"),
        ("pts_bbox_head.refine_conv.*.key_norm", "detector.aggregation.*.key_norm"),
        ("pts_bbox_head.refine_conv.*.value_conv", "detector.aggregation.*.value"),
        ("pts_bbox_head.refine_conv.*.value_norm", "detector.aggregation.*.value_norm"),
        ("pts_bbox_head.refine_conv.*.out_conv", "detector.aggregation.*.out"),
        ("pts_bbox_head.refine_conv.*.out_norm", "detector.aggregation.*.norm"),
        ("pts_bbox_head.cls_convs.0.0", "detector.class_head.hidden"),
        ("pts_bbox_head.cls_convs.0.1", "detector.class_head.norm"),
        ("pts_bbox_head.cls_convs.0.3", "detector.class_head.classify"),
        ("pts_bbox_head_aux.occ_convs.0.0", "detector.auxiliary_head.hidden"),
        ("pts_bbox_head_aux.occ_convs.0.1", "detector.auxiliary_head.norm"),
        ("pts_bbox_head_aux.occ_convs.0.3", "detector.auxiliary_head.classify"),
    )


def _hourglass(released: str, ours: str) -> Names:
    """A U-net of the depth network."""
    return (
        *((f"{released}.conv{i}.0", f"{ours}.conv{i}") for i in (1, 2, 3, 4, 5, 6)),
        *((f"{released}.conv{i}.1", f"{ours}.norm{i}") for i in (5, 6)),
        *((f"{released}.redir{i}", f"{ours}.skip{i}") for i in (1, 2)),
    )


def _fusing_attention(released: str, ours: str) -> Names:
    """Neighbourhood attention of one depth distribution to the other."""
    inner = f"{released}.neighbor_atttention"  # three t: the released spelling
    return (
        (f"{released}.gamma", f"{ours}.gamma"),
        (f"{inner}.rpb", f"{ours}.bias"),
        *((f"{inner}.{part}", f"{ours}.{part}") for part in ("q", "kv", "proj")),
    )


_MONO, _STEREO, _FUSION = (f"depth_net.{part}" for part in ("depth_net", "stereo_volume_encoder", "depth_aggregation"))
_TRANSFORMER = "VoxFormer_head.cross_transformer"

CAMERA_NAMES: Names = (
    ("img_backbone.conv1", "trunk.conv1"),
    ("img_backbone.norm1", "trunk.bn1"),
    *((f"img_backbone.res_layers.{i}", f"trunk.layer{i + 1}") for i in range(4)),
    ("img_neck", "neck"),
    (f"{_MONO}.reduce_conv", "depth_net.mono.reduce"),
    (f"{_MONO}.bn", "depth_net.mono.camera_norm"),
    (f"{_MONO}.context_mlp", "depth_net.mono.context_mlp"),
    (f"{_MONO}.context_se", "depth_net.mono.context_gate"),
    (f"{_MONO}.context_conv", "depth_net.mono.context_conv"),
    (f"{_MONO}.depth_mlp", "depth_net.mono.depth_mlp"),
    (f"{_MONO}.depth_se", "depth_net.mono.depth_gate"),
    (f"{_MONO}.depth_conv", "depth_net.mono.depth_conv"),
    *(
        (f"{_MONO}.depth_conv.3.aspp{i + 1}.atrous_conv", f"depth_net.mono.depth_conv.3.branches.{i}.conv")
        for i in range(4)
    ),
    *((f"{_MONO}.depth_conv.3.aspp{i + 1}.bn", f"depth_net.mono.depth_conv.3.branches.{i}.norm") for i in range(4)),
    (f"{_MONO}.depth_conv.3.global_avg_pool.1", "depth_net.mono.depth_conv.3.pooled_conv"),
    (f"{_MONO}.depth_conv.3.global_avg_pool.2", "depth_net.mono.depth_conv.3.pooled_norm"),
    (f"{_MONO}.depth_conv.3.conv1", "depth_net.mono.depth_conv.3.conv"),
    (f"{_MONO}.depth_conv.3.bn1", "depth_net.mono.depth_conv.3.norm"),
    (f"{_MONO}.depth_conv.4.conv_offset", "depth_net.mono.depth_conv.4.offset"),
    (f"{_STEREO}.stem", "depth_net.stereo.stem"),
    *_hourglass(f"{_STEREO}.Unet.0", "depth_net.stereo.unet"),
    (f"{_STEREO}.conv_out", "depth_net.stereo.conv_out"),
    *_fusing_attention(f"{_FUSION}.mono_stereo_attention", "depth_net.fusion.mono_asks"),
    *_fusing_attention(f"{_FUSION}.stereo_mono_attention", "depth_net.fusion.stereo_asks"),
    (f"{_FUSION}.stem", "depth_net.fusion.stem"),
    *_hourglass(f"{_FUSION}.UNet_3D", "depth_net.fusion.unet"),
    (f"{_FUSION}.channel_attention.conv1", "depth_net.fusion.channel_attention.conv1"),
    (f"{_FUSION}.channel_attention.conv2.0", "depth_net.fusion.channel_attention.squeeze"),
    (f"{_FUSION}.channel_attention.conv2.2", "depth_net.fusion.channel_attention.expand"),
    (f"{_FUSION}.channel_attention.conv", "depth_net.fusion.channel_attention.conv2"),
    (f"{_FUSION}.channel_attention.layer_scale", "depth_net.fusion.channel_attention.layer_scale"),
    (f"{_FUSION}.out_conv", "depth_net.fusion.conv_out"),
    ("VoxFormer_head.mlp_lss", "lifting.embed_volume"),
    ("VoxFormer_head.mlp_prior", "lifting.embed_unproposed"),
    (f"{_TRANSFORMER}.cams_embeds", "lifting.camera_embedding"),
    (f"{_TRANSFORMER}.level_embeds", "lifting.level_embedding"),
    (f"{_TRANSFORMER}.encoder.layers.*.attentions.0.deformable_attention", "lifting.layers.*.attention"),
    (f"{_TRANSFORMER}.encoder.layers.*.attentions.0.output_proj", "lifting.layers.*.attention.output_proj"),
    (f"{_TRANSFORMER}.encoder.layers.*.norms.0", "lifting.layers.*.attention_norm"),
    (f"{_TRANSFORMER}.encoder.layers.*.ffns.0.layers.0.0", "lifting.layers.*.feedforward.0"),
    (f"{_TRANSFORMER}.encoder.layers.*.ffns.0.layers.1", "lifting.layers.*.feedforward.3"),
    (f"{_TRANSFORMER}.encoder.layers.*.norms.1", "lifting.layers.*.feedforward_norm"),
    *_detector(),
)
"""Of the camera models, SemanticKITTI and KITTI-360."""

CAMERA_UNUSED = (
    # Geometry that is computed here from the grid, the planes and the size of the picture.
    "img_view_transformer.dx",
    "img_view_transformer.bx",
    "img_view_transformer.nx",
    "img_view_transformer.frustum",
    "proposal_layer.image_grid",
    "VoxFormer_head.image_grid",
    "VoxFormer_head.vox_coords",
    "VoxFormer_head.ref_3d",
)
"""Tensors of the camera models that no module here holds; and rows 1 to 3 of the level embedding, never used there."""

LIDAR_NAMES: Names = (
    ("lidar_tokenizer.point_mlp", "points.network"),
    *_blocks("voxel_backbone", "backbone", "bn"),
    *_neck("voxel_neck.lateral_convs", "voxel_neck.fpn_convs", "neck"),
    *_detector(),
)
"""Of the LiDAR model."""

LIDAR_UNUSED: tuple[str, ...] = ()
"""Of the LiDAR model every tensor is used."""


def convert_camera(
    released: Mapping[str, Tensor], expected: Mapping[str, Tensor], *, where: Path | None = None
) -> dict[str, Tensor]:
    """A released camera model's weights under our names.

    Args:
        released: Its state dict; a leading `model.` of every name (Lightning's) is taken off.
        expected: The state dict of the model they are meant for; its values are not read.
        where: The file they come from, for the error.

    Raises:
        InputError: If the names or shapes are not those of this model.
    """
    released = _without_prefix(released)
    levels = f"{_TRANSFORMER}.level_embeds"
    if levels in released:
        released[levels] = released[levels][:1]  # one feature level: rows 1 to 3 are never used
    return _convert(released, expected, names=CAMERA_NAMES, unused=CAMERA_UNUSED, where=where)


def convert_lidar(
    released: Mapping[str, Tensor], expected: Mapping[str, Tensor], *, where: Path | None = None
) -> dict[str, Tensor]:
    """A released LiDAR model's weights under our names; otherwise as `convert_camera`."""
    return _convert(_without_prefix(released), expected, names=LIDAR_NAMES, unused=LIDAR_UNUSED, where=where)


def convert_released(
    released: Mapping[str, Tensor], model: OccupancyModel, *, where: Path | None = None
) -> dict[str, Tensor]:
    """Released weights under our names, for a model of any class that some were published for.

    Args:
        released: Their state dict.
        model: The model they are meant for; it may be on the meta device.
        where: The file they come from, for the error.

    Raises:
        InputError: If they are of another model, or none were published for this one.
    """
    if isinstance(model, VoxDet):
        return convert_camera(released, model.state_dict(), where=where)
    if isinstance(model, VoxDetL):
        return convert_lidar(released, model.state_dict(), where=where)
    raise InputError(
        f"no published weights are known for {type(model).__name__}",
        rule="those of VoxDet and VoxDet-L are",
        remedy="name a recipe of theirs, such as voxdet-semantickitti-released",
    )


def read_released(path: Path) -> dict[str, Tensor]:
    """The state dict of a released checkpoint: the file itself, or Lightning's under `state_dict`.

    Nothing but tensors and plain values is unpickled.

    Raises:
        InputError: If there is no such file, or it holds anything else.
    """
    if not path.is_file():
        raise InputError("no such checkpoint", where=path, remedy="download it from VoxDet's authors")
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, OSError, ValueError, UnpicklingError) as error:
        raise InputError(
            f"cannot be read as weights ({type(error).__name__})",
            where=path,
            rule="only tensors and plain values are read, since other pickled objects can run programs",
            remedy='if you trust it, save its torch.load(..., weights_only=False)["state_dict"] alone with torch.save',
        ) from error
    state = loaded.get("state_dict", loaded) if isinstance(loaded, dict) else loaded
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise InputError("holds no state dict", where=path, rule="names and tensors, or those under `state_dict`")
    return state


def our_name(released: str, names: Names) -> str | None:
    """Our name of a released tensor, None where the table has none."""
    pair = fitting_pair(released, names)
    if pair is None:
        return None
    wanted, parts = pair[0].split("."), released.split(".")
    ours = pair[1]
    for pattern, part in zip(wanted, parts, strict=False):
        ours = ours.replace("*", part, 1) if pattern == "*" else ours
    return ".".join([ours, *parts[len(wanted) :]])


def fitting_pair(released: str, names: Names) -> tuple[str, str] | None:
    """The line of a table that a released name falls under: the longest one that fits."""
    fitting = [pair for pair in names if re.match(_expression(pair[0]), released)]
    return max(fitting, key=lambda pair: pair[0].count("."), default=None)


@cache
def _expression(pattern: str) -> str:
    """A listed name as a regular expression for itself and what follows it."""
    return re.escape(pattern).replace(r"\*", r"\d+") + r"(\.|$)"


def _without_prefix(released: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Names without Lightning's prefix."""
    return {name.removeprefix("model."): value for name, value in released.items()}


def _convert(
    released: Mapping[str, Tensor],
    expected: Mapping[str, Tensor],
    *,
    names: Names,
    unused: tuple[str, ...],
    where: Path | None,
) -> dict[str, Tensor]:
    """Rename, and check that nothing is missing, left over or misshapen; axes of size 1 do not count."""
    renamed = {our_name(name, names) or name: value for name, value in released.items() if name not in unused}
    missing = [name for name in expected if name not in renamed]
    surplus = [name for name in renamed if name not in expected]
    shared = [name for name in expected if name in renamed]
    misshapen = [name for name in shared if _sizes(renamed[name]) != _sizes(expected[name])]
    for what, wrong in (("lacks", missing), ("has the unknown tensor", surplus), ("has another shape for", misshapen)):
        _refuse(what, wrong, where)
    return {name: renamed[name].reshape(expected[name].shape) for name in expected}


def _sizes(tensor: Tensor) -> list[int]:
    """The shape without axes of size 1."""
    return [size for size in tensor.shape if size != 1]


def _refuse(what: str, names: list[str], where: Path | None) -> None:
    """Raise where there are names."""
    if not names:
        return
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    raise InputError(
        f"{what} {names[0]}{more}",
        where=where,
        rule="the weights must be of the recipe's model at its full size",
        remedy="name the recipe that this checkpoint was made for",
    )
