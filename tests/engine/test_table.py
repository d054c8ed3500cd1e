import json
import statistics
import subprocess

import pytest
from tiny_recipes import tiny, tiny_wide

from occloom.engine import checkpoint
from occloom.engine.table import Row, Table, markdown, read_table, run_table
from occloom.errors import InputError
from occloom.inference import load_model
from occloom.recipes import resolve

HEAD = """
title = "Width"
seeds = [0, 1]
[shared]
"train.steps" = 4
"""
TWO_ROWS = (
    HEAD
    + """
[[row]]
name = "tiny"
recipe = "tiny_recipes:tiny"
[[row]]
name = "Wide net"
recipe = "tiny_recipes:tiny_wide"
seeds = [0]
overrides = { "model.dropout" = 0 }
"""
)


def read(tmp_path, text) -> Table:
    path = tmp_path / "table.toml"
    path.write_text(text)
    return read_table(path, resolve)


def run(table, out, fabric):
    told = []
    return run_table(table, out, fabric, load_model, told.append), told


def test_rows_are_recipes_with_shared_and_own_overrides(tmp_path):
    table = read(tmp_path, TWO_ROWS)
    assert (table.title, table.split) == ("Width", "val")
    first, second = table.rows
    assert (first.seeds, second.seeds) == ((0, 1), (0,))
    assert first.recipe.train.steps == second.recipe.train.steps == 4
    assert second.recipe.model == type(tiny().model)(channels=16, dropout=0.0)
    assert second.command(tmp_path) == (
        "occloom train tiny_recipes:tiny_wide --train.steps 4 --model.dropout 0 --train.seed 0 "
        f"--out {tmp_path}/wide-net/seed-0"
    )


def test_a_command_is_quoted_as_a_shell_reads_it(tmp_path):
    (row, _) = read(tmp_path, TWO_ROWS.replace('"train.steps" = 4', '"train.steps" = 4\n"data.root" = "my $HOME"')).rows
    printed = subprocess.run(
        ["sh", "-c", f"printf '%s\\n' {row.command(tmp_path / 'a b')}"], capture_output=True, text=True, check=True
    )
    assert printed.stdout.splitlines() == [
        *["occloom", "train", "tiny_recipes:tiny", "--train.steps", "4", "--data.root"],
        "my $HOME",
        *["--train.seed", "0", "--out"],
        f"{tmp_path}/a b/tiny/seed-0",
    ]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ('{ "train.steps" = 5 }', r"Wide net has train\.steps = 5, row tiny has 4"),
        ('{ "train.batch_size" = 1 }', r"train\.batch_size"),
        ('{ "data.image_size" = [8, 8] }', r"data\.image_size"),
        ('{ "model.drop" = 0 }', r"unknown field model\.drop"),
        ('{ "train.seed" = 3 }', "seeds"),
    ],
)
def test_rows_that_cannot_be_compared_are_refused(tmp_path, change, named):
    with pytest.raises(InputError, match=named) as error:
        read(tmp_path, TWO_ROWS.replace('{ "model.dropout" = 0 }', change))
    assert "table.toml" in str(error.value)


def test_rows_may_differ_in_what_the_table_compares(tmp_path):
    text = TWO_ROWS.replace('{ "model.dropout" = 0 }', '{ "data.image_size" = [8, 8] }')
    table = read(tmp_path, 'varies = ["data.image_size"]\n' + text)
    assert [row.recipe.data.image_size for row in table.rows] == [tiny().data.image_size, (8, 8)]
    for other in ("data.samples", "train.steps", "data.nonsense"):
        with pytest.raises(InputError, match=f"varies names {other}|data.image_size"):
            read(tmp_path, f'varies = ["{other}"]\n' + text)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("title = 3", "title"),
        ("title = ", "not TOML"),
        ('title = "x"', r"no \[\[row\]\]"),
        ('[[row]]\nname = "a"', "name and a recipe"),
        ('[[row]]\nname = "a"\nrecipe = "tiny_recipes:tiny"\nseed = 1', r"unknown field row\.seed"),
        (HEAD + 2 * '[[row]]\nname = "a"\nrecipe = "tiny_recipes:tiny"\n', "two rows of one name"),
    ],
)
def test_malformed_files_are_named(tmp_path, text, named):
    with pytest.raises(InputError, match=named):
        read(tmp_path, text)


