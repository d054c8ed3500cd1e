"""Options of a command together with the fields of a recipe, as one command line."""

from dataclasses import field, make_dataclass
from typing import Annotated, Any, TypeVar

import tyro

Options = TypeVar("Options")


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
    parsed = tyro.cli(command, prog=prog, description=description, args=arguments, config=(tyro.conf.AvoidSubcommands,))
    return parsed.options, {name: getattr(parsed, name) for name in parts}


def split_name(arguments: list[str]) -> tuple[str | None, list[str]]:
    """The leading name, such as a recipe's, and the rest; no name where an option stands first."""
    if not arguments or arguments[0].startswith("-"):
        return None, arguments
    return arguments[0], arguments[1:]
