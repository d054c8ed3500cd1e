"""`occloom naive RECIPE`: what a predictor that looks at nothing scores where a recipe is scored."""

import json
from dataclasses import dataclass, replace
from pathlib import Path

from occloom.cli.arguments import leading_name, parse, ready_to_write
from occloom.cli.evaluate import report_text
from occloom.engine.logs import progress_bar
from occloom.interfaces import Needs, Split
from occloom.metrics.naive import FixedPrediction, fit_voxel_prior
from occloom.recipes import RECIPES, resolve

USAGE = """usage: occloom naive RECIPE [--split val] [options]

Predicts the same volume for every frame: in each voxel the class that is most frequent there in the labels that the
recipe trains on. It looks at nothing, so a trained model has to beat it. Scored as the recipe's models are.

recipes: {recipes}, or an importable function as package.module:function
example: occloom naive bevdet4d-town --data.root town-surround
"""


NEEDS = Needs(images=False)
"""Labels only."""


@dataclass(frozen=True)
class NaiveOptions:
    """The command's own options."""

    split: Split = "val"
    """Whose frames are scored."""
    out: Path | None = None
    """Also write scores and counts as JSON to this file."""


def main(arguments: list[str]) -> int:
    """Fit to the training split of the recipe named by the first argument, and score."""
    recipes = ", ".join(RECIPES)
    name, rest = leading_name(arguments, f"RECIPE ({recipes})", "naive", USAGE.format(recipes=recipes))
    recipe = resolve(name)
    options, parts = parse(
        NaiveOptions,
        {"data": recipe.data},
        rest,
        prog=f"occloom naive {name}",
        description=f"Score the most frequent class of each voxel where {name} is scored.",
    )
    data = parts["data"]
    if options.out is not None:
        ready_to_write(options.out)

    from occloom.engine.evaluate import count, results  # slow to import
    from occloom.engine.launch import launch

    scored, fitted = data.build(options.split, NEEDS), data.build("train", NEEDS)
    with progress_bar() as bar:
        task = bar.add_task("fitting", total=len(fitted))
        prior = fit_voxel_prior(fitted, advance=lambda: bar.advance(task))
        task = bar.add_task("scoring", total=len(scored))
        counts = count(
            FixedPrediction(prior, scored.grid, scored.label_space),
            scored,
            launch(),
            indices=range(len(scored)),
            advance=lambda frames: bar.advance(task, frames),
        )
    protocol = replace(recipe, data=data).scored_by
    report = results(counts, protocol, scored.grid, scored.label_space)
    print(protocol.card())
    print(f"the most frequent class of each voxel in {len(fitted)} training frames:")
    print(report_text(report))
    if options.out is not None:
        options.out.write_text(json.dumps(report, indent=1) + "\n")
        print(f"written: {options.out}")
    return 0
