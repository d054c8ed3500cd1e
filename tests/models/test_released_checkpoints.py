"""Every published tensor is used or listed, every one of ours is filled, and what does not fit is refused."""

from dataclasses import replace
from pathlib import Path

import naive_voxdet as naive
import pytest
import torch
from torch import Tensor

from occloom.data.kitti360_labels import KITTI_360
from occloom.data.label_spaces import SEMANTIC_KITTI, SEMANTIC_KITTI_GRID
from occloom.errors import InputError
from occloom.interfaces import OccupancyModel
from occloom.models.baseline import BaselineConfig
from occloom.models.released_checkpoints import (
    CAMERA_NAMES,
    CAMERA_UNUSED,
    LIDAR_NAMES,
    LIDAR_UNUSED,
    convert_camera,
    convert_lidar,
    convert_released,
    fitting_pair,
    our_name,
    read_released,
)
from occloom.models.voxdet_camera import VoxDetConfig
from occloom.models.voxdet_lidar import VoxDetLConfig

LEVELS = "VoxFormer_head.cross_transformer.level_embeds"
CASES = {
    "voxdet_camera_semantickitti": (VoxDetConfig(), SEMANTIC_KITTI, CAMERA_NAMES, CAMERA_UNUSED),
    "voxdet_camera_kitti360": (VoxDetConfig(), KITTI_360, CAMERA_NAMES, CAMERA_UNUSED),
    "voxdet_lidar_semantickitti": (VoxDetLConfig(), SEMANTIC_KITTI, LIDAR_NAMES, LIDAR_UNUSED),
}


@pytest.fixture(scope="module")
def tables(real_data) -> Path:
    return real_data.parent / "reference" / "state_dicts"


def on_meta(name: str) -> OccupancyModel:
    """The full-size model without memory."""
    config, labels, _, _ = CASES[name]
    with torch.device("meta"):
        return config.build(SEMANTIC_KITTI_GRID, labels)


def published(tables: Path, name: str) -> dict[str, Tensor]:
    """Tensors of the published names and shapes, without memory."""
    table = naive.released_table(tables / f"{name}.tsv")
    return {key: torch.empty(shape, dtype=dtype, device="meta") for key, (shape, dtype) in table.items()}


@pytest.mark.real_data
@pytest.mark.parametrize("name", CASES)
class TestNames:
    def test_every_tensor_is_used_once_or_listed(self, tables, name):
        _, _, names, unused = CASES[name]
        released, own = published(tables, name), on_meta(name).state_dict()
        assert set(unused) <= set(released)
        renamed = [our_name(key, names) for key in released if key not in unused]
        assert len(renamed) == len(set(renamed))
        assert set(renamed) == set(own)

    def test_the_shapes_fit(self, tables, name):
        model = on_meta(name)
        converted = convert_released(published(tables, name), model)
        own = model.state_dict()
        assert {key: (value.shape, value.dtype) for key, value in converted.items()} == {
            key: (value.shape, value.dtype) for key, value in own.items()
        }

    def test_no_line_of_the_table_is_idle(self, tables, name):
        _, _, names, unused = CASES[name]
        released = [key for key in published(tables, name) if key not in unused]
        assert {fitting_pair(key, names) for key in released} == set(names)

    def test_the_trainable_parameters_are_those_published_less_the_listed_ones(self, tables, name):
        model = on_meta(name)
        rows = [line.split("\t") for line in (tables / f"{name}.tsv").read_text().splitlines()[1:]]
        released = published(tables, name)
        count = sum(released[key].numel() for key, _, _, kind in rows if kind == "param")
        ours = sum(parameter.numel() for parameter in model.parameters())
        idle = released[LEVELS][1:].numel() if LEVELS in released else 0
        assert ours == count - idle


@pytest.mark.real_data
class TestConversion:
    name = "voxdet_camera_semantickitti"

    def test_lightnings_prefix_is_taken_off(self, tables):
        own = on_meta(self.name).state_dict()
        prefixed = {f"model.{key}": value for key, value in published(tables, self.name).items()}
        assert convert_camera(prefixed, own).keys() == own.keys()

    def test_the_first_row_of_the_level_embedding_is_kept(self, tables):
        released = published(tables, self.name)
        released[LEVELS] = torch.arange(4 * 128.0).view(4, 128)
        converted = convert_camera(released, on_meta(self.name).state_dict())
        assert torch.equal(converted["lifting.level_embedding"], torch.arange(128.0)[None])

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            (lambda state: state.pop("img_neck.deblocks.2.1.bias"), "lacks neck.deblocks.2.1.bias"),
            (lambda state: state.update(stranger=torch.zeros(1)), "unknown tensor stranger"),
            (
                lambda state: state.update({"pts_bbox_head.cls_convs.0.3.weight": torch.zeros(19, 64, 1, 1, 1)}),
                "another shape for detector.class_head.classify.weight",
            ),
        ],
    )
    def test_what_does_not_fit_is_refused(self, tables, change, words):
        released = published(tables, self.name)
        change(released)
        with pytest.raises(InputError, match=words):
            convert_camera(released, on_meta(self.name).state_dict(), where=Path("there.ckpt"))

    def test_the_other_sensor_is_refused(self, tables):
        released = published(tables, "voxdet_lidar_semantickitti")
        with pytest.raises(InputError, match="lacks"):
            convert_camera(released, on_meta(self.name).state_dict())
        with pytest.raises(InputError, match="lacks"):
            convert_lidar(published(tables, self.name), on_meta("voxdet_lidar_semantickitti").state_dict())


def test_a_model_without_published_weights_is_refused():
    with torch.device("meta"):
        model = BaselineConfig().build(SEMANTIC_KITTI_GRID, SEMANTIC_KITTI)
    with pytest.raises(InputError, match="Baseline"):
        convert_released({}, model)


def test_a_longer_name_counts_before_a_shorter_one():
    names = (("a", "x"), ("a.*.b", "y.*.z"))
    assert our_name("a.weight", names) == "x.weight"
    assert our_name("a.3.b.weight", names) == "y.3.z.weight"
    assert our_name("a.c.b.weight", names) == "x.c.b.weight"
    assert our_name("ab.weight", names) is None


class TestReading:
    def test_a_state_dict_alone_or_lightnings(self, tmp_path):
        state = {"model.a": torch.ones(2)}
        for name, content in (("alone", state), ("lightning", {"state_dict": state, "epoch": 3})):
            torch.save(content, tmp_path / name)
            assert torch.equal(read_released(tmp_path / name)["model.a"], torch.ones(2))

    def test_nothing_that_could_run_is_unpickled(self, tmp_path):
        torch.save({"state_dict": {}, "hyper_parameters": replace}, tmp_path / "pickled")
        with pytest.raises(InputError, match="if you trust it"):
            read_released(tmp_path / "pickled")

    def test_what_is_no_checkpoint_is_refused(self, tmp_path):
        with pytest.raises(InputError, match="no such checkpoint"):
            read_released(tmp_path / "nowhere")
        (tmp_path / "text").write_text("no weights")
        with pytest.raises(InputError, match="cannot be read"):
            read_released(tmp_path / "text")
        torch.save([1, 2], tmp_path / "list")
        with pytest.raises(InputError, match="no state dict"):
            read_released(tmp_path / "list")
