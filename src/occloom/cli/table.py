"""`occloom table FILE.toml`: train and score rows, print one Markdown table."""

import sys
from pathlib import Path
from typing import Annotated

import tyro


def table(file: Annotated[Path, tyro.conf.Positional], *, out: Path | None = None) -> None:
    """Train and score the rows of a TOML file and print one Markdown table.

    Rows that are finished are skipped, interrupted ones go on. docs/training.md shows a file.

    Args:
        file: Rows: recipes, overrides and seeds.
        out: Folder of the runs and of table.md; runs/ and the file's name unless given.
    """
    from occloom.engine.launch import launch  # slow to import, not needed for --help
    from occloom.engine.table import markdown, read_table, run_table
    from occloom.inference import load_model
    from occloom.recipes import resolve

    folder = out or Path("runs") / file.stem
    rows = read_table(file, resolve)
    fabric = launch(rows.rows[0].recipe.train.precision)
    first = fabric.is_global_zero
    reports = run_table(
        rows,
        folder,
        fabric,
        lambda checkpoint: load_model(checkpoint, fabric.device),
        lambda line: print(line, file=sys.stderr) if first else None,
    )
    if first:
        text = markdown(rows, reports, folder)
        (folder / "table.md").write_text(text)
        print(text)
