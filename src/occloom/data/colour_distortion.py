"""Colours of training pictures changed as detectors do it: brightness, contrast, saturation, hue, channels exchanged.

Each picture of each camera and frame by itself (the photometric distortion of Liu et al., "SSD", ECCV 2016, section
2.2, as PanoOcc and BEVFormer use it; reference protoocc 1.1).
"""

from dataclasses import dataclass, fields

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from occloom.errors import InputError


@dataclass(frozen=True)
class PhotometricDistortion:
    """How far colours are changed; each kind of change is made to half of the pictures."""

    brightness: float = 32 / 255
    """Largest number that is added to colours in [0, 1]."""
    contrast: float = 0.5
    """Colours are multiplied by 1 less that to 1 more that."""
    saturation: float = 0.5
    """Likewise."""
    hue_degrees: float = 18.0
    """Largest turn of the hue, to either side."""

    def __post_init__(self) -> None:
        for each in fields(self):
            if getattr(self, each.name) < 0:
                raise InputError(
                    f"augmentation.colours.{each.name} is {getattr(self, each.name)}", rule="it is 0 or more"
                )


@dataclass(frozen=True)
class ColourDistortion:
    """What is done to one picture, in this order."""

    brightness: float = 0.0
    """Added."""
    contrast: float = 1.0
    """Multiplied with all colours, before saturation and hue or after."""
    contrast_first: bool = True
    saturation: float = 1.0
    """Multiplied with the distance from grey, at the same value."""
    hue_degrees: float = 0.0
    """From red towards green."""
    channels: tuple[int, ...] = (0, 1, 2)
    """Which channel becomes red, green and blue."""


def draw_distortion(rng: np.random.Generator, knobs: PhotometricDistortion) -> ColourDistortion:
    """A random change of one picture; the same number of draws every time."""
    brightness, contrast, saturation, hue = rng.uniform(-1.0, 1.0, 4) * (rng.random(4) < 0.5)
    contrast_first, exchanged, order = rng.random() < 0.5, rng.random() < 0.5, rng.permutation(3)
    return ColourDistortion(
        brightness=float(knobs.brightness * brightness),
        contrast=float(1 + knobs.contrast * contrast),
        contrast_first=bool(contrast_first),
        saturation=float(1 + knobs.saturation * saturation),
        hue_degrees=float(knobs.hue_degrees * hue),
        channels=tuple(order.tolist()) if exchanged else (0, 1, 2),
    )


def distort_colours(image: Float[Tensor, "3 H W"], change: ColourDistortion) -> Float[Tensor, "3 H W"]:
    """The RGB picture, changed; values stay in [0, 1]."""
    image = (image + change.brightness) * (change.contrast if change.contrast_first else 1.0)
    image = image.clamp(0.0, 1.0)
    value = image.amax(dim=0)
    image = turn_hue((value - (value - image) * change.saturation).clamp(min=0.0), change.hue_degrees)
    image = image * (1.0 if change.contrast_first else change.contrast)
    return image[list(change.channels)].clamp(0.0, 1.0)


def distort_all(
    images: Float[Tensor, "1 T N 3 H W"],
    frame_valid: Bool[Tensor, "1 T"],
    rng: np.random.Generator,
    knobs: PhotometricDistortion,
) -> Float[Tensor, "1 T N 3 H W"]:
    """All pictures of a sample, each changed by itself; a frame that does not exist goes on repeating the nearest."""
    changed = images.clone()
    for t, valid in enumerate(frame_valid[0].tolist()):
        if not valid:
            changed[0, t] = changed[0, t - 1]
            continue
        for n, image in enumerate(images[0, t]):
            changed[0, t, n] = distort_colours(image, draw_distortion(rng, knobs))
    return changed


def turn_hue(image: Float[Tensor, "3 H W"], degrees: float) -> Float[Tensor, "3 H W"]:
    """The RGB picture with its hue turned in the hexagon of hue, saturation and value; those two stay."""
    if degrees == 0:
        return image
    red, green, blue = image
    value, chroma = image.amax(dim=0), image.amax(dim=0) - image.amin(dim=0)
    divisor = torch.where(chroma > 0, chroma, 1.0)
    # In sixths of the circle, counted from the channel that is largest.
    sixths = torch.where(
        value == red,
        (green - blue) / divisor,
        torch.where(value == green, 2 + (blue - red) / divisor, 4 + (red - green) / divisor),
    )
    away = [(n + sixths + degrees / 60) % 6 for n in (5, 3, 1)]
    return torch.stack([value - chroma * torch.minimum(k, 4 - k).clamp(0.0, 1.0) for k in away])
