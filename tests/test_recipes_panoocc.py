import json

import pytest

from occloom.cli.main import run
from occloom.models.bevformer import BevFormerConfig
from occloom.models.panoocc import PanoOccConfig
from occloom.recipes import RECIPES, resolve
from occloom.recipes_panoocc import PANOOCC_RECIPES

SIZES = ("base", "small", "tiny")


def test_they_are_listed():
    assert PANOOCC_RECIPES.items() <= RECIPES.items()


@pytest.mark.parametrize(("size", "view"), zip(SIZES, (46_235_328, 15_515_328, 7_835_328), strict=True))
def test_the_command_tells_the_published_parameters_of_the_view_transformation(size, view, capsys):
    """Reference protoocc 4: 46.24, 15.52 and 7.84 M."""
    assert run(["benchmark", f"panoocc-{size}-occ3d", "--parameters-only", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["parameters"]["modules"]["view_transformation"] == view


def queries(recipe):
    """How many a recipe's model has."""
    grid, model = recipe.data.grid, recipe.model
    if isinstance(model, PanoOccConfig):
        assert model.frames == recipe.data.num_frames
        return grid.with_fewer_voxels(model.coarsening).num_voxels
    assert isinstance(model, BevFormerConfig)
    return grid.with_fewer_voxels((*model.coarsening, grid.shape[2])).num_voxels


FULL = {"panoocc": [160_000, 40_000, 10_000], "bevformer": [40_000, 10_000, 2_500]}


@pytest.mark.parametrize("where", ["occ3d", "town"])
@pytest.mark.parametrize("system", FULL)
def test_queries_are_one_to_a_quarter_to_a_sixteenth(system, where):
    """Reference protoocc 1.2."""
    counts = [queries(resolve(f"{system}-{size}-{where}")) for size in SIZES]
    # An odd number of voxels along an axis is halved to one more than its half.
    tolerance = 0.1 if where == "town" else 1e-9
    assert counts[1] / counts[0] == pytest.approx(1 / 4, rel=tolerance)
    assert counts[2] / counts[0] == pytest.approx(1 / 16, rel=tolerance)
    assert where == "town" or counts == FULL[system]


def test_frames_are_four_keyframes_apart_and_pictures_lose_their_upper_rows():
    data = resolve("panoocc-base-occ3d").data
    assert data.keyframes == (0, -4, -8, -12)
    assert data.image_size == (432, 800)
    assert data.train_mask == data.val_mask == "camera"
