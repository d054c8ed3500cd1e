"""Two predictors that look at nothing: what any trained model has to beat."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from occloom.errors import InputError
from occloom.grid import LabelSpace, VoxelGrid
from occloom.interfaces import Needs, OccupancyModel, Outputs, SceneDataset
from occloom.scene import Scene, Target

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


def fit_voxel_prior(dataset: SceneDataset, advance: Callable[[], object] = lambda: None) -> UInt8[np.ndarray, "X Y Z"]:
    """The most frequent class of each voxel over a set's labels, counted where observed only.

    Ties go to the smaller id; a voxel never observed is empty. Takes 4 bytes a voxel and class while it counts
    (168 MB for 256x256x32 and 20 classes). Open the dataset with `Needs(images=False)`; `advance` is called after each
    sample.

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
        advance()
    prior = torch.where(counts.sum(1) > 0, counts.argmax(1), dataset.label_space.empty)
    return prior.to(torch.uint8).reshape(dataset.grid.shape).numpy()


@dataclass(frozen=True)
class FixedOutputs:
    """The same for every scene."""

    logits: Float[Tensor, "B K X Y Z"]


class FixedPrediction(OccupancyModel):
    """Predicts one volume whatever it is shown; it has no parameters, so its loss teaches nothing."""

    def __init__(self, volume: UInt8[np.ndarray, "X Y Z"], grid: VoxelGrid, label_space: LabelSpace) -> None:
        """Make the predictor of a volume of class ids."""
        super().__init__()
        self.grid, self.label_space, self.needs = grid, label_space, Needs(images=False)
        self.volume = torch.from_numpy(volume).long()

    def forward(self, scene: Scene) -> FixedOutputs:
        """1 for the class of each voxel, 0 for the others."""
        logits = F.one_hot(self.predict(scene), self.label_space.num_classes)
        return FixedOutputs(logits=logits.movedim(-1, 1).float())

    def loss(self, outputs: Outputs, target: Target) -> dict[str, Float[Tensor, ""]]:
        """Cross-entropy over the voxels that count."""
        entropy = F.cross_entropy(outputs.logits, target.labels, reduction="none")
        return {"cross_entropy": entropy[target.observed].mean()}

    def predict(self, scene: Scene) -> Int64[Tensor, "B X Y Z"]:
        """The volume, once a scene."""
        return self.volume.to(scene.time.device).expand(scene.batch_size, -1, -1, -1)


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
