"""Segments by Segment Anything (Kirillov et al., ICCV 2023) as pseudo masks, through `transformers` (the extra `sam`).

The model answers prompts; the prompts on a grid, the choice among the answers and the suppression of doubles are ours,
after the paper's description of its automatic masks (its appendix B). Nothing is downloaded: weights are a folder.
"""

import importlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64, UInt16
from torch import Tensor

from occloom.cache import CacheOrigin, file_digest
from occloom.data.kitti_files import read_image
from occloom.data.mask_cache import MaskPicture, numbered
from occloom.errors import InputError

IMAGE_MEAN = (0.485, 0.456, 0.406)
"""Of RGB in [0, 1] over ImageNet."""
IMAGE_STD = (0.229, 0.224, 0.225)
WEIGHTS = "model.safetensors"


@dataclass(frozen=True)
class SamConfig:
    """How Segment Anything is run; the thresholds are its authors'."""

    weights: Path
    """Folder with config.json and model.safetensors."""
    points: int = 32
    """Prompts along each side of a picture."""
    quality: float = 0.88
    """Least overlap with the truth that the model expects of a mask."""
    stability: float = 0.95
    """Least overlap of a mask with itself at a threshold lower by twice `margin`."""
    margin: float = 1.0
    """Of the threshold, in logits."""
    overlap: float = 0.7
    """Boxes that overlap more are of one mask."""
    chunk: int = 64
    """Prompts at once; it changes no mask."""

    def __post_init__(self) -> None:
        if self.points < 1 or self.chunk < 1:
            raise InputError(f"points is {self.points} and chunk {self.chunk}", rule="both are 1 or more")


class SamMasks:
    """Segment Anything with weights from a folder, loaded when the first picture asks for it."""

    def __init__(self, config: SamConfig) -> None:
        """Check the weights' file.

        Raises:
            InputError: If there is none.
        """
        self.config = config
        if not (config.weights / WEIGHTS).is_file():
            raise InputError(
                "no weights of Segment Anything",
                where=config.weights / WEIGHTS,
                rule="the folder holds config.json and model.safetensors",
                remedy="copy them from https://huggingface.co/facebook/sam-vit-huge",
            )

    @property
    def origin(self) -> CacheOrigin:
        """Keyed by the contents of the weights and by what decides a mask."""
        config = self.config
        settings = {
            "weights": file_digest(config.weights / WEIGHTS),
            "points": config.points,
            "quality": config.quality,
            "stability": config.stability,
            "margin": config.margin,
            "overlap": config.overlap,
        }
        return CacheOrigin(source="sam", settings=settings, code_version=1)

    def masks(self, picture: MaskPicture) -> UInt16[np.ndarray, "H W"]:
        """The segment of each pixel, small ones over large ones."""
        image = torch.from_numpy(read_image(picture.path).copy()).permute(2, 0, 1).float() / 255
        return segments(self._model, image, self.config)

    @cached_property
    def _model(self) -> Any:
        """The model, in evaluation mode."""
        try:
            transformers = importlib.import_module("transformers")
        except ImportError as error:
            raise InputError(
                "Segment Anything needs the package transformers",
                rule="it is an extra",
                remedy='run `pip install "occloom[sam]"`',
            ) from error
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        return transformers.SamModel.from_pretrained(self.config.weights, local_files_only=True).eval().to(device)


