"""Checkpoints: step-numbered folders, and pointers that move only when everything is on the disk.

RUN/step-000200/model.safetensors   weights
                ema.safetensors     their moving average: what is validated, evaluated and shipped
                recipe.json         resolved recipe, grid, label space, schema, version and commit
                progress.pt         optimiser, gradient scaler, step and best score; plain tensors and numbers
RUN/latest, RUN/best                text files that hold a folder's name
"""

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from textwrap import shorten
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from occloom.engine.config import Recipe, from_json, to_json
from occloom.engine.provenance import commit, version
from occloom.errors import InputError
from occloom.grid import LabelSpace, VoxelGrid

SCHEMA = 1
"""Of recipe.json; a reader refuses another one."""

_PARTS = ("recipe", "model", "data", "train", "grid", "label_space")
_DAMAGED = "the file is damaged: use another checkpoint"

Pointer = Literal["latest", "best"]


@dataclass(frozen=True)
class Progress:
    """What a run must know, besides the weights, to go on as if it had never stopped."""

    step: int
    """Optimiser steps that are done."""
    best_miou: float
    """Best validation score so far; -1 before the first."""
    seconds: float
    """Wall time spent so far."""
    optimizer: dict[str, Any]
    scaler: dict[str, Any]


def describe(recipe: Recipe, grid: VoxelGrid, label_space: LabelSpace) -> dict[str, Any]:
    """The contents of recipe.json."""
    return {
        "schema": SCHEMA,
        "version": version(),
        "commit": commit(),
        "recipe": recipe.name,
        "model": to_json(recipe.model),
        "data": to_json(recipe.data),
        "train": to_json(recipe.train),
        "grid": to_json(grid),
        "label_space": to_json(label_space),
    }


def read_description(folder: Path) -> dict[str, Any]:
    """The contents of a checkpoint's recipe.json.

    Raises:
        InputError: If the folder has none, or it is damaged or of another schema.
    """
    path = folder / "recipe.json"
    if not path.is_file():
        raise InputError(
            "not a checkpoint", where=folder, rule="it has no recipe.json", remedy="name a step folder or a run folder"
        )
    try:
        description = json.loads(path.read_text())
    except ValueError as error:
        raise InputError(f"not JSON ({error})", where=path, remedy=_DAMAGED) from None
    schema = description.get("schema") if isinstance(description, dict) else None
    if schema != SCHEMA:
        raise InputError(
            f"schema {schema}",
            where=path,
            rule=f"this version reads schema {SCHEMA}",
            remedy="use a checkpoint of this version",
        )
    missing = [name for name in _PARTS if name not in description]
    if missing or not isinstance(description["recipe"], str):
        raise InputError(
            f"no {missing[0]}" if missing else f"the recipe is {description['recipe']!r}",
            where=path,
            rule=f"it names the recipe and describes {', '.join(_PARTS[1:])}",
            remedy=_DAMAGED,
        )
    return description


def described_recipe(base: Recipe, description: dict[str, Any], *, where: Path) -> Recipe:
    """`base`, which the description's recipe name stands for, with the described values."""
    values = {part: description[part] for part in ("model", "data", "train")}
    return from_json(base, values, where=where)


def described_labels(description: dict[str, Any], *, where: Path) -> tuple[VoxelGrid, LabelSpace]:
    """The grid and the label space that the weights were trained for."""
    grid = VoxelGrid(lower=(0.0, 0.0, 0.0), voxel_size=(1.0, 1.0, 1.0), shape=(1, 1, 1))
    labels = LabelSpace(names=("empty",), empty=0, colours=((0, 0, 0),), frequencies=(1.0,))
    return (
        from_json(grid, description["grid"], where=where, prefix="grid"),
        from_json(labels, description["label_space"], where=where, prefix="label_space"),
    )


def save(run: Path, *, weights: nn.Module, average: nn.Module, description: dict[str, Any], progress: Progress) -> Path:
    """Write a step's folder; it appears whole or not at all, and is on the disk when this returns."""
    run.mkdir(parents=True, exist_ok=True)
    folder = run / f"step-{progress.step:06d}"
    unfinished = run / f".{folder.name}"
    for stale in (unfinished, folder):
        if stale.exists():
            shutil.rmtree(stale)
    unfinished.mkdir()
    save_file(_tensors(weights), unfinished / "model.safetensors")
    save_file(_tensors(average), unfinished / "ema.safetensors")
    (unfinished / "recipe.json").write_text(json.dumps(description, indent=2) + "\n")
    torch.save(vars(progress), unfinished / "progress.pt")
    for file in (*unfinished.iterdir(), unfinished):
        _sync(file)
    unfinished.rename(folder)
    _sync(run)
    return folder


def point(run: Path, pointer: Pointer, folder: Path) -> None:
    """Let a pointer name a folder, in one indivisible step."""
    new = run / f".{pointer}"
    new.write_text(folder.name + "\n")
    _sync(new)
    new.replace(run / pointer)
    _sync(run)


def pointed(run: Path, pointer: Pointer) -> Path | None:
    """The folder that a pointer names, or None where there is none."""
    path = run / pointer
    folder = run / path.read_text(errors="replace").strip() if path.is_file() else None
    return folder if folder is not None and folder.is_dir() else None


def prune(run: Path, keep: int) -> None:
    """Remove all but the newest `keep` folders and the named ones, and what a killed run left unfinished."""
    named = {pointed(run, "latest"), pointed(run, "best")}
    folders = sorted(run.glob("step-*"), key=_step)
    for folder in [f for f in folders[:-keep] if f not in named] + list(run.glob(".step-*")):
        shutil.rmtree(folder)


