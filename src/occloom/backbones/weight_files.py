"""Files of weights: where the public ones lie, how they are read, and whether they fit a trunk."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from occloom.errors import InputError

WRAPPERS = ("state_dict", "model")
"""Under which trainers file the tensors, beside their progress."""


@dataclass(frozen=True)
class HubFile:
    """One file of a model repository on the Hugging Face hub."""

    repository: str
    """Owner and name, as in "timm/resnet50d.a1_in1k"."""
    name: str
    """Of the file in the repository."""

    @property
    def url(self) -> str:
        """Where a browser finds it."""
        return f"https://huggingface.co/{self.repository}/resolve/main/{self.name}"

    @property
    def by_hand(self) -> str:
        """How to have it without the hub's package."""
        return f"download {self.url} and name the file with --train.trunk-weights PATH"


def read_tensors(path: Path, *, remedy: str) -> dict[str, Tensor]:
    """The tensors of a `.safetensors` file or of one that `torch.save` wrote; nothing else is unpickled.

    Args:
        path: The file; a training checkpoint holds the tensors under "state_dict" or "model".
        remedy: What the user can do if it cannot be read.

    Raises:
        InputError: If the file is missing, unreadable, or holds no tensors by name.
    """
    if not path.is_file():
        raise InputError("no such weights file", where=path, remedy=remedy)
    try:
        loaded = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    except (OSError, RuntimeError, SafetensorError, UnpicklingError, EOFError) as error:
        raise InputError(f"cannot be read as weights ({type(error).__name__})", where=path, remedy=remedy) from error
    for wrapper in WRAPPERS:
        if isinstance(loaded, dict) and isinstance(loaded.get(wrapper), dict):
            loaded = loaded[wrapper]
    if not isinstance(loaded, dict) or not loaded or not all(isinstance(value, Tensor) for value in loaded.values()):
        raise InputError("holds no tensors by name", where=path, rule="a state dict is expected", remedy=remedy)
    return loaded


def of_trunk(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of the trunk in one of this library's models, by the trunk's own names; else all tensors."""
    places = {key: f".{key}".find(".trunk.") for key in tensors}
    trunks = {key[: place + len("trunk.")] for key, place in places.items() if place >= 0}
    if len(trunks) != 1:
        return tensors
    (trunk,) = trunks
    return {key.removeprefix(trunk): value for key, value in tensors.items() if key.startswith(trunk)}


def fill_trunk(
    trunk: nn.Module, state: Mapping[str, Tensor], path: Path, *, remedy: str, optional: Collection[str] = ()
) -> None:
    """Load tensors that must be the trunk's own, by name and shape.

    Args:
        trunk: Receives the weights.
        state: Tensors by the trunk's names.
        path: Where they come from, for the error.
        remedy: What the user can do if they do not fit.
        optional: Names of the trunk that may be missing.

    Raises:
        InputError: If some are missing, unknown, or of another shape.
    """
    own = trunk.state_dict()
    missing = [key for key in own if key not in state and key not in optional]
    surplus = [key for key in state if key not in own]
    misshapen = [key for key in own if key in state and state[key].shape != own[key].shape]
    for what, keys in (("lacks", missing), ("has the unknown key", surplus), ("has another shape for", misshapen)):
        if keys:
            more = f" and {len(keys) - 1} more" if len(keys) > 1 else ""
            raise InputError(f"{what} {keys[0]}{more}", where=path, rule="weights must fit the trunk", remedy=remedy)
    trunk.load_state_dict(state, strict=False)
