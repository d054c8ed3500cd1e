"""`occloom score`: score prediction files against label files, without any model."""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
import tyro
from jaxtyping import Int64, Integer
from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from torch import Tensor

from occloom.cli.arguments import ready_to_write
from occloom.data.label_files import KITTI_360_FILES, SEMANTIC_KITTI_FILES, Mask, Volume
from occloom.data.label_spaces import IGNORED, SEMANTIC_KITTI_GRID
from occloom.data.occ3d_files import Mask as OccupancyMask
from occloom.data.occ3d_files import read_labels, read_prediction
from occloom.data.occ3d_labels import OCC3D, OCC3D_GRID
from occloom.engine.logs import progress_bar
from occloom.errors import InputError
from occloom.grid import LabelSpace, VoxelGrid
from occloom.metrics.confusion import count_confusion_by_bin, distance_rings, height_layers
from occloom.metrics.fscore import f_score as frame_f_score
from occloom.metrics.protocols import OCC3D_BY_MASK, PROTOCOLS, SSCBENCH, OccupancyScores, ScoringProtocol


@dataclass(frozen=True)
class Detail:
    """Counts of parts of the grid."""

    edges: tuple[float, ...]
    """Upper ends of the parts, metres."""
    bins: Int64[Tensor, "X Y Z"]
    counts: Int64[Tensor, "R K K"]


def score(
    prediction_folder: Annotated[Path, tyro.conf.Positional],
    label_folder: Annotated[Path, tyro.conf.Positional],
    *,
    protocol: Literal[
        "semantickitti", "monoscene", "sscbench", "occ3d", "occ3d-lidar-mask", "occ3d-no-mask"
    ] = "semantickitti",
    detail: bool = False,
    distances: tuple[float, ...] = (),
    heights: tuple[float, ...] = (),
    f_score: bool = False,
    json_file: Annotated[Path | None, tyro.conf.arg(name="json")] = None,
    common_frames_only: bool = False,
) -> None:
    """Score prediction files against label files, without any model.

    Both folders have SemanticKITTI's layout: sequences/NN/predictions/FFFFFF.label (or voxels/) for predictions,
    sequences/NN/voxels/FFFFFF.label with its .invalid for labels; raw ids, two bytes a voxel. With `--protocol
    sscbench` the classes are those of SSCBench-KITTI-360 and labels lie in data_2d_raw/DRIVE/voxels/FFFFFF.label. With
    `--protocol occ3d` predictions are SAMPLE_TOKEN.npz and labels gts/SCENE/SAMPLE_TOKEN/labels.npz; the protocol's
    name says which mask is used.

    Args:
        prediction_folder: Folder that holds `sequences` with the predictions, or for Occ3D the predictions themselves.
        label_folder: Folder that holds `sequences`, `data_2d_raw` or `gts`, with the labels.
        protocol: Whose evaluator's numbers to print; its card is printed with them.
        detail: Also score rings of distance and layers of height.
        distances: Outer radii of the rings, horizontal metres from the ego origin; 12.8 25.6 51.2 unless given, for
            Occ3D 10 20 40.
        heights: Upper ends of the layers, metres above the ego origin (the lidar, 1.73 m above the road; Occ3D: the
            ground); -1.4 0 2 4.4 unless given, for Occ3D 0.2 2.2 5.4.
        f_score: Also the mean F-score of frames at 0.4 m; Occ3D only.
        json_file: Also write the scores, as fractions, to this file.
        common_frames_only: Score the frames both folders have, where the two sets differ; else that is an error.
    """
    if json_file is not None:
        ready_to_write(json_file)
    chosen = PROTOCOLS[protocol]
    masks: list[OccupancyMask] = [mask for mask, known in OCC3D_BY_MASK.items() if known == chosen]
    if f_score and not masks:
        raise InputError("--f-score is for Occ3D", rule="no other benchmark has it", remedy="leave it out")
    if masks:
        volumes = _occ3d_volumes(prediction_folder, label_folder, masks[0])
    else:
        volumes = _kitti_volumes(prediction_folder, label_folder, chosen)
    space = volumes.label_space
    tokens = _shared_tokens(volumes.predictions, volumes.labels, prediction_folder, label_folder, common_frames_only)
    counts = torch.zeros(space.num_classes, space.num_classes, dtype=torch.int64)
    rings, layers = distances or volumes.distances, heights or volumes.heights
    details = _empty_details(volumes.grid, rings, layers, space.num_classes) if detail else {}
    console, f_scores = Console(), []
    with progress_bar() as bar:
        for token in bar.track(tokens, description="scoring"):
            prediction, truth, observed = volumes.read(volumes.predictions[token], volumes.labels[token])
            if f_score:
                frame = [torch.from_numpy(volume) for volume in (prediction, truth, observed)]
                f_scores.append(frame_f_score(frame[0], frame[1], frame[2], volumes.grid, space))
            counts += count_frame(prediction, truth, observed, space.num_classes)
            for part in details.values():
                size = len(part.edges), space.num_classes
                part.counts.add_(count_frame_by_bin(prediction, truth, observed, part.bins, size))
    _print_scores(console, chosen, space, chosen.scores(counts), len(tokens))
    report = _as_json(chosen, space, counts, tokens, details)
    if f_score:
        report["f_score"] = float(np.mean(f_scores))
        console.print(f"F-score at 0.4 m, mean of frames, {chosen.mask_in_use}: {_percent(float(np.mean(f_scores)))}")
    for name, part in details.items():
        console.print(_detail_table(name, chosen, part))
    if json_file is not None:
        json_file.write_text(json.dumps(report, indent=1) + "\n")


