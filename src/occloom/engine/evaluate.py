"""Pooled confusion counts of a model over samples, exact over processes, and the scores made of them."""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import Any

import torch
from jaxtyping import Int64
from lightning_fabric import Fabric
from torch import Tensor

from occloom.engine.loading import exact_batches
from occloom.errors import InputError
from occloom.grid import LabelSpace, VoxelGrid
from occloom.interfaces import OccupancyModel, SceneDataset
from occloom.metrics.confusion import count_confusion_by_bin, distance_rings, height_layers, reduce_counts
from occloom.metrics.protocols import ScoringProtocol


@dataclass(frozen=True)
class Counts:
    """Confusion counts over a set, rows truth, columns prediction."""

    frames: int
    by_distance: Int64[Tensor, "R K K"]
    """One a ring of `ring_edges`; the rings cover the grid, so their sum counts every observed voxel once."""
    by_height: Int64[Tensor, "L K K"]
    """One a layer of `layer_edges`."""

    @property
    def total(self) -> Int64[Tensor, "K K"]:
        """Over the whole grid."""
        return self.by_distance.sum(0)


def require_same_labels(model: OccupancyModel, samples: SceneDataset) -> None:
    """Refuse samples whose labels are of another grid or of other classes than the model's.

    Raises:
        InputError: If they differ.
    """
    if samples.grid != model.grid:
        raise InputError(
            f"the data's grid has {samples.grid.shape} voxels, the model's {model.grid.shape}",
            rule="a model is scored on the grid it was trained for",
            remedy="leave the data's options as they were in training",
        )
    if samples.label_space.names != model.label_space.names:
        raise InputError("the data has other classes than the model", rule="a model is scored on its own classes")


def ring_edges(grid: VoxelGrid) -> tuple[float, ...]:
    """Outer radii of rings of 10 m around the ego origin that cover the grid, in metres."""
    corners = [math.hypot(x, y) for x in (grid.lower[0], grid.upper[0]) for y in (grid.lower[1], grid.upper[1])]
    return tuple(10.0 * (ring + 1) for ring in range(math.ceil(max(corners) / 10)))


def layer_edges(grid: VoxelGrid) -> tuple[float, ...]:
    """Upper heights of four layers of one thickness that cover the grid, in metres."""
    thickness = (grid.upper[2] - grid.lower[2]) / 4
    return tuple(grid.lower[2] + thickness * (layer + 1) for layer in range(4))


@torch.no_grad()
def count(
    model: OccupancyModel,
    samples: SceneDataset,
    fabric: Fabric,
    *,
    indices: Sequence[int],
    batch_size: int = 1,
    workers: int = 0,
    scene_of: Sequence[int] | None = None,
    advance: Callable[[int], object] = id,
) -> Counts:
    """Predict the samples of `indices`, each on exactly one process, and count.

    Args:
        model: In evaluation mode, on the fabric's device.
        samples: An open split.
        fabric: Says which process this is.
        indices: Samples to count, the same on every process.
        batch_size: Samples a prediction.
        workers: Processes that load samples.
        scene_of: For each sample of the split the one whose scene is shown (see `other_scenes`).
        advance: Told the number of frames of each batch that this process has done.

    Raises:
        InputError: If a sample cannot be read or has no labels.
    """
    grid, classes = samples.grid, samples.label_space.num_classes
    edges = ring_edges(grid), layer_edges(grid)
    bins = distance_rings(grid, edges[0]).to(fabric.device), height_layers(grid, edges[1]).to(fabric.device)
    counts = [torch.zeros(len(e), classes, classes, dtype=torch.int64, device=fabric.device) for e in edges]
    mine = indices[fabric.global_rank :: fabric.world_size]
    batches = exact_batches(samples, mine, batch_size=batch_size, workers=workers, scene_of=scene_of)
    for batch in batches:
        sample = batch.to(fabric.device)
        if sample.target is None:
            raise InputError(f"{sample.tokens[0]} has no labels", rule="only labelled frames can be scored")
        with fabric.autocast():
            prediction = model.predict(sample.scene)
        for part, voxel_bins in enumerate(bins):
            counts[part] += count_confusion_by_bin(
                prediction,
                sample.target.labels,
                sample.target.observed,
                voxel_bins,
                num_bins=len(edges[part]),
                num_classes=classes,
            )
        advance(len(sample.tokens))
    by_distance, by_height = (reduce_counts(part).cpu() for part in counts)
    return Counts(frames=len(indices), by_distance=by_distance, by_height=by_height)


def other_scenes(tokens: Sequence[str]) -> list[int]:
    """For each sample another one, of another sequence where possible; a permutation without fixed points.

    Shown the scenes of other samples, a model that looks at its input does badly, a model that only knows where
    things usually are does as well as before.

    Raises:
        InputError: If there is only one sample.
    """
    if len(tokens) < 2:
        raise InputError("only one frame", rule="to shuffle the scenes takes two frames or more")
    order = sorted(range(len(tokens)), key=lambda index: (_sequence(tokens[index]), index))
    longest = max(len(list(group)) for _, group in groupby(order, key=lambda index: _sequence(tokens[index])))
    # By the longest sequence's length every sample leaves its own sequence, if that is at most half of all.
    shift = longest if longest < len(tokens) else len(tokens) // 2
    other = [0] * len(tokens)
    for place, index in enumerate(order):
        other[index] = order[(place + shift) % len(order)]
    return other


def _sequence(token: str) -> str:
    """The sequence in a token such as "08/000005"."""
    return token.rpartition("/")[0]


def evenly_spaced(total: int, number: int) -> list[int]:
    """`number` indices of `total`, evenly spaced; all of them for 0."""
    if number in (0, total) or number > total:
        return list(range(total))
    return [(2 * place + 1) * total // (2 * number) for place in range(number)]


def results(counts: Counts, protocol: ScoringProtocol, grid: VoxelGrid, label_space: LabelSpace) -> dict[str, Any]:
    """Scores and counts as JSON values; scores are fractions, None where a protocol leaves one undefined."""
    scores = asdict(protocol.scores(counts.total))
    per_class = scores.pop("per_class")
    rings, layers = ring_edges(grid), layer_edges(grid)
    return {
        "protocol": protocol.name,
        "mask": protocol.mask,
        "frames": counts.frames,
        **{name: _defined(value) for name, value in scores.items()},
        "per_class": {name: _defined(value) for name, value in zip(label_space.names, per_class, strict=True)},
        "by_distance": _by_bin(counts.by_distance, (0.0, *rings), protocol),
        "by_height": _by_bin(counts.by_height, (grid.lower[2], *layers), protocol),
        "confusion": counts.total.tolist(),
    }


def _by_bin(counts: Int64[Tensor, "R K K"], edges: Sequence[float], protocol: ScoringProtocol) -> list[dict[str, Any]]:
    """Scores of each bin between two edges, in metres."""
    rows = []
    for low, high, part in zip(edges, edges[1:], counts, strict=False):
        scores = protocol.scores(part)
        iou, miou = _defined(scores.iou), _defined(scores.miou)
        rows.append({"from": round(low, 3), "to": round(high, 3), "iou": iou, "miou": miou})
    return rows


def _defined(value: float) -> float | None:
    """None for NaN, which JSON does not have."""
    return None if math.isnan(value) else value
