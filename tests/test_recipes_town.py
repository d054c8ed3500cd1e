import pytest
import torch
from safetensors.torch import save_file

from occloom.engine.train import build_model
from occloom.recipes import resolve
from occloom.recipes_town import TOWN_TRAIN, TOWN_VAL


def test_no_sequence_is_trained_and_scored_on():
    assert not set(TOWN_TRAIN) & set(TOWN_VAL)
    assert not {f"{sequence}" for sequence in range(90, 100)} & {*TOWN_TRAIN, *TOWN_VAL}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("road-pretrain-town", "voxformer-s-town"),
        ("road-pretrain-town", "monoocc-s-town"),
        ("road-pretrain-town", "symphonies-small-town"),
        ("internimage-xl-road-pretrain-town", "monoocc-l-town"),
        ("bevdet4d-pretrain-town", "panoocc-small-town"),
        ("bevdet4d-pretrain-town", "bevformer-tiny-town"),
        ("bevdet4d-pretrain-town", "protoocc-small-town"),
    ],
)
def test_trunks_fit_the_recipes_that_begin_with_them(before, after, tmp_path):
    """As the tables in docs/tables hand them over: every tensor that the later model's trunk has."""
    trained, begun = (build_model(resolve(name)) for name in (before, after))
    save_file(trained.state_dict(), tmp_path / "run.safetensors")
    begun.load_trunk_weights(tmp_path / "run.safetensors")
    there, own = (
        {name.rpartition("trunk.")[2]: value for name, value in model.state_dict().items() if "trunk." in name}
        for model in (trained, begun)
    )
    assert own
    assert all(torch.equal(value, there[name]) for name, value in own.items())
