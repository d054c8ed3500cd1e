"""Pictures whose every pixel has a class: what 2D pre-training reads, whatever the data set.

Here are those whose labels are pictures too: Mapillary Vistas 2.0, Cityscapes, KITTI-360 and BDD100K. nuImages', which
are coded masks, are in `data/nuimages.py`. Layouts: docs/datasets/road_images.md.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from occloom.data.kitti_files import open_image
from occloom.data.road_labels import BDD100K_RAW, CITYSCAPES_RAW, KITTI360_RAW, road_ids
from occloom.data.vistas_labels import VISTAS_IDS
from occloom.errors import InputError
from occloom.grid import LabelSpace

PictureSplit = Literal["train", "val"]
"""Of the picture sets; their test splits have no public labels."""

CITYSCAPES_IDS = road_ids(CITYSCAPES_RAW)
KITTI360_IDS = road_ids(KITTI360_RAW)
BDD100K_IDS = road_ids(BDD100K_RAW)


@runtime_checkable
class PixelClasses(Protocol):
    """The classes of a picture's pixels, on disk."""

    def read(self) -> UInt8[np.ndarray, "H W"]:
        """Dense ids, `IGNORED` where a pixel does not count.

        Raises:
            InputError: If the file is missing or damaged.
        """
        ...


@dataclass(frozen=True)
class LabelledPicture:
    """A picture and its labels."""

    token: str
    """Set and name, such as "cityscapes/frankfurt_000000_000294"."""
    picture: Path
    classes: PixelClasses


@dataclass(frozen=True, eq=False)
class ClassPicture:
    """Labels that are a picture of one byte a pixel."""

    path: Path
    table: UInt8[np.ndarray, " 256"]
    """Dense id of each byte."""

    def read(self) -> UInt8[np.ndarray, "H W"]:
        """As `PixelClasses.read`; palettes are not looked at."""
        picture = open_image(self.path)
        if picture.mode not in ("L", "P"):
            raise InputError(
                f"the label picture has mode {picture.mode}",
                where=self.path,
                rule="label pictures have one byte a pixel, the class's id",
                remedy="fetch the labels again, not their coloured previews",
            )
        return self.table[np.asarray(picture)]


def write_classes(path: Path, classes: UInt8[np.ndarray, "H W"], label_space: LabelSpace) -> None:
    """Write dense ids as a PNG of one byte a pixel, in the colours of the label space."""
    picture = Image.fromarray(classes).convert("P")
    picture.putpalette(np.array(label_space.colours, dtype=np.uint8).tobytes())
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path)


def list_vistas(root: Path, split: PictureSplit) -> list[LabelledPicture]:
    """Mapillary Vistas 2.0: `training/images/NAME.jpg` and `training/v2.0/labels/NAME.png`.

    Raises:
        InputError: If there is none, or a label has no picture.
    """
    folder = root / {"train": "training", "val": "validation"}[split]
    return [
        LabelledPicture(f"vistas/{path.stem}", folder / "images" / f"{path.stem}.jpg", ClassPicture(path, VISTAS_IDS))
        for path in _labels(folder / "v2.0" / "labels", "*.png", "release 2.0 of Mapillary Vistas; 1.2 has 66 classes")
    ]


def list_cityscapes(root: Path, split: PictureSplit) -> list[LabelledPicture]:
    """Cityscapes: `leftImg8bit/val/CITY/NAME_leftImg8bit.png` and `gtFine/val/CITY/NAME_gtFine_labelIds.png`.

    Raises:
        InputError: If there is none.
    """
    ending, pictures = "_gtFine_labelIds.png", []
    for path in _labels(root / "gtFine" / split, f"*/*{ending}", "gtFine_trainvaltest.zip of Cityscapes"):
        name = path.name.removesuffix(ending)
        picture = root / "leftImg8bit" / split / path.parent.name / f"{name}_leftImg8bit.png"
        pictures.append(LabelledPicture(f"cityscapes/{name}", picture, ClassPicture(path, CITYSCAPES_IDS)))
    return pictures


def list_bdd100k(root: Path, split: PictureSplit) -> list[LabelledPicture]:
    """BDD100K: `images/10k/val/NAME.jpg` and `labels/sem_seg/masks/val/NAME.png`.

    Raises:
        InputError: If there is none.
    """
    labels = _labels(root / "labels" / "sem_seg" / "masks" / split, "*.png", "the semantic segmentation of BDD100K")
    return [
        LabelledPicture(
            f"bdd100k/{path.stem}",
            root / "images" / "10k" / split / f"{path.stem}.jpg",
            ClassPicture(path, BDD100K_IDS),
        )
        for path in labels
    ]


def list_kitti360(root: Path, split: PictureSplit) -> list[LabelledPicture]:
    """KITTI-360: the pairs in `data_2d_semantics/train/2013_05_28_drive_val_frames.txt`, paths below the root.

    Cameras of a drive whose pictures were not fetched at all are left out.

    Raises:
        InputError: If the list is missing or malformed, or nothing is left.
    """
    listing = root / "data_2d_semantics" / "train" / f"2013_05_28_drive_{split}_frames.txt"
    if not listing.is_file():
        raise InputError(
            "no such list", where=listing, remedy="fetch data_2d_semantics.zip of KITTI-360, which holds it"
        )
    pictures = []
    for line in filter(None, listing.read_text().splitlines()):
        paths = [root / part for part in line.split()]
        if len(paths) != 2:
            raise InputError(
                f"a line is {line[:80]!r}", where=listing, rule="a line names a picture and its labels, both below root"
            )
        if paths[0].parent.is_dir():
            drive, camera = paths[0].parts[-4], paths[0].parts[-3]
            token = f"kitti360/{drive}_{camera}_{paths[0].stem}"
            pictures.append(LabelledPicture(token, paths[0], ClassPicture(paths[1], KITTI360_IDS)))
    if not pictures:
        raise InputError(
            "no picture of it is there", where=listing, remedy="fetch data_2d_raw of KITTI-360's perspective cameras"
        )
    return pictures


def _labels(folder: Path, pattern: str, what: str) -> Sequence[Path]:
    """The label files of a folder, in order.

    Raises:
        InputError: If there is none.
    """
    paths = sorted(folder.glob(pattern))
    if not paths:
        raise InputError("no label picture there", where=folder, rule=f"they lie in {pattern}", remedy=f"fetch {what}")
    return paths
