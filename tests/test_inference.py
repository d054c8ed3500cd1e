from dataclasses import replace

import pytest
import torch
from tiny_recipes import TinyModelConfig, tiny

from occloom import inference
from occloom.engine import checkpoint
from occloom.engine.launch import launch
from occloom.engine.train import fit
from occloom.errors import InputError
from occloom.inference import find_checkpoint, load_model, load_recipe, shipped_models


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inference") / "run"
    recipe = replace(tiny(), model=TinyModelConfig(channels=5), train=replace(tiny().train, steps=6))
    before = torch.are_deterministic_algorithms_enabled()
    fit(recipe, folder, launch())
    torch.use_deterministic_algorithms(before)
    return folder


@pytest.fixture
def shipped(run, tmp_path, monkeypatch):
    """A package that comes with one model."""
    checkpoint.export(find_checkpoint(run), tmp_path / "tiny-model", base=tiny())
    monkeypatch.setattr(inference, "SHIPPED", tmp_path)
    return "tiny-model"


def test_a_checkpoint_brings_its_recipe_back_as_it_was(run):
    recipe = load_recipe(run)
    assert recipe.model == TinyModelConfig(channels=5)
    assert recipe.train.steps == 6
    assert recipe.name == "tiny_recipes:tiny"


def test_a_loaded_model_is_the_average_and_ready_to_predict(run):
    model = load_model(run)
    assert not model.training
    average = torch.nn.Module.state_dict(model)
    from safetensors.torch import load_file

    for name, tensor in load_file(find_checkpoint(run) / "ema.safetensors").items():
        assert torch.equal(average[name], tensor)
    scene = tiny().data.build("val", model.needs).sample(0).scene.to(dtype=torch.float32)
    assert torch.equal(model.predict(scene), model.predict(scene))
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_loading_leaves_the_random_numbers_alone(run):
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    load_model(run)
    assert torch.equal(torch.rand(3), expected)


def test_a_step_folder_is_itself(run):
    folder = checkpoint.pointed(run, "latest")
    assert find_checkpoint(folder) == folder


def test_a_shipped_model_is_found_by_its_name(shipped, run):
    assert shipped_models() == [shipped]
    one, two = load_model(shipped), load_model(run)
    assert all(torch.equal(p, q) for p, q in zip(one.parameters(), two.parameters(), strict=True))


def test_unknown_names_are_refused(shipped):
    with pytest.raises(InputError, match="no-such-model: no such folder"):
        load_model("no-such-model")


@pytest.mark.parametrize("name", shipped_models())
def test_what_is_shipped_loads(name):
    model = load_model(name)
    assert sum(p.numel() for p in model.parameters()) > 0