@dataclass(frozen=True)
class _Volumes:
    """The files of a benchmark that are scored."""

    grid: VoxelGrid
    label_space: LabelSpace
    predictions: dict[str, Path]
    """By the frame's token."""
    labels: dict[str, Path]
    """By the frame's token."""
    read: Callable[[Path, Path], tuple[Volume, Volume, Mask]]
    """Prediction, truth and what counts, of a frame's two files."""
    distances: tuple[float, ...]
    """Usual rings, metres."""
    heights: tuple[float, ...]
    """Usual layers, metres."""


def _kitti_volumes(prediction_folder: Path, label_folder: Path, protocol: ScoringProtocol) -> _Volumes:
    """Files in SemanticKITTI's or SSCBench's layout."""
    files = KITTI_360_FILES if protocol == SSCBENCH else SEMANTIC_KITTI_FILES

    def read(prediction: Path, labels: Path) -> tuple[Volume, Volume, Mask]:
        truth, observed = files.read_truth(labels, labels.with_suffix(".invalid"))
        return files.read_prediction(prediction, observed), truth, observed

    return _Volumes(
        grid=SEMANTIC_KITTI_GRID,
        label_space=files.label_space,
        predictions=find_label_files(prediction_folder, ("sequences/*/predictions/*.label", files.truth)),
        labels=find_label_files(label_folder, (files.truth,)),
        read=read,
        distances=(12.8, 25.6, 51.2),
        heights=(-1.4, 0.0, 2.0, 4.4),
    )


def _occ3d_volumes(prediction_folder: Path, label_folder: Path, mask: OccupancyMask) -> _Volumes:
    """Files in Occ3D's layout."""

    def read(prediction: Path, labels: Path) -> tuple[Volume, Volume, Mask]:
        truth = read_labels(labels).counted(mask)
        observed = truth != IGNORED
        return read_prediction(prediction, observed), np.where(observed, truth, np.uint8(OCC3D.empty)), observed

    predictions = {file.stem: file for file in sorted(prediction_folder.glob("*.npz"))}
    labels = {file.parent.name: file for file in sorted(label_folder.glob("gts/**/labels.npz"))}
    for folder, found, what in (
        (prediction_folder, predictions, "SAMPLE_TOKEN.npz"),
        (label_folder, labels, "gts/SCENE/SAMPLE_TOKEN/labels.npz"),
    ):
        if not found:
            reason = "no files to score" if folder.is_dir() else "no such folder"
            raise InputError(reason, where=folder, rule=f"expected {what}", remedy="name the folder that holds them")
    return _Volumes(
        grid=OCC3D_GRID,
        label_space=OCC3D,
        predictions=predictions,
        labels=labels,
        read=read,
        distances=(10.0, 20.0, 40.0),
        heights=(0.2, 2.2, 5.4),
    )


def count_frame(prediction: Volume, truth: Volume, observed: Mask, num_classes: int) -> Int64[Tensor, "K K"]:
    """Confusion counts of one frame."""
    everywhere = torch.zeros(truth.shape, dtype=torch.int32)
    return count_frame_by_bin(prediction, truth, observed, everywhere, (1, num_classes))[0]


def count_frame_by_bin(
    prediction: Volume, truth: Volume, observed: Mask, bins: Integer[Tensor, "X Y Z"], size: tuple[int, int]
) -> Int64[Tensor, "R K K"]:
    """Confusion counts of one frame in each bin of voxels; `size` counts bins and classes."""
    return count_confusion_by_bin(
        torch.from_numpy(prediction)[None],
        torch.from_numpy(truth)[None],
        torch.from_numpy(observed)[None],
        bins,
        num_bins=size[0],
        num_classes=size[1],
    )


