"""Superpixels of pictures as pseudo masks: SEEDS (Van den Bergh et al., ECCV 2012), by OpenCV's extra modules."""

import importlib
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import UInt16

from occloom.cache import CacheOrigin
from occloom.data.kitti_files import read_image
from occloom.data.mask_cache import MaskPicture
from occloom.errors import InputError


@dataclass(frozen=True)
class SeedsMasks:
    """SEEDS superpixels of the picture as it lies on disk, in CIELAB, which OpenCV's documentation advises."""

    superpixels: int = 350
    """Asked for. SEEDS halves blocks, so it makes fewer: of a picture of 1600x900 it makes 299 of 350, the paper's
    number, and 91 of 120 to 140, the paper's other one (reference protoocc 2.5)."""
    levels: int = 3
    """Of blocks, each of four of the level below."""
    prior: int = 2
    """How smooth outlines are, 0 to 5."""
    bins: int = 5
    """Of the histogram of each channel."""
    iterations: int = 10
    """Over all pixels."""

    def __post_init__(self) -> None:
        if min(self.superpixels, self.levels, self.bins, self.iterations) < 1 or not 0 <= self.prior <= 5:
            raise InputError(
                f"SEEDS of {self}", rule="superpixels, levels, bins and iterations are 1 or more, prior is from 0 to 5"
            )

    @property
    def origin(self) -> CacheOrigin:
        """Keyed by every parameter."""
        return CacheOrigin(source="seeds", settings=asdict(self), code_version=1)

    def masks(self, picture: MaskPicture) -> UInt16[np.ndarray, "H W"]:
        """The superpixel of each pixel; all are covered.

        Raises:
            InputError: If OpenCV's extra modules are missing, or the picture is too small for so many levels.
        """
        cv2 = _opencv()
        image = cv2.cvtColor(read_image(picture.path), cv2.COLOR_RGB2LAB)
        height, width, channels = image.shape
        # OpenCV does not look: with blocks of no pixel the process ends.
        if height * width < self.superpixels * 4**self.levels:
            raise InputError(
                f"no {self.superpixels} superpixels of {self.levels} levels in {height}x{width}",
                where=picture.path,
                rule=f"a superpixel begins with {4**self.levels} pixels or more",
                remedy="ask for fewer --superpixels",
            )
        seeds = cv2.ximgproc.createSuperpixelSEEDS(
            width, height, channels, self.superpixels, self.levels, self.prior, self.bins, False
        )
        seeds.iterate(image, self.iterations)
        return seeds.getLabels().astype(np.uint16)


def _opencv() -> Any:
    """OpenCV with its extra modules, which the extra `stereo` installs."""
    try:
        cv2 = importlib.import_module("cv2")
    except ImportError as error:
        raise InputError(
            "superpixels need OpenCV", rule="it is an extra", remedy='run `pip install "occloom[stereo]"`'
        ) from error
    if not hasattr(cv2, "ximgproc"):
        raise InputError(
            "the OpenCV that is installed has no extra modules",
            rule="SEEDS is in opencv-contrib-python-headless, which takes the place of the other OpenCV packages",
            remedy='run `pip uninstall opencv-python opencv-python-headless` and `pip install "occloom[stereo]"`',
        )
    return cv2
