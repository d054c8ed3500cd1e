"""Random state dicts with the names and shapes of the released ones."""

import math
import os
from pathlib import Path

import torch
from torch import Tensor

TABLES = Path(os.environ.get("OCCLOOM_REFERENCE", Path(__file__).parents[4] / "shared" / "reference" / "state_dicts"))


def released_table(name: str) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    """Shape and type of every tensor of a released checkpoint, by its name there."""
    rows = [line.split("\t") for line in (TABLES / f"{name}.tsv").read_text().splitlines()[1:]]
    return {
        key: (tuple(int(n) for n in shape.strip("[]").split(",") if n.strip()), getattr(torch, kind))
        for key, shape, kind, _ in rows
    }


def released_state(
    name: str, *, seed: int = 0, but: tuple[str, ...] = ("image_grid", "vox_coords", "ref_3d", "frustum")
):
    """A random state: activations stay near one, no learned scale is zero, and statistics are those of no layer.

    Tensors whose name ends in one of `but` are left out: large constants that nothing here needs.
    """
    generator = torch.Generator().manual_seed(seed)
    table = released_table(name)
    return {key: _draw(key, *spec, generator) for key, spec in table.items() if not key.endswith(but)}


def _draw(key: str, shape: tuple[int, ...], dtype: torch.dtype, generator: torch.Generator) -> Tensor:
    normal = torch.randn(shape, generator=generator)
    last = key.split(".")[-1]
    if dtype == torch.int64:
        return torch.ones(shape, dtype=dtype)
    if last == "running_var":
        return 0.5 + normal.abs()
    if last in ("gamma", "layer_scale"):
        return 0.7 + 0.1 * normal
    if last in ("rpb", "level_embeds", "cams_embeds"):
        return 0.5 * normal
    if last in ("running_mean", "bias"):
        wide = "sampling_offsets" in key or "conv_offset" in key or ".offset_" in key
        return (1.5 if wide else 0.1) * normal
    if len(shape) == 1:
        # The last norm of a residual block is small, so that sixteen blocks in a row do not grow.
        return (0.3 if key.endswith(("bn3.weight", "conv2.bn.weight")) else 1.0) + 0.1 * normal
    return normal * math.sqrt(1.5 / math.prod(shape[1:]))
