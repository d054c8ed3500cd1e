"""Tables of evidence: rows of a TOML file, trained alike, scored alike, as one Markdown table.

title = "Does the wider trunk help?"
split = "val"                     # scored on; "val" unless given
seeds = [0, 1, 2]                 # of every row that names none
varies = ["data.depth"]           # fields of the data in which rows may differ, since that is the question
[shared]                          # overrides of every row
"data.root" = "town"
"train.steps" = 500
[[row]]
name = "baseline"                 # the first row is what the others are compared with
recipe = "baseline-town"
[[row]]
name = "wider"
recipe = "baseline-town"
seeds = [0]
overrides = { "model.trunk_width" = 48 }
"""

import json
import shlex
import statistics
import tomllib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lightning_fabric import Fabric

from occloom.engine import checkpoint
from occloom.engine.config import Recipe, from_json, override, to_json
from occloom.engine.evaluate import count, results
from occloom.engine.provenance import commit
from occloom.engine.train import fit
from occloom.errors import InputError
from occloom.interfaces import OccupancyModel, Split

SCORES = ("iou", "miou")


@dataclass(frozen=True)
class RowFile:
    """A row as it stands in the file."""

    name: str = ""
    recipe: str = ""
    seeds: tuple[int, ...] = ()
    """Those of the whole table unless given."""


@dataclass(frozen=True)
class TableFile:
    """The head of the file."""

    title: str = ""
    split: Split = "val"
    seeds: tuple[int, ...] = (0,)
    varies: tuple[str, ...] = ()
    """Fields of the data in which rows may differ."""


@dataclass(frozen=True)
class Row:
    """One line of the table: a recipe, trained once a seed."""

    name: str
    recipe: Recipe
    """With all overrides; its seed is replaced by each of `seeds`."""
    overrides: dict[str, Any]
    seeds: tuple[int, ...]

    def folder(self, out: Path, seed: int) -> Path:
        """The run folder of a seed."""
        slug = "".join(c if c.isalnum() else "-" for c in self.name.lower())
        return out / slug / f"seed-{seed}"

    def command(self, out: Path) -> str:
        """What repeats the first run of this row alone."""
        options = {**self.overrides, "train.seed": self.seeds[0]}
        words = [word for key, value in options.items() for word in _option(key.replace("_", "-"), value)]
        folder = self.folder(out, self.seeds[0])
        return shlex.join(["occloom", "train", self.recipe.name, *words, "--out", str(folder)])


@dataclass(frozen=True)
class Table:
    """A file's rows, which may be compared."""

    title: str
    split: Split
    rows: tuple[Row, ...]


def read_table(path: Path, resolve: Callable[[str], Recipe]) -> Table:
    """Read a file and see to it that its rows may be compared.

    Args:
        path: The file.
        resolve: A recipe by name.

    Raises:
        InputError: If the file is malformed, or rows differ in steps, batch, precision, data or protocol.
    """
    try:
        content = tomllib.loads(path.read_text())
    except ValueError as error:
        raise InputError(
            f"not TOML ({error})", where=path, remedy="correct the file; docs/training.md shows one"
        ) from None
    shared, rows = content.pop("shared", {}), content.pop("row", [])
    head = from_json(TableFile(), content, where=path)
    if not rows or not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise InputError("no [[row]]", where=path, rule="a table has one or more rows", remedy="begin each by [[row]]")
    for name, overrides in (("shared", shared), *(("overrides", row.get("overrides", {})) for row in rows)):
        if not isinstance(overrides, dict):
            raise InputError(f"{name} is {overrides!r}", where=path, rule="it is a table of fields such as train.steps")
    table = Table(head.title, head.split, tuple(_read_row(row, shared, head, path, resolve) for row in rows))
    if len({row.folder(path, 0) for row in table.rows}) < len(table.rows):
        raise InputError("two rows of one name", where=path, rule="names differ in letters or digits")
    _refuse_unequal(table, head.varies, path)
    return table


