"""The 19 classes of SSCBench-KITTI-360, and the tables between the raw ids in files and the dense ids in memory.

The raw ids are SemanticKITTI's; what has no class is not the same (reference datasets_and_metrics 2).
"""

import numpy as np
from jaxtyping import UInt8, UInt16

from occloom.data.label_spaces import IGNORED, SEMANTIC_KITTI
from occloom.grid import LabelSpace

_NAMES = (
    "empty",
    "car",
    "bicycle",
    "motorcycle",
    "truck",
    "other-vehicle",
    "person",
    "road",
    "parking",
    "sidewalk",
    "other-ground",
    "building",
    "fence",
    "vegetation",
    "terrain",
    "pole",
    "traffic-sign",
    "other-structure",
    "other-object",
)
_COLOURS = {
    **dict(zip(SEMANTIC_KITTI.names, SEMANTIC_KITTI.colours, strict=True)),
    "other-structure": (255, 150, 0),
    "other-object": (50, 255, 255),
}

KITTI_360 = LabelSpace(
    names=_NAMES,
    empty=0,
    colours=tuple(_COLOURS[name] for name in _NAMES),
    frequencies=(
        2264087502.0,
        20098728.0,
        104972.0,
        96297.0,
        1149426.0,
        4051087.0,
        125103.0,
        105540713.0,
        16292249.0,
        45297267.0,
        14454132.0,
        110397082.0,
        6766219.0,
        295883213.0,
        50037503.0,
        1561069.0,
        406330.0,
        30516166.0,
        1950115.0,
    ),
)
"""SSCBench-KITTI-360: empty and 18 classes, in SemanticKITTI's colours; frequencies as SSCBench counted them."""

RAW_IDS_OF_CLASS: tuple[tuple[int, ...], ...] = (
    (0,),
    (10, 252),
    (11,),
    (15,),
    (18, 258),
    (13, 16, 20, 256, 257, 259),
    (30, 254),
    (40, 60),
    (44,),
    (48,),
    (49,),
    (50,),
    (51,),
    (70,),
    (72,),
    (80,),
    (81,),
    (52,),
    (99,),
)
"""Raw ids of each class, empty included; all others (outliers, riders, trunks) are ignored."""

_RAW_OF_TRAIN = np.array([0, 10, 11, 15, 18, 20, 30, 40, 44, 48, 49, 50, 51, 70, 72, 80, 81, 52, 99], np.uint16)
_TRAIN_OF_RAW = np.full(1 << 16, IGNORED, dtype=np.uint8)
for _train_id, _raw_ids in enumerate(RAW_IDS_OF_CLASS):
    _TRAIN_OF_RAW[list(_raw_ids)] = _train_id


def to_kitti360_ids(raw: UInt16[np.ndarray, "*shape"]) -> UInt8[np.ndarray, "*shape"]:
    """Dense ids of raw voxel ids; raw 0 is empty, every other id without a class becomes `IGNORED`."""
    return _TRAIN_OF_RAW[raw]


def to_kitti360_raw_ids(train: UInt8[np.ndarray, "*shape"]) -> UInt16[np.ndarray, "*shape"]:
    """One raw id for each dense id; `to_kitti360_ids` gives the dense id back.

    Raises:
        IndexError: If an id is not a class, `IGNORED` included.
    """
    return _RAW_OF_TRAIN[train]
