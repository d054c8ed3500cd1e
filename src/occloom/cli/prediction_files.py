"""Predictions as the server of a model's benchmark wants them."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from occloom.data import occ3d_files, predictions
from occloom.data.kitti_files import write_voxel_bits
from occloom.data.label_files import KITTI_360_FILES, SEMANTIC_KITTI_FILES, LabelFiles
from occloom.data.label_spaces import OCCUPANCY, SEMANTIC_KITTI_GRID
from occloom.data.labelled_pictures import write_classes
from occloom.data.occ3d_labels import OCC3D, OCC3D_GRID
from occloom.data.packed_volumes import QUERIES
from occloom.data.road_labels import ROAD
from occloom.data.vistas_labels import VISTAS
from occloom.errors import InputError
from occloom.interfaces import OccupancyModel


@dataclass(frozen=True)
class PredictionFiles:
    """How a benchmark wants predictions."""

    path: Callable[[Path, str], Path]
    """Of a prediction, from the folder and the token."""
    write: Callable[[Path, UInt8[np.ndarray, "X Y Z"]], None]
    """Writes dense ids."""
    submit: Callable[[Path, Path], int] | None
    """Packs a folder into an archive, and counts; None where there is no server."""


def prediction_files(name: str, model: OccupancyModel) -> PredictionFiles:
    """How the model's predictions are written.

    Raises:
        InputError: If no file can hold its predictions: it has other classes or another grid.
    """
    if model.label_space.names == OCC3D.names:
        return _occ3d_files(name, model)
    if (model.label_space.names, model.grid.shape) == (OCCUPANCY.names, QUERIES.shape):
        return PredictionFiles(path=_query_path, write=_write_queries, submit=None)
    if model.label_space.names in (ROAD.names, VISTAS.names):
        return PredictionFiles(
            path=lambda folder, token: folder / f"{token}.png",
            write=lambda path, labels: write_classes(path, labels[:, :, 0], model.label_space),
            submit=None,
        )
    files = _label_files(name, model)
    return PredictionFiles(
        path=predictions.prediction_path,
        write=partial(predictions.write_prediction, files=files),
        submit=predictions.write_submission if files is SEMANTIC_KITTI_FILES else None,
    )


def _query_path(folder: Path, token: str) -> Path:
    """Where a data set looks for the queries of a token such as "08/000005", given `folder` as its queries."""
    return folder / "sequences" / f"{token}{QUERIES.suffix}"


def _write_queries(path: Path, labels: UInt8[np.ndarray, "X Y Z"]) -> None:
    """Write the occupied voxels as queries."""
    write_voxel_bits(path, labels != OCCUPANCY.empty)


def _occ3d_files(name: str, model: OccupancyModel) -> PredictionFiles:
    """As the challenge wants them; each voxel of a coarser grid is repeated.

    Raises:
        InputError: If the model's voxels are not whole multiples of Occ3D's.
    """
    factor = OCC3D_GRID.shape[0] // model.grid.shape[0]
    if (
        factor < 1
        or any(n % factor for n in OCC3D_GRID.shape)
        or model.grid != OCC3D_GRID.coarsen((factor, factor, factor))
    ):
        raise InputError(
            f"{name} predicts a grid of {'x'.join(map(str, model.grid.shape))} voxels",
            rule=f"Occ3D's files hold {'x'.join(map(str, OCC3D_GRID.shape))} voxels of 0.4 m",
            remedy="use a model that was trained on Occ3D's grid, or with --data.label-scale 2 or 4",
        )

    def write(path: Path, labels: UInt8[np.ndarray, "X Y Z"]) -> None:
        for axis in range(3):
            labels = labels.repeat(factor, axis=axis)
        occ3d_files.write_prediction(path, labels)

    return PredictionFiles(path=occ3d_files.prediction_path, write=write, submit=occ3d_files.write_submission)


def _label_files(name: str, model: OccupancyModel) -> LabelFiles:
    """What the ids in the model's predictions mean in files.

    Raises:
        InputError: If no .label file can hold its predictions: it has other classes or another grid.
    """
    files = {known.label_space.names: known for known in (SEMANTIC_KITTI_FILES, KITTI_360_FILES)}
    if model.label_space.names not in files:
        raise InputError(
            f"{name} predicts other classes", rule=".label files hold the raw ids of SemanticKITTI or KITTI-360"
        )
    if model.grid != SEMANTIC_KITTI_GRID:
        raise InputError(
            f"{name} predicts a grid of {'x'.join(map(str, model.grid.shape))} voxels",
            rule=f".label files hold {'x'.join(map(str, SEMANTIC_KITTI_GRID.shape))} voxels of 0.2 m",
            remedy="use a model that was trained with --data.label-scale 1",
        )
    return files[model.label_space.names]
