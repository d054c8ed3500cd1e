"""`occloom convert RECIPE CHECKPOINT`: take over weights that a paper's authors published."""

import json
from pathlib import Path
from typing import Annotated

import tyro

from occloom.errors import InputError
from occloom.recipes import resolve


def convert(
    recipe: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RECIPE")],
    checkpoint: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="CHECKPOINT")],
    *,
    out: Path,
) -> None:
    """Turn a checkpoint that a paper's authors published into one of this library's, to evaluate and predict with.

    Of a BEVDet, detector or occupancy model, all that fits is taken; the rest is named, and is trained from there.

    Args:
        recipe: Whose model the weights are for, such as voxdet-semantickitti-released.
        checkpoint: The published file (.pth or .ckpt); only tensors and plain values in it are read.
        out: Folder to write; `occloom evaluate` and `occloom predict` take its name.
    """
    from safetensors.torch import save_file

    from occloom.engine.checkpoint import describe
    from occloom.engine.train import build_model_without_memory
    from occloom.models.released_checkpoints import convert_released, read_released

    if out.exists():
        raise InputError("already there", where=out, remedy="name a new folder")
    chosen = resolve(recipe)
    released = read_released(checkpoint)
    model = build_model_without_memory(chosen)
    converted = convert_released(released, model, where=checkpoint)
    weights, missing = converted.weights, model.state_dict().keys() - converted.weights.keys()
    out.mkdir(parents=True)
    save_file(weights, out / "model.safetensors")
    description = describe(chosen, chosen.data.grid, chosen.data.label_space)
    description["converted_from"] = checkpoint.name
    (out / "recipe.json").write_text(json.dumps(description, indent=2) + "\n")
    print(f"{len(weights)} tensors lie in {out}")
    if converted.unused:
        print(f"{len(converted.unused)} are of no use to this model: {', '.join(sorted(converted.unused))}")
    if missing:
        print(f"{len(missing)} of the model are not among them: {', '.join(sorted(missing))}")
        print(f"train the rest: occloom train {recipe} --train.start-from {out}")
    else:
        print(f"score them: occloom evaluate {out} --data.root {chosen.data.root}")
