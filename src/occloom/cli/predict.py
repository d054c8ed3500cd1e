"""`occloom predict CHECKPOINT`: write predictions as files and pictures."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image

from occloom.cli.arguments import leading_name, parse, ready_to_write
from occloom.cli.frame_title import frame_title
from occloom.data.label_files import KITTI_360_FILES, SEMANTIC_KITTI_FILES, LabelFiles
from occloom.data.label_spaces import SEMANTIC_KITTI_GRID
from occloom.data.predictions import prediction_path, write_prediction, write_submission
from occloom.errors import InputError
from occloom.inference import load_model, load_recipe, shipped_models
from occloom.interfaces import OccupancyModel, SceneDataset, Split
from occloom.metrics.confusion import count_confusion
from occloom.metrics.naive import ROAD_HEIGHT
from occloom.metrics.protocols import ScoringProtocol
from occloom.scene import Sample
from occloom.viewer.images import EgoMarker, comparison_picture

USAGE = """usage: occloom predict CHECKPOINT --root ROOT --out DIR [options]

Writes DIR/sequences/NN/predictions/FFFFFF.label, as the SemanticKITTI server and `occloom score` expect them, and
with --picture DIR/pictures/NN_FFFFFF.png: camera picture, prediction and truth side by side. --submission FILE.zip
packs all .label files of DIR as the server wants them.

CHECKPOINT: a step folder, a run folder (its best step), or a shipped model ({shipped})
options: occloom predict CHECKPOINT --help
example: occloom predict runs/baseline-town --root town --out out --picture
"""


@dataclass(frozen=True)
class PredictOptions:
    """The command's own options."""

    out: Path
    """Folder to write."""
    root: Path | None = None
    """Folder of the data; short for --data.root."""
    split: Split = "val"
    """Which sequences; --data.val names those of val."""
    tokens: tuple[str, ...] = ()
    """Only these frames of the split, such as 08/000000 08/000005; all of them unless given."""
    picture: bool = False
    """Draw each frame as well."""
    submission: Path | None = None
    """Zip to write at the end, for the benchmark's server: all predictions that lie in the folder."""


def main(arguments: list[str]) -> int:
    """Predict with the checkpoint named by the first argument; the others set options and fields of its data."""
    shipped = ", ".join(shipped_models()) or "none in this package"
    name, rest = leading_name(arguments, "CHECKPOINT", "predict", USAGE.format(shipped=shipped))
    recipe = load_recipe(name)
    options, parts = parse(
        PredictOptions,
        {"data": recipe.data},
        rest,
        prog=f"occloom predict {name}",
        description=f"Predict with {name}, which was trained by {recipe.name}.",
    )
    if options.submission is not None:
        ready_to_write(options.submission)
    data = parts["data"] if options.root is None else replace(parts["data"], root=options.root)

    from occloom.engine.evaluate import require_same_labels  # slow to import, not needed for --help
    from occloom.engine.launch import launch
    from occloom.engine.loading import exact_batches
    from occloom.engine.logs import progress_bar

    fabric = launch(recipe.train.precision)
    model = load_model(name, fabric.device)
    files = _label_files(name, model)
    if options.submission is not None and files is not SEMANTIC_KITTI_FILES:
        raise InputError(
            "--submission is for SemanticKITTI alone", rule="KITTI-360 has no server; `occloom score` does"
        )
    samples = data.build(options.split, model.needs)
    require_same_labels(model, samples)
    indices = _chosen(samples, options.tokens)[fabric.global_rank :: fabric.world_size]
    with progress_bar() as progress, torch.no_grad():
        progress.disable = not fabric.is_global_zero
        for batch in progress.track(exact_batches(samples, indices), total=len(indices), description="predicting"):
            sample = batch.to(fabric.device)
            with fabric.autocast():
                prediction = model.predict(sample.scene)[0].to("cpu", torch.uint8).numpy()
            token = sample.tokens[0]
            write_prediction(prediction_path(options.out, token), prediction, files)
            if options.picture:
                picture = options.out / "pictures" / f"{token.replace('/', '_')}.png"
                picture.parent.mkdir(parents=True, exist_ok=True)
                draw(model, batch, prediction, recipe.protocol).save(picture)
    fabric.barrier()
    if fabric.is_global_zero:
        print(f"written: {options.out}")
        if options.submission is not None:
            number = write_submission(options.out, options.submission)
            print(f"submission: {options.submission}, {number} predictions")
    return 0


def draw(
    model: OccupancyModel, sample: Sample, prediction: UInt8[np.ndarray, "X Y Z"], protocol: ScoringProtocol
) -> Image.Image:
    """A sample's camera picture, its prediction, and its truth where known; scores of this frame in the title."""
    name = sample.tokens[0]
    truth, observed, title = None, None, name
    if sample.target is not None:
        target = sample.target
        truth, observed = target.labels[0].numpy(), target.observed[0].numpy()
        predicted = torch.from_numpy(prediction)[None]
        counts = count_confusion(predicted, target.labels, target.observed, model.label_space.num_classes)
        title = frame_title(name, counts, protocol)
    images, cameras = sample.scene.images, sample.scene.cameras
    image = ego = None
    if images is not None:
        image = (images[0, 0, 0].permute(1, 2, 0).clamp(0, 1) * 255).round().to(torch.uint8).numpy()
        ego = EgoMarker(
            road_height=ROAD_HEIGHT,
            camera_from_ego=cameras.camera_from_ego[0, 0, 0].double().numpy(),
            intrinsics=cameras.intrinsics[0, 0, 0].double().numpy(),
            image_size=(image.shape[0], image.shape[1]),
        )
    return comparison_picture(
        image,
        prediction,
        truth,
        model.grid,
        model.label_space,
        observed=observed,
        title=title,
        ego=ego,
    )


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


def _chosen(samples: SceneDataset, tokens: tuple[str, ...]) -> list[int]:
    """Indices of the named samples; of all where none is named.

    Raises:
        InputError: If a name is not in the split.
    """
    index_of = {token: index for index, token in enumerate(samples.tokens)}
    missing = [token for token in tokens if token not in index_of]
    if missing:
        raise InputError(
            f"no frame {missing[0]} in the split",
            rule=f"its {len(index_of)} frames are named like {samples.tokens[0]}",
            remedy="choose another --split or --tokens",
        )
    return [index_of[token] for token in tokens] or list(range(len(samples)))
