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
    weights = convert_released(released, build_model_without_memory(chosen), where=checkpoint)
    out.mkdir(parents=True)
    save_file(weights, out / "model.safetensors")
    description = describe(chosen, chosen.data.grid, chosen.data.label_space)
    description["converted_from"] = checkpoint.name
    (out / "recipe.json").write_text(json.dumps(description, indent=2) + "\n")
    print(f"{len(weights)} tensors lie in {out}")
    print(f"score them: occloom evaluate {out} --data.root {chosen.data.root}")
