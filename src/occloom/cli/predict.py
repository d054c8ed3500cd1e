"""`occloom predict CHECKPOINT`: write predictions as files and pictures."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image

from occloom.cli.arguments import leading_name, parse
from occloom.data.kitti_files import write_voxel_labels
from occloom.data.label_spaces import SEMANTIC_KITTI, to_raw_ids
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
with --picture DIR/pictures/NN_FFFFFF.png: camera picture, prediction and truth side by side.

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
    data = parts["data"] if options.root is None else replace(parts["data"], root=options.root)

    from occloom.engine.evaluate import require_same_labels  # slow to import, not needed for --help
    from occloom.engine.launch import launch
    from occloom.engine.loading import exact_batches
    from occloom.engine.logs import progress_bar

    fabric = launch(recipe.train.precision)
    model = load_model(name, fabric.device)
    if model.label_space.names != SEMANTIC_KITTI.names:
        raise InputError(f"{name} predicts other classes", rule=".label files hold SemanticKITTI's raw ids")
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
            sequence, _, frame = token.rpartition("/")
            file = options.out / "sequences" / sequence / "predictions" / f"{frame}.label"
            write_voxel_labels(file, to_raw_ids(prediction))
            if options.picture:
                picture = options.out / "pictures" / f"{token.replace('/', '_')}.png"
                picture.parent.mkdir(parents=True, exist_ok=True)
                draw(model, batch, prediction, recipe.protocol).save(picture)
    if fabric.is_global_zero:
        print(f"written: {options.out}")
    return 0


def draw(
    model: OccupancyModel, sample: Sample, prediction: UInt8[np.ndarray, "X Y Z"], protocol: ScoringProtocol
) -> Image.Image:
    """A sample's camera picture, its prediction, and its truth where known; scores of this frame in the title."""
    truth, observed, title = None, None, sample.tokens[0]
    if sample.target is not None:
        target = sample.target
        truth, observed = target.labels[0].numpy(), target.observed[0].numpy()
        predicted = torch.from_numpy(prediction)[None]
        scores = protocol.scores(
            count_confusion(predicted, target.labels, target.observed, model.label_space.num_classes)
        )
        title += f"   IoU {100 * scores.iou:.1f}  mIoU {100 * scores.miou:.1f}  (percent, this frame alone)"
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
