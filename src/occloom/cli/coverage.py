"""`occloom coverage RECIPE`: what Dr.Occ's mask and lifting cover of a data set's labels, prior by prior."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from occloom.cli.arguments import leading_name, parse, require_at_least
from occloom.data.occ3d import Occ3dConfig
from occloom.engine.logs import progress_bar
from occloom.errors import InputError
from occloom.interfaces import Needs, Split
from occloom.models.drocc_bevdet4d import DrOccConfig
from occloom.models.drocc_statistics import CoverageCounts, count_coverage, lifted_voxels
from occloom.recipes import RECIPES, resolve

USAGE = """usage: occloom coverage RECIPE [--priors NAME ...] [--split val] [options]

Counts, for each depth prior, how much of the labels Dr.Occ's occupancy mask covers: Eq. 5 erases the features of what
it misses. Also the share of empty voxels, and of voxels that lifting fills. No model runs.

recipes: {recipes}, or an importable function as package.module:function
example: occloom coverage drocc-bevdet4d-town --data.root town-surround --priors town-exact lidar
"""


@dataclass(frozen=True)
class CoverageOptions:
    """The command's own options."""

    priors: tuple[Path, ...] = ()
    """Prepared priors, as --data.prior names them; that one alone unless given."""
    split: Split = "val"
    """Whose samples are counted; --data.val-mask none counts voxels that no camera sees too."""
    samples: int = 0
    """The first samples of the split; 0 for all."""

    def __post_init__(self) -> None:
        require_at_least("samples", self.samples, 0)


def main(arguments: list[str]) -> int:
    """Count for the recipe named by the first argument; the others replace fields of it."""
    recipes = ", ".join(RECIPES)
    name, rest = leading_name(arguments, f"RECIPE ({recipes})", "coverage", USAGE.format(recipes=recipes))
    recipe = resolve(name)
    options, parts = parse(
        CoverageOptions,
        {"model": recipe.model, "data": recipe.data},
        rest,
        prog=f"occloom coverage {name}",
        description=f"Count what the mask of {name} covers.",
    )
    model, data = parts["model"], parts["data"]
    if not isinstance(model, DrOccConfig) or not isinstance(data, Occ3dConfig):
        raise InputError(f"{name} is no recipe of Dr.Occ on Occ3D", rule="coverage is that of Dr.Occ's mask")
    counts, number = [], 0
    priors = options.priors or ((data.prior,) if data.prior is not None else ())
    for prior in priors:
        total, number = count_prior(model, replace(data, prior=prior), options)
        counts.append(total)
    if not counts:
        raise InputError("no prior is named", rule="coverage is that of a prior's mask", remedy="add --priors NAME")
    print(report([str(prior) for prior in priors], counts, number, options.split, data.label_space.names))
    return 0


def count_prior(model: DrOccConfig, data: Occ3dConfig, options: CoverageOptions) -> tuple[CoverageCounts, int]:
    """Counts over a split, and over how many samples.

    Raises:
        InputError: If the split has no labels, or files are missing.
    """
    dataset = data.build(options.split, Needs(images=False, prior_depth=True))
    lifting = model.baseline.lifting
    height, width = data.image_size
    size = (-(-height // lifting.feature_stride), -(-width // lifting.feature_stride))
    number = min(options.samples or len(dataset), len(dataset))
    total: CoverageCounts | None = None
    with progress_bar() as bar:
        for index in bar.track(range(number), description=f"counting {data.prior}"):
            sample = dataset.sample(index)
            if sample.target is None:
                raise InputError("no voxel labels", where=data.root, rule="coverage is counted on labels")
            filled = lifted_voxels(
                sample.scene, data.grid, lifting.planes, size, lifting.feature_stride, frames=lifting.frames
            )
            counts = count_coverage(
                sample,
                data.grid,
                data.label_space,
                coarsening=model.coarsening,
                dilation=model.refinement.dilation,
                lifted=filled,
            )
            total = counts if total is None else total + counts
    assert total is not None, "a data set has at least one sample"
    return total, number


def report(
    priors: Sequence[str], counts: Sequence[CoverageCounts], number: int, split: str, names: Sequence[str]
) -> str:
    """Two tables of Markdown, in per cent: of all voxels, and of those of each class."""
    first = counts[0]
    lines = [
        f"{number} samples of `{split}`, {int(first.observed):,} voxels that count: "
        f"{percent(first.empty, first.observed)} % are empty. Lifting fills "
        f"{percent(first.lifted_now, first.voxels)} % of all voxels from the present frame, "
        f"{percent(first.lifted, first.voxels)} % from all. Per cent:",
        "",
        "| prior | voxels in M | coarse voxels in M_down | of these occupied | occupied coarse voxels in M_down "
        "| occupied voxels that M misses | occupied voxels that M_down misses |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for prior, c in zip(priors, counts, strict=True):
        shares = [
            percent(c.masked, c.voxels),
            percent(c.coarse_masked, c.coarse),
            percent(c.coarse_right, c.coarse_masked),
            percent(c.coarse_right, c.coarse_occupied),
            percent(c.missed.sum(), c.occupied.sum()),
            percent(c.erased.sum(), c.occupied.sum()),
        ]
        lines.append(f"| {prior} | {' | '.join(shares)} |")
    lines += ["", f"| class | voxels | {' | '.join(f'missed by M_down, {prior}' for prior in priors)} |"]
    lines.append("|---|---:|" + "---:|" * len(priors))
    for label, name in enumerate(names):
        if first.occupied[label] > 0:
            shares = [percent(c.erased[label], c.occupied[label]) for c in counts]
            lines.append(f"| {name} | {int(first.occupied[label]):,} | {' | '.join(shares)} |")
    return "\n".join(lines)


def percent(part: Tensor, whole: Tensor) -> str:
    """A share in per cent; a dash where there is no whole."""
    return f"{100 * int(part) / int(whole):.2f}" if int(whole) else "-"
