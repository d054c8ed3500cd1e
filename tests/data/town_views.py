"""A town's pictures and exact classes, and how each data set would have filed them."""

import base64
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from occloom.cli.road_images import cityscapes_ids
from occloom.data.kitti_files import KittiFrame, read_image
from occloom.data.road_labels import CITYSCAPES_RAW, KITTI360_RAW, NUIMAGES_NAMES
from occloom.data.vistas_labels import VISTAS
from occloom.town.exact_segments import exact_segments


@dataclass(frozen=True)
class View:
    """A picture of the town."""

    name: str
    image: np.ndarray
    """ "H W 3", bytes."""
    names: np.ndarray
    """ "H W", text: Cityscapes' name of each pixel's class, "" where it has none."""


def town_views(town: Path, *, sequence="01", frames=("000000", "000005")) -> tuple[View, ...]:
    table = np.array([CITYSCAPES_RAW.get(raw, "") for raw in range(256)])
    views = []
    for name in frames:
        picture = KittiFrame(town, sequence, name).left
        views.append(
            View(f"{sequence}{name}", read_image(picture), table[cityscapes_ids(exact_segments(town, picture))])
        )
    return tuple(views)


VISTAS_OF_ROAD = {
    "road": "Road",
    "sidewalk": "Sidewalk",
    "building": "Building",
    "wall": "Wall",
    "fence": "Fence",
    "pole": "Pole",
    "traffic light": "Traffic Light - General (Upright)",
    "traffic sign": "Traffic Sign (Front)",
    "vegetation": "Vegetation",
    "terrain": "Terrain",
    "sky": "Sky",
    "person": "Person",
    "rider": "Bicyclist",
    "car": "Car",
    "truck": "Truck",
    "bus": "Bus",
    "train": "On Rails",
    "motorcycle": "Motorcycle",
    "bicycle": "Bicycle",
}


def save(path: Path, array: np.ndarray, *, palette: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(array)
    if palette:
        picture = picture.convert("P")
        picture.putpalette(bytes(range(255, -1, -1)) * 3)
    # Highest quality: the tests compare pixels.
    picture.save(path, **({"quality": 100, "subsampling": 0} if path.suffix == ".jpg" else {}))


def ids_of(view: View, ids: dict[str, int], other: int) -> np.ndarray:
    out = np.full(view.names.shape, other, dtype=np.uint8)
    for name, raw in ids.items():
        out[view.names == name] = raw
    return out


def write_vistas(root: Path, view: View, split: str) -> None:
    folder = root / {"train": "training", "val": "validation"}[split]
    # Dense ids without the one for nothing are raw ids.
    ids = {name: VISTAS.names.index(vistas) - 1 for name, vistas in VISTAS_OF_ROAD.items()}
    save(folder / "images" / f"{view.name}.jpg", view.image)
    save(folder / "v2.0" / "labels" / f"{view.name}.png", ids_of(view, ids, 123), palette=True)


def write_cityscapes(root: Path, view: View, split: str) -> None:
    ids = {name: raw for raw, name in CITYSCAPES_RAW.items()}
    save(root / "leftImg8bit" / split / "town" / f"town_{view.name}_leftImg8bit.png", view.image)
    save(root / "gtFine" / split / "town" / f"town_{view.name}_gtFine_labelIds.png", ids_of(view, ids, 4))


def write_bdd100k(root: Path, view: View, split: str) -> None:
    ids = {name: train_id for train_id, name in enumerate(CITYSCAPES_RAW.values())}
    save(root / "images" / "10k" / split / f"{view.name}.jpg", view.image)
    save(root / "labels" / "sem_seg" / "masks" / split / f"{view.name}.png", ids_of(view, ids, 255))


def write_kitti360(root: Path, view: View, split: str) -> None:
    drive = "2013_05_28_drive_0000_sync"
    ids = {name: raw for raw, name in KITTI360_RAW.items()}  # the last id of a class: garages, gates, small poles
    picture = f"data_2d_raw/{drive}/image_00/data_rect/{view.name}.png"
    labels = f"data_2d_semantics/train/{drive}/image_00/semantic/{view.name}.png"
    save(root / picture, view.image)
    save(root / labels, ids_of(view, ids, 9))
    listing = root / "data_2d_semantics" / "train" / f"2013_05_28_drive_{split}_frames.txt"
    with listing.open("a") as file:
        file.write(f"{picture} {labels}\n")
        file.write(f"{picture.replace('image_00', 'image_01')} {labels.replace('image_00', 'image_01')}\n")


def packed(mask: np.ndarray) -> str:
    """Run lengths of a mask, column by column, as COCO packs them, in base64; a pixel at a time."""
    runs, value = [0], False
    for pixel in mask.T.ravel().tolist():
        if pixel != value:
            runs.append(0)
            value = pixel
        runs[-1] += 1
    text = ""
    for place, run in enumerate(runs):
        number = run - runs[place - 2] if place > 2 else run
        while True:
            five, number = number & 31, number >> 5
            last = (number == 0 and not five & 16) or (number == -1 and bool(five & 16))
            text += chr(48 + five + (0 if last else 32))
            if last:
                break
    return base64.b64encode(text.encode()).decode()


def write_nuimages(root: Path, view: View, split: str) -> None:
    """Each category once, the last one of a class; what nuImages does not annotate has none."""
    folder = root / f"v1.0-{split}"
    category = {road: name for name, road in NUIMAGES_NAMES.items()}
    categories = [*sorted(set(NUIMAGES_NAMES)), "vehicle.ego", "vehicle.trailer"]
    data = {"token": f"d-{view.name}", "filename": f"samples/CAM_FRONT/{view.name}.jpg", "is_key_frame": True}
    height, width = view.names.shape
    rows = {
        "category": [{"token": f"c-{name}", "name": name} for name in categories],
        "sample_data": [
            {**data, "height": height, "width": width},
            {**data, "token": "sweep", "is_key_frame": False, "height": height, "width": width},
        ],
        "surface_ann": [],
        "object_ann": [],
    }
    for place, road in enumerate(np.unique(view.names).tolist()):
        if road in category:
            mask = {"size": [height, width], "counts": packed(view.names == road)}
            table = "surface_ann" if road == "road" else "object_ann"
            rows[table].append(
                {
                    "token": f"a-{view.name}-{place}",
                    "sample_data_token": data["token"],
                    "category_token": f"c-{category[road]}",
                    "mask": mask,
                }
            )
    rows["object_ann"].append(
        {"token": "b", "sample_data_token": data["token"], "category_token": "c-vehicle.car", "mask": None}
    )
    save(root / "samples" / "CAM_FRONT" / f"{view.name}.jpg", view.image)
    folder.mkdir(exist_ok=True)
    for name, new in rows.items():
        path = folder / f"{name}.json"
        old = json.loads(path.read_text()) if path.is_file() and name != "category" else []
        path.write_text(json.dumps(old + new))


WRITERS = {
    "vistas": write_vistas,
    "kitti360": write_kitti360,
    "bdd100k": write_bdd100k,
    "cityscapes": write_cityscapes,
    "nuimages": write_nuimages,
}
ANNOTATED = {name: set(CITYSCAPES_RAW.values()) for name in WRITERS} | {"nuimages": set(NUIMAGES_NAMES.values())}
"""Classes that a set has labels for."""


def write_sets(root: Path, views: tuple[View, ...]) -> Path:
    """All five sets: the first view in training, the others in validation."""
    for name, write in WRITERS.items():
        write(root / name, views[0], "train")
        for view in views[1:]:
            write(root / name, view, "val")
    return root
