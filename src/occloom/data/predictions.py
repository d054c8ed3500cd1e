"""Predictions as the benchmark's server and `occloom score` read them (reference datasets_and_metrics 1.6)."""

import zipfile
from pathlib import Path

import numpy as np
from jaxtyping import Integer

from occloom.data.kitti_files import write_voxel_labels
from occloom.data.label_files import SEMANTIC_KITTI_FILES, LabelFiles
from occloom.data.label_spaces import SEMANTIC_KITTI_GRID
from occloom.errors import InputError

LABEL_BYTES = 2 * SEMANTIC_KITTI_GRID.num_voxels


def prediction_path(folder: Path, token: str) -> Path:
    """Where the prediction of a token such as "08/000005" lies: `<folder>/sequences/08/predictions/000005.label`."""
    sequence, name = token.split("/")
    return folder / "sequences" / sequence / "predictions" / f"{name}.label"


def write_prediction(
    path: Path, labels: Integer[np.ndarray, "X Y Z"], files: LabelFiles = SEMANTIC_KITTI_FILES
) -> None:
    """Write dense class ids as a `.label` file of raw ids.

    Args:
        path: The file.
        labels: Dense ids.
        files: The benchmark whose ids they are.

    Raises:
        ValueError: If an id is not a class.
    """
    classes = files.label_space.num_classes
    if labels.min() < 0 or labels.max() >= classes:
        raise ValueError(f"Expected class ids 0..{classes - 1}, got {labels.min()}..{labels.max()}.")
    write_voxel_labels(path, files.to_raw(labels.astype(np.uint8)))


def write_submission(folder: Path, archive: Path) -> int:
    """Zip predictions as the CodaLab server wants them: folders as entries of their own, nothing else inside.

    Args:
        folder: Holds `sequences/NN/predictions/FFFFFF.label`.
        archive: The `.zip` to write.

    Returns:
        How many predictions are in it.

    Raises:
        InputError: If there is no prediction, or one has the wrong size.
    """
    files = sorted(folder.glob("sequences/*/predictions/*.label"))
    if not files:
        raise InputError(
            "no predictions", where=folder, rule="they lie in sequences/NN/predictions", remedy="run `occloom predict`"
        )
    folders = sorted({parent for file in files for parent in file.relative_to(folder).parents if parent.name})
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as zipped:
        for parent in folders:
            zipped.mkdir(parent.as_posix())
        for file in files:
            if file.stat().st_size != LABEL_BYTES:
                raise InputError(
                    f"the prediction has {file.stat().st_size} bytes",
                    where=file,
                    rule=f"it has {LABEL_BYTES}: uint16 on {'x'.join(map(str, SEMANTIC_KITTI_GRID.shape))}",
                    remedy="predict on the full grid",
                )
            zipped.write(file, file.relative_to(folder).as_posix())
    return len(files)