def test_finished_runs_are_skipped_and_interrupted_ones_go_on(tmp_path, fabric):
    table = read(tmp_path, TWO_ROWS)
    reports, told = run(table, tmp_path / "out", fabric)
    assert told == ["tiny, seed 0: training", "tiny, seed 1: training", "Wide net, seed 0: training"]
    (tmp_path / "out" / "tiny" / "seed-1" / "results-val.json").unlink()
    again, told = run(table, tmp_path / "out", fabric)
    assert told == ["tiny, seed 0: done before", "tiny, seed 1: going on", "Wide net, seed 0: done before"]
    assert [[r["confusion"] for r in row] for row in again] == [[r["confusion"] for r in row] for row in reports]
    assert [r["seed"] for r in again[0]] == [0, 1]


def test_a_result_of_other_settings_is_not_passed_off_as_this_rows(tmp_path, fabric):
    table = read(tmp_path, TWO_ROWS)
    run(table, tmp_path / "out", fabric)
    with pytest.raises(InputError, match="other settings"):
        run(read(tmp_path, TWO_ROWS.replace("dropout", "channels").replace("= 0 }", "= 4 }")), tmp_path / "out", fabric)


def test_scores_are_those_of_the_last_step(tmp_path, fabric):
    table = read(tmp_path, TWO_ROWS)
    reports, _ = run(table, tmp_path / "out", fabric)
    from occloom.engine.evaluate import count

    folder = checkpoint.pointed(tmp_path / "out" / "wide-net" / "seed-0", "latest")
    assert folder.name == "step-000004"
    data = tiny().data.build("val", load_model(folder).needs)
    counts = count(load_model(folder), data, fabric, indices=range(len(data)))
    assert reports[1][0]["confusion"] == counts.total.tolist()


def made_up(*scores):
    return [{"iou": 0.5, "miou": miou, "frames": 5, "commit": "abc", "seed": seed} for seed, miou in enumerate(scores)]


@pytest.mark.parametrize(
    ("first", "second", "cell"),
    [
        ((0.10, 0.12), (0.15, 0.16), "+4.50"),
        ((0.10, 0.12), (0.12, 0.13), "+1.50 undecided"),
        ((0.10, 0.12), (0.20,), "+9.00"),
        ((0.10,), (0.20,), "+10.00 undecided"),
        ((0.10, 0.101), (0.05, 0.15), "-0.05 undecided"),
    ],
)
def test_differences_below_the_spread_are_undecided(tmp_path, first, second, cell):
    rows = (Row("a", tiny(), {}, (0, 1)), Row("b", tiny_wide(), {}, (0, 1)))
    text = markdown(Table("T", "val", rows), [made_up(*first), made_up(*second)], tmp_path)
    row = next(line for line in text.splitlines() if line.startswith("| b "))
    assert [part.strip() for part in row.split("|")][5] == cell
    assert f"{100 * statistics.fmean(second):.2f}" in row
    assert "abc" in row
    if len(second) > 1:
        assert f"(spread {100 * (max(second) - min(second)):.2f})" in row


def test_booleans_become_flags(tmp_path):
    row = Row("a", tiny(), {"data.all_observed": True, "model.norm": False, "data.image_size": [4, 6]}, (7,))
    assert "--data.all-observed --model.no-norm --data.image-size 4 6 --train.seed 7" in row.command(tmp_path)


def test_results_are_json_on_the_disk(tmp_path, fabric):
    table = read(tmp_path, TWO_ROWS)
    reports, _ = run(table, tmp_path / "out", fabric)
    path = tmp_path / "out" / "tiny" / "seed-0" / "results-val.json"
    assert json.loads(path.read_text()) == reports[0][0]
