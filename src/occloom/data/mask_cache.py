"""Pseudo masks of pictures on disk: which segment each pixel is of, written once and read with every training sample.

A cache is `<root>/masks/<name>`; the entry of a picture is `<token>/<camera>.png`, one 16-bit number a pixel of the
picture as it lies on disk: its segment, or `UNCOVERED` where it is of none. ProtoOcc tells pixel features apart by them
(models/protoocc_optimisation.py); docs/models/protoocc.md says how to prepare some.
"""

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float64, Int64, UInt16
from PIL import Image
from torch import Tensor

from occloom.cache import MANIFEST, Cache, CacheOrigin, digests, read_cache, write_atomically
from occloom.errors import InputError

UNCOVERED = 65535
"""In a file: a pixel of no segment."""
_REMEDY = "run `occloom prepare masks`, and give masks the folder's name"


@dataclass(frozen=True)
class MaskPicture:
    """One camera's picture of a sample."""

    root: Path
    """The data set's folder."""
    token: str
    """Of the sample."""
    camera: str
    """Such as CAM_FRONT or image_2."""
    path: Path
    """Of the picture."""

    @property
    def entry(self) -> str:
        """The name of its entry in a cache."""
        return f"{self.token}/{self.camera}.png"


@runtime_checkable
class MaskSource(Protocol):
    """One way to cut a picture into segments."""

    @property
    def origin(self) -> CacheOrigin:
        """Name, settings and code version: what a cache of its answers is keyed by."""
        ...

    def masks(self, picture: MaskPicture) -> UInt16[np.ndarray, "H W"]:
        """The segment of each pixel, or `UNCOVERED`.

        Raises:
            InputError: If a file it needs is missing or damaged.
        """
        ...


def mask_folder(root: Path, masks: Path) -> Path:
    """Where prepared masks lie: a name under <root>/masks, or any folder."""
    return root / "masks" / masks if len(masks.parts) == 1 else masks


def open_masks(root: Path, masks: Path | None, pictures: Sequence[MaskPicture]) -> Cache:
    """The cache of prepared masks, to read from; each picture must have its entry there.

    Args:
        root: The data set's folder.
        masks: Name or folder of the cache; None where the data names none, which is refused.
        pictures: That are there; their contents are compared when masks are read.

    Raises:
        InputError: If there is no such cache, its manifest is damaged, or an entry is missing.
    """
    if masks is None:
        raise InputError(
            "the loss compares with pseudo masks and the data has none",
            rule="masks names prepared ones",
            remedy=_REMEDY,
        )
    folder = mask_folder(root, masks)
    if not (folder / MANIFEST).is_file():
        raise InputError("no prepared masks", where=folder, rule=f"it has a {MANIFEST}", remedy=_REMEDY)
    cache = read_cache(folder)
    for picture in pictures:
        cache.require_whole(picture.entry)
    return cache


def load_masks(
    cache: Cache,
    picture: MaskPicture | None,
    picture_from_source: Float64[Tensor, "3 3"],
    size: tuple[int, int],
) -> Int64[Tensor, "H W"]:
    """The segments of a picture as a model sees it; -1 for pixels of none.

    Args:
        cache: Of `open_masks`.
        picture: On disk; None where it is missing: then all is -1.
        picture_from_source: Pixels of the picture as it is seen from those on disk.
        size: Height and width of the picture as it is seen.

    Raises:
        InputError: If the entry is missing, damaged, or was made of another picture.
    """
    if picture is None:
        return torch.full(size, -1)
    cache.require_whole(picture.entry)
    cache.done(picture.entry, digests([picture.path], picture.root))
    return warped_masks(_read(cache.path(picture.entry)), picture_from_source, size)


def warped_masks(
    masks: UInt16[np.ndarray, "h w"], picture_from_source: Float64[Tensor, "3 3"], size: tuple[int, int]
) -> Int64[Tensor, "H W"]:
    """Each pixel's segment: that of the nearest pixel on disk; -1 where there is none, or it is `UNCOVERED`."""
    (height, width), (rows, columns) = masks.shape, size
    v, u = torch.meshgrid(torch.arange(rows).double(), torch.arange(columns).double(), indexing="ij")
    places = torch.stack([u, v, torch.ones_like(u)], dim=-1) @ torch.linalg.inv(picture_from_source).T
    x, y = places[..., :2].round().long().unbind(-1)
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    found = torch.from_numpy(masks.astype(np.int64))[y.clamp(0, height - 1), x.clamp(0, width - 1)]
    return torch.where(inside & (found != UNCOVERED), found, -1)


def fill_mask_cache(cache: Cache, source: MaskSource, pictures: Sequence[MaskPicture]) -> Iterator[MaskPicture]:
    """Prepare what is not finished yet, yielding each picture when it is.

    Args:
        cache: Of the source's origin.
        source: Answers each picture.
        pictures: In any order; each file is there.

    Raises:
        InputError: If a picture lacks an input, or the cache holds entries of other pictures.
    """
    for picture in pictures:
        inputs = digests([picture.path], picture.root)
        if not cache.done(picture.entry, inputs):
            buffer = io.BytesIO()
            Image.fromarray(source.masks(picture)).save(buffer, format="png")
            write_atomically(cache.path(picture.entry), buffer.getvalue())
            cache.record(picture.entry, inputs)
        yield picture


def numbered(segments: Int64[np.ndarray, "H W"]) -> UInt16[np.ndarray, "H W"]:
    """Segments of any numbers, counted from 0 in their order; negative ones are `UNCOVERED`.

    Raises:
        InputError: If there are more than a file can tell apart.
    """
    found, number = np.unique(segments, return_inverse=True)
    first = int((found < 0).sum())
    if len(found) - first > UNCOVERED:
        raise InputError(f"{len(found) - first} segments in a picture", rule=f"{UNCOVERED} can be told apart")
    number = number.reshape(segments.shape) - first
    return np.where(number < 0, UNCOVERED, number).astype(np.uint16)


def _read(path: Path) -> UInt16[np.ndarray, "H W"]:
    """The numbers of an entry."""
    try:
        with Image.open(path) as image:
            masks = np.asarray(image)
    except (OSError, ValueError, SyntaxError) as error:
        raise InputError(
            f"the masks cannot be read ({error})", where=path, remedy="delete the file and prepare it again"
        ) from error
    if masks.ndim != 2 or masks.dtype not in (np.uint16, np.int32):
        raise InputError(
            f"the masks are {masks.dtype} with shape {masks.shape}",
            where=path,
            rule="masks are a picture of one 16-bit channel",
            remedy="delete the file and prepare it again",
        )
    return masks.astype(np.uint16)
