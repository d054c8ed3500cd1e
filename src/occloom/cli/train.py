"""`occloom train RECIPE`: fit a model."""

from dataclasses import dataclass, replace
from pathlib import Path

from occloom.cli.arguments import leading_name, parse
from occloom.recipes import RECIPES, resolve

USAGE = """usage: occloom train RECIPE [options]

Trains a recipe, writes checkpoints and logs, and goes on where an earlier call of the same run stopped.
Several processes: torchrun --nproc-per-node 2 -m occloom train RECIPE [options]

recipes: {recipes}, or an importable function as package.module:function
options: occloom train RECIPE --help lists every field of the recipe with its value
example: occloom train baseline-town --data.root town --train.steps 500 --out runs/first
"""


@dataclass(frozen=True)
class TrainOptions:
    """The command's own options."""

    out: Path | None = None
    """Run folder; runs/RECIPE unless given. A run that is already there goes on."""


def main(arguments: list[str]) -> int:
    """Train the recipe named by the first argument; the others replace fields of it."""
    recipes = ", ".join(RECIPES)
    name, rest = leading_name(arguments, f"RECIPE ({recipes})", "train", USAGE.format(recipes=recipes))
    recipe = resolve(name)
    parts = {"model": recipe.model, "data": recipe.data, "train": recipe.train}
    options, parts = parse(TrainOptions, parts, rest, prog=f"occloom train {name}", description=f"Train {name}.")
    out = options.out or Path("runs") / name.replace(":", "-")

    from occloom.engine.launch import launch  # slow to import, not needed for --help
    from occloom.engine.train import fit

    recipe = replace(recipe, **parts)
    fabric = launch(recipe.train.precision)
    folder = fit(recipe, out, fabric)
    if fabric.is_global_zero:
        print(f"trained: {folder}")
        print(f"score it: occloom evaluate {folder} --data.root {recipe.data.root}")
    return 0
