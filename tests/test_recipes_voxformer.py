import json

import pytest

from occloom.cli.main import run
from occloom.data.label_spaces import OCCUPANCY
from occloom.data.semantickitti import SemanticKittiConfig
from occloom.metrics.protocols import QUERIES
from occloom.models.voxformer import VoxFormerConfig
from occloom.models.voxformer_released import ReleasedPlaces
from occloom.recipes_voxformer import VOXFORMER_RECIPES


def test_query_recipes_are_trained_and_scored_as_the_released_network():
    """Classes and voxels of reference monoocc 2."""
    for name in ("voxformer-queries-semantickitti", "voxformer-queries-town"):
        recipe = VOXFORMER_RECIPES[name]()
        data = recipe.data
        assert isinstance(data, SemanticKittiConfig)
        assert data.label_space == OCCUPANCY
        assert data.grid.shape == (128, 128, 16)
        assert data.label_reduction == "monoscene"
        assert recipe.scored_by == QUERIES


def test_the_full_size_is_trained_as_released():
    train = VOXFORMER_RECIPES["voxformer-queries-semantickitti"]().train
    assert train.steps * train.batch_size == 24 * 3834
    assert (train.learning_rate, train.weight_decay, train.clip_norm) == (2e-4, 0.01, 35.0)
    factors = [train.schedule.factor(step, train.steps) for step in (0, 500, train.steps)]
    assert [round(factor, 4) for factor in factors] == [0.3333, 1.0, 0.001]


FULL_SIZE = {"voxformer-s-semantickitti": 58_179_988, "voxformer-t-semantickitti": 58_181_012}


@pytest.mark.parametrize("name", FULL_SIZE)
def test_the_command_tells_the_published_parameters_of_voxformer(name, capsys):
    """Reference monoocc 10; what training leaves alone and what is left out are told apart."""
    for recipe in (name, f"{name}-released"):
        assert run(["benchmark", recipe, "--parameters-only", "--json"]) == 0
        parameters = json.loads(capsys.readouterr().out)["parameters"]
        assert parameters["published"] == FULL_SIZE[name]
        assert parameters["left_out"]["images.trunk.layer4"] == 14_964_736
        assert parameters["frozen"].keys() == {"images"}


@pytest.mark.parametrize("name", FULL_SIZE)
def test_voxformer_is_trained_as_released(name):
    """Reference monoocc 3: no augmentation, 20 epochs, batches of four, warm-up from a third."""
    recipe = VOXFORMER_RECIPES[name]()
    train, data = recipe.train, recipe.data
    assert isinstance(data, SemanticKittiConfig)
    assert train.steps * train.batch_size == 20 * 3834
    assert (train.learning_rate, train.weight_decay, train.clip_norm) == (2e-4, 0.01, 35.0)
    assert (data.image_size, data.image_fit) == ((370, 1220), "crop")
    assert data.flip_probability == data.colour_jitter == 0
    assert sorted(-frame for frame in data.frames) == [0, 3, 6, 9, 12][: data.num_frames]


def test_every_voxformer_has_as_many_embeddings_as_pictures():
    models = {name: function() for name, function in VOXFORMER_RECIPES.items() if "queries" not in name}
    assert {name.split("-")[1] for name in models} == {"s", "t"}
    for name, recipe in models.items():
        assert isinstance(recipe.model, VoxFormerConfig)
        assert recipe.model.views == recipe.data.num_frames * recipe.data.num_cameras
        assert isinstance(recipe.model.places, ReleasedPlaces) == name.endswith("-released")
        assert isinstance(recipe.data, SemanticKittiConfig)
        assert recipe.data.camera_offset != name.endswith("-released")


def test_the_towns_twins_look_at_scans_that_have_pictures():
    for name, function in VOXFORMER_RECIPES.items():
        data = function().data
        assert isinstance(data, SemanticKittiConfig)
        assert not name.endswith("-town") or all(frame % 5 == 0 for frame in data.frames)