@torch.inference_mode()
def segments(model: Any, image: Float[Tensor, "3 H W"], config: SamConfig) -> UInt16[np.ndarray, "H W"]:
    """The segments that a model finds in a picture.

    Args:
        model: A `SamModel`, or anything that is called like it.
        image: RGB in [0, 1].
        config: Prompts and thresholds.
    """
    size = (image.shape[1], image.shape[2])
    side, device = model.config.vision_config.image_size, next(model.parameters()).device
    scale = side / max(size)
    scaled = (max(1, round(size[0] * scale)), max(1, round(size[1] * scale)))
    embeddings = model.get_image_embeddings(_prepared(image, scaled, side).to(device))
    found, scores = [], []
    for prompts in grid_points(config.points, scaled).to(device).split(config.chunk):
        answer = model(image_embeddings=embeddings, input_points=prompts[None, :, None], multimask_output=True)
        quality = answer.iou_scores[0].flatten()
        logits = answer.pred_masks[0].flatten(0, 1)[quality > config.quality]
        for one, score in zip(logits, quality[quality > config.quality], strict=True):
            mask = F.interpolate(one[None, None], (side, side), mode="bilinear", align_corners=False)
            mask = F.interpolate(mask[..., : scaled[0], : scaled[1]], size, mode="bilinear", align_corners=False)[0, 0]
            if (mask > 0).any() and steadiness(mask, config.margin) > config.stability:
                found.append((mask > 0).cpu())
                scores.append(float(score))
    if not found:
        return numbered(np.full(size, -1))
    masks = torch.stack(found)
    kept = suppressed(boxes_of(masks), torch.tensor(scores), config.overlap)
    return numbered(painted(masks[kept]).numpy())


def grid_points(count: int, size: tuple[int, int]) -> Float[Tensor, "P 2"]:
    """Prompts (x, y) in the middles of count x count equal parts of a picture of a height and width, row by row."""
    middles = (torch.arange(count) + 0.5) / count
    y, x = torch.meshgrid(middles * size[0], middles * size[1], indexing="ij")
    return torch.stack([x, y], dim=-1).flatten(0, 1)


def steadiness(logits: Float[Tensor, "H W"], margin: float) -> float:
    """Pixels of a mask at a threshold higher by `margin` over those at one lower by it: 1 for sharp outlines."""
    return float((logits > margin).sum() / (logits > -margin).sum().clamp(min=1))


def boxes_of(masks: Bool[Tensor, "S H W"]) -> Float[Tensor, "S 4"]:
    """Left, top, right and bottom of masks that are not empty, right and bottom beyond the last pixel."""
    rows, columns = masks.any(dim=2).int(), masks.any(dim=1).int()
    left, top = columns.argmax(dim=1), rows.argmax(dim=1)
    right, bottom = (side.shape[1] - side.flip(1).argmax(dim=1) for side in (columns, rows))
    return torch.stack([left, top, right, bottom], dim=1).float()


def suppressed(boxes: Float[Tensor, "S 4"], scores: Float[Tensor, " S"], overlap: float) -> Int64[Tensor, " kept"]:
    """Boxes that stay, best first: those that no better one that stays overlaps by more (intersection over union)."""
    kept: list[int] = []
    for index in scores.argsort(descending=True, stable=True).tolist():
        if all(_overlap(boxes[index], boxes[other]) <= overlap for other in kept):
            kept.append(index)
    return torch.tensor(kept, dtype=torch.int64)


def painted(masks: Bool[Tensor, "S H W"]) -> Int64[Tensor, "H W"]:
    """Which mask each pixel is of, the smallest of those that cover it; -1 for none."""
    picture = torch.full(masks.shape[1:], -1)
    for index in masks.flatten(1).sum(dim=1).argsort(descending=True, stable=True).tolist():
        picture[masks[index]] = index
    return picture


def _overlap(one: Float[Tensor, "4"], other: Float[Tensor, "4"]) -> float:
    """Intersection of two boxes over their union."""
    sides = (torch.minimum(one[2:], other[2:]) - torch.maximum(one[:2], other[:2])).clamp(min=0)
    common = sides.prod()
    areas = (one[2:] - one[:2]).prod() + (other[2:] - other[:2]).prod()
    return float(common / (areas - common))


def _prepared(image: Float[Tensor, "3 H W"], scaled: tuple[int, int], side: int) -> Float[Tensor, "1 3 S S"]:
    """The picture as the model expects it: its longer side is the model's, zeros below and to the right."""
    resized = F.interpolate(image[None], scaled, mode="bilinear", antialias=True, align_corners=False)
    mean, std = (image.new_tensor(numbers)[:, None, None] for numbers in (IMAGE_MEAN, IMAGE_STD))
    return F.pad((resized - mean) / std, (0, side - scaled[1], 0, side - scaled[0]))
