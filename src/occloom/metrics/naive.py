"""Two predictors that look at nothing: what any trained model has to beat."""

from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch
from jaxtyping import UInt8

from occloom.errors import InputError
from occloom.grid import LabelSpace, VoxelGrid
from occloom.interfaces import SceneDataset

ROAD_HEIGHT = -1.73
"""Of the road below the lidar of the KITTI car, in metres, ego frame."""

EGO_ROAD_HEIGHT = 0.0
"""Of the road in nuScenes' ego frame, whose origin lies on the ground, in metres."""


def road_below(grid: VoxelGrid, label_space: LabelSpace) -> UInt8[np.ndarray, "X Y Z"]:
    """Road everywhere at and below the height of the road, empty above.

    A voxel is road if its lower face lies at or below `ROAD_HEIGHT`: the layer that holds the road's surface, and all
    under it.
    """
    lower_faces = grid.lower[2] + np.arange(grid.shape[2]) * grid.voxel_size[2]
    column = np.where(lower_faces <= ROAD_HEIGHT, label_space.names.index("road"), label_space.empty)
    return np.broadcast_to(column.astype(np.uint8), grid.shape).copy()


def fit_voxel_prior(dataset: SceneDataset) -> UInt8[np.ndarray, "X Y Z"]:
    """The most frequent class of each voxel over a set's labels, counted where observed only.

    Ties go to the smaller id; a voxel never observed is empty. Takes 4 bytes a voxel and class while it counts
    (168 MB for 256x256x32 and 20 classes). Open the dataset with `Needs(images=False)`.

    Raises:
        InputError: If a sample has no labels.
    """
    num_voxels, num_classes = dataset.grid.num_voxels, dataset.label_space.num_classes
    counts = torch.zeros(num_voxels, num_classes, dtype=torch.int32)
    first_of = torch.arange(num_voxels) * num_classes
    for index in range(len(dataset)):
        target = dataset.sample(index).target
        if target is None:
            raise InputError(f"{dataset.tokens[index]} has no labels", rule="a prior is fitted to labelled frames")
        observed = target.observed.flatten()
        counts.view(-1)[(first_of + target.labels.flatten())[observed]] += 1
    prior = torch.where(counts.sum(1) > 0, counts.argmax(1), dataset.label_space.empty)
    return prior.to(torch.uint8).reshape(dataset.grid.shape).numpy()


def save_voxel_prior(path: Path, prior: UInt8[np.ndarray, "X Y Z"]) -> None:
    """Write a prior, compressed."""
    np.savez_compressed(path, prior=prior)


def load_voxel_prior(path: Path) -> UInt8[np.ndarray, "X Y Z"]:
    """Read a prior.

    Raises:
        InputError: If the file is missing or is no such prior.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            return archive["prior"]
    except (OSError, KeyError, ValueError, BadZipFile) as error:
        raise InputError(
            f"no voxel prior can be read ({error})", where=path, rule="expected an .npz with one array `prior`"
        ) from error
