"""`occloom predict CHECKPOINT`: write predictions as files and pictures."""

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from occloom.cli.arguments import leading_name, parse, ready_to_write
from occloom.cli.frame_picture import draw, draw_pixels, draw_surround
from occloom.cli.missing_cameras import missing_cameras
from occloom.cli.prediction_files import prediction_files
from occloom.data.occ3d import Occ3dConfig
from occloom.data.road_images import RoadImagesConfig
from occloom.errors import InputError
from occloom.inference import load_model, load_recipe, shipped_models
from occloom.interfaces import SceneDataset, Split

USAGE = """usage: occloom predict CHECKPOINT --root ROOT --out DIR [options]

Writes DIR/sequences/NN/predictions/FFFFFF.label, as the SemanticKITTI server and `occloom score` expect them,
DIR/SAMPLE_TOKEN.npz, as the Occ3D challenge does, or DIR/SET/NAME.png, the classes of a picture's pixels; with
--picture also DIR/pictures/NN_FFFFFF.png: camera pictures, prediction and truth. --submission FILE.zip packs all
predictions of DIR as the server wants them.

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
    """Which sequences or scenes; --data.val names those of val."""
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
    files = prediction_files(name, model)
    if options.submission is not None and files.submit is None:
        raise InputError("--submission is for SemanticKITTI and Occ3D", rule="for others there is no server")
    samples, protocol = data.build(options.split, model.needs), replace(recipe, data=data).scored_by
    require_same_labels(model, samples)
    indices = _chosen(samples, options.tokens)[fabric.global_rank :: fabric.world_size]
    with progress_bar() as progress, torch.no_grad():
        progress.disable = not fabric.is_global_zero
        for batch in progress.track(exact_batches(samples, indices), total=len(indices), description="predicting"):
            sample = batch.to(fabric.device)
            with fabric.autocast():
                prediction = model.predict(sample.scene)[0].to("cpu", torch.uint8).numpy()
            token = sample.tokens[0]
            files.write(files.path(options.out, token), prediction)
            if options.picture:
                picture = options.out / "pictures" / f"{token.replace('/', '_')}.png"
                picture.parent.mkdir(parents=True, exist_ok=True)
                if isinstance(data, Occ3dConfig):
                    drawn = draw_surround(model, batch, prediction, protocol, data.cameras)
                elif isinstance(data, RoadImagesConfig):
                    drawn = draw_pixels(model, batch, prediction)
                else:
                    drawn = draw(model, batch, prediction, protocol)
                drawn.save(picture)
    fabric.barrier()
    if fabric.is_global_zero:
        for line in missing_cameras(samples):
            print(line)
        print(f"written: {options.out}")
        if options.submission is not None and files.submit is not None:
            number = files.submit(options.out, options.submission)
            print(f"submission: {options.submission}, {number} predictions")
    return 0


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