def _read_row(
    content: dict[str, Any], shared: dict[str, Any], head: TableFile, path: Path, resolve: Callable[[str], Recipe]
) -> Row:
    """A row of the file, with the shared overrides below its own."""
    overrides = {**shared, **content.pop("overrides", {})}
    row = from_json(RowFile(), content, where=path, prefix="row")
    if not row.name or not row.recipe:
        raise InputError(f"row {content}", where=path, rule="a row has a name and a recipe")
    if "train.seed" in overrides:
        raise InputError(f"row {row.name} overrides train.seed", where=path, rule="seeds are named by `seeds`")
    recipe = resolve(row.recipe)
    parts = {"model": recipe.model, "data": recipe.data, "train": recipe.train}
    changed = override(_Parts(**parts), overrides, where=path)
    return Row(row.name, replace(recipe, **vars(changed)), overrides, row.seeds or head.seeds)


@dataclass(frozen=True)
class _Parts:
    """What a row may override."""

    model: Any
    data: Any
    train: Any


def _refuse_unequal(table: Table, varies: tuple[str, ...], path: Path) -> None:
    """Rows that saw other samples, or more of them, do not show what their difference does."""
    first = _must_agree(table.rows[0].recipe)
    unknown = [name for name in varies if name not in first or not name.startswith("data.")]
    if unknown:
        raise InputError(f"varies names {unknown[0]}", where=path, rule="it names fields such as data.depth")
    for row in table.rows[1:]:
        for what, value in _must_agree(row.recipe).items():
            expected = first.get(what)
            if value != expected and what not in varies:
                raise InputError(
                    f"row {row.name} has {what} = {value}, row {table.rows[0].name} has {expected}",
                    where=path,
                    rule="all rows have equal steps, batch, precision, data and protocol",
                    remedy="put it under [shared], or name what the table compares in `varies`",
                )


def _must_agree(recipe: Recipe) -> dict[str, Any]:
    """What all rows share."""
    data = {f"data.{name}": value for name, value in to_json(recipe.data).items()}
    train = {f"train.{name}": getattr(recipe.train, name) for name in ("steps", "batch_size", "precision")}
    return {**train, **data, "protocol": recipe.scored_by.name}


def run_table(
    table: Table, out: Path, fabric: Fabric, load: Callable[[Path], OccupancyModel], tell: Callable[[str], None]
) -> list[list[dict[str, Any]]]:
    """Train and score what is not yet done.

    Args:
        table: The rows.
        out: Folder of all runs; runs that are finished there are skipped, interrupted ones go on.
        fabric: As `launch` returns it.
        load: A model from a checkpoint folder.
        tell: Takes lines for the reader.

    Returns:
        For each row the results of its seeds.
    """
    everything = []
    for row in table.rows:
        finished = []
        for seed in row.seeds:
            recipe = replace(row.recipe, train=replace(row.recipe.train, seed=seed))
            finished.append(_run(row, recipe, row.folder(out, seed), table.split, fabric, load, tell))
        everything.append(finished)
    return everything


def _run(
    row: Row,
    recipe: Recipe,
    run: Path,
    split: Split,
    fabric: Fabric,
    load: Callable[[Path], OccupancyModel],
    tell: Callable[[str], None],
) -> dict[str, Any]:
    """The results of one run, made now or earlier."""
    label = f"{row.name}, seed {recipe.train.seed}"
    identity = _identity(recipe)
    path = run / f"results-{split}.json"
    if path.is_file():
        report = _read_report(path)
        if report["identity"] == identity:
            tell(f"{label}: done before")
            return report
        raise InputError(
            f"{label} was run with other settings", where=path, remedy="name another --out, or remove the folder"
        )
    tell(f"{label}: {'going on' if checkpoint.pointed(run, 'latest') else 'training'}")
    folder = fit(recipe, run, fabric)
    # The last step, not the best on the split that is scored: that choice would flatter rows that vary more.
    model = load(folder)
    samples = recipe.data.build(split, model.needs)
    counts = count(model, samples, fabric, indices=range(len(samples)), workers=recipe.train.workers)
    report = {
        "identity": identity,
        "commit": commit(),
        "seed": recipe.train.seed,
        **results(counts, recipe.scored_by, samples.grid, samples.label_space),
    }
    if fabric.is_global_zero:
        unfinished = path.with_suffix(".unfinished")
        unfinished.write_text(json.dumps(report) + "\n")
        unfinished.replace(path)
    fabric.barrier()
    return report


