from pathlib import Path

import naive_voxformer as naive
import pytest
import torch

from occloom.data.label_spaces import SEMANTIC_KITTI, SEMANTIC_KITTI_GRID
from occloom.errors import InputError
from occloom.models.released_checkpoints import convert_released
from occloom.models.released_names import fitting_pair, is_unused, our_name
from occloom.models.released_symphonies import SYMPHONIES_NAMES, SYMPHONIES_UNUSED, decoder_tensors
from occloom.models.symphonies import Symphonies, SymphoniesConfig


@pytest.fixture(scope="module")
def released(real_data: Path) -> dict[str, torch.Tensor]:
    return naive.without_memory(real_data.parent / "reference" / "state_dicts" / "symphonies_decoder.tsv")


@pytest.fixture(scope="module")
def model() -> Symphonies:
    with torch.device("meta"):
        return SymphoniesConfig().build(SEMANTIC_KITTI_GRID, SEMANTIC_KITTI)


@pytest.mark.real_data
class TestNames:
    def test_every_tensor_is_used_once_or_listed(self, real_data, released, model):
        renamed = [our_name(key, SYMPHONIES_NAMES) for key in released if not is_unused(key, SYMPHONIES_UNUSED)]
        assert len(renamed) == len(set(renamed))
        assert set(renamed) == {name for name in model.state_dict() if name.startswith("decoder.")}
        assert set(SYMPHONIES_UNUSED) <= set(released)

    def test_the_shapes_fit_and_no_line_is_idle(self, real_data, released, model):
        converted, own = convert_released(released, model), model.state_dict()
        assert converted.unused == ()
        assert {name: value.shape for name, value in converted.weights.items()} == {
            name: own[name].shape for name in converted.weights
        }
        used = [key for key in released if not is_unused(key, SYMPHONIES_UNUSED)]
        assert {fitting_pair(key, SYMPHONIES_NAMES) for key in used} == set(SYMPHONIES_NAMES)

    def test_of_a_whole_checkpoint_the_decoder_is_taken_and_the_rest_named(self, real_data, released, model):
        whole = {f"model.decoder.{key}": value for key, value in released.items()}
        whole["model.encoder.backbone.conv1.weight"] = torch.zeros(1)
        converted = convert_released(whole, model)
        assert converted.unused == ("model.encoder.backbone.conv1.weight",)
        assert converted.weights.keys() == convert_released(released, model).weights.keys()

    def test_another_network_is_refused(self, real_data, model):
        with pytest.raises(InputError, match="lacks decoder"):
            convert_released({"stranger": torch.zeros(1)}, model)


def test_a_state_dict_without_a_decoder_is_taken_for_one():
    state = {"scene_embed.weight": torch.zeros(1)}
    assert decoder_tensors(state) == (state, ())
