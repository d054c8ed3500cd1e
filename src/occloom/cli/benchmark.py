"""`occloom benchmark RECIPE`: what a model costs on this machine."""

import json
from dataclasses import asdict, dataclass, replace
from typing import Any

from occloom.cli.arguments import leading_name, parse, require_at_least
from occloom.recipes import RECIPES, resolve

USAGE = """usage: occloom benchmark RECIPE [--parameters-only] [--json] [options]

Parameters by module, floating-point operations, latency and peak memory of one prediction on this machine, and in which
modules time and operations go.

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
    levels: int = 1
    """Levels of modules whose share is told: 1 for the model's parts, 2 for the parts of these too."""
    threads: int = 0
    """Threads of a CPU; 0 leaves PyTorch's number."""

    def __post_init__(self) -> None:
        require_at_least("repeats", self.repeats, 1)
        require_at_least("levels", self.levels, 1)
        require_at_least("threads", self.threads, 0)


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

    from occloom.engine.benchmark import convolution_rate, count_frozen, count_parameters, example_scene, measure
    from occloom.engine.train import build_model, build_model_without_memory

    if options.threads:
        torch.set_num_threads(options.threads)
    model = build_model_without_memory(recipe)
    modules, frozen, left_out = count_parameters(model), count_frozen(model), dict(model.left_out)
    trainable = sum(modules.values())
    report: dict[str, Any] = {
        "recipe": recipe.name,
        "parameters": {
            "trainable": trainable,
            "modules": modules,
            "frozen": frozen,
            "left_out": left_out,
            "published": trainable + sum(frozen.values()) + sum(left_out.values()),
        },
    }
    if not options.parameters_only:
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        model, scene = build_model(recipe).to(device), example_scene(recipe, device)
        cost = measure(model, scene, repeats=options.repeats, levels=options.levels)
        report |= asdict(cost) | {
            "convolution_flops_per_second": convolution_rate(device),
            "device": str(device),
            "threads": torch.get_num_threads(),
        }
    print(json.dumps(report) if options.json else _text(report))
    return 0


def _text(report: dict[str, Any]) -> str:
    """The report as a person reads it."""
    parameters = report["parameters"]
    lines = [f"{'parameters':<24} {parameters['trainable']:>12,}"]
    lines += [f"  {name:<22} {count:>12,}" for name, count in parameters["modules"].items()]
    if parameters["frozen"]:
        lines += [f"{'frozen':<24} {sum(parameters['frozen'].values()):>12,} that training leaves as they are:"]
        lines += [f"  {name:<22} {count:>12,}" for name, count in parameters["frozen"].items()]
    if parameters["left_out"]:
        lines += [f"{'as published':<24} {parameters['published']:>12,} with those left out, as nothing uses them:"]
        lines += [f"  {name:<22} {count:>12,}" for name, count in parameters["left_out"].items()]
    if "flops" in report:
        between = report["latency_seconds"] - sum(
            module["seconds"] for name, module in report["modules"].items() if "." not in name
        )
        rate = report["convolution_flops_per_second"]
        lines += [
            f"{'operations':<24} {report['flops'] / 1e9:>12,.1f} GFLOP (a multiply-add counts two)",
            f"{'latency':<24} {report['latency_seconds']:>12.3f} s on {report['device']}, {report['threads']} threads",
            *(
                f"  {name:<22} {module['seconds']:>12.3f} s {module['flops'] / 1e9:>10,.1f} GFLOP"
                for name, module in report["modules"].items()
            ),
            f"  {'between them':<22} {between:>12.3f} s",
            f"{'peak memory':<24} {report['peak_memory_bytes'] / 2**20:>12,.0f} MiB",
            f"{'3D convolution':<24} {rate / 1e9:>12,.0f} GFLOP/s: all operations at this rate would take "
            f"{report['flops'] / rate:.3f} s",
        ]
    return "\n".join(lines)
