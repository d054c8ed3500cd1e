import pytest

from occloom.cli.main import run
from occloom.cli.train import main
from occloom.recipes import RECIPES


def test_without_a_recipe_the_usage_names_all_of_them(capsys):
    assert main([]) == 2
    wrong = capsys.readouterr().err
    assert main(["--help"]) == 0
    asked = capsys.readouterr().out
    assert wrong == asked
    assert all(name in asked for name in RECIPES)


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
