"""`occloom prepare road-images`: a town's pictures with the exact class of every pixel, in Cityscapes' layout."""

import shutil
from pathlib import Path

import numpy as np
from jaxtyping import Int64, UInt8
from PIL import Image

from occloom.data.depth_cache import frames_to_prepare
from occloom.data.kitti_files import KittiFrame
from occloom.engine.logs import progress_bar
from occloom.errors import InputError
from occloom.town.exact_segments import exact_segments

CITY = "town"
SKY = 23
CITYSCAPES_OF_KITTI = {
    10: 26,
    11: 33,
    13: 28,
    15: 32,
    16: 31,
    18: 27,
    30: 24,
    31: 25,
    32: 25,
    40: 7,
    44: 9,
    48: 8,
    49: 6,
    50: 11,
    51: 13,
    60: 7,
    70: 21,
    71: 21,
    72: 22,
    80: 17,
    81: 20,
    252: 26,
    253: 25,
    254: 24,
    255: 25,
    256: 31,
    257: 28,
    258: 27,
}
"""Cityscapes' id of what SemanticKITTI's raw ids mean; all others are unlabelled (0)."""


def road_images(*, root: Path, out: Path, val: tuple[str, ...] = (), sequences: tuple[str, ...] = ()) -> None:
    """Write a town's pictures and their exact classes as `<out>/cityscapes`, for 2D pre-training.

    Files that are there already are kept.

    Args:
        root: A town in SemanticKITTI's layout.
        out: Folder to write: `cityscapes/leftImg8bit` and `cityscapes/gtFine`.
        val: Sequences of the validation split, such as 32 33; all others are of the training split.
        sequences: Names such as 00 08; all that are there unless given.
    """
    frames = [frame for frame in frames_to_prepare(root, sequences, "pictures") if isinstance(frame, KittiFrame)]
    if not frames:
        raise InputError("no town in SemanticKITTI's layout", where=root, remedy="write one with `occloom town`")
    unknown = set(val) - {frame.sequence for frame in frames}
    if unknown:
        raise InputError(f"no sequence {min(unknown)}", where=root, rule="--val names sequences that are prepared")
    with progress_bar() as bar:
        for frame in bar.track(frames, description="road images"):
            split = "val" if frame.sequence in val else "train"
            name = f"{CITY}_{frame.sequence}_{frame.name}"
            labels = out / "cityscapes" / "gtFine" / split / CITY / f"{name}_gtFine_labelIds.png"
            picture = out / "cityscapes" / "leftImg8bit" / split / CITY / f"{name}_leftImg8bit.png"
            if labels.is_file() and picture.is_file():
                continue
            for path in (labels, picture):
                path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(cityscapes_ids(exact_segments(root, frame.left))).save(labels)
            shutil.copyfile(frame.left, picture)
    print(f"{len(frames)} pictures and their classes lie in {out / 'cityscapes'}")


def cityscapes_ids(segments: Int64[np.ndarray, "H W"]) -> UInt8[np.ndarray, "H W"]:
    """Cityscapes' ids of a town's segments (raw id + 65536 x instance, -1 for sky)."""
    table = np.zeros(1 << 16, dtype=np.uint8)
    table[list(CITYSCAPES_OF_KITTI)] = list(CITYSCAPES_OF_KITTI.values())
    return np.where(segments < 0, np.uint8(SKY), table[segments & 0xFFFF])
