"""Random state dicts with the names and shapes of the released ones."""

import math
from pathlib import Path

import torch
from torch import Tensor


def released_table(table: Path) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    """Shape and type of every tensor of a released checkpoint, by its name there."""
    rows = [line.split("\t") for line in table.read_text().splitlines()[1:]]
    return {
        key: (tuple(int(n) for n in shape.strip("[]").split(",") if n.strip()), getattr(torch, kind))
        for key, shape, kind, _ in rows
    }


def released_state(table: Path, *, seed: int = 0) -> dict[str, Tensor]:
    """A random state: activations stay near one, no learned scale is zero, and statistics are those of no layer."""
    generator = torch.Generator().manual_seed(seed)
    return {key: _draw(key, *spec, generator) for key, spec in released_table(table).items()}


def _draw(key: str, shape: tuple[int, ...], dtype: torch.dtype, generator: torch.Generator) -> Tensor:
    last = key.split(".")[-1]
    if dtype == torch.int64 or last in ("frustum", "image_grid", "ref_3d"):
        return torch.ones((), dtype=dtype).expand(shape)  # counts and large constants, which nothing here reads
    normal = torch.randn(shape, generator=generator)
    if key.startswith("depth_net.depth_net.bn.running"):
        # The camera's numbers are as large as a focal length in pixels.
        return 1e5 * (0.5 + normal.abs()) if last == "running_var" else 100 * normal
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
    # Distributions over depth are sharp, or what is looked up by depth would hardly depend on it.
    sharp = ("depth_conv.5.weight", "stereo_volume_encoder.conv_out.weight", "depth_aggregation.out_conv.weight")
    return (6.0 if key.endswith(sharp) else 1.0) * normal * math.sqrt(1.5 / math.prod(shape[1:]))
