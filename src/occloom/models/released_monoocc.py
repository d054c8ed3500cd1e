"""Weights of MonoOcc's released structure, and of both cross-view transformers, under the names of this library.

The names are those of reference state_dicts/monoocc_*.tsv, cvt_surrounddepth_c128.tsv and tvt_gmflow.tsv; how tables
are read stands in `released_names`.
"""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from occloom.models.released_names import Names, convert_names
from occloom.models.released_voxformer import (
    CROSS,
    HEAD,
    VOXFORMER_UNUSED,
    present_to_past,
    view_attention_names,
    voxformer_names,
)

LATE, DECODER = f"{HEAD}.cross_transformer_late", f"{HEAD}.sem_decoder"


def _enlarging_names(released: str, ours: str) -> Names:
    """One of the decoder's two enlargements."""
    return (
        (f"{released}.conv1", f"{ours}.spread"),
        (f"{released}.pointwise", f"{ours}.mix"),
        (f"{released}.bn.0", f"{ours}.norm"),
    )


def decoder_names(released: str = DECODER, ours: str = "decoder") -> Names:
    """Of the decoder of pixels."""
    return (
        *_enlarging_names(f"{released}.upconv", f"{ours}.enlarge.0"),
        *_enlarging_names(f"{released}.upconv2", f"{ours}.enlarge.1"),
        (f"{released}.head.0", f"{ours}.hidden"),
        (f"{released}.head.1", f"{ours}.norm"),
        (f"{released}.head.4", f"{ours}.classify"),
    )


def monoocc_names(prefix: str = "") -> Names:
    """Of MonoOcc-S and -L.

    Args:
        prefix: Of our names, as in "branch." of the privileged one.
    """
    return (
        *voxformer_names(f"{prefix}base."),
        *view_attention_names(LATE, f"{prefix}conditioning.attention"),
        *decoder_names(ours=f"{prefix}decoder"),
    )


def _beneath(released: str, ours: str, names: Names) -> Names:
    return tuple((f"{released}.{theirs}", f"{ours}.{own}") for theirs, own in names)


JOINT_NAMES: Names = (
    ("sep_conv.conv1", "shrink.0"),
    ("sep_conv.pointwise", "shrink.1"),
    ("sep_deconv.conv1", "enlarge.0"),
    ("sep_deconv.pointwise", "enlarge.1"),
    *_beneath(
        "decoder.*",
        "blocks.*",
        (
            ("norm1", "attention_norm"),
            ("attn.q_linear", "query"),
            ("attn.k_linear", "key"),
            ("attn.v_linear", "value"),
            ("attn.proj", "project"),
            ("norm2", "feedforward_norm"),
            ("mlp.fc1", "feedforward.0"),
            ("mlp.fc2", "feedforward.2"),
        ),
    ),
)
"""Of SurroundDepth's cross-view transformer."""

_WINDOWED: Names = (
    ("q_proj", "query"),
    ("k_proj", "key"),
    ("v_proj", "value"),
    ("merge", "merge"),
    ("norm1", "norm"),
)

PAIR_NAMES: Names = (
    *_beneath("layers.*.self_attn", "blocks.*.own", _WINDOWED),
    *_beneath(
        "layers.*.cross_attn_ffn",
        "blocks.*.other",
        (*_WINDOWED, ("mlp.0", "feedforward.0"), ("mlp.2", "feedforward.2"), ("norm2", "feedforward_norm")),
    ),
)
"""Of GMFlow's cross-view transformer."""

MONOOCC_NAMES = monoocc_names()
TEACHER_NAMES: Names = (*monoocc_names("branch."), *_beneath(f"{HEAD}.cvt", "cross_view", PAIR_NAMES))
"""Of the privileged branch as its code could build it: with the windowed transformer."""

MONOOCC_UNUSED = (
    *VOXFORMER_UNUSED,
    # InternImage's last stage, and the way there.
    "img_backbone.levels.2.downsample",
    "img_backbone.levels.3",
    # Heads that are never called.
    f"{HEAD}.header.open_mlp_head",
    f"{HEAD}.header.lidar_head",
    f"{HEAD}.header.conv_3d",
    f"{HEAD}.header.downsample",
    f"{HEAD}.mlp",
)
"""What no module here holds, with all that stands under it; and rows 1 to 3 of the level embeddings."""


def convert_monoocc(
    released: Mapping[str, Tensor], expected: Mapping[str, Tensor], *, where: Path | None = None
) -> dict[str, Tensor]:
    """Weights of a MonoOcc under our names.

    Args:
        released: Its state dict.
        expected: The state dict of the model they are meant for; its values are not read.
        where: The file they come from, for the error.

    Raises:
        InputError: If the names or shapes are not those of this model.
    """
    turned = present_to_past(released, (CROSS, LATE))
    return convert_names(turned, expected, names=MONOOCC_NAMES, unused=MONOOCC_UNUSED, where=where)


def convert_teacher(
    released: Mapping[str, Tensor], expected: Mapping[str, Tensor], *, where: Path | None = None
) -> dict[str, Tensor]:
    """Weights of a privileged branch with the windowed transformer under our names; otherwise as `convert_monoocc`."""
    turned = present_to_past(released, (CROSS, LATE))
    return convert_names(turned, expected, names=TEACHER_NAMES, unused=MONOOCC_UNUSED, where=where)
