from dataclasses import dataclass

import pytest
from tiny_recipes import tiny

from occloom.cli.arguments import parse, split_name
from occloom.engine.config import Cosine, OneCycle, TrainConfig


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
    assert "Largest norm of the gradient." in text


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
