"""Occ3D-nuScenes' files: labels with their two masks, the list of splits, and predictions as the challenge wants them.

Reference: datasets_and_metrics 3 and 3.3.
"""

import json
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from zipfile import BadZipFile

import numpy as np
from jaxtyping import Bool, Integer, UInt8

from occloom.data.label_spaces import IGNORED
from occloom.data.occ3d_labels import OCC3D, OCC3D_GRID
from occloom.errors import InputError

Mask = Literal["camera", "lidar", "none"]
"""Voxels that count: those a camera sees now, those the accumulated LiDAR observed, or all."""

PREDICTION_KEY = "arr_0"
"""Name that np.savez_compressed gives to an array without one."""


@dataclass(frozen=True)
class Occ3dLabels:
    """A `labels.npz`."""

    semantics: UInt8[np.ndarray, "X Y Z"]
    """Ids of the 17 classes, 17 = free; what is above has no class."""
    mask_lidar: Bool[np.ndarray, "X Y Z"]
    """Observed by the LiDAR of the whole scene."""
    mask_camera: Bool[np.ndarray, "X Y Z"]
    """Observed, and seen by a camera now."""

    def counted(self, mask: Mask) -> UInt8[np.ndarray, "X Y Z"]:
        """Dense ids, `IGNORED` where a voxel is masked out or has no class."""
        observed = self.semantics < OCC3D.num_classes
        if mask != "none":
            observed &= self.mask_camera if mask == "camera" else self.mask_lidar
        return np.where(observed, self.semantics, np.uint8(IGNORED))


def label_path(root: Path, token: str) -> Path:
    """Where the labels of a sample such as "scene-0061/ca9a..." lie."""
    return root / "gts" / token / "labels.npz"


def read_labels(path: Path) -> Occ3dLabels:
    """A `labels.npz`.

    Raises:
        InputError: If the file is missing or damaged, or an array is missing or not of the grid's shape.
    """
    arrays = {name: _read_volume(path, name) for name in ("semantics", "mask_lidar", "mask_camera")}
    return Occ3dLabels(
        semantics=arrays["semantics"],
        mask_lidar=arrays["mask_lidar"] != 0,
        mask_camera=arrays["mask_camera"] != 0,
    )


def write_labels(path: Path, labels: Occ3dLabels) -> None:
    """Write a `labels.npz`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(
        path,
        semantics=labels.semantics,
        mask_lidar=labels.mask_lidar.astype(np.uint8),
        mask_camera=labels.mask_camera.astype(np.uint8),
    )


def read_splits(root: Path) -> dict[Literal["train", "val"], tuple[str, ...]]:
    """Names of the scenes of annotations.json's two splits.

    Raises:
        InputError: If the file is missing or does not hold them.
    """
    path = root / "annotations.json"
    rule = "Occ3D's annotations.json lists the scenes in train_split and val_split"
    if not path.is_file():
        raise InputError(
            "no such file", where=path, rule=rule, remedy="fetch it, or name scenes with --data.train and --data.val"
        )
    try:
        found = json.loads(path.read_text())
        splits = found["train_split"], found["val_split"]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"the splits cannot be read ({error})", where=path, rule=rule, remedy="fetch it again"
        ) from error
    if not all(isinstance(split, list) and all(isinstance(name, str) for name in split) for split in splits):
        raise InputError("the splits are no lists of names", where=path, rule=rule, remedy="fetch it again")
    return {"train": tuple(splits[0]), "val": tuple(splits[1])}


def prediction_path(folder: Path, token: str) -> Path:
    """Where the prediction of a sample lies: named after the sample's token alone, without its scene."""
    return folder / f"{token.rpartition('/')[2]}.npz"


def write_prediction(path: Path, labels: Integer[np.ndarray, "X Y Z"]) -> None:
    """Write class ids as the challenge wants them.

    Raises:
        ValueError: If an id is not a class.
    """
    if labels.min() < 0 or labels.max() >= OCC3D.num_classes:
        raise ValueError(f"Expected class ids 0..{OCC3D.num_classes - 1}, got {labels.min()}..{labels.max()}.")
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, labels.astype(np.uint8))


def read_prediction(path: Path, observed: Bool[np.ndarray, "X Y Z"]) -> UInt8[np.ndarray, "X Y Z"]:
    """Class ids of a prediction; voxels that do not count may hold anything, and what has no class becomes free.

    Raises:
        InputError: If the file is missing or damaged, of another shape, or a voxel that counts has no class.
    """
    prediction = _read_volume(path, PREDICTION_KEY)
    wrong = prediction >= OCC3D.num_classes
    if (wrong & observed).any():
        raise InputError(
            f"predicts id {prediction[wrong & observed][0]}, which has no class",
            where=path,
            rule=f"ids are 0..{OCC3D.num_classes - 1}, {OCC3D.empty} is free",
            remedy="write the most likely class of every voxel",
        )
    return np.where(wrong, np.uint8(OCC3D.empty), prediction)


def write_submission(folder: Path, archive: Path) -> int:
    """Zip predictions as the challenge's server wants them: all `.npz` of a folder, nothing else.

    Returns:
        How many predictions are in it.

    Raises:
        InputError: If there is no prediction, or one is damaged or of another shape.
    """
    files = sorted(folder.glob("*.npz"))
    if not files:
        raise InputError(
            "no predictions", where=folder, rule="they lie in SAMPLE_TOKEN.npz", remedy="run `occloom predict`"
        )
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as zipped:  # they are compressed already
        for file in files:
            _read_volume(file, PREDICTION_KEY)
            zipped.write(file, f"{folder.name}/{file.name}")
    return len(files)


def _read_volume(path: Path, name: str) -> UInt8[np.ndarray, "X Y Z"]:
    """One array of an archive, which must be uint8 on Occ3D's grid."""
    if not path.is_file():
        raise InputError("no such file", where=path, remedy="check the root folder and that the download is complete")
    try:
        with np.load(path, allow_pickle=False) as archive:
            volume = archive[name]
    except (OSError, ValueError, EOFError, KeyError, TypeError, BadZipFile) as error:
        raise InputError(
            f"the array {name} cannot be read ({error})",
            where=path,
            rule="labels hold semantics, mask_lidar and mask_camera; predictions hold one array without a name",
            remedy="the file is damaged or of another kind: fetch or write it again",
        ) from error
    if volume.shape != OCC3D_GRID.shape or volume.dtype not in (np.uint8, np.bool_):
        raise InputError(
            f"{name} is {volume.dtype} of shape {'x'.join(map(str, volume.shape))}",
            where=path,
            rule=f"it is uint8 of shape {'x'.join(map(str, OCC3D_GRID.shape))}",
            remedy="fetch or write the file again",
        )
    return np.ascontiguousarray(volume).view(np.uint8)