def find(path: Path) -> Path:
    """The checkpoint folder that a user means: itself, or the best, else the latest, of a run folder.

    Raises:
        InputError: If there is none.
    """
    if (path / "recipe.json").is_file():
        return path
    for pointer in ("best", "latest"):
        folder = pointed(path, pointer)
        if folder is not None:
            return folder
    what = "holds no checkpoint" if path.is_dir() else "no such folder"
    raise InputError(what, where=path, remedy="name a folder that `occloom train` wrote, or a shipped model")


def load_weights(model: nn.Module, path: Path) -> None:
    """Fill a model from a safetensors file; every name and shape must agree.

    Raises:
        InputError: If the file cannot be read or does not fit the model.
    """
    try:
        model.load_state_dict(load_file(path))
    except (SafetensorError, RuntimeError, OSError) as error:
        reason = shorten(str(error), 300, placeholder=" ...")
        raise InputError(
            f"cannot be loaded ({reason})", where=path, remedy="use the checkpoint of this recipe"
        ) from None


@dataclass(frozen=True)
class Taken:
    """What a model took over from weights of another one."""

    source: Path
    """The file."""
    names: tuple[str, ...]
    """Taken over."""
    misshapen: tuple[str, ...]
    """Tensors of both, whose shapes differ."""
    not_there: tuple[str, ...]
    """Tensors of the model that the file lacks."""
    not_used: tuple[str, ...]
    """Tensors of the file that the model lacks."""

    def __str__(self) -> str:
        """What happened, and which modules keep random weights."""
        parts = [f"{len(self.names)} tensors taken from {self.source}"]
        for what, names in (
            ("of another shape", self.misshapen),
            ("not there", self.not_there),
            ("there and not used", self.not_used),
        ):
            if names:
                modules = ", ".join(sorted({name.partition(".")[0] for name in names}))
                parts.append(f"{len(names)} {what} ({modules})")
        return "; ".join(parts)


def take_weights(model: nn.Module, path: Path) -> Taken:
    """Fill a model with those tensors of another one's weights that have its names and shapes.

    Args:
        model: Receives the weights.
        path: A `.safetensors` file, or a checkpoint or run folder, of which the averaged weights are taken.

    Raises:
        InputError: If there are no weights, or none fits.
    """
    file = weights_file(path)
    if not file.is_file():
        raise InputError("no such file", where=file, remedy="name a run folder, a checkpoint folder or a .safetensors")
    try:
        there = load_file(file)
    except (SafetensorError, OSError) as error:
        raise InputError(f"cannot be loaded ({error})", where=file, remedy=_DAMAGED) from None
    own = model.state_dict()
    shared = [name for name in own if name in there]
    fitting = {name: there[name] for name in shared if there[name].shape == own[name].shape}
    if not fitting:
        example = ", ".join(list(there)[:3]) or "nothing"
        raise InputError(
            f"no tensor fits the model (the file holds {example})",
            where=file,
            rule="names and shapes must agree",
            remedy="name a checkpoint of a related model",
        )
    model.load_state_dict(fitting, strict=False)
    return Taken(
        source=file,
        names=tuple(fitting),
        misshapen=tuple(name for name in shared if name not in fitting),
        not_there=tuple(name for name in own if name not in there),
        not_used=tuple(name for name in there if name not in own),
    )


def weights_file(path: Path) -> Path:
    """The file a user means by a path: itself, or of a run or checkpoint folder the averaged weights.

    Raises:
        InputError: If a folder holds no checkpoint.
    """
    return path if path.is_file() or path.suffix == ".safetensors" else _weights_to_use(find(path))


def _weights_to_use(folder: Path) -> Path:
    """The averaged weights of a checkpoint folder; those of a shipped model."""
    average = folder / "ema.safetensors"
    return average if average.is_file() else folder / "model.safetensors"


def load_progress(folder: Path) -> Progress:
    """What `save` was given.

    Raises:
        InputError: If the file is damaged.
    """
    path = folder / "progress.pt"
    try:
        return Progress(**torch.load(path, weights_only=True, map_location="cpu"))
    except (RuntimeError, EOFError, UnpicklingError, OSError, TypeError, ValueError) as error:
        reason = shorten(str(error), 300, placeholder=" ...")
        remedy = "write the name of an older step folder into `latest`, or begin a new run"
        raise InputError(f"cannot be loaded ({reason})", where=path, remedy=remedy) from None


def export(checkpoint: Path, folder: Path, *, base: Recipe) -> None:
    """Write what is needed to use a checkpoint, not to go on training: the averaged weights and the recipe.

    Paths of the data, and where the training started from, become those of `base`, so that none of this machine travels
    along.
    """
    folder.mkdir(parents=True, exist_ok=True)
    description = read_description(checkpoint)
    description["data"] |= {name: str(value) for name, value in vars(base.data).items() if isinstance(value, Path)}
    starts = [n for n in ("start_from", "trunk_weights") if description["train"].get(n) not in (None, "imagenet")]
    description["train"] |= {name: to_json(getattr(base.train, name)) for name in starts}
    shutil.copyfile(checkpoint / "ema.safetensors", folder / "model.safetensors")
    (folder / "recipe.json").write_text(json.dumps(description, indent=2) + "\n")


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    """A module's state as tensors that share no memory, as safetensors wants them."""
    return {name: tensor.detach().cpu().contiguous().clone() for name, tensor in module.state_dict().items()}


def _step(folder: Path) -> int:
    """The step in a folder's name."""
    return int(folder.name.removeprefix("step-"))


def _sync(path: Path) -> None:
    """Wait until a file or folder is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
