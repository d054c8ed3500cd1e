"""`occloom score`: score prediction files against label files, without any model."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Literal

import torch
import tyro
from jaxtyping import Int64, Integer
from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from torch import Tensor

from occloom.cli.arguments import ready_to_write
from occloom.data.label_files import KITTI_360_FILES, SEMANTIC_KITTI_FILES, Mask, Volume
from occloom.data.label_spaces import SEMANTIC_KITTI_GRID
from occloom.engine.logs import progress_bar
from occloom.errors import InputError
from occloom.grid import LabelSpace
from occloom.metrics.confusion import count_confusion_by_bin, distance_rings, height_layers
from occloom.metrics.protocols import PROTOCOLS, SSCBENCH, OccupancyScores, ScoringProtocol


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
    protocol: Literal["semantickitti", "monoscene", "sscbench"] = "semantickitti",
    detail: bool = False,
    distances: tuple[float, ...] = (12.8, 25.6, 51.2),
    heights: tuple[float, ...] = (-1.4, 0.0, 2.0, 4.4),
    json_file: Annotated[Path | None, tyro.conf.arg(name="json")] = None,
    common_frames_only: bool = False,
) -> None:
    """Score prediction files against label files, without any model.

    Both folders have SemanticKITTI's layout: sequences/NN/predictions/FFFFFF.label (or voxels/) for predictions,
    sequences/NN/voxels/FFFFFF.label with its .invalid for labels; raw ids, two bytes a voxel. With `--protocol
    sscbench` the classes are those of SSCBench-KITTI-360 and labels lie in data_2d_raw/DRIVE/voxels/FFFFFF.label.

    Args:
        prediction_folder: Folder that holds `sequences` with the predictions.
        label_folder: Folder that holds `sequences`, or `data_2d_raw`, with the labels.
        protocol: Whose evaluator's numbers to print; its card is printed with them.
        detail: Also score rings of distance and layers of height.
        distances: Outer radii of the rings, horizontal metres from the ego origin.
        heights: Upper ends of the layers, metres above the ego origin (the lidar, 1.73 m above the road).
        json_file: Also write the scores, as fractions, to this file.
        common_frames_only: Score the frames both folders have, where the two sets differ; else that is an error.
    """
    if json_file is not None:
        ready_to_write(json_file)
    chosen = PROTOCOLS[protocol]
    files = KITTI_360_FILES if chosen == SSCBENCH else SEMANTIC_KITTI_FILES
    space = files.label_space
    predictions = find_label_files(prediction_folder, ("sequences/*/predictions/*.label", files.truth))
    labels = find_label_files(label_folder, (files.truth,))
    tokens = _shared_tokens(predictions, labels, prediction_folder, label_folder, common_frames_only)
    counts = torch.zeros(space.num_classes, space.num_classes, dtype=torch.int64)
    details = _empty_details(distances, heights, space.num_classes) if detail else {}
    console = Console()
    with progress_bar() as bar:
        for token in bar.track(tokens, description="scoring"):
            truth, observed = files.read_truth(labels[token], labels[token].with_suffix(".invalid"))
            prediction = files.read_prediction(predictions[token], observed)
            counts += count_frame(prediction, truth, observed, space.num_classes)
            for part in details.values():
                size = len(part.edges), space.num_classes
                part.counts.add_(count_frame_by_bin(prediction, truth, observed, part.bins, size))
    _print_scores(console, chosen, space, chosen.scores(counts), len(tokens))
    for name, part in details.items():
        console.print(_detail_table(name, chosen, part))
    if json_file is not None:
        json_file.write_text(json.dumps(_as_json(chosen, space, counts, tokens, details), indent=1) + "\n")


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


def _empty_details(distances: tuple[float, ...], heights: tuple[float, ...], num_classes: int) -> dict[str, Detail]:
    """Zero counts for each ring and layer."""
    try:
        bins = {
            "distance": (distances, distance_rings(SEMANTIC_KITTI_GRID, distances)),
            "height": (heights, height_layers(SEMANTIC_KITTI_GRID, heights)),
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
    table = Table(title=f"{frames} frames, percent", title_justify="left")
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
