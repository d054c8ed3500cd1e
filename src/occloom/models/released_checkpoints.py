"""Weights that authors of VoxDet, BEVDet, VoxFormer and MonoOcc published, under the names of this library's modules.

VoxDet's names are those of reference state_dicts/voxdet_*.tsv; how tables are read stands in `released_names`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError

import torch
from torch import Tensor

from occloom.backbones.resnet import IMAGE_MEAN, IMAGE_STD
from occloom.errors import InputError
from occloom.interfaces import OccupancyModel
from occloom.models.bevdet4d import TemporalLifting
from occloom.models.lmscnet import LmscNet
from occloom.models.monoocc import MonoOcc
from occloom.models.monoocc_teacher import MonoOccTeacher
from occloom.models.released_monoocc import convert_monoocc, convert_teacher
from occloom.models.released_names import Names, convert_names, our_name
from occloom.models.released_symphonies import convert_symphonies_decoder, decoder_tensors
from occloom.models.released_voxformer import convert_query_network, convert_voxformer
from occloom.models.symphonies import Symphonies
from occloom.models.voxdet_camera import VoxDet
from occloom.models.voxdet_lidar import VoxDetL
from occloom.models.voxformer import VoxFormer

_TASKS = (("cls", "classification"), ("reg", "regression"))
_PLANES = (("xy", 0), ("yz", 1), ("zx", 2))
_SHARED = "occ_encoder_backbone.local_aggregator"


def _blocks(released: str, ours: str, shortcut_norm: str) -> Names:
    """Residual blocks of a 3D network."""
    return (
        (f"{released}.conv1.conv", f"{ours}.conv1"),
        (f"{released}.conv1.bn", f"{ours}.norm1"),
        (f"{released}.conv2.conv", f"{ours}.conv2"),
        (f"{released}.conv2.bn", f"{ours}.norm2"),
        (f"{released}.downsample.conv", f"{ours}.shortcut.0"),
        (f"{released}.downsample.{shortcut_norm}", f"{ours}.shortcut.1"),
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
        *_blocks(f"{_SHARED}.local_encoder_backbone.layers.*.*", "detector.encoder.stages.*.*", "gn"),
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


def _pyramid(released: str, ours: str) -> Names:
    """The atrous pyramid of a depth network."""
    return (
        *((f"{released}.aspp{i + 1}.atrous_conv", f"{ours}.branches.{i}.conv") for i in range(4)),
        *((f"{released}.aspp{i + 1}.bn", f"{ours}.branches.{i}.norm") for i in range(4)),
        (f"{released}.global_avg_pool.1", f"{ours}.pooled_conv"),
        (f"{released}.global_avg_pool.2", f"{ours}.pooled_norm"),
        (f"{released}.conv1", f"{ours}.conv"),
        (f"{released}.bn1", f"{ours}.norm"),
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
    *_pyramid(f"{_MONO}.depth_conv.3", "depth_net.mono.depth_conv.3"),
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
    *_blocks("voxel_backbone.layers.*.*", "backbone.stages.*.*", "bn"),
    *_neck("voxel_neck.lateral_convs", "voxel_neck.fpn_convs", "neck"),
    *_detector(),
)
"""Of the LiDAR model."""

LIDAR_UNUSED: tuple[str, ...] = ()
"""Of the LiDAR model every tensor is used."""


_DEPTH, _OURS = "img_view_transformer.depth_net", "lifting.depth_net"

BEVDET_NAMES: Names = (
    ("img_backbone", "lifting.trunk"),
    ("img_neck.lateral_convs.*.conv", "lifting.neck.lateral.*"),
    ("img_neck.fpn_convs.0.conv", "lifting.neck.smooth"),
    (f"{_DEPTH}.reduce_conv", f"{_OURS}.reduce"),
    (f"{_DEPTH}.bn", f"{_OURS}.camera_norm"),
    *((f"{_DEPTH}.{part}_mlp", f"{_OURS}.{part}_mlp") for part in ("context", "depth")),
    *((f"{_DEPTH}.{part}_se", f"{_OURS}.{part}_gate") for part in ("context", "depth")),
    (f"{_DEPTH}.context_conv", f"{_OURS}.context_conv"),
    (f"{_DEPTH}.cost_volumn_net", f"{_OURS}.matching_conv"),  # the released spelling
    (f"{_DEPTH}.depth_conv", f"{_OURS}.depth_conv"),
    *_pyramid(f"{_DEPTH}.depth_conv.3", f"{_OURS}.depth_conv.3"),
    *_blocks("pre_process_net.layers.0.0", "lifting.refine", "bn"),
    *_blocks("img_bev_encoder_backbone.layers.*.*", "encoder.stages.*.*", "bn"),
    ("img_bev_encoder_neck.conv.conv", "neck.conv"),
    ("img_bev_encoder_neck.conv.bn", "neck.norm"),
    ("final_conv.conv", "head.conv"),
    ("predicter.0", "head.hidden"),
    ("predicter.2", "head.classify"),
)
"""Of BEVDet's occupancy models; its detectors share what comes before the volume."""


