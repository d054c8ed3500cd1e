"""`occloom benchmark RECIPE`: what a model costs on this machine."""

import json
from dataclasses import dataclass, replace
from typing import Any

from occloom.cli.arguments import leading_name, parse, require_at_least
from occloom.recipes import RECIPES, resolve

USAGE = """usage: occloom benchmark RECIPE [--parameters-only] [--json] [options]

Parameters by module, floating-point operations, latency and peak memory of one prediction on this machine.

recipes: {recipes}, or an importable function as package.module:function
"""


@dataclass(frozen=True)
class BenchmarkOptions:
    """The command's own options."""

    json: bool = False
    """Print one JSON object and nothing else."""
    parameters_only: bool = False
    """Count parameters and stop; takes seconds for any size."""
    repeats: int = 3
    """Timed predictions, after one to warm up."""

    def __post_init__(self) -> None:
        require_at_least("repeats", self.repeats, 1)


def main(arguments: list[str]) -> int:
    """Measure the recipe named by the first argument; the others replace fields of it."""
    recipes = ", ".join(RECIPES)
    name, rest = leading_name(arguments, f"RECIPE ({recipes})", "benchmark", USAGE.format(recipes=recipes))
    recipe = resolve(name)
    options, parts = parse(
        BenchmarkOptions,
        {"model": recipe.model, "data": recipe.data},
        rest,
        prog=f"occloom benchmark {name}",
        description=f"Measure {name}.",
    )
    recipe = replace(recipe, **parts)

    import torch

    from occloom.engine.benchmark import count_parameters, example_scene, measure
    from occloom.engine.train import build_model, build_model_without_memory

    modules = count_parameters(build_model_without_memory(recipe))
    report: dict[str, Any] = {
        "recipe": recipe.name,
        "parameters": {"trainable": sum(modules.values()), "modules": modules},
    }
    if not options.parameters_only:
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        cost = measure(build_model(recipe).to(device), example_scene(recipe, device), repeats=options.repeats)
        report |= vars(cost) | {"device": str(device), "threads": torch.get_num_threads()}
    print(json.dumps(report) if options.json else _text(report))
    return 0


def _text(report: dict[str, Any]) -> str:
    """The report as a person reads it."""
    lines = [f"{'parameters':<24} {report['parameters']['trainable']:>12,}"]
    lines += [f"  {name:<22} {count:>12,}" for name, count in report["parameters"]["modules"].items()]
    if "flops" in report:
        lines += [
            f"{'operations':<24} {report['flops'] / 1e9:>12,.1f} GFLOP (a multiply-add counts two)",
            f"{'latency':<24} {report['latency_seconds']:>12.3f} s on {report['device']}, {report['threads']} threads",
            f"{'peak memory':<24} {report['peak_memory_bytes'] / 2**20:>12,.0f} MiB",
        ]
    return "\n".join(lines)
