import json
from dataclasses import replace
from types import MappingProxyType

import pytest
import torch
from tiny_recipes import TinyModel, TinyModelConfig, tiny

from occloom.cli.main import run
from occloom.engine.config import Recipe
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
    assert {name: module["flops"] for name, module in report["modules"].items()}.keys() == {"stem", "head"}
    assert sum(module["seconds"] for module in report["modules"].values()) < report["latency_seconds"]
    assert report["convolution_flops_per_second"] > 0


def lacking() -> Recipe:
    """A recipe whose model says that it lacks parameters of the published one."""

    class Lacking(TinyModel):
        left_out = MappingProxyType({"stem.unused": 17, "head.rows 1 to 3": 384})

    class LackingConfig(TinyModelConfig):
        def build(self, grid, label_space):
            return Lacking(self, grid, label_space)

    return replace(tiny(), model=LackingConfig())


def test_what_the_published_model_has_besides_is_told(capsys, monkeypatch):
    monkeypatch.setitem(RECIPES, "lacking", lacking)
    assert run(["benchmark", "lacking", "--json", "--parameters-only"]) == 0
    parameters = json.loads(capsys.readouterr().out)["parameters"]
    assert parameters["left_out"] == {"stem.unused": 17, "head.rows 1 to 3": 384}
    assert parameters["published"] == parameters["trainable"] + 401
    assert run(["benchmark", "lacking", "--parameters-only"]) == 0
    text = capsys.readouterr().out
    assert f"{parameters['published']:,} with those left out" in text
    assert "head.rows 1 to 3" in text
    assert run(["benchmark", "tiny_recipes:tiny", "--parameters-only"]) == 0
    assert "left out" not in capsys.readouterr().out


def half_frozen() -> Recipe:
    """A recipe whose model does not train its stem."""

    class HalfFrozenConfig(TinyModelConfig):
        def build(self, grid, label_space):
            model = TinyModel(self, grid, label_space)
            model.stem.requires_grad_(False)
            return model

    return replace(tiny(), model=HalfFrozenConfig())


def test_what_training_leaves_as_it_is_belongs_to_the_published_number(capsys, monkeypatch):
    monkeypatch.setitem(RECIPES, "half-frozen", half_frozen)
    assert run(["benchmark", "half-frozen", "--json", "--parameters-only"]) == 0
    parameters = json.loads(capsys.readouterr().out)["parameters"]
    stem = sum(p.numel() for p in build_model(tiny()).stem.parameters())
    assert parameters["frozen"] == {"stem": stem}
    assert parameters["published"] == parameters["trainable"] + stem
    assert run(["benchmark", "half-frozen", "--parameters-only"]) == 0
    assert f"{stem:,} that training leaves" in capsys.readouterr().out


def test_levels_and_threads(capsys):
    before = torch.get_num_threads()
    words = ["benchmark", "tiny_recipes:tiny", "--json", "--repeats", "1", "--levels", "2", "--threads", "2"]
    try:
        assert run(words) == 0
    finally:
        torch.set_num_threads(before)
    report = json.loads(capsys.readouterr().out)
    assert report["threads"] == 2
    assert set(report["modules"]) >= {"stem", "stem.0", "head.1"}
    assert run([*words[:-1], "-1"]) == 2
    assert "--threads is -1" in capsys.readouterr().err


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
    assert "between them" in text


def test_without_a_recipe_the_usage_is_shown(capsys):
    assert run(["benchmark"]) == 2
    assert "baseline-town" in capsys.readouterr().err
