"""Labelled pictures as samples that the engine trains and scores: a picture is a volume one voxel thick.

Row i and column j of the picture are voxel (i, j, 0). So classes of pixels are labels like any others: the engine's
loss, mirroring, confusion counts and mIoU apply as they are, and its mIoU is that of semantic segmentation. There is
no geometry in it: the cameras are stand-ins. Pictures of all sizes are cut and scaled to one. See
docs/datasets/road_images.md.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image

from occloom.data.kitti_files import open_image
from occloom.data.label_spaces import IGNORED
from occloom.data.labelled_pictures import (
    LabelledPicture,
    PictureSplit,
    list_bdd100k,
    list_cityscapes,
    list_kitti360,
    list_vistas,
)
from occloom.data.nuimages import list_nuimages
from occloom.data.road_labels import ROAD
from occloom.data.sample_parts import augment
from occloom.data.vistas_labels import VISTAS
from occloom.errors import InputError
from occloom.grid import LabelSpace, VoxelGrid
from occloom.interfaces import Needs, Split
from occloom.scene import Sample, Scene, Target, scene_from_image

SetName = Literal["vistas", "kitti360", "bdd100k", "cityscapes", "nuimages"]
READERS: Mapping[SetName, Callable[[Path, PictureSplit], list[LabelledPicture]]] = {
    "vistas": list_vistas,
    "kitti360": list_kitti360,
    "bdd100k": list_bdd100k,
    "cityscapes": list_cityscapes,
    "nuimages": list_nuimages,
}
PIXEL = 0.1
"""Edge of a pixel's voxel. It means nothing, and keeps the rings of 10 that scores are listed by few."""


@dataclass(frozen=True)
class RoadImagesConfig:
    """Sets of labelled pictures on disk, read together, and how."""

    root: Path
    """Folder that holds a folder a set, named as in `sets`."""
    sets: tuple[SetName, ...] = ("kitti360", "bdd100k", "cityscapes", "nuimages")
    """Which to read: vistas alone with its 124 classes, or any of the others with the 19 classes of roads."""
    image_size: tuple[int, int] = (512, 1024)
    """Height and width of the pictures a model sees; a window of this shape is cut out and scaled."""
    largest_zoom: float = 2.0
    """Training windows have between 1 and 1 / largest_zoom of the largest edges that fit, and lie anywhere; the
    others are the largest, in the middle."""
    flip_probability: float = 0.5
    """Share of training samples that are mirrored left to right."""
    colour_jitter: float = 0.4
    """Largest relative change of brightness, contrast and saturation in training samples."""

    def __post_init__(self) -> None:
        if not self.sets or len(set(self.sets)) < len(self.sets):
            raise InputError(f"sets is {self.sets}", rule="it names one or more, each once")
        if "vistas" in self.sets and len(self.sets) > 1:
            raise InputError(f"sets is {self.sets}", rule="vistas has classes of its own and is read alone")
        if min(self.image_size) < 1:
            raise InputError(f"image_size is {self.image_size}", rule="height and width are at least 1")
        if self.largest_zoom < 1:
            raise InputError(f"largest_zoom is {self.largest_zoom}", rule="it is at least 1")

    def build(self, split: Split, needs: Needs) -> "RoadImages":
        """Open a split.

        Raises:
            InputError: If files are missing or damaged, the split is test, or the model needs more than pictures.
        """
        return RoadImages(self, split, needs)

    @property
    def grid(self) -> VoxelGrid:
        """A voxel a pixel: X down, Y to the right, one along Z; symmetric about y = 0, so that it can be mirrored."""
        height, width = self.image_size
        return VoxelGrid((0.0, -PIXEL * width / 2, 0.0), (PIXEL, PIXEL, PIXEL), (height, width, 1))

    @property
    def label_space(self) -> LabelSpace:
        """Of all sets together."""
        return VISTAS if self.sets == ("vistas",) else ROAD

    @property
    def num_frames(self) -> int:
        """T."""
        return 1

    @property
    def num_cameras(self) -> int:
        """N."""
        return 1


