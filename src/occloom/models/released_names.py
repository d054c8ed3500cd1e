"""How published weights find their places: tables of released names and ours.

In a table `*` stands for a number and is kept, as is what follows a listed name (`.weight`, `.bias`, statistics). Where
several names fit, the longest counts.
"""

import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from torch import Tensor

from occloom.errors import InputError

Names = tuple[tuple[str, str], ...]
"""Pairs of a released name and ours."""


def our_name(released: str, names: Names) -> str | None:
    """Our name of a released tensor, None where the table has none."""
    pair = fitting_pair(released, names)
    if pair is None:
        return None
    wanted, parts = pair[0].split("."), released.split(".")
    ours = pair[1]
    for pattern, part in zip(wanted, parts, strict=False):
        ours = ours.replace("*", part, 1) if pattern == "*" else ours
    return ".".join([ours, *parts[len(wanted) :]])


def fitting_pair(released: str, names: Names) -> tuple[str, str] | None:
    """The line of a table that a released name falls under: the longest one that fits."""
    fitting = [pair for pair in names if re.match(_expression(pair[0]), released)]
    return max(fitting, key=lambda pair: pair[0].count("."), default=None)


@cache
def _expression(pattern: str) -> str:
    """A listed name as a regular expression for itself and what follows it."""
    return re.escape(pattern).replace(r"\*", r"\d+") + r"(\.|$)"


def convert_names(
    released: Mapping[str, Tensor],
    expected: Mapping[str, Tensor],
    *,
    names: Names,
    unused: tuple[str, ...],
    where: Path | None,
) -> dict[str, Tensor]:
    """Rename, and check that nothing is missing, left over or misshapen; axes of size 1 do not count.

    Args:
        released: A published state dict.
        expected: The state dict of the model they are meant for; its values are not read.
        names: Pairs of a released name and ours.
        unused: Released names that no module here holds, each with all that stands under it.
        where: The file they come from, for the error.

    Raises:
        InputError: If the names or shapes are not those of this model.
    """
    kept = {name: value for name, value in released.items() if not is_unused(name, unused)}
    renamed = {our_name(name, names) or name: value for name, value in kept.items()}
    missing = [name for name in expected if name not in renamed]
    surplus = [name for name in renamed if name not in expected]
    shared = [name for name in expected if name in renamed]
    misshapen = [name for name in shared if _sizes(renamed[name]) != _sizes(expected[name])]
    for what, wrong in (("lacks", missing), ("has the unknown tensor", surplus), ("has another shape for", misshapen)):
        _refuse(what, wrong, where)
    return {name: renamed[name].reshape(expected[name].shape) for name in expected}


def is_unused(released: str, unused: tuple[str, ...]) -> bool:
    """Whether a released tensor is one of those that no module here holds."""
    return any(released == name or released.startswith(f"{name}.") for name in unused)


def _sizes(tensor: Tensor) -> list[int]:
    """The shape without axes of size 1."""
    return [size for size in tensor.shape if size != 1]


def _refuse(what: str, names: list[str], where: Path | None) -> None:
    """Raise where there are names."""
    if not names:
        return
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    raise InputError(
        f"{what} {names[0]}{more}",
        where=where,
        rule="the weights must be of the recipe's model at its full size",
        remedy="name the recipe that this checkpoint was made for",
    )
