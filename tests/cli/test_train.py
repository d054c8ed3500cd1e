import json

import numpy as np
import pytest

from occloom.cli.main import run
from occloom.data.label_spaces import to_train_ids
from occloom.inference import load_recipe
from occloom.interfaces import Needs
from occloom.recipes import RECIPES


@pytest.mark.parametrize(("words", "code"), [(["train"], 2), (["train", "--help"], 0)])
def test_without_a_recipe_all_of_them_are_named(capsys, words, code):
    assert run(words) == code
    printed = capsys.readouterr()
    assert all(name in (printed.err if code else printed.out) for name in RECIPES)


def test_options_reach_the_run(tiny_run):
    assert len((tiny_run / "losses.csv").read_text().splitlines()) == 7
    assert (tiny_run / "latest").read_text() == "step-000006\n"


def test_the_same_command_finds_the_run_finished_and_another_is_refused(tiny_run, capsys):
    words = ["train", "tiny_recipes:tiny", "--out", str(tiny_run), "--train.steps"]
    assert run([*words, "6"]) == 0
    assert "step-000006" in capsys.readouterr().out
    assert run([*words, "7"]) == 2
    assert "train.steps = 6, this one 7" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--data.broken", "1"], "01/000001.bin: truncated"),
        (["--train.accumulate", "3"], "multiple of"),
    ],
)
def test_bad_input_is_one_line(tmp_path, capsys, words, named):
    assert run(["train", "tiny_recipes:tiny", "--out", str(tmp_path / "run"), *words]) == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("occloom: ")
    assert named in last


def test_a_value_that_its_field_refuses_is_told_with_the_rule(tmp_path, capsys):
    assert run(["train", "tiny_recipes:tiny", "--out", str(tmp_path / "run"), "--train.steps", "0"]) == 2
    assert "train.steps is 0; it must be at least 1" in capsys.readouterr().err


def test_a_missing_data_folder_is_one_line(tmp_path, capsys):
    words = ["train", "baseline-town", "--data.root", str(tmp_path / "nowhere"), "--out", str(tmp_path / "run")]
    assert run(words) == 2
    captured = capsys.readouterr()
    assert "nowhere" in captured.err
    assert captured.err.count("\n") == 1


def test_the_default_folder_is_named_after_the_recipe(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run(["train", "tiny_recipes:tiny", "--train.steps", "1"]) == 0
    assert (tmp_path / "runs" / "tiny_recipes-tiny" / "latest").is_file()


@pytest.mark.real_data
@pytest.mark.slow
def test_the_whole_path_runs_on_real_frames(real_data, tmp_path):
    """From stereo pairs on disk to predictions in files that hold what was scored."""
    root, depth, run_folder, out = real_data / "semantickitti", tmp_path / "depth", tmp_path / "run", tmp_path / "out"
    results, where = tmp_path / "results.json", ["--data.root", str(root), "--data.depth", str(depth)]
    assert run(["prepare", "depth", "--root", str(root), "--out", str(depth), "--workers", "1"]) == 0
    training = ["--data.train", "00", "04", "--data.val", "08", "--train.steps", "2", "--train.validate-every", "0"]
    assert run(["train", "baseline-town", *where, *training, "--train.workers", "0", "--out", str(run_folder)]) == 0
    assert run(["evaluate", str(run_folder), *where, "--workers", "0", "--out", str(results)]) == 0
    assert run(["predict", str(run_folder), "--root", str(root), "--out", str(out)]) == 0
    report = json.loads(results.read_text())
    assert report["frames"] == len(list(out.rglob("*.label"))) > 0
    # What evaluate counted in memory, counted again from the files that predict wrote.
    data, counts = load_recipe(run_folder).data.build("val", Needs(images=False)), np.zeros((20, 20), np.int64)
    for index, token in enumerate(data.tokens):
        sequence, frame = token.split("/")
        file = out / "sequences" / sequence / "predictions" / f"{frame}.label"
        predicted = to_train_ids(np.fromfile(file, "<u2").reshape(data.grid.shape))
        target = data.sample(index).target
        assert target is not None
        observed = target.observed[0].numpy()
        np.add.at(counts, (target.labels[0].numpy()[observed], predicted[observed]), 1)
    assert report["confusion"] == counts.tolist()