class RoadImages:
    """One split of some sets, one after the other."""

    def __init__(self, config: RoadImagesConfig, split: Split, needs: Needs) -> None:
        """Use `RoadImagesConfig.build`."""
        if split == "test":
            raise InputError("the test splits of picture sets have no public labels", remedy="use --split val")
        if needs != Needs(images=True):
            raise InputError(
                f"the model needs {needs}",
                rule="labelled pictures come without depth, points and cameras",
                remedy="use them with models that segment pictures (models/segmentation_pretrain.py)",
            )
        self.config, self.split = config, split
        self.grid: VoxelGrid = config.grid
        self.label_space: LabelSpace = config.label_space
        self._pictures = [picture for name in config.sets for picture in READERS[name](config.root / name, split)]
        self.tokens: tuple[str, ...] = tuple(picture.token for picture in self._pictures)

    def __len__(self) -> int:
        """Number of pictures."""
        return len(self._pictures)

    def sample(self, index: int, rng: np.random.Generator | None = None) -> Sample:
        """One picture as a batch of one; a random window, mirrored and recoloured, with `rng`.

        Raises:
            InputError: If a file is missing or damaged, or the labels have another size than the picture.
        """
        labelled = self._pictures[index]
        picture, classes = open_image(labelled.picture).convert("RGB"), labelled.classes.read()
        if classes.shape != (picture.height, picture.width):
            raise InputError(
                f"the picture has {picture.height}x{picture.width} pixels and its labels {classes.shape}",
                where=labelled.picture,
                rule="a picture and its labels have one size",
                remedy="fetch both again",
            )
        zoom, down, right = (1.0, 0.5, 0.5) if rng is None else self._draw(rng)
        box = window((picture.height, picture.width), self.config.image_size, zoom=zoom, down=down, right=right)
        size = self.config.image_size[1], self.config.image_size[0]
        pixels = np.asarray(picture.resize(size, Image.Resampling.BILINEAR, box=box))
        nearest = np.asarray(Image.fromarray(classes).resize(size, Image.Resampling.NEAREST, box=box))
        observed = torch.from_numpy(nearest != IGNORED)
        labels = torch.where(observed, torch.from_numpy(nearest.astype(np.int64)), self.label_space.empty)
        sample = Sample(
            scene=_scene(pixels),
            target=Target(labels=labels[None, :, :, None], observed=observed[None, :, :, None]),
            tokens=(labelled.token,),
        )
        if rng is None:
            return sample
        return augment(
            sample,
            rng,
            self.grid,
            width=self.config.image_size[1],
            flip_probability=self.config.flip_probability,
            colour_jitter=self.config.colour_jitter,
        )

    def _draw(self, rng: np.random.Generator) -> tuple[float, float, float]:
        """Zoom of a window, and where it lies."""
        zoom, down, right = rng.random(3)
        return float(self.config.largest_zoom**zoom), float(down), float(right)


def window(
    source: tuple[int, int], target: tuple[int, int], *, zoom: float, down: float, right: float
) -> tuple[float, float, float, float]:
    """A window of the target's shape within a picture: left, top, right and bottom border, in pixels.

    Args:
        source: Height and width of the picture.
        target: Height and width of what the window becomes.
        zoom: 1 for the largest window that fits, 2 for half its edges.
        down: Where it lies: 0 at the top, 1 at the bottom.
        right: 0 at the left, 1 at the right.
    """
    scale = max(t / s for s, t in zip(source, target, strict=True)) * zoom
    height, width = (min(float(s), t / scale) for s, t in zip(source, target, strict=True))
    top, left = down * (source[0] - height), right * (source[1] - width)
    return left, top, left + width, top + height


def _scene(image: UInt8[np.ndarray, "H W 3"]) -> Scene:
    """One picture, and a camera that stands in for one."""
    height, width = image.shape[:2]
    intrinsics = np.array([[width, 0, (width - 1) / 2], [0, width, (height - 1) / 2], [0, 0, 1]], dtype=np.float64)
    return scene_from_image(image, intrinsics=intrinsics, camera_from_ego=np.eye(4))