def _read_report(path: Path) -> dict[str, Any]:
    """The results of a run that was finished before.

    Raises:
        InputError: If the file holds something else.
    """
    try:
        report = json.loads(path.read_text())
    except ValueError as error:
        raise InputError(f"not JSON ({error})", where=path, remedy="remove the file to score the run again") from None
    needed = {"identity", "commit", "frames", *SCORES}
    if not isinstance(report, dict) or needed - report.keys():
        raise InputError(
            "not the results of a run",
            where=path,
            rule=f"it has {', '.join(sorted(needed))}",
            remedy="remove the file to score the run again",
        )
    return report


def _identity(recipe: Recipe) -> dict[str, Any]:
    """What a result depends on: all of the recipe but where data lies and who loads it."""
    identity = {"recipe": recipe.name, **{p: to_json(getattr(recipe, p)) for p in ("model", "data", "train")}}
    del identity["data"]["root"], identity["train"]["workers"]
    return identity


def markdown(table: Table, reports: list[list[dict[str, Any]]], out: Path) -> str:
    """The table as text, in percent: mean and spread (largest minus smallest) over seeds, commands below.

    A difference from the first row counts as decided where it is larger than the larger spread of the two rows; rows
    of one seed have no spread of their own, and where neither has one nothing is decided.
    """
    config, protocol = table.rows[0].recipe.train, table.rows[0].recipe.scored_by
    lines = [f"### {table.title}", ""] if table.title else []
    lines += [
        f"{config.steps} steps of {config.batch_size} samples = {config.steps * config.batch_size} samples a run; "
        f"scored on {reports[0][0]['frames']} frames of `{table.split}`, protocol {protocol.title}, "
        "percent, last step; a spread is largest minus smallest over seeds.",
        "",
        "| row | IoU | mIoU | IoU vs first | mIoU vs first | seeds | commit |",
        "|---|---|---|---|---|---|---|",
    ]
    for row, report in zip(table.rows, reports, strict=True):
        cells = [_mean_and_spread([r[score] for r in report]) for score in SCORES]
        for score in SCORES:
            pair = [[r[score] for r in reports[0]], [r[score] for r in report]]
            cells.append("" if report is reports[0] else _difference(*pair))
        commits = ", ".join(sorted({r["commit"] for r in report}))
        seeds = " ".join(str(seed) for seed in row.seeds)
        lines.append(f"| {row.name} | {' | '.join(cells)} | {seeds} | {commits} |")
    lines += ["", "Commands (first seed of each row):", "", "```"]
    lines += [row.command(out) for row in table.rows]
    return "\n".join([*lines, "```", ""])


def _mean_and_spread(values: list[float]) -> str:
    """The mean in percent, and the spread where there are several values."""
    mean = 100 * statistics.fmean(values)
    return f"{mean:.2f}" if len(values) == 1 else f"{mean:.2f} (spread {_spread(values):.2f})"


def _spread(values: list[float]) -> float:
    """Largest minus smallest, in percent points."""
    return 100 * (max(values) - min(values))


def _difference(first: list[float], values: list[float]) -> str:
    """How much more than the first row, in percent points, and whether that is decided."""
    difference = 100 * (statistics.fmean(values) - statistics.fmean(first))
    spreads = [_spread(seeds) for seeds in (first, values) if len(seeds) > 1]
    decided = bool(spreads) and abs(difference) > max(spreads)
    return f"{difference:+.2f}" if decided else f"{difference:+.2f} undecided"


def _option(key: str, value: Any) -> list[str]:
    """The words of an override on a command line."""
    if isinstance(value, bool):
        parents, _, name = key.rpartition(".")
        return [f"--{key}" if value else f"--{parents}.no-{name}"]
    return [f"--{key}", *(str(item) for item in (value if isinstance(value, list) else [value]))]
