"""`occloom evaluate CHECKPOINT`: score a checkpoint on a split."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from occloom.cli.arguments import leading_name, parse, ready_to_write, require_at_least
from occloom.cli.missing_cameras import incomplete_frames, missing_cameras
from occloom.inference import find_checkpoint, load_model, load_recipe, shipped_models
from occloom.interfaces import Split
from occloom.metrics.protocols import PROTOCOLS

USAGE = """usage: occloom evaluate CHECKPOINT [options]

Scores a checkpoint on a split and writes results.json. Several processes:
torchrun --nproc-per-node 2 -m occloom evaluate CHECKPOINT [options]

CHECKPOINT: a step folder, a run folder (its best step), or a shipped model ({shipped})
options: occloom evaluate CHECKPOINT --help
example: occloom evaluate runs/baseline-town --data.root town --split val
"""


@dataclass(frozen=True)
class EvaluateOptions:
    """The command's own options."""

    root: Path | None = None
    """Short for --data.root."""
    split: Split = "val"
    """Which sequences; --data.val names those of val."""
    protocol: Literal["recipe", "semantickitti", "monoscene", "sscbench"] = "recipe"
    """How counts become scores; the recipe's own unless another is named (Occ3D: of the mask in --data.val-mask)."""
    samples: int = 0
    """Score that many frames, evenly spaced; 0 for all."""
    batch_size: int = 1
    """Frames a prediction."""
    workers: int = 1
    """Processes that load frames."""
    shuffle_images: bool = False
    """Show the model another frame's images and depth instead of the right ones. A model that looks at its images does
    badly then; one that has only learned where things usually are does not."""
    out: Path = Path("results.json")
    """Where scores, counts and their origin are written."""

    def __post_init__(self) -> None:
        for option, value, least in (
            ("samples", self.samples, 0),
            ("batch-size", self.batch_size, 1),
            ("workers", self.workers, 0),
        ):
            require_at_least(option, value, least)


def main(arguments: list[str]) -> int:
    """Score the checkpoint named by the first argument; the others set options and fields of its data."""
    shipped = ", ".join(shipped_models()) or "none in this package"
    name, rest = leading_name(arguments, "CHECKPOINT", "evaluate", USAGE.format(shipped=shipped))
    recipe = load_recipe(name)
    options, parts = parse(
        EvaluateOptions,
        {"data": recipe.data},
        rest,
        prog=f"occloom evaluate {name}",
        description=f"Score {name}, which was trained by {recipe.name}.",
    )
    ready_to_write(options.out)
    data = parts["data"] if options.root is None else replace(parts["data"], root=options.root)

    from occloom.engine.evaluate import (
        count,
        evenly_spaced,
        other_scenes,
        require_same_labels,
        results,
    )  # slow to import
    from occloom.engine.launch import launch
    from occloom.engine.logs import progress_bar
    from occloom.engine.provenance import commit

    fabric = launch(recipe.train.precision)
    model = load_model(name, fabric.device)
    samples = data.build(options.split, model.needs)
    require_same_labels(model, samples)
    indices = evenly_spaced(len(samples), options.samples)
    with progress_bar() as progress:
        progress.disable = not fabric.is_global_zero
        task = progress.add_task("evaluating", total=-(-len(indices) // fabric.world_size))
        counts = count(
            model,
            samples,
            fabric,
            indices=indices,
            batch_size=options.batch_size,
            workers=options.workers,
            scene_of=other_scenes(samples.tokens) if options.shuffle_images else None,
            advance=lambda frames: progress.advance(task, frames),
        )
    if fabric.is_global_zero:
        protocol = PROTOCOLS.get(options.protocol, replace(recipe, data=data).scored_by)
        origin = {
            "checkpoint": str(find_checkpoint(name)),
            "recipe": recipe.name,
            "seed": recipe.train.seed,
            "commit": commit(),
            "root": str(data.root),
            "split": options.split,
            "frames_without_a_picture_of_every_camera": len(incomplete_frames(samples)),
            "shuffled_images": options.shuffle_images,
        }
        report = {**origin, **results(counts, protocol, samples.grid, samples.label_space)}
        options.out.write_text(json.dumps(report, indent=1) + "\n")
        print(protocol.card())
        print(report_text(report))
        for line in missing_cameras(samples):
            print(line)
        print(f"written: {options.out}")
    return 0


def report_text(report: dict[str, Any]) -> str:
    """The scores as a person reads them, in percent."""
    lines = [f"frames     {report['frames']}", f"mask       {report['mask']}"]
    lines += [f"{name:<10} {_percent(report[name])}" for name in ("iou", "precision", "recall", "miou")]
    lines += ["", *(f"  {name:<20} {_percent(value)}" for name, value in report["per_class"].items())]
    for title, key in (("distance, m", "by_distance"), ("height, m", "by_height")):
        lines += ["", f"{title:<18} {'IoU':>6} {'mIoU':>6}"]
        lines += [
            f"  {row['from']:>6.1f} - {row['to']:>5.1f}  {_percent(row['iou'])} {_percent(row['miou'])}"
            for row in report[key]
        ]
    return "\n".join(lines)


def _percent(value: float | None) -> str:
    """A fraction in percent; a dash where it is undefined."""
    return "     -" if value is None else f"{100 * value:6.2f}"
