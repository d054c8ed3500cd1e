"""How far a depth map is from another one, by range."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32

RANGES = ((0.0, 10.0), (10.0, 20.0), (20.0, 30.0), (30.0, 40.0), (40.0, np.inf))
"""Metres of true depth."""


@dataclass(frozen=True)
class DepthErrors:
    """Errors within one range of true depth."""

    near: float
    """Metres, included."""
    far: float
    """Metres, not included."""
    pixels: int
    """Pixels with a true depth in the range."""
    filled: float
    """Share of them that have an estimate."""
    median: float
    """Median absolute error in metres over the filled ones; NaN where there are none."""
    percentile_90: float
    """90th percentile of the absolute error in metres."""


def depth_errors(
    estimate: Float32[np.ndarray, "*shape"], truth: Float32[np.ndarray, "*shape"]
) -> tuple[DepthErrors, ...]:
    """Errors of `estimate` where `truth` is known, one record a range; any number of pictures at once.

    Args:
        estimate: Z-depth in metres, 0 = unknown.
        truth: Z-depth in metres, 0 = unknown.
    """
    return tuple(_errors(estimate, truth, near, far) for near, far in RANGES)


def _errors(estimate: np.ndarray, truth: np.ndarray, near: float, far: float) -> DepthErrors:
    """Errors within one range."""
    known = (truth > 0) & (truth >= near) & (truth < far)
    filled = known & (estimate > 0)
    errors = np.abs(estimate[filled].astype(np.float64) - truth[filled])
    median, high = np.percentile(errors, [50, 90]) if len(errors) else (np.nan, np.nan)
    return DepthErrors(
        near=near,
        far=far,
        pixels=int(known.sum()),
        filled=float(filled.sum() / max(known.sum(), 1)),
        median=float(median),
        percentile_90=float(high),
    )


def markdown_table(errors: tuple[DepthErrors, ...]) -> str:
    """The errors as a Markdown table."""
    lines = ["| range (m) | pixels | filled | median error (m) | 90 % below (m) |", "|---|---|---|---|---|"]
    for e in errors:
        name = f"{e.near:.0f}-{e.far:.0f}" if np.isfinite(e.far) else f"> {e.near:.0f}"
        lines.append(f"| {name} | {e.pixels} | {100 * e.filled:.1f} % | {e.median:.2f} | {e.percentile_90:.2f} |")
    return "\n".join(lines)
