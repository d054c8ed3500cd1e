"""One sheet a frame: what the camera saw, what was predicted, what is true, and a legend."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Integer, UInt8
from PIL import Image, ImageDraw, ImageFont

from occloom.grid import LabelSpace, VoxelGrid
from occloom.viewer.cubes import display_colours, voxel_picture
from occloom.viewer.viewpoint import EgoMarker, Size, Viewpoint

__all__ = ["ERRORS", "EgoMarker", "Viewpoint", "comparison_picture", "error_labels", "voxel_picture"]

_PAPER, _INK, _GREY = (255, 255, 255), (28, 32, 40), (110, 116, 126)
_MARGIN, _LINE = 12, 22

ERRORS = LabelSpace(
    names=("empty", "right", "wrong class", "missed", "invented"),
    empty=0,
    colours=((0, 0, 0), (190, 196, 204), (250, 180, 40), (225, 50, 60), (60, 110, 240)),
    frequencies=(1.0,) * 5,
)
"""What a prediction does in each voxel, as a label space of its own."""


@dataclass(frozen=True)
class _Panel:
    """A voxel picture and its caption."""

    caption: str
    picture: UInt8[np.ndarray, "H W 3"]


def error_labels(
    prediction: Integer[np.ndarray, "X Y Z"], truth: Integer[np.ndarray, "X Y Z"], empty: int
) -> UInt8[np.ndarray, "X Y Z"]:
    """Ids of `ERRORS`: where the prediction is right, of the wrong class, missing or invented."""
    predicted, true = prediction != empty, truth != empty
    choices = [predicted & true & (prediction == truth), predicted & true, true, predicted]
    return np.select(choices, [1, 2, 3, 4], default=0).astype(np.uint8)


def comparison_picture(
    camera_image: UInt8[np.ndarray, "h w 3"] | None,
    prediction: Integer[np.ndarray, "X Y Z"] | None,
    truth: Integer[np.ndarray, "X Y Z"] | None,
    grid: VoxelGrid,
    label_space: LabelSpace,
    *,
    observed: Bool[np.ndarray, "X Y Z"] | None = None,
    title: str = "",
    show_errors: bool = False,
    panel_size: Size = (400, 640),
    viewpoint: Viewpoint | None = None,
    ego: EgoMarker | None = None,
) -> Image.Image:
    """Camera image on top; below it prediction and truth side by side, then the classes they hold.

    Args:
        camera_image: Left out if None.
        prediction: Class ids; left out if None.
        truth: Class ids; left out if None.
        grid: Where the voxels lie.
        label_space: Whose ids, names and colours.
        observed: Voxels to draw, in prediction and truth alike: those that count.
        title: First line, such as the frame's name and scores.
        show_errors: Add a panel that shows where the two differ.
        panel_size: Height and width of each voxel picture, in pixels.
        viewpoint: Where the voxels are seen from.
        ego: Draw the car, and the view of its camera.

    Raises:
        ValueError: If there is neither a prediction nor a truth, or errors are asked for without both.
    """

    def panel(caption: str, labels: Integer[np.ndarray, "X Y Z"], space: LabelSpace) -> _Panel:
        picture = voxel_picture(labels, grid, space, observed=observed, size=panel_size, viewpoint=viewpoint, ego=ego)
        return _Panel(caption, picture)

    volumes = {"prediction": prediction, "truth": truth}
    panels = [panel(caption, labels, label_space) for caption, labels in volumes.items() if labels is not None]
    if not panels:
        raise ValueError("A picture needs a prediction or a truth.")
    entries = _classes_in([labels for labels in volumes.values() if labels is not None], observed, label_space)
    rows = [entries]
    if show_errors:
        if prediction is None or truth is None:
            raise ValueError("Errors are the difference of a prediction and a truth: give both.")
        panels.append(panel("errors", error_labels(prediction, truth, label_space.empty), ERRORS))
        rows.append([(ERRORS.names[c], _colour(ERRORS, c)) for c in ERRORS.occupied])
    return _sheet(title, camera_image, panels, rows)


def _classes_in(
    volumes: list[Integer[np.ndarray, "X Y Z"]], observed: Bool[np.ndarray, "X Y Z"] | None, label_space: LabelSpace
) -> list[tuple[str, tuple[int, int, int]]]:
    """Names and colours of the classes that are drawn."""
    drawn = [labels if observed is None else labels[observed] for labels in volumes]
    present = np.zeros(label_space.num_classes, bool)
    for labels in drawn:
        present |= np.bincount(labels.ravel(), minlength=label_space.num_classes) > 0
    return [(label_space.names[c], _colour(label_space, c)) for c in label_space.occupied if present[c]]


def _colour(label_space: LabelSpace, label: int) -> tuple[int, int, int]:
    red, green, blue = display_colours(label_space)[label].tolist()
    return red, green, blue


def _sheet(
    title: str,
    camera_image: UInt8[np.ndarray, "h w 3"] | None,
    panels: list[_Panel],
    legends: list[list[tuple[str, tuple[int, int, int]]]],
) -> Image.Image:
    """Lay everything out on white, from top to bottom."""
    panel_height, panel_width = panels[0].picture.shape[:2]
    inner = len(panels) * (panel_width + _MARGIN) - _MARGIN
    font, heading = ImageFont.load_default(size=14), ImageFont.load_default(size=18)
    boxes = [_legend_positions(entries, inner, font) for entries in legends]
    image = None if camera_image is None else _fitted(camera_image, inner, panel_height)
    top = _MARGIN + (_LINE + _MARGIN if title else 0)
    below_image = top + (image.height + _MARGIN if image is not None else 0)
    below_panels = below_image + _LINE + panel_height + _MARGIN
    legend_lines = sum(max((line for _, line in positions), default=0) + 1 for positions in boxes)
    sheet = Image.new("RGB", (inner + 2 * _MARGIN, below_panels + legend_lines * _LINE + _MARGIN), _PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((_MARGIN, _MARGIN), title, _INK, heading)
    if image is not None:
        sheet.paste(image, (_MARGIN + (inner - image.width) // 2, top))
    for i, panel in enumerate(panels):
        left = _MARGIN + i * (panel_width + _MARGIN)
        draw.text((left, below_image), panel.caption, _GREY, font)
        sheet.paste(Image.fromarray(panel.picture), (left, below_image + _LINE))
    line = 0
    for entries, positions in zip(legends, boxes, strict=True):
        for (name, colour), (x, y) in zip(entries, positions, strict=True):
            corner = (_MARGIN + x, below_panels + (line + y) * _LINE)
            draw.rectangle((corner[0], corner[1] + 2, corner[0] + 14, corner[1] + 16), fill=colour)
            draw.text((corner[0] + 20, corner[1]), name, _INK, font)
        line += max((y for _, y in positions), default=0) + 1
    return sheet


def _legend_positions(
    entries: list[tuple[str, tuple[int, int, int]]],
    width: int,
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
) -> list[tuple[int, int]]:
    """Left edge in pixels and line number of each entry, wrapped to the width."""
    positions, x, line = [], 0, 0
    for name, _ in entries:
        needed = 20 + round(font.getlength(name))
        if x and x + needed > width:
            x, line = 0, line + 1
        positions.append((x, line))
        x += needed + 18
    return positions


def _fitted(image: UInt8[np.ndarray, "h w 3"], width: int, max_height: int) -> Image.Image:
    """As large as width and height allow."""
    height = image.shape[0] * width / image.shape[1]
    scale = min(1.0, max_height / height)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return Image.fromarray(image).resize(size, Image.Resampling.LANCZOS)
