import pytest

from occloom.recipes import RECIPES
from occloom.recipes_symphonies import SYMPHONIES_RECIPES


def test_they_are_listed():
    assert SYMPHONIES_RECIPES.items() <= RECIPES.items()


@pytest.mark.parametrize(
    ("where", "shapes"),
    [("semantickitti", [(128, 128, 8), (64, 64, 8)]), ("town", [(64, 64, 4), (32, 32, 2)])],
)
def test_the_scenes_have_these_sizes(where, shapes):
    """128x128x8 as released against 64x64x8 (reference protoocc 3.1); on the town an eighth of the voxels."""
    recipes = [SYMPHONIES_RECIPES[f"symphonies-{size}-{where}"]() for size in ("base", "small")]
    assert [recipe.data.grid.coarsen(recipe.model.volume_coarsening).shape for recipe in recipes] == shapes


def test_it_is_trained_as_released_but_for_the_schedule():
    """Reference monoocc 8: AdamW 2e-4, weight decay 1e-4, 30 epochs, batches of four, mirrored or not."""
    recipe = SYMPHONIES_RECIPES["symphonies-base-semantickitti"]()
    train = recipe.train
    assert (train.learning_rate, train.weight_decay) == (2e-4, 1e-4)
    assert train.steps * train.batch_size == 30 * 3834
