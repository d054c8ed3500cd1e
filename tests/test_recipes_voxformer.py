from occloom.data.label_spaces import OCCUPANCY
from occloom.data.semantickitti import SemanticKittiConfig
from occloom.metrics.protocols import QUERIES
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
