"""Exact depth made as wrong as a monocular model's, by named amounts, the same for a picture every time."""

import hashlib
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float32, Float64

from occloom.errors import InputError

WARP_KNOTS = (4, 6)
"""Rows and columns of the coarse grid between which the warp is interpolated."""
GROWTH_DISTANCE = 10.0
"""Metres over which the pixel noise grows by `NoiseConfig.growth`."""


@dataclass(frozen=True)
class NoiseConfig:
    """How wrong: all are shares of the depth, as standard deviations, unless said otherwise."""

    scale: float = 0.05
    """Error of the whole picture, as when a depth model misjudges the metric scale."""
    warp: float = 0.03
    """Smooth error that changes over a quarter of the picture or so: near things right, far things wrong."""
    pixel: float = 0.01
    """Independent error of each pixel, at no distance."""
    growth: float = 0.005
    """What each 10 m add to the error of a pixel."""
    bleeding: float = 0.005
    """Share of the picture's width (not of the depth) over which a surface's edge runs into what is behind."""
    seed: int = 0
    """Of all the draws, with the picture's name."""

    def __post_init__(self) -> None:
        for name in ("scale", "warp", "pixel", "growth", "bleeding"):
            if not 0 <= getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}", rule="noise is a share, at least 0 and below 1")


def noisy_depth(depth: Float32[np.ndarray, "H W"], noise: NoiseConfig, name: str) -> Float32[np.ndarray, "H W"]:
    """Depth in metres with errors; what is unknown (0) stays so, and nothing else becomes unknown.

    Edges bleed in inverse depth, which is linear over the picture of a plane: planes stay planes and only edges blur.

    Args:
        depth: Exact z-depth in metres, 0 = unknown.
        noise: How wrong.
        name: Of the picture; with the seed it decides all draws.
    """
    digest = hashlib.sha256(f"{noise.seed} {name}".encode()).digest()
    rng = np.random.default_rng(np.frombuffer(digest, np.uint32))
    scale, knots = rng.normal(), rng.normal(size=WARP_KNOTS)
    pixels = rng.normal(size=depth.shape)
    bled = _with_bleeding(depth, round(noise.bleeding * depth.shape[1]))
    log_error = noise.scale * scale + noise.warp * _enlarged(knots, depth.shape)
    log_error = log_error + (noise.pixel + noise.growth * bled / GROWTH_DISTANCE) * pixels
    return (bled * np.exp(log_error)).astype(np.float32)


def _with_bleeding(depth: Float32[np.ndarray, "H W"], radius: int) -> Float32[np.ndarray, "H W"]:
    """The mean of inverse depth over the known pixels of a square, where the pixel itself is known."""
    if radius == 0:
        return depth
    known = depth > 0
    inverse = np.divide(1, depth, out=np.zeros_like(depth), where=known)
    both = torch.from_numpy(np.stack([inverse, known.astype(np.float32)]))[None]
    # Outside the picture nothing is known: padding counts as 0 in both, and their ratio is the mean of what is known.
    means = F.avg_pool2d(both, 2 * radius + 1, stride=1, padding=radius)[0].numpy()
    return np.divide(means[1], means[0], out=np.zeros_like(depth), where=known)


def _enlarged(knots: Float64[np.ndarray, "h w"], size: tuple[int, int]) -> Float64[np.ndarray, "H W"]:
    """A coarse grid of errors as a smooth map of the picture's size."""
    enlarged = F.interpolate(torch.from_numpy(knots)[None, None], size, mode="bicubic", align_corners=True)
    return enlarged[0, 0].numpy()