def find_label_files(root: Path, patterns: Sequence[str]) -> dict[str, Path]:
    """The voxel label files of a folder, by token such as "08/000005".

    Args:
        root: Holds `sequences` or `data_2d_raw`.
        patterns: Where to look below it; the first that finds any file is used.

    Raises:
        InputError: If there is no such file.
    """
    for pattern in patterns:
        files = sorted(root.glob(pattern))
        if files:
            return {f"{file.parts[-3]}/{file.stem}": file for file in files}
    raise InputError(
        "no label files" if root.is_dir() else "no such folder",
        where=root,
        rule=f"expected {' or '.join(patterns)}",
        remedy=f"name the folder that holds `{patterns[-1].partition('/')[0]}`",
    )


def _shared_tokens(
    predictions: dict[str, Path],
    labels: dict[str, Path],
    prediction_folder: Path,
    label_folder: Path,
    common_only: bool,
) -> list[str]:
    """Frames to score, in order; both sets must be the same unless told otherwise."""
    common = sorted(predictions.keys() & labels.keys())
    remedy = "add the files, or score what both have with --common-frames-only"
    for lacking, wanted, where, what in (
        (predictions, labels, prediction_folder, "prediction"),
        (labels, predictions, label_folder, "label"),
    ):
        missing = sorted(wanted.keys() - lacking.keys())
        if missing and not (common_only and common):
            raise InputError(
                f"no {what} for frame {missing[0]} ({len(missing)} of {len(wanted)} are missing)",
                where=where,
                rule="predictions and labels hold the same frames",
                remedy=remedy if common else "the two folders have no frame in common",
            )
    return common


def _empty_details(
    grid: VoxelGrid, distances: tuple[float, ...], heights: tuple[float, ...], num_classes: int
) -> dict[str, Detail]:
    """Zero counts for each ring and layer."""
    try:
        bins = {
            "distance": (distances, distance_rings(grid, distances)),
            "height": (heights, height_layers(grid, heights)),
        }
    except ValueError as error:
        raise InputError(f"--distances or --heights: {error}", remedy="give them in rising order") from error
    return {
        name: Detail(edges, part, torch.zeros(len(edges), num_classes, num_classes, dtype=torch.int64))
        for name, (edges, part) in bins.items()
    }


def _percent(fraction: float) -> str:
    return "-" if math.isnan(fraction) else f"{100 * fraction:.2f}"


def _print_scores(
    console: Console, protocol: ScoringProtocol, space: LabelSpace, scores: OccupancyScores, frames: int
) -> None:
    """The card, the four numbers papers print, and the IoU of each class, in percent."""
    card = Table.grid(padding=(0, 2))
    for name, text in protocol.choices().items():
        card.add_row(name, text)
    console.print(Panel(card, title="protocol card", title_align="left", expand=False))
    table = Table(title=f"{frames} frames, percent; {protocol.title}", title_justify="left")
    for column in ("IoU", "precision", "recall", "mIoU"):
        table.add_column(column, justify="right")
    table.add_row(*map(_percent, (scores.iou, scores.precision, scores.recall, scores.miou)))
    console.print(table)
    classes = Table("class", title="IoU per class, percent", title_justify="left")
    classes.add_column("IoU", justify="right")
    for index in space.occupied:
        classes.add_row(space.names[index], _percent(scores.per_class[index]))
    console.print(classes)


def _detail_table(name: str, protocol: ScoringProtocol, detail: Detail) -> Table:
    """IoU and mIoU of each ring or layer, in percent."""
    table = Table(f"{name} below", title=f"by {name}, percent", title_justify="left")
    for column in ("voxels", "IoU", "mIoU"):
        table.add_column(column, justify="right")
    for edge, counts in zip(detail.edges, detail.counts, strict=True):
        scores = protocol.scores(counts)
        table.add_row(f"{edge:g} m", f"{int(counts.sum()):,}", _percent(scores.iou), _percent(scores.miou))
    return table


def _as_json(
    protocol: ScoringProtocol,
    space: LabelSpace,
    counts: Int64[Tensor, "K K"],
    tokens: list[str],
    details: dict[str, Detail],
) -> dict[str, object]:
    """Everything that was printed, as fractions, with the counts; undefined scores are null."""

    def numbers(part: Int64[Tensor, "K K"]) -> dict[str, object]:
        scores = asdict(protocol.scores(part))
        per_class = dict(zip(space.names, scores.pop("per_class"), strict=True))
        defined = {name: None if math.isnan(value) else value for name, value in scores.items()}
        return {**defined, "per_class": per_class}

    return {
        "protocol": protocol.name,
        "card": protocol.choices(),
        "frames": tokens,
        "scores": numbers(counts),
        "confusion_rows_truth_columns_prediction": counts.tolist(),
        "detail": {
            name: [{"below": edge} | numbers(c) for edge, c in zip(part.edges, part.counts, strict=True)]
            for name, part in details.items()
        },
    }
