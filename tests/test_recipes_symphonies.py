import math

from occloom.models.symphonies import SymphoniesConfig
from occloom.recipes import RECIPES
from occloom.recipes_symphonies import SYMPHONIES_RECIPES


def test_they_are_listed():
    assert SYMPHONIES_RECIPES.items() <= RECIPES.items()


def test_the_smaller_scenes_have_a_quarter_of_the_voxels():
    """128x128x8 as released against 64x64x8 (reference protoocc 3.1)."""
    for where in ("semantickitti", "town"):
        counts = []
        for size in ("base", "small"):
            recipe = SYMPHONIES_RECIPES[f"symphonies-{size}-{where}"]()
            assert isinstance(recipe.model, SymphoniesConfig)
            counts.append(math.prod(recipe.data.grid.coarsen(recipe.model.volume_coarsening).shape))
        assert counts[0] == 4 * counts[1]
        assert where == "town" or counts[1] == 64 * 64 * 8


def test_it_is_trained_as_released_but_for_the_schedule():
    """Reference monoocc 8: AdamW 2e-4, weight decay 1e-4, 30 epochs, batches of four, mirrored or not."""
    recipe = SYMPHONIES_RECIPES["symphonies-base-semantickitti"]()
    train = recipe.train
    assert (train.learning_rate, train.weight_decay) == (2e-4, 1e-4)
    assert train.steps * train.batch_size == 30 * 3834
