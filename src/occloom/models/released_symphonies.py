"""Weights of Symphonies' decoder as its authors published them, under the names of this library's modules.

The names are those of reference state_dicts/symphonies_decoder.tsv; how tables are read stands in `released_names`. The
reference does not list the encoder's.
"""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from occloom.models.released_names import Names, convert_names

OURS = "decoder"


def _blocks(released: str, ours: str, attention: str) -> Names:
    """A block: normalisation, attention, and the network behind them where there is one."""
    return (
        (f"{released}.norm1", f"{ours}.norm"),
        (f"{released}.{attention}", f"{ours}.attention"),
        (f"{released}.norm2", f"{ours}.network.0"),
        (f"{released}.ffn.0", f"{ours}.network.1"),
        (f"{released}.ffn.2", f"{ours}.network.3"),
    )


SYMPHONIES_NAMES: Names = (
    ("scene_embed.weight", f"{OURS}.scene"),
    ("scene_pos.embeds.*.weight", f"{OURS}.positions.tables.*"),
    ("scene_pos.proj", f"{OURS}.positions.project"),
    *_blocks("voxel_proposal.attn", f"{OURS}.proposal", "attn"),
    # The released spelling: "defrom".
    *_blocks("layers.*.query_image_cross_defrom_attn", f"{OURS}.layers.*.queries_from_image", "attn"),
    *_blocks("layers.*.scene_query_cross_attn", f"{OURS}.layers.*.scene_from_queries", "attn")[:2],
    *_blocks("layers.*.scene_self_deform_attn", f"{OURS}.layers.*.scene_from_scene", "attn.attns.0"),
    *_blocks("layers.*.query_scene_cross_deform_attn", f"{OURS}.layers.*.queries_from_scene", "attn.attns.0")[:2],
    *_blocks("layers.*.query_self_attn", f"{OURS}.layers.*.queries_from_queries", "attn"),
    ("aspp.blks", f"{OURS}.context.branches"),
    ("cls_head.0", f"{OURS}.head.enlarge.0"),
    ("cls_head.1.up_bn", f"{OURS}.head.enlarge.1"),
    ("cls_head.2", f"{OURS}.head.classify"),
)
"""Of the decoder."""

SYMPHONIES_UNUSED = (
    # Pixels and voxels in their order, which are made here from the sizes of picture and grid.
    "image_grid",
    "voxel_grid",
)
"""Tensors of the decoder that no module here holds."""


def convert_symphonies_decoder(
    released: Mapping[str, Tensor], expected: Mapping[str, Tensor], *, where: Path | None = None
) -> dict[str, Tensor]:
    """The released decoder's weights under our names.

    Args:
        released: Its state dict, names as in the reference's table.
        expected: The state dict of the model they are meant for; its values are not read.
        where: The file they come from, for the error.

    Raises:
        InputError: If the names or shapes are not those of this model's decoder.
    """
    own = {name: value for name, value in expected.items() if name.startswith(f"{OURS}.")}
    return convert_names(released, own, names=SYMPHONIES_NAMES, unused=SYMPHONIES_UNUSED, where=where)


def decoder_tensors(released: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """The decoder's tensors of a whole checkpoint, named as in the table, and the names of all others.

    A state dict in which nothing is named `decoder.` is taken for the decoder's own.
    """
    short = {name: name.removeprefix("model.") for name in released}
    ours = {name for name in released if short[name].startswith("decoder.")}
    if not ours:
        return dict(released), ()
    tensors = {short[name].removeprefix("decoder."): released[name] for name in ours}
    return tensors, tuple(name for name in released if name not in ours)
