"""What the town's raw ids are called on Occ3D-nuScenes."""

import numpy as np
from jaxtyping import UInt8, UInt16

from occloom.data.occ3d_labels import OCC3D
from occloom.town.assets_works import BARRIER, CONSTRUCTION_VEHICLE, TRAFFIC_CONE

_RAW_IDS: dict[str, tuple[int, ...]] = {
    "others": (99,),
    "barrier": (BARRIER,),
    "bicycle": (11, 31, 253),  # as nuScenes has it, a rider belongs to what is ridden
    "bus": (13, 257),
    "car": (10, 252),
    "construction_vehicle": (CONSTRUCTION_VEHICLE,),
    "motorcycle": (15, 32, 255),
    "pedestrian": (30, 254),
    "traffic_cone": (TRAFFIC_CONE,),
    "trailer": (20, 259),
    "truck": (18, 258),
    "driveable_surface": (40, 44, 60),
    "other_flat": (49,),
    "sidewalk": (48,),
    "terrain": (72,),
    "manmade": (50, 51, 52, 80, 81),
    "vegetation": (70, 71),
}


def _table() -> UInt8[np.ndarray, " raw"]:
    table = np.full(1 << 16, OCC3D.empty, np.uint8)
    for name, raw_ids in _RAW_IDS.items():
        table[list(raw_ids)] = OCC3D.names.index(name)
    return table


_OCC3D_OF_RAW = _table()


def to_occ3d_ids(raw: UInt16[np.ndarray, "*shape"]) -> UInt8[np.ndarray, "*shape"]:
    """Dense ids of the town's raw ids; what has no class, 0 above all, is free."""
    return _OCC3D_OF_RAW[raw]
