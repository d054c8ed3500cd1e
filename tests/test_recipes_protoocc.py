import json
from dataclasses import replace

import pytest

from occloom.cli.main import run
from occloom.data.occ3d import Occ3dConfig
from occloom.data.semantickitti import SemanticKittiConfig
from occloom.models.protoocc import ProtoOccConfig
from occloom.models.protoocc_symphonies import ProtoSymphoniesConfig
from occloom.models.protoocc_voxformer import ProtoVoxFormerConfig
from occloom.models.voxformer import VoxFormerConfig
from occloom.recipes import resolve
from occloom.recipes_protoocc import MASKS, PROTOOCC_RECIPES

PLACES = ("semantickitti", "town")
ON_PANOOCC = [f"protoocc-{size}-{where}" for size in ("base", "small", "tiny") for where in ("occ3d", "town")]


@pytest.mark.parametrize("name", ON_PANOOCC)
def test_a_recipe_is_its_baselines_but_for_model_and_masks(name):
    """So that what a table compares differs in ProtoOcc alone."""
    recipe, baseline = resolve(name), resolve(name.replace("protoocc", "panoocc"))
    assert isinstance(recipe.model, ProtoOccConfig)
    assert isinstance(baseline.data, Occ3dConfig)
    assert recipe.model.baseline == baseline.model
    assert recipe.data == replace(baseline.data, masks=MASKS)
    assert recipe.train == baseline.train
    assert recipe.protocol == baseline.protocol


@pytest.mark.parametrize("where", PLACES)
@pytest.mark.parametrize(("size", "baseline"), [("base", "voxformer-s"), ("small", "voxformer-small")])
def test_a_recipe_on_voxformer_is_its_baselines_but_for_model_and_masks(size, baseline, where):
    """It may run longer: tables, which refuse rows of different steps, name the number."""
    recipe, plain = resolve(f"protoocc-voxformer-{size}-{where}"), resolve(f"{baseline}-{where}")
    assert isinstance(recipe.model, ProtoVoxFormerConfig)
    assert isinstance(plain.data, SemanticKittiConfig)
    assert recipe.model.baseline == plain.model
    assert recipe.data == replace(plain.data, masks=MASKS)
    assert recipe.train == replace(plain.train, steps=recipe.train.steps)
    assert recipe.train.steps >= plain.train.steps


@pytest.mark.parametrize("name", [f"symphonies-{size}-{where}" for size in ("base", "small") for where in PLACES])
def test_a_recipe_on_symphonies_is_its_baselines_but_for_model_and_masks(name):
    recipe, plain = resolve(f"protoocc-{name}"), resolve(name)
    assert isinstance(recipe.model, ProtoSymphoniesConfig)
    assert isinstance(plain.data, SemanticKittiConfig)
    assert recipe.model.baseline == plain.model
    assert recipe.data == replace(plain.data, masks=MASKS)
    assert recipe.train == plain.train


@pytest.mark.parametrize(("where", "voxels"), [("semantickitti", (128, 128, 16)), ("town", (64, 64, 4))])
def test_small_has_an_eighth_of_the_voxels(where, voxels):
    shapes = []
    for name in ("voxformer-s", "voxformer-small"):
        recipe = resolve(f"{name}-{where}")
        assert isinstance(recipe.model, VoxFormerConfig)
        shapes.append(recipe.data.grid.coarsen(recipe.model.volume_coarsening).shape)
    assert shapes == [voxels, tuple(n // 2 for n in voxels)]


def test_every_recipe_has_a_twin_on_the_town():
    full = {name for name in PROTOOCC_RECIPES if not name.endswith("-town")}
    twins = {name.removesuffix("-town") for name in PROTOOCC_RECIPES.keys() - full}
    assert {name.rpartition("-")[0] for name in full} == twins


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("protoocc-base-occ3d", 46_827_456),
        ("protoocc-small-occ3d", 16_107_456),
        ("protoocc-tiny-occ3d", 8_427_456),
    ],
)
def test_the_command_tells_what_the_paper_counts(name: str, count: int, capsys: pytest.CaptureFixture[str]):
    """Table 3: 16.11 M of ProtoOcc-Small's view transformation (reference protoocc 4)."""
    assert run(["benchmark", name, "--parameters-only", "--json"]) == 0
    modules = json.loads(capsys.readouterr().out)["parameters"]["modules"]
    assert modules["view_transformation"] == count
