"""A frame as a picture: what its cameras saw, what was predicted, what is true."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64, UInt8
from PIL import Image, ImageDraw
from torch import Tensor

from occloom.cli.frame_title import frame_title
from occloom.grid import LabelSpace
from occloom.interfaces import OccupancyModel
from occloom.metrics.confusion import count_confusion
from occloom.metrics.naive import EGO_ROAD_HEIGHT, ROAD_HEIGHT
from occloom.metrics.protocols import ScoringProtocol
from occloom.scene import Sample
from occloom.viewer.images import EgoMarker, comparison_picture
from occloom.viewer.surround import CameraView, surround_picture


def draw(
    model: OccupancyModel, sample: Sample, prediction: UInt8[np.ndarray, "X Y Z"], protocol: ScoringProtocol
) -> Image.Image:
    """A sample's camera picture, its prediction, and its truth where known; scores of this frame in the title."""
    truth, observed, title = _truth_and_title(model, sample, prediction, protocol)
    images, cameras = sample.scene.images, sample.scene.cameras
    image = ego = None
    if images is not None:
        image = _bytes(images[0, 0, 0])
        ego = EgoMarker(
            road_height=ROAD_HEIGHT,
            camera_from_ego=cameras.camera_from_ego[0, 0, 0].double().numpy(),
            intrinsics=cameras.intrinsics[0, 0, 0].double().numpy(),
            image_size=(image.shape[0], image.shape[1]),
        )
    return comparison_picture(
        image,
        prediction,
        truth,
        model.grid,
        model.label_space,
        observed=observed,
        title=title,
        ego=ego,
    )


def draw_surround(
    model: OccupancyModel,
    sample: Sample,
    prediction: UInt8[np.ndarray, "X Y Z"],
    protocol: ScoringProtocol,
    channels: Sequence[str],
) -> Image.Image:
    """A sample's camera pictures around its prediction and its truth, where known; its scores in the title.

    All of the prediction is drawn; the truth only where it counts, as elsewhere it is not known.
    """
    truth, observed, title = _truth_and_title(model, sample, prediction, protocol)
    if truth is not None and observed is not None:
        truth = np.where(observed, truth, np.uint8(model.label_space.empty))
    ego = EgoMarker(road_height=EGO_ROAD_HEIGHT)
    volumes = comparison_picture(None, prediction, truth, model.grid, model.label_space, ego=ego)
    images, valid = sample.scene.images, sample.scene.camera_valid[0, 0]
    views = [
        CameraView(channel, _bytes(images[0, 0, n]) if images is not None and valid[n] else None)
        for n, channel in enumerate(channels)
    ]
    return surround_picture(views, volumes, title)


def draw_pixels(model: OccupancyModel, sample: Sample, prediction: UInt8[np.ndarray, "X Y 1"]) -> Image.Image:
    """A picture, the classes predicted for its pixels, and below them the true ones where known; black is no class."""
    assert sample.scene.images is not None, "a picture is what there is"
    colours = np.array(model.label_space.colours, dtype=np.uint8)
    panels = [_bytes(sample.scene.images[0, 0, 0]), colours[prediction[:, :, 0]]]
    if sample.target is not None:
        panels.append(colours[sample.target.labels[0, :, :, 0].numpy()])
    return Image.fromarray(np.concatenate(panels))


def draw_labels(
    picture: UInt8[np.ndarray, "H W 3"], labels: Int64[np.ndarray, "H W"], label_space: LabelSpace
) -> Image.Image:
    """A picture, darkened, and a dot of a class's colour wherever a pixel has one (0 is no class)."""
    drawn = Image.fromarray(picture // 2)
    pen, colours = ImageDraw.Draw(drawn), label_space.colours
    for row, column in np.argwhere(labels > 0).tolist():
        colour = tuple(colours[labels[row, column]])
        pen.rectangle((column - 1, row - 1, column + 1, row + 1), fill=colour)
    return drawn


def _truth_and_title(
    model: OccupancyModel, sample: Sample, prediction: UInt8[np.ndarray, "X Y Z"], protocol: ScoringProtocol
) -> tuple[UInt8[np.ndarray, "X Y Z"] | None, Bool[np.ndarray, "X Y Z"] | None, str]:
    """A sample's labels and which of them count, where known, and a line with its name and scores."""
    name, target = sample.tokens[0], sample.target
    if target is None:
        return None, None, name
    predicted = torch.from_numpy(prediction)[None]
    counts = count_confusion(predicted, target.labels, target.observed, model.label_space.num_classes)
    truth = target.labels[0].to(torch.uint8).numpy()
    return truth, target.observed[0].numpy(), frame_title(name, counts, protocol)


def _bytes(image: Float[Tensor, "3 H W"]) -> UInt8[np.ndarray, "H W 3"]:
    """A picture as 8-bit RGB."""
    return (image.permute(1, 2, 0).clamp(0, 1) * 255).round().to(torch.uint8).numpy()
