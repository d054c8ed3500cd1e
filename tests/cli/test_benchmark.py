import json

import pytest
from tiny_recipes import tiny

from occloom.cli.main import run
from occloom.engine.train import build_model
from occloom.recipes import RECIPES


def test_json_is_one_object_and_nothing_else(capsys):
    assert run(["benchmark", "tiny_recipes:tiny", "--json", "--repeats", "1"]) == 0
    report = json.loads(capsys.readouterr().out)
    trainable = sum(p.numel() for p in build_model(tiny()).parameters())
    assert report["parameters"]["trainable"] == trainable == sum(report["parameters"]["modules"].values())
    assert report["flops"] > 0
    assert report["latency_seconds"] > 0
    assert report["peak_memory_bytes"] > 0


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.timeout(30)
def test_parameters_alone_take_no_run(capsys, name):
    assert run(["benchmark", name, "--parameters-only", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert set(report) == {"recipe", "parameters"}
    assert report["parameters"]["trainable"] == sum(report["parameters"]["modules"].values())


def test_options_change_the_model(capsys):
    counts = []
    for channels in ("4", "8"):
        words = ["benchmark", "tiny_recipes:tiny", "--parameters-only", "--json", "--model.channels", channels]
        assert run(words) == 0
        counts.append(json.loads(capsys.readouterr().out)["parameters"]["trainable"])
    assert counts[0] < counts[1]


def test_text_is_for_people(capsys):
    assert run(["benchmark", "tiny_recipes:tiny", "--repeats", "1"]) == 0
    text = capsys.readouterr().out
    assert "GFLOP" in text
    assert "stem" in text


def test_without_a_recipe_the_usage_is_shown(capsys):
    assert run(["benchmark"]) == 2
    assert "baseline-town" in capsys.readouterr().err
