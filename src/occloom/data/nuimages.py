"""nuImages: pictures of nuScenes' cameras with the masks of objects and of the road, coded in tables.

What has no mask does not count: nuImages annotates neither buildings nor plants. Its tables are those of nuScenes;
documentation: docs/datasets/road_images.md.
"""

import base64
import binascii
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, UInt8

from occloom.data.label_spaces import IGNORED
from occloom.data.labelled_pictures import LabelledPicture, PictureSplit
from occloom.data.nuscenes_files import file_within, rows_of, text_of
from occloom.data.road_labels import NUIMAGES_NAMES, ROAD
from occloom.errors import InputError


@dataclass(frozen=True)
class CodedMask:
    """One mask of a table."""

    token: str
    """Of its row: masks are painted in this order."""
    class_id: int
    """Dense id; `IGNORED` for categories that have no class."""
    size: tuple[int, int]
    """Height and width."""
    counts: str
    """Run lengths as COCO packs them, in base64."""

    def decoded(self) -> Bool[np.ndarray, "H W"]:
        """The mask.

        Raises:
            ValueError: If the code is damaged.
        """
        try:
            runs = unpack_runs(base64.b64decode(self.counts, validate=True))
        except (binascii.Error, IndexError) as error:
            raise ValueError(f"its code is cut or no base64 ({error})") from error
        height, width = self.size
        if min(runs, default=0) < 0 or sum(runs) != height * width:
            raise ValueError(f"its runs cover {sum(runs)} pixels of {height}x{width}")
        # Runs of zeros and ones in turn, column by column.
        values = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
        return values.reshape(width, height).T


@dataclass(frozen=True)
class PaintedMasks:
    """The classes of a picture's pixels: the road first, then objects, each over those before."""

    size: tuple[int, int]
    """Height and width of the picture."""
    masks: tuple[CodedMask, ...]
    token: str
    """Of the picture, in the tables of `folder`."""
    folder: Path

    def read(self) -> UInt8[np.ndarray, "H W"]:
        """As `PixelClasses.read`."""
        classes = np.full(self.size, IGNORED, dtype=np.uint8)
        for mask in self.masks:
            try:
                if mask.size != self.size:
                    raise ValueError(f"it has {mask.size[0]}x{mask.size[1]} pixels")
                classes[mask.decoded()] = mask.class_id
            except ValueError as error:
                raise InputError(
                    f"the mask {mask.token} of picture {self.token} cannot be read: {error}",
                    where=self.folder,
                    rule=f"a mask has the picture's {self.size[0]}x{self.size[1]} pixels, as runs that COCO packs",
                    remedy="the tables are damaged: fetch them again",
                ) from error
        return classes


def list_nuimages(root: Path, split: PictureSplit) -> list[LabelledPicture]:
    """The keyframes in the tables of `v1.0-train` or `v1.0-val`; files lie below `samples`.

    Raises:
        InputError: If a table is missing or malformed.
    """
    folder = root / f"v1.0-{split}"
    table = folder / "category.json"
    names = {text_of(row, "token", table): text_of(row, "name", table) for row in rows_of(table)}
    ids = {token: _class_of(name) for token, name in names.items()}
    surfaces, objects = (_read_masks(folder / f"{name}.json", ids) for name in ("surface_ann", "object_ann"))
    table, pictures = folder / "sample_data.json", []
    for row in rows_of(table):
        if not row.get("is_key_frame"):
            continue
        token = text_of(row, "token", table)
        path = file_within(root, text_of(row, "filename", table), table)
        masks = (*surfaces.get(token, ()), *objects.get(token, ()))
        painted = PaintedMasks((int(row["height"]), int(row["width"])), masks, token, folder)
        pictures.append(LabelledPicture(f"nuimages/{path.stem}", path, painted))
    return sorted(pictures, key=lambda picture: picture.token)


def _class_of(name: str) -> int:
    """Dense id of a category."""
    return ROAD.names.index(NUIMAGES_NAMES[name]) if name in NUIMAGES_NAMES else IGNORED


def _read_masks(table: Path, ids: dict[str, int]) -> dict[str, tuple[CodedMask, ...]]:
    """The masks of a table by the picture they belong to, in the order of their tokens."""
    found: dict[str, list[CodedMask]] = {}
    for row in rows_of(table):
        mask, category = row.get("mask"), text_of(row, "category_token", table)
        if category not in ids:
            raise InputError(f"unknown token {category}", where=table, rule="it is a token of category.json")
        if mask is None:
            continue  # a box without a mask
        (height, width), counts = mask["size"], text_of(mask, "counts", table)
        coded = CodedMask(text_of(row, "token", table), ids[category], (int(height), int(width)), counts)
        found.setdefault(text_of(row, "sample_data_token", table), []).append(coded)
    return {token: tuple(sorted(masks, key=lambda mask: mask.token)) for token, masks in found.items()}


def unpack_runs(code: bytes) -> list[int]:
    """The run lengths in COCO's packed text: six bits a character from "0" on, five of a number and one for "more".

    From the fourth on a number is the difference to the run before the last.

    Raises:
        IndexError: If the code ends within a number.
    """
    runs: list[int] = []
    place = 0
    while place < len(code):
        value, shift, more = 0, 0, True
        while more:
            bits = code[place] - 48
            value |= (bits & 0x1F) << shift
            more, shift, place = bool(bits & 0x20), shift + 5, place + 1
            if not more and bits & 0x10:
                value -= 1 << shift
        runs.append(value + runs[-2] if len(runs) > 2 else value)
    return runs
