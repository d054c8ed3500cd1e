"""Tables of counts drawn as rows of coloured cells: a row a class, a column a bin."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Integer, UInt8
from PIL import Image, ImageDraw, ImageFont

_PAPER, _INK, _GREY, _LIMIT = (255, 255, 255), (28, 32, 40), (110, 116, 126), (200, 30, 40)
_LEFT, _TOP, _ROW, _GAP, _BOTTOM, _PANEL = 190, 62, 22, 34, 34, 440
_TICKS = 8
"""Most labels below a panel."""


@dataclass(frozen=True)
class HeatPanel:
    """One table."""

    title: str
    counts: Integer[np.ndarray, "rows bins"]
    """Each row is shaded relative to its own largest."""
    borders: Sequence[float]
    """Of the bins, evenly spaced."""
    limits: Sequence[float]
    """Where a line crosses all rows, in the unit of the borders."""


def heat_rows(
    panels: Sequence[HeatPanel], names: Sequence[str], colours: UInt8[np.ndarray, "rows 3"], *, heading: str
) -> Image.Image:
    """Draw tables of the same rows side by side.

    Args:
        panels: One table each.
        names: Of the rows.
        colours: Of each row's fullest cell; an empty cell is white.
        heading: Above everything.
    """
    bottom = _TOP + len(names) * _ROW
    sheet = Image.new("RGB", (_LEFT + len(panels) * (_PANEL + _GAP), bottom + _BOTTOM), _PAPER)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=13)
    draw.text((12, 10), heading, _INK, ImageFont.load_default(size=16))
    for row, name in enumerate(names):
        draw.text((12, _TOP + (row + 0.5) * _ROW), name, _INK, font, anchor="lm")
    for number, panel in enumerate(panels):
        _draw_panel(draw, panel, colours, _LEFT + number * (_PANEL + _GAP), font)
    return sheet


def _draw_panel(
    draw: ImageDraw.ImageDraw,
    panel: HeatPanel,
    colours: UInt8[np.ndarray, "rows 3"],
    left: int,
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
) -> None:
    """One table, its borders below and its limits across."""
    rows, bins = panel.counts.shape
    bottom, edges = _TOP + rows * _ROW, np.linspace(left, left + _PANEL, bins + 1).round().astype(int)
    draw.text((left, _TOP - 22), panel.title, _INK, font)
    shade = panel.counts / np.maximum(panel.counts.max(axis=1, keepdims=True), 1)
    cells = (255 + shade[..., None] * (colours[:, None].astype(float) - 255)).round().astype(int)
    for row in range(rows):
        for column in range(bins):
            red, green, blue = cells[row, column].tolist()
            box = (edges[column], _TOP + row * _ROW + 1, edges[column + 1] - 1, _TOP + (row + 1) * _ROW - 2)
            draw.rectangle(tuple(map(int, box)), fill=(red, green, blue))
    for column in range(0, bins + 1, -(-bins // _TICKS)):
        draw.text((int(edges[column]), bottom + 6), f"{panel.borders[column]:g}", _GREY, font, anchor="ma")
    first, last = panel.borders[0], panel.borders[-1]
    for limit in panel.limits:
        x = left + _PANEL * (limit - first) / (last - first)
        if left < x < left + _PANEL:
            draw.line([(x, _TOP), (x, bottom)], _LIMIT)
    draw.rectangle((left, _TOP, left + _PANEL, bottom), outline=_GREY)
