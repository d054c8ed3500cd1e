"""Weights that VoxFormer's authors published, under the names of this library's modules.

The names are those of reference state_dicts/voxformer_*.tsv and lmscnet_ss_qpn.tsv; how tables are read stands in
`released_names`.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from occloom.models.released_names import Names, convert_names

HEAD = "pts_bbox_head"
CROSS, SELF = f"{HEAD}.cross_transformer", f"{HEAD}.self_transformer"


def layer_names(released: str, ours: str) -> Names:
    """Norms and network behind each attention."""
    return (
        (f"{released}.norms.0", f"{ours}.attention_norm"),
        (f"{released}.ffns.0.layers.0.0", f"{ours}.feedforward.0"),
        (f"{released}.ffns.0.layers.1", f"{ours}.feedforward.3"),
        (f"{released}.norms.1", f"{ours}.feedforward_norm"),
    )


def view_attention_names(released: str, ours: str) -> Names:
    """Layers that look into the pictures, and the embeddings of views and level."""
    layers = f"{released}.encoder.layers.*"
    return (
        (f"{released}.cams_embeds", f"{ours}.view_embedding"),
        (f"{released}.level_embeds", f"{ours}.level_embedding"),
        (f"{layers}.attentions.0.deformable_attention", f"{ours}.layers.*.attention"),
        (f"{layers}.attentions.0.output_proj", f"{ours}.layers.*.attention.output_proj"),
        *layer_names(layers, f"{ours}.layers.*"),
    )


def voxformer_names(prefix: str = "") -> Names:
    """Of VoxFormer-S, -T and their three-dimensional forms.

    Args:
        prefix: Of our names, for a model that has a VoxFormer as one of its parts, as in "base.".
    """
    names = (
        ("img_backbone", "images.trunk"),
        ("img_neck.lateral_convs.*.conv", "images.neck.lateral.*"),
        ("img_neck.fpn_convs.0.conv", "images.neck.smooth"),
        (f"{HEAD}.bev_embed.weight", "lifting.queries.rows"),
        (f"{HEAD}.mask_embed.weight", "lifting.unproposed.token"),
        *view_attention_names(CROSS, "lifting.attention"),
        (f"{HEAD}.positional_encoding.row_embed.weight", "refinement.positions.rows"),
        (f"{HEAD}.positional_encoding.col_embed.weight", "refinement.positions.columns"),
        (f"{SELF}.encoder.layers.*.attentions.0", "refinement.layers.*.attention"),
        *layer_names(f"{SELF}.encoder.layers.*", "refinement.layers.*"),
        (f"{HEAD}.header.mlp_head.0", "head.norm"),
        (f"{HEAD}.header.mlp_head.1", "head.classify"),
    )
    return tuple((released, prefix + ours) for released, ours in names)


VOXFORMER_NAMES = voxformer_names()

VOXFORMER_UNUSED = (
    # The last stage runs, and nothing looks at what it makes.
    "img_backbone.layer4",
    # Self-attention looks at voxels, which have neither view nor level.
    f"{SELF}.cams_embeds",
    f"{SELF}.level_embeds",
)
"""What no module here holds, with all that stands under it; and rows 1 to 3 of the other level embedding."""


def present_to_past(released: Mapping[str, Tensor], attentions: tuple[str, ...]) -> dict[str, Tensor]:
    """The state dict with the embeddings of some view attentions as they stand here.

    Only the first of the four levels is ever read. The released frames are the present one, then the oldest first (0,
    -12, -9, -6, -3); here they grow older.
    """
    changed = dict(released)
    for attention in attentions:
        levels, views = f"{attention}.level_embeds", f"{attention}.cams_embeds"
        if levels in changed:
            changed[levels] = changed[levels][:1]
        if views in changed:
            changed[views] = torch.cat([changed[views][:1], changed[views][1:].flip(0)])
    return changed


def convert_voxformer(
    released: Mapping[str, Tensor], expected: Mapping[str, Tensor], *, where: Path | None = None
) -> dict[str, Tensor]:
    """A released VoxFormer's weights under our names.

    Args:
        released: Its state dict.
        expected: The state dict of the model they are meant for; its values are not read.
        where: The file they come from, for the error.

    Raises:
        InputError: If the names or shapes are not those of this model.
    """
    return convert_names(
        present_to_past(released, (CROSS,)), expected, names=VOXFORMER_NAMES, unused=VOXFORMER_UNUSED, where=where
    )


_LAYER_HEAD = "seg_head_1_2"

QUERY_NAMES: Names = (
    *((f"Encoder_block{i + 1}", f"encoder.{i}") for i in range(4)),
    ("conv_out_scale_1_8", "say_eighth"),
    ("deconv1_8", "eighth_to_quarter"),
    ("conv1_4", "merge_quarter"),
    ("conv_out_scale_1_4", "say_quarter"),
    ("deconv1_4", "quarter_to_half"),
    ("deconv_1_8__1_2", "eighth_to_half"),
    ("conv1_2", "merge_half"),
    ("conv_out_scale_1_2", "say_half"),
    (f"{_LAYER_HEAD}.conv0", "head.stem"),
    (f"{_LAYER_HEAD}.conv1.*", "head.branches.*.0"),
    (f"{_LAYER_HEAD}.bn1.*", "head.branches.*.1"),
    (f"{_LAYER_HEAD}.conv2.*", "head.branches.*.3"),
    (f"{_LAYER_HEAD}.bn2.*", "head.branches.*.4"),
    (f"{_LAYER_HEAD}.conv_classes", "head.classify"),
)
"""Of VoxFormer's query network, LMSCNet cut off at half resolution."""

QUERY_UNUSED = ("deconv_1_8__1_1", "deconv_1_4__1_1")
"""What the query network never uses, with all that stands under it."""


def convert_query_network(
    released: Mapping[str, Tensor], expected: Mapping[str, Tensor], *, where: Path | None = None
) -> dict[str, Tensor]:
    """A released query network's weights under our names; otherwise as `convert_voxformer`."""
    return convert_names(released, expected, names=QUERY_NAMES, unused=QUERY_UNUSED, where=where)
