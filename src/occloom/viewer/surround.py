"""One sheet a surround frame: the front cameras above the voxels, the back cameras below."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

PAPER, INK, NOTHING = (255, 255, 255), (28, 32, 40), (225, 227, 230)
MARGIN, LINE, GAP = 12, 22, 6


@dataclass(frozen=True)
class CameraView:
    """A camera's picture and what it is called."""

    name: str
    picture: UInt8[np.ndarray, "H W 3"] | None
    """None where it is missing: a grey field stands for it."""


def surround_picture(views: Sequence[CameraView], volumes: Image.Image, title: str = "") -> Image.Image:
    """The first half of the cameras in a row, the volumes, then the other cameras.

    Args:
        views: In the order of the sample, at least one; nuScenes' front cameras come first, from left to right.
        volumes: What `comparison_picture` draws without camera picture and title.
        title: First line, such as the frame's name and scores.
    """
    inner = volumes.width - 2 * MARGIN
    half = (len(views) + 1) // 2
    rows = [_row(part, inner) for part in (views[:half], views[half:]) if part]
    top = MARGIN + (LINE + MARGIN if title else 0)
    heights = [top, *(row.height for row in rows), volumes.height]
    sheet = Image.new("RGB", (volumes.width, sum(heights) + MARGIN), PAPER)
    ImageDraw.Draw(sheet).text((MARGIN, MARGIN), title, INK, ImageFont.load_default(size=18))
    sheet.paste(rows[0], (MARGIN, top))
    sheet.paste(volumes, (0, top + rows[0].height))
    if len(rows) > 1:
        sheet.paste(rows[1], (MARGIN, top + rows[0].height + volumes.height))
    return sheet


def _row(views: Sequence[CameraView], width: int) -> Image.Image:
    """Some cameras' pictures side by side, each with its name above."""
    each = (width - GAP * (len(views) - 1)) // len(views)
    shapes = [view.picture.shape[:2] for view in views if view.picture is not None]
    height = max((round(each * rows / columns) for rows, columns in shapes), default=each // 2)
    row = Image.new("RGB", (width, LINE + height), PAPER)
    draw, font = ImageDraw.Draw(row), ImageFont.load_default(size=14)
    for number, view in enumerate(views):
        left = number * (each + GAP)
        draw.text((left, 2), view.name if view.picture is not None else f"{view.name}: no picture", INK, font)
        if view.picture is None:
            draw.rectangle((left, LINE, left + each - 1, LINE + height - 1), fill=NOTHING)
            continue
        fitted = Image.fromarray(view.picture)
        size = (each, round(each * fitted.height / fitted.width))
        row.paste(fitted.resize(size, Image.Resampling.LANCZOS), (left, LINE))
    return row
