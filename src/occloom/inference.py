"""From a checkpoint back to its recipe and its model."""

from pathlib import Path

import torch

from occloom.engine import checkpoint
from occloom.engine.config import Recipe
from occloom.errors import InputError
from occloom.interfaces import OccupancyModel
from occloom.recipes import resolve

SHIPPED = Path(__file__).parent / "weights"
"""A folder for each model that comes with the package."""


def shipped_models() -> list[str]:
    """Names of the models that come with the package."""
    return sorted(path.parent.name for path in SHIPPED.glob("*/recipe.json"))


def find_checkpoint(path: Path | str) -> Path:
    """The folder of a checkpoint.

    Args:
        path: A step folder, a run folder (its best step, else its latest), or the name of a shipped model.

    Raises:
        InputError: If there is none.
    """
    if str(path) in shipped_models() and not Path(path).exists():
        return SHIPPED / str(path)
    return checkpoint.find(Path(path))


def load_recipe(path: Path | str) -> Recipe:
    """The recipe that a checkpoint was trained by, with all values it had.

    Raises:
        InputError: If there is no checkpoint, or its recipe is unknown here.
    """
    folder = find_checkpoint(path)
    description = checkpoint.read_description(folder)
    return checkpoint.described_recipe(resolve(description["recipe"]), description, where=folder / "recipe.json")


def load_model(path: Path | str, device: torch.device | str = "cpu") -> OccupancyModel:
    """A trained model in evaluation mode, with the averaged weights where the checkpoint has them.

    Args:
        path: As for `find_checkpoint`.
        device: Where the model shall be.

    Raises:
        InputError: If there is no checkpoint, or it does not fit this version.
    """
    folder = find_checkpoint(path)
    description = checkpoint.read_description(folder)
    grid, label_space = checkpoint.described_labels(description, where=folder / "recipe.json")
    config = load_recipe(folder).model
    try:
        with torch.random.fork_rng():
            model = config.build(grid, label_space)
    except ValueError as error:
        raise InputError(
            f"the model cannot be built: {error}", where=folder / "recipe.json", remedy="use another checkpoint"
        ) from error
    average = folder / "ema.safetensors"
    checkpoint.load_weights(model, average if average.is_file() else folder / "model.safetensors")
    return model.eval().requires_grad_(False).to(device)
