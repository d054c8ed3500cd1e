"""Options of a command together with the fields of a recipe, as one command line."""

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import field, make_dataclass
from functools import partial, wraps
from inspect import cleandoc
from io import StringIO
from pathlib import Path
from typing import Annotated, Any, TypeVar

import tyro

from occloom.errors import InputError

Options = TypeVar("Options")

NO_WRAPPING = "10000"
"""Columns of a terminal in which no message needs a second line."""


def parse(
    options: type[Options], parts: dict[str, Any], arguments: list[str], *, prog: str, description: str
) -> tuple[Options, dict[str, Any]]:
    """Read a command line.

    Args:
        options: A dataclass with the command's own options.
        parts: Dataclasses by prefix: the field `steps` of the part `train` is the option `--train.steps`. What the
            command line does not name keeps its value.
        arguments: The command line.
        prog: The words before the arguments, for the help text.
        description: What the command does, for the help text.

    Returns:
        The command's options, and the parts.

    Raises:
        InputError: If an option or its value cannot be used.
    """
    command = make_dataclass(
        "Command",
        [
            ("options", Annotated[options, tyro.conf.arg(name="")]),
            *(
                (name, Annotated[type(part), tyro.conf.arg(help="")], field(default=part))
                for name, part in parts.items()
            ),
        ],
        frozen=True,
    )
    # A field that may hold one of several dataclasses keeps the class that the recipe chose.
    with _refusals_in_one_line(arguments):
        parsed = tyro.cli(
            command, prog=prog, description=description, args=arguments, config=(tyro.conf.AvoidSubcommands,)
        )
    return parsed.options, {name: getattr(parsed, name) for name in parts}


def split_name(arguments: list[str]) -> tuple[str | None, list[str]]:
    """The leading name, such as a recipe's, and the rest; no name where an option stands first."""
    if not arguments or arguments[0].startswith("-"):
        return None, arguments
    return arguments[0], arguments[1:]


def bind(function: Callable[..., None], arguments: list[str], *, prog: str) -> Callable[[], None]:
    """A function whose parameters are the options, with the values of a command line, yet to be called.

    Args:
        function: Its docstring is the help text.
        arguments: The command line.
        prog: The words before the arguments, for the help text.

    Raises:
        InputError: If an option or its value cannot be used.
    """
    # The parser calls what it is given: it makes a partial function here, of the same signature and docstring.
    bound: Callable[..., Callable[[], None]] = wraps(function)(partial(partial, function))
    # It finds the parameters' lines behind a partial function, but not the text above them.
    description = cleandoc(function.__doc__ or "").partition("\n\nArgs:")[0]
    with _refusals_in_one_line(arguments):
        return tyro.cli(bound, prog=prog, args=arguments, description=description)


@contextmanager
def _refusals_in_one_line(arguments: list[str]) -> Iterator[None]:
    """Turn what the parser prints when it refuses a command line into an InputError; the help text stays as it is."""
    printed, columns = StringIO(), os.environ.get("COLUMNS")
    if not {"-h", "--help"} & set(arguments):
        os.environ["COLUMNS"] = NO_WRAPPING
    try:
        with redirect_stderr(printed):
            yield
    except SystemExit as left:
        if not left.code:
            raise
        raise _refusal(printed.getvalue()) from None
    finally:
        if columns is None:
            os.environ.pop("COLUMNS", None)
        else:
            os.environ["COLUMNS"] = columns


def _refusal(printed: str) -> InputError:
    """The parser's framed message as one error: what is wrong, its first suggestion, and where the help is."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", printed)
    # Below the title, rules of dashes part what is wrong from the suggestions and from the way to the help.
    _, *lines = [line.strip("│╭╮╰╯ ") for line in plain.splitlines()]
    what, *others = [part.split() for part in re.split(r"\n[─-]{3,}\n", "\n".join(["", *lines])) if part.strip(" ─-\n")]
    words = [word for word in what if word != "(required)"]
    words[0] = words[0][0].lower() + words[0][1:]
    suggestions = [part[3] for part in others if part[:3] == ["Perhaps", "you", "meant:"]]
    (program,) = re.findall(r"(occloom[^\n]*) --help\W*$", plain)
    return InputError(
        " ".join(words),
        rule=f"perhaps you meant {suggestions[0]}" if suggestions else "",
        remedy=f"run `{program} --help`",
    )


def leading_name(arguments: list[str], what: str, command: str, usage: str) -> tuple[str, list[str]]:
    """The name that a command begins with, and the rest; prints the usage where that is asked for instead.

    Args:
        arguments: The command line.
        what: What the name stands for, such as RECIPE, with examples.
        command: The command's name.
        usage: What `--help` prints.

    Raises:
        InputError: If there is no name.
        SystemExit: After the usage.
    """
    name, rest = split_name(arguments)
    if name is not None:
        return name, rest
    if {"-h", "--help"} & set(rest):
        print(usage, end="")
        raise SystemExit(0)
    raise InputError(f"no {what}", rule="it comes before all options", remedy=f"run `occloom {command} --help`")


def require_at_least(option: str, value: int, least: int) -> None:
    """Refuse a number that is too small.

    Raises:
        InputError: If it is.
    """
    if value < least:
        raise InputError(f"--{option} is {value}", rule=f"it must be at least {least}")


def ready_to_write(path: Path) -> None:
    """Make the folder of a file that is written at the end of a command, so that no work is lost for its name.

    Raises:
        InputError: If a folder has that name.
        OSError: If its folder cannot be made.
    """
    if path.is_dir():
        raise InputError("a folder", where=path, rule="a file is written there", remedy="name another path")
    path.parent.mkdir(parents=True, exist_ok=True)
