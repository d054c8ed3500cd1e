"""The `occloom` command: finds the command's module, and turns errors into one line and an exit code."""

import ctypes
import importlib
import os
import sys
import traceback
from collections.abc import Callable
from difflib import get_close_matches
from typing import Any

from occloom.errors import InputError, refused_by_system

COMMANDS = {
    "demo": "predict streets that the shipped model never saw, score and draw them",
    "town": "make the town: streets, sensors and labels in a benchmark's layout",
    "prepare": "compute what models read besides pictures, such as stereo depth",
    "train": "fit a recipe; a run that was stopped goes on",
    "evaluate": "score a checkpoint on a split",
    "naive": "score a predictor that looks at nothing where a recipe is scored",
    "predict": "write a checkpoint's predictions as the benchmark's files, and pictures",
    "score": "score predicted files without any model",
    "labels": "count where the classes of voxel labels lie, by height and distance",
    "coverage": "count what Dr.Occ's mask and lifting cover of labels, prior by prior",
    "scales": "measure the scale of instances in labels, and labels that cannot be true",
    "convert": "take over weights that a paper's authors published",
    "render": "draw a camera picture, a prediction and the truth side by side",
    "table": "run the rows of a TOML file and print one Markdown table",
    "recipes": "list what can be trained",
    "doctor": "check versions, hardware, extras and data",
    "benchmark": "count parameters and operations, measure time and memory",
}

HELP = """occloom: 3D semantic occupancy prediction, from cameras or LiDAR to labelled voxels

usage: occloom COMMAND [options]         occloom COMMAND --help lists the options of a command

{commands}

first steps:
  occloom town town --sequences 36 --frames 6               make a small world
  occloom prepare depth --root town                         add stereo depth
  occloom train baseline-town --data.root town              train on it
  occloom evaluate runs/baseline-town --data.root town      score it
  occloom predict runs/baseline-town --root town --out out --picture

Input that cannot be used gives one line that names it, and exit code 2; --debug shows where.
"""


def main() -> None:
    """Run the command line, then leave."""
    # Read by PyTorch when it first allocates: on Linux large tensors then come in pages of 2 MiB. Full-size volumes are
    # copied and added three times as fast.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    _keep_freed_memory()
    code = run(sys.argv[1:])
    if "torch" in sys.modules:
        from occloom.engine.launch import end

        end(code)
    sys.exit(code)


def _keep_freed_memory() -> None:
    """Have glibc keep what is freed for what is allocated next: a tenth of the time of a full-size prediction.

    By default it hands blocks of more than some megabytes back to the system, and gets them again page by page.
    """
    if not sys.platform.startswith("linux"):
        return
    adjust = getattr(ctypes.CDLL(None), "mallopt", None)
    if adjust is not None:  # other C libraries have none
        trim_threshold, mmap_threshold = -1, -3  # as malloc.h numbers them
        adjust(trim_threshold, 2**31 - 1)
        adjust(mmap_threshold, 2**25)  # the most that it accepts


def run(arguments: list[str]) -> int:
    """Run a command.

    Args:
        arguments: The command line without the program's name; `--debug` may stand anywhere.

    Returns:
        The exit code: 0, 2 for input that cannot be used, 130 if interrupted.
    """
    debug = "--debug" in arguments or bool(os.environ.get("OCCLOOM_DEBUG"))
    arguments = [argument for argument in arguments if argument != "--debug"]
    if not arguments or arguments[0] in ("-h", "--help"):
        commands = "\n".join(f"  {name:<10} {text}" for name, text in COMMANDS.items())
        print(HELP.format(commands=commands), end="")
        return 0
    try:
        return _call(arguments[0], arguments[1:])
    except InputError as error:
        return _fail(str(error), debug)
    except BrokenPipeError:
        # The reader of a pipe left; the interpreter's last flush must not complain either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        return _fail(str(refused_by_system(error)), debug)
    except KeyboardInterrupt:
        print("occloom: interrupted", file=sys.stderr)
        return 130


def _call(name: str, arguments: list[str]) -> int:
    """Import a command's module and run it.

    The module has a function of the command's name, whose typed parameters are the options, or, where the options
    depend on a recipe, a function `main` that takes the arguments.
    """
    if name not in COMMANDS:
        close = get_close_matches(name, COMMANDS, n=1)
        raise InputError(
            f"no command {name!r}",
            rule=f"perhaps you meant {close[0]}" if close else f"the commands are {', '.join(COMMANDS)}",
            remedy="run `occloom --help`",
        )
    module = importlib.import_module(f"occloom.cli.{name}")
    command: Callable[[list[str]], int] | None = getattr(module, "main", None)
    if command is None:
        return _call_typed(getattr(module, name), name, arguments)
    try:
        return command(arguments)
    except SystemExit as left:
        return _code(left)


def _call_typed(function: Callable[..., Any], name: str, arguments: list[str]) -> int:
    """Run a function whose parameters are the options."""
    from occloom.cli.arguments import bind

    try:
        call = bind(function, arguments, prog=f"occloom {name}")
    except SystemExit as left:
        return _code(left)
    call()
    return 0


def _code(left: SystemExit) -> int:
    """The exit code that a parser chose."""
    return left.code if isinstance(left.code, int) else 0


def _fail(message: str, debug: bool) -> int:
    """Print one line, after the traceback where it is asked for."""
    if debug:
        traceback.print_exc()
    print(f"occloom: {' '.join(message.split())}", file=sys.stderr)
    return 2
