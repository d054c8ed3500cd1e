import os
from dataclasses import dataclass

import pytest
from tiny_recipes import tiny

from occloom.cli.arguments import bind, leading_name, parse, ready_to_write, require_at_least, split_name
from occloom.engine.config import Cosine, OneCycle, TrainConfig
from occloom.errors import InputError


@dataclass(frozen=True)
class Options:
    """Own options."""

    number: int = 1
    """A number."""


def read(*words, **parts):
    return parse(Options, parts, list(words), prog="occloom test", description="A test.")


def test_options_and_parts_share_one_line():
    options, parts = read("--number", "3", "--train.steps", "5", "--model.channels", "2", **vars_of(tiny()))
    assert options == Options(number=3)
    assert parts["train"].steps == 5
    assert parts["model"] == type(tiny().model)(channels=2)
    assert parts["data"] == tiny().data


def vars_of(recipe):
    return {"model": recipe.model, "data": recipe.data, "train": recipe.train}


@pytest.mark.parametrize("schedule", [OneCycle(), Cosine()])
def test_a_field_of_several_kinds_keeps_the_kind_that_the_recipe_chose(schedule):
    _, parts = read("--train.schedule.warmup", "0.5", train=TrainConfig(schedule=schedule))
    assert parts["train"].schedule == type(schedule)(warmup=0.5)


def test_the_help_shows_the_lines_under_the_fields(capsys):
    with pytest.raises(SystemExit):
        read("--help", **vars_of(tiny()))
    text = capsys.readouterr().out
    assert "--train.clip-norm" in text
    assert "Largest norm of the gradient" in text


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (["a", "--b"], ("a", ["--b"])),
        (["--help"], (None, ["--help"])),
        ([], (None, [])),
    ],
)
def test_the_leading_name_is_split_off(words, answer):
    assert split_name(words) == answer


def greet(name: str = "you", *, times: int = 1) -> None:
    """Greet somebody.

    Args:
        name: Whom.
        times: How often.
    """
    print("\n".join([f"hello {name}"] * times))


def test_a_bound_function_waits_for_its_call(capsys):
    call = bind(greet, ["--name", "all", "--times", "2"], prog="occloom greet")
    assert capsys.readouterr().out == ""
    call()
    assert capsys.readouterr().out == "hello all\nhello all\n"


def test_the_help_of_a_function_begins_with_its_own_words(capsys):
    with pytest.raises(SystemExit):
        bind(greet, ["--help"], prog="occloom greet")
    printed = capsys.readouterr().out
    assert printed.index("Greet somebody.") < printed.index("Whom.")
    assert "Args:" not in printed


@pytest.mark.parametrize("columns", [None, "40", "200"])
def test_a_refusal_is_the_same_line_on_every_terminal(monkeypatch, columns):
    if columns is None:
        monkeypatch.delenv("COLUMNS", raising=False)
    else:
        monkeypatch.setenv("COLUMNS", columns)
    with pytest.raises(InputError) as caught:
        bind(greet, ["--nane", "a-name-that-is-longer-than-a-narrow-terminal-is-wide"], prog="occloom greet")
    assert str(caught.value) == (
        "unrecognized options: --nane, a-name-that-is-longer-than-a-narrow-terminal-is-wide; "
        "perhaps you meant --name; run `occloom greet --help`."
    )
    assert os.environ.get("COLUMNS") == columns


def test_a_refusal_has_no_colours(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    with pytest.raises(InputError) as caught:
        bind(greet, ["--times", "often"], prog="occloom greet")
    assert "\x1b" not in str(caught.value)


def test_what_a_record_refuses_is_an_input_error():
    with pytest.raises(InputError, match=r"train\.steps is 0; it must be at least 1"):
        read("--train.steps", "0", train=TrainConfig())


def test_a_leading_name_is_asked_for(capsys):
    assert leading_name(["a", "--b"], "NAME", "test", "usage") == ("a", ["--b"])
    with pytest.raises(InputError, match=r"no NAME.*occloom test --help"):
        leading_name(["--b"], "NAME", "test", "usage")
    with pytest.raises(SystemExit) as left:
        leading_name(["--help"], "NAME", "test", "usage")
    assert not left.value.code
    assert capsys.readouterr().out == "usage"


def test_small_numbers_are_refused():
    require_at_least("workers", 1, 1)
    with pytest.raises(InputError, match="--workers is 0"):
        require_at_least("workers", 0, 1)


def test_a_file_to_write_has_a_folder_and_is_none(tmp_path):
    ready_to_write(tmp_path / "new" / "file.json")
    assert (tmp_path / "new").is_dir()
    with pytest.raises(InputError, match="new: a folder"):
        ready_to_write(tmp_path / "new")
