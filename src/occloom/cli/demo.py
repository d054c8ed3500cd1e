"""`occloom demo`: predict streets the shipped model never saw, score the prediction, and draw it."""

import time
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import torch
import tyro
from jaxtyping import Int64
from rich.console import Console
from rich.table import Table
from torch import Tensor

from occloom.cli import prepare
from occloom.cli.arguments import require_at_least
from occloom.cli.frame_picture import draw
from occloom.data.semantickitti import SemanticKittiConfig
from occloom.engine.evaluate import count, evenly_spaced, other_scenes
from occloom.engine.launch import launch
from occloom.engine.logs import progress_bar
from occloom.errors import InputError
from occloom.inference import SHIPPED, find_checkpoint, load_model, load_recipe
from occloom.interfaces import OccupancyModel, SceneDataset
from occloom.metrics.naive import FixedPrediction, load_voxel_prior, road_below
from occloom.metrics.protocols import ScoringProtocol
from occloom.scene import collate
from occloom.town.write import write_town

MODEL = "voxdet-town"
CONTROL = "baseline-town"
"""The lift-splat baseline, scored beside the model."""
SEED = 0
"""Of the town that the model was trained on."""
UNSEEN = 90
"""Sequences from here to 99 are neither trained nor validated on."""
IMAGE_SIZE = (96, 320)
FOLLOWING_SCANS = 70
VOXEL_PRIOR = SHIPPED / "town" / "voxel_prior.npz"
"""The most frequent class of each voxel in the labels that both were trained on."""
SHIPPED_FRAMES = SHIPPED / "town" / "frames.zip"
"""A few unseen frames, for machines that cannot cast rays."""


def demo(
    out: Annotated[Path, tyro.conf.Positional] = Path("demo"),
    *,
    sequences: int = 3,
    frames: int = 2,
    pictures: int = 3,
    workers: int = 2,
) -> None:
    """Predict, score and draw streets of the town that the shipped model never saw.

    Makes the streets, matches the stereo pairs, predicts, scores by the official protocol beside two predictors that
    look at nothing, the lift-splat baseline, and the model shown another drive's pictures, and draws. Takes a few
    minutes on 2 cores.

    Args:
        out: Folder to write: the town, pictures and the scores.
        sequences: Unseen drives, at most 10.
        frames: Frames of each, half a second apart.
        pictures: Frames to draw, spread over the drives.
        workers: Processes that make the town.
    """
    if not 1 <= sequences <= 100 - UNSEEN:
        raise InputError(f"{sequences} sequences", rule=f"1 to {100 - UNSEEN} were kept unseen", remedy="choose fewer")
    require_at_least("frames", frames, 1)
    require_at_least("pictures", pictures, 0)
    if sequences * frames == 1:
        raise InputError("one frame is asked for", rule="one frame is also predicted from another one's pictures")
    for name in (MODEL, CONTROL):
        find_checkpoint(name)  # to refuse before the minutes that the streets take
    started, console = time.perf_counter(), Console()
    root = out / "town"
    _make_streets(root, sequences, frames, workers, console)
    prepare.depth(root=root, workers=workers)
    fabric = launch()
    model, protocol = load_model(MODEL, fabric.device), load_recipe(MODEL).protocol
    samples = _open(root, model)
    everything, others = range(len(samples)), other_scenes(samples.tokens)
    counts = {
        name: count(naive, samples, fabric, indices=everything).total for name, naive in _naive_models(samples).items()
    }
    counts[CONTROL] = count(load_model(CONTROL, fabric.device), samples, fabric, indices=everything).total
    blind = count(model, samples, fabric, indices=everything, scene_of=others)
    counts[f"{MODEL}, pictures of another drive"] = blind.total
    counts[MODEL] = count(model, samples, fabric, indices=everything).total
    table = _score_table(counts, protocol)
    console.print(protocol.card(), highlight=False, soft_wrap=True)
    console.print(table)
    _write_text(out / "scores.txt", protocol, table)
    for path in _draw(out / "pictures", model, samples, pictures, protocol):
        console.print(f"picture: {path}", highlight=False, soft_wrap=True)
    seconds = time.perf_counter() - started
    console.print(
        f"{len(samples)} frames in {seconds:.0f} s; everything lies in {out}", highlight=False, soft_wrap=True
    )


def _make_streets(root: Path, sequences: int, frames: int, workers: int, console: Console) -> None:
    """Make unseen streets, or unpack shipped ones where rays cannot be cast."""
    if find_spec("embreex") is not None:
        with progress_bar() as bar:
            task = bar.add_task("making streets", total=sequences * frames)
            write_town(
                root,
                sequences=sequences,
                frames=frames,
                image_size=IMAGE_SIZE,
                seed=SEED,
                following_scans=FOLLOWING_SCANS,
                workers=workers,
                progress=lambda done, _: bar.update(task, completed=done),
                first_sequence=UNSEEN,
            )
        return
    console.print("embreex has no wheel for this machine: a few shipped frames are used instead of a fresh town.")
    with zipfile.ZipFile(SHIPPED_FRAMES) as archive:
        archive.extractall(root)


def _open(root: Path, model: OccupancyModel) -> SceneDataset:
    """All frames of the folder, as the model was trained to see them."""
    config = load_recipe(MODEL).data
    assert isinstance(config, SemanticKittiConfig), "the shipped model reads SemanticKITTI's layout"
    names = tuple(sorted(path.name for path in (root / "sequences").iterdir()))
    return replace(config, root=root, val=names).build("val", model.needs)


def _naive_models(samples: SceneDataset) -> dict[str, OccupancyModel]:
    """Two predictors that look at nothing."""
    volumes = {
        "everything below is road": road_below(samples.grid, samples.label_space),
        "most frequent class of each voxel": load_voxel_prior(VOXEL_PRIOR),
    }
    return {name: FixedPrediction(volume, samples.grid, samples.label_space) for name, volume in volumes.items()}


def _score_table(counts: dict[str, Int64[Tensor, "K K"]], protocol: ScoringProtocol) -> Table:
    """A row a predictor, in percent."""
    table = Table(title="Streets the model never saw, percent")
    table.add_column("predictor")
    for heading in ("IoU", "precision", "recall", "mIoU"):
        table.add_column(heading, justify="right")
    for name, matrix in counts.items():
        scores = protocol.scores(matrix)
        numbers = (scores.iou, scores.precision, scores.recall, scores.miou)
        table.add_row(name, *(f"{100 * number:.2f}" for number in numbers))
    return table


def _write_text(path: Path, protocol: ScoringProtocol, table: Table) -> None:
    """The protocol and the table as text."""
    with path.open("w") as file:
        plain = Console(file=file, width=100)
        plain.print(protocol.card(), highlight=False, soft_wrap=True)
        plain.print(table)


def _draw(
    folder: Path, model: OccupancyModel, samples: SceneDataset, pictures: int, protocol: ScoringProtocol
) -> Iterator[Path]:
    """Write camera picture, prediction and truth of some frames, evenly spaced."""
    folder.mkdir(parents=True, exist_ok=True)
    device = next(model.parameters()).device
    for index in evenly_spaced(len(samples), min(pictures, len(samples))):
        sample = samples.sample(index)
        with torch.no_grad():
            prediction = model.predict(collate([sample]).scene.to(device))[0].to("cpu", torch.uint8).numpy()
        path = folder / f"{sample.tokens[0].replace('/', '_')}.png"
        draw(model, sample, prediction, protocol).save(path)
        yield path