@dataclass(frozen=True)
class Converted:
    """Released weights under our names."""

    weights: dict[str, Tensor]
    """Those that fit."""
    unused: tuple[str, ...] = ()
    """Released names of the others: the model has no such tensor, or one of another shape."""


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
    return convert_names(released, expected, names=CAMERA_NAMES, unused=CAMERA_UNUSED, where=where)


def convert_lidar(
    released: Mapping[str, Tensor], expected: Mapping[str, Tensor], *, where: Path | None = None
) -> dict[str, Tensor]:
    """A released LiDAR model's weights under our names; otherwise as `convert_camera`."""
    return convert_names(_without_prefix(released), expected, names=LIDAR_NAMES, unused=LIDAR_UNUSED, where=where)


def convert_bevdet(
    released: Mapping[str, Tensor], expected: Mapping[str, Tensor], *, where: Path | None = None
) -> Converted:
    """What fits of the weights of a BEVDet, detector or occupancy model, under our names.

    Its volumes are ordered z, y, x, so kernels are turned; its pictures are seen as `_stem_for_rgb` says.

    Args:
        released: Its state dict.
        expected: The state dict of the model they are meant for; its values are not read.
        where: The file they come from, for the error.

    Raises:
        InputError: If nothing fits.
    """
    turned = {name: value.permute(0, 1, 4, 3, 2) if value.ndim == 5 else value for name, value in released.items()}
    weights, unused = {}, []
    for name, value in _stem_for_rgb(turned).items():
        ours = our_name(name, BEVDET_NAMES)
        if ours is not None and ours in expected and expected[ours].shape == value.shape:
            weights[ours] = value.contiguous()
        else:
            unused.append(name)
    if not weights:
        raise InputError(
            f"holds nothing of this model (but {', '.join(list(released)[:3]) or 'nothing at all'})",
            where=where,
            rule="the weights must be of a BEVDet with ResNet-50",
            remedy="name such a checkpoint, as of bevdet-r50-4d-stereo-cbgs",
        )
    return Converted(weights, tuple(unused))


def _stem_for_rgb(released: dict[str, Tensor]) -> dict[str, Tensor]:
    """The first convolution for pictures as our trunk has them.

    BEVDet's sees blue, green, red, each less the mean and by the deviation of red, green, blue. Kernels are swapped and
    scaled; what is left is a constant, which the mean of the norm behind takes. Only pixels within the reach of the
    padding, whose zeros then stand for another colour, differ.
    """
    conv, mean = "img_backbone.conv1.weight", "img_backbone.bn1.running_mean"
    if conv not in released or mean not in released:
        return released
    kernels = released[conv].flip(1)
    means, stds = kernels.new_tensor(IMAGE_MEAN), kernels.new_tensor(IMAGE_STD)
    # (x - m') / s' = (x - m) / s * s / s' + (m - m') / s', where m' and s' are those of the mirrored channel.
    constant = (kernels.sum(dim=(2, 3)) * ((means - means.flip(0)) / stds.flip(0))).sum(dim=1)
    scaled = kernels * (stds / stds.flip(0)).view(3, 1, 1)
    return {**released, conv: scaled, mean: released[mean] - constant}


def convert_released(released: Mapping[str, Tensor], model: OccupancyModel, *, where: Path | None = None) -> Converted:
    """Released weights under our names, for a model of any class that some were published for.

    Args:
        released: Their state dict.
        model: The model they are meant for; it may be on the meta device.
        where: The file they come from, for the error.

    Raises:
        InputError: If they are of another model, or none were published for this one.
    """
    if isinstance(model, VoxDet):
        return Converted(convert_camera(released, model.state_dict(), where=where))
    if isinstance(model, VoxDetL):
        return Converted(convert_lidar(released, model.state_dict(), where=where))
    if isinstance(model, VoxFormer):
        return Converted(convert_voxformer(released, model.state_dict(), where=where))
    if isinstance(model, LmscNet):
        return Converted(convert_query_network(released, model.state_dict(), where=where))
    if isinstance(model, MonoOcc):
        return Converted(convert_monoocc(released, model.state_dict(), where=where))
    if isinstance(model, MonoOccTeacher):
        return Converted(convert_teacher(released, model.state_dict(), where=where))
    if isinstance(model, Symphonies):
        decoder, others = decoder_tensors(released)
        return Converted(convert_symphonies_decoder(decoder, model.state_dict(), where=where), others)
    if isinstance(getattr(model, "lifting", None), TemporalLifting):
        return convert_bevdet(released, model.state_dict(), where=where)
    raise InputError(
        f"no published weights are known for {type(model).__name__}",
        rule="those of VoxDet, VoxDet-L, BEVDet, VoxFormer, MonoOcc and the decoder of Symphonies are",
        remedy="name a recipe of theirs, such as voxdet-semantickitti-released",
    )


def read_released(path: Path) -> dict[str, Tensor]:
    """The state dict of a released checkpoint: the file itself, or Lightning's under `state_dict`.

    Nothing but tensors and plain values is unpickled.

    Raises:
        InputError: If there is no such file, or it holds anything else.
    """
    if not path.is_file():
        raise InputError("no such checkpoint", where=path, remedy="download it from its authors")
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


def _without_prefix(released: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Names without Lightning's prefix."""
    return {name.removeprefix("model."): value for name, value in released.items()}
