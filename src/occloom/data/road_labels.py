"""The 19 classes of roads that Cityscapes made common, and how the labels of other picture sets become them.

KITTI-360 and BDD100K name them themselves; for nuImages the choice is this library's, as the papers that merge the
sets tell none (reference monoocc 4).
"""

from collections.abc import Mapping

import numpy as np
from jaxtyping import UInt8

from occloom.data.label_spaces import IGNORED
from occloom.grid import LabelSpace

_CLASSES = (
    ("road", (128, 64, 128)),
    ("sidewalk", (244, 35, 232)),
    ("building", (70, 70, 70)),
    ("wall", (102, 102, 156)),
    ("fence", (190, 153, 153)),
    ("pole", (153, 153, 153)),
    ("traffic light", (250, 170, 30)),
    ("traffic sign", (220, 220, 0)),
    ("vegetation", (107, 142, 35)),
    ("terrain", (152, 251, 152)),
    ("sky", (70, 130, 180)),
    ("person", (220, 20, 60)),
    ("rider", (255, 0, 0)),
    ("car", (0, 0, 142)),
    ("truck", (0, 0, 70)),
    ("bus", (0, 60, 100)),
    ("train", (0, 80, 100)),
    ("motorcycle", (0, 0, 230)),
    ("bicycle", (119, 11, 32)),
)
"""Name, and colour in Cityscapes' previews, in the order of Cityscapes' training ids."""

ROAD = LabelSpace(
    names=("unlabelled", *(name for name, _ in _CLASSES)),
    empty=0,
    colours=((0, 0, 0), *(colour for _, colour in _CLASSES)),
    frequencies=(1.0,) * (len(_CLASSES) + 1),
)
"""A training id of Cityscapes plus 1; 0 stands where a pixel does not count. Pixels were not counted."""

CITYSCAPES_RAW: Mapping[int, str] = {
    7: "road",
    8: "sidewalk",
    11: "building",
    12: "wall",
    13: "fence",
    17: "pole",
    19: "traffic light",
    20: "traffic sign",
    21: "vegetation",
    22: "terrain",
    23: "sky",
    24: "person",
    25: "rider",
    26: "car",
    27: "truck",
    28: "bus",
    31: "train",
    32: "motorcycle",
    33: "bicycle",
}
"""Ids in `_gtFine_labelIds.png` that are evaluated; all others (ego vehicle, parking, caravan, ...) do not count."""

KITTI360_RAW: Mapping[int, str] = {**CITYSCAPES_RAW, 34: "building", 35: "fence", 37: "pole"}
"""Cityscapes' ids, and garages, gates and small poles, as KITTI-360's own table of training ids has them."""

BDD100K_RAW: Mapping[int, str] = {train_id: name for train_id, (name, _) in enumerate(_CLASSES)}
"""Training ids of Cityscapes."""

NUIMAGES_NAMES: Mapping[str, str] = {
    "flat.driveable_surface": "road",
    "human.pedestrian.adult": "person",
    "human.pedestrian.child": "person",
    "human.pedestrian.construction_worker": "person",
    "human.pedestrian.police_officer": "person",
    "human.pedestrian.personal_mobility": "rider",
    "human.pedestrian.wheelchair": "rider",
    "vehicle.bicycle": "bicycle",
    "vehicle.bus.bendy": "bus",
    "vehicle.bus.rigid": "bus",
    "vehicle.car": "car",
    "vehicle.emergency.ambulance": "car",
    "vehicle.emergency.police": "car",
    "vehicle.motorcycle": "motorcycle",
    "vehicle.truck": "truck",
}
"""nuImages' categories, by Cityscapes' definitions; animals, barriers, cones, trailers, diggers and the like have no
class there. What nuImages does not annotate (buildings, plants, sky) does not count."""


def road_ids(names: Mapping[int, str]) -> UInt8[np.ndarray, " raw"]:
    """Dense id of each byte in a label file; `IGNORED` for those that have no class."""
    table = np.full(256, IGNORED, dtype=np.uint8)
    for raw, name in names.items():
        table[raw] = ROAD.names.index(name)
    return table
