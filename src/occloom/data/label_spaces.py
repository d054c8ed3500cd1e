"""The classes and grids of the benchmarks, and the tables between the ids in files and the dense ids in memory."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8, UInt16

from occloom.grid import LabelSpace, VoxelGrid

IGNORED = 255
"""Train id of voxels that neither train nor score; it ends in the loader, where it becomes `observed = False`."""


@dataclass(frozen=True)
class RawLabel:
    """One id as it stands in SemanticKITTI's files."""

    raw_id: int
    """Lower 16 bits of a point label, or a voxel of a `.label` file."""
    name: str
    """SemanticKITTI's name."""
    train_id: int
    """Dense class id for points; in voxels, 0 with a raw id other than 0 means `IGNORED`."""


RAW_LABELS: tuple[RawLabel, ...] = (
    RawLabel(0, "unlabeled", 0),
    RawLabel(1, "outlier", 0),
    RawLabel(10, "car", 1),
    RawLabel(11, "bicycle", 2),
    RawLabel(13, "bus", 5),
    RawLabel(15, "motorcycle", 3),
    RawLabel(16, "on-rails", 5),
    RawLabel(18, "truck", 4),
    RawLabel(20, "other-vehicle", 5),
    RawLabel(30, "person", 6),
    RawLabel(31, "bicyclist", 7),
    RawLabel(32, "motorcyclist", 8),
    RawLabel(40, "road", 9),
    RawLabel(44, "parking", 10),
    RawLabel(48, "sidewalk", 11),
    RawLabel(49, "other-ground", 12),
    RawLabel(50, "building", 13),
    RawLabel(51, "fence", 14),
    RawLabel(52, "other-structure", 0),
    RawLabel(60, "lane-marking", 9),
    RawLabel(70, "vegetation", 15),
    RawLabel(71, "trunk", 16),
    RawLabel(72, "terrain", 17),
    RawLabel(80, "pole", 18),
    RawLabel(81, "traffic-sign", 19),
    RawLabel(99, "other-object", 0),
    RawLabel(252, "moving-car", 1),
    RawLabel(253, "moving-bicyclist", 7),
    RawLabel(254, "moving-person", 6),
    RawLabel(255, "moving-motorcyclist", 8),
    RawLabel(256, "moving-on-rails", 5),
    RawLabel(257, "moving-bus", 5),
    RawLabel(258, "moving-truck", 4),
    RawLabel(259, "moving-other-vehicle", 5),
)
"""SemanticKITTI's raw ids, ascending (reference datasets_and_metrics 1.3)."""

SEMANTIC_KITTI = LabelSpace(
    names=(
        "empty",
        "car",
        "bicycle",
        "motorcycle",
        "truck",
        "other-vehicle",
        "person",
        "bicyclist",
        "motorcyclist",
        "road",
        "parking",
        "sidewalk",
        "other-ground",
        "building",
        "fence",
        "vegetation",
        "trunk",
        "terrain",
        "pole",
        "traffic-sign",
    ),
    empty=0,
    colours=(
        (0, 0, 0),
        (100, 150, 245),
        (100, 230, 245),
        (30, 60, 150),
        (80, 30, 180),
        (100, 80, 250),
        (255, 30, 30),
        (255, 40, 200),
        (150, 30, 90),
        (255, 0, 255),
        (255, 150, 255),
        (75, 0, 75),
        (175, 0, 75),
        (255, 200, 0),
        (255, 120, 50),
        (0, 175, 0),
        (135, 60, 0),
        (150, 240, 80),
        (255, 240, 150),
        (255, 0, 0),
    ),
    frequencies=(
        5.41773033e9,
        1.57835390e7,
        1.25136e5,
        1.18809e5,
        6.46799e5,
        8.21951e5,
        2.62978e5,
        2.83696e5,
        2.04750e5,
        6.16887030e7,
        4.502961e6,
        4.488365e7,
        2.269923e6,
        5.6840218e7,
        1.5719652e7,
        1.58442623e8,
        2.061623e6,
        3.6970522e7,
        1.151988e6,
        3.34146e5,
    ),
)
"""Semantic scene completion on SemanticKITTI: empty and 19 classes; frequencies as MonoScene counted them."""

OCCUPANCY = LabelSpace(
    names=("empty", "occupied"),
    empty=0,
    colours=((0, 0, 0), (110, 150, 190)),
    frequencies=(SEMANTIC_KITTI.frequencies[0], sum(SEMANTIC_KITTI.frequencies[1:])),
)
"""SemanticKITTI without its classes: what query networks tell."""

SEMANTIC_KITTI_GRID = VoxelGrid(lower=(0.0, -25.6, -2.0), voxel_size=(0.2, 0.2, 0.2), shape=(256, 256, 32))
"""Of SemanticKITTI's voxel files: 51.2 m ahead, 25.6 m to each side, in the velodyne frame."""


def _point_table() -> UInt8[np.ndarray, " raw"]:
    """Train id of every 16-bit raw id of a point."""
    table = np.full(1 << 16, IGNORED, dtype=np.uint8)
    for label in RAW_LABELS:
        table[label.raw_id] = label.train_id
    return table


def _voxel_table() -> UInt8[np.ndarray, " raw"]:
    """Train id of every 16-bit raw id in a voxel file."""
    table = np.full(1 << 16, IGNORED, dtype=np.uint8)
    table[0] = SEMANTIC_KITTI.empty
    for label in RAW_LABELS:
        if label.train_id != SEMANTIC_KITTI.empty:
            table[label.raw_id] = label.train_id
    return table


_TRAIN_OF_RAW = _voxel_table()
_TRAIN_OF_RAW_POINT = _point_table()
_RAW_OF_TRAIN = np.array([0, 10, 11, 15, 18, 20, 30, 31, 32, 40, 44, 48, 49, 50, 51, 70, 71, 72, 80, 81], np.uint16)


def to_train_ids(raw: UInt16[np.ndarray, "*shape"]) -> UInt8[np.ndarray, "*shape"]:
    """Dense ids of raw voxel ids; raw 0 is empty, every other id without a class becomes `IGNORED`.

    Source: reference datasets_and_metrics 1.3 (completion, not segmentation, where raw 1 is unlabelled).
    """
    return _TRAIN_OF_RAW[raw]


def to_point_ids(raw: UInt16[np.ndarray, "*shape"]) -> UInt8[np.ndarray, "*shape"]:
    """Dense ids of raw point ids; a point that has no class gets 0, an id that does not exist `IGNORED`."""
    return _TRAIN_OF_RAW_POINT[raw]


def to_raw_ids(train: UInt8[np.ndarray, "*shape"]) -> UInt16[np.ndarray, "*shape"]:
    """The raw id the benchmark's server expects for each dense id.

    Raises:
        IndexError: If an id is not a class, `IGNORED` included: a prediction is never ignored.
    """
    return _RAW_OF_TRAIN[train]
