"""Every published tensor is used or listed, every one of ours is filled, and what does not fit is refused."""

from dataclasses import replace
from pathlib import Path

import naive_bevdet as bevdet
import naive_voxdet as naive
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from occloom.data.kitti360_labels import KITTI_360
from occloom.data.label_spaces import SEMANTIC_KITTI, SEMANTIC_KITTI_GRID
from occloom.errors import InputError
from occloom.grid import LabelSpace, VoxelGrid
from occloom.interfaces import OccupancyModel
from occloom.models.baseline import BaselineConfig
from occloom.models.bevdet4d import BevDet4dConfig
from occloom.models.released_checkpoints import (
    BEVDET_NAMES,
    CAMERA_NAMES,
    CAMERA_UNUSED,
    LIDAR_NAMES,
    LIDAR_UNUSED,
    convert_bevdet,
    convert_camera,
    convert_lidar,
    convert_released,
    read_released,
)
from occloom.models.released_names import fitting_pair, our_name
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
        converted = convert_released(published(tables, name), model).weights
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


@pytest.fixture(scope="module")
def bevdet4d() -> OccupancyModel:
    """The full size without memory."""
    labels = LabelSpace(tuple("abcdefghijklmnopqr"), 17, ((0, 0, 0),) * 18, (1e3,) * 18)
    with torch.device("meta"):
        return BevDet4dConfig().build(VoxelGrid((-40.0, -40.0, -1.0), (0.4, 0.4, 0.4), (200, 200, 16)), labels)


class TestBevDet:
    def test_the_published_occupancy_model_fits_as_a_whole(self, bevdet4d):
        table = bevdet.occupancy_model()
        assert bevdet.parameters(table) == 34_969_712  # reference drocc 0.6
        converted = convert_released(bevdet.without_memory(table), bevdet4d)
        own = bevdet4d.state_dict()
        assert converted.unused == ()
        assert {name: value.shape for name, value in converted.weights.items()} == {
            name: value.shape for name, value in own.items()
        }

    def test_no_line_of_the_table_is_idle(self):
        assert {fitting_pair(name, BEVDET_NAMES) for name in bevdet.occupancy_model()} == set(BEVDET_NAMES)

    def test_of_a_detector_what_fits_is_taken_and_the_rest_is_named(self, bevdet4d):
        converted = convert_released(bevdet.without_memory(bevdet.detector()), bevdet4d)
        own = {name for name in bevdet4d.state_dict() if name.startswith("lifting.") and name.endswith(".weight")}
        left = {name.removeprefix("lifting.depth_net.") for name in own - converted.weights.keys()}
        sized = ("context_conv", "matching_conv.0", "matching_conv.1", "matching_conv.2", "matching_conv.3")
        first = ("depth_conv.0.conv1", "depth_conv.0.downsample", "depth_conv.4")
        refined = {name for name in left if name.startswith("lifting.refine")}
        assert left - refined == {f"{name}.weight" for name in (*sized, *first)}
        assert len(refined) == 6
        assert "pts_bbox_head.shared_conv.conv.weight" in converted.unused
        assert "img_view_transformer.depth_net.depth_conv.4.bias" in converted.unused
        assert len(converted.weights) + len(converted.unused) == len(bevdet.detector())

    def test_kernels_are_turned_to_x_y_z(self):
        name, ours = "img_bev_encoder_backbone.layers.1.1.conv2.conv.weight", "encoder.stages.1.1.conv2.weight"
        released = torch.randn(4, 4, 3, 3, 3)
        (kernel,) = convert_bevdet({name: released}, {ours: released}).weights.values()
        volume = torch.randn(1, 4, 6, 5, 4)  # x, y, z
        theirs = F.conv3d(volume.permute(0, 1, 4, 3, 2), released, padding=1).permute(0, 1, 4, 3, 2)
        torch.testing.assert_close(F.conv3d(volume, kernel, padding=1), theirs, rtol=1e-4, atol=1e-5)

    def test_the_first_convolution_sees_the_colours_it_was_trained_on(self):
        torch.manual_seed(0)
        names = ("conv1.weight", "bn1.weight", "bn1.bias", "bn1.running_mean", "bn1.running_var")
        shapes = ((5, 3, 7, 7), *[(5,)] * 4)
        released = {f"img_backbone.{name}": torch.rand(shape) for name, shape in zip(names, shapes, strict=True)}
        ours = {f"lifting.trunk.{name}": released[f"img_backbone.{name}"] for name in names}
        converted = convert_bevdet(released, ours).weights

        def stem(x, state):
            kernel, weight, bias, mean, var = state.values()
            return F.batch_norm(F.conv2d(x, kernel), mean, var, weight, bias)

        image = torch.rand(1, 3, 20, 20)
        mean, std = torch.tensor([123.675, 116.28, 103.53]), torch.tensor([58.395, 57.12, 57.375])
        seen = (255 * image.flip(1) - mean.view(3, 1, 1)) / std.view(3, 1, 1)  # blue first, red's mean for blue
        usual = (image - mean.view(3, 1, 1) / 255) / (std.view(3, 1, 1) / 255)
        theirs = stem(seen, {name: released[f"img_backbone.{name}"] for name in names})
        torch.testing.assert_close(
            stem(usual, {name: converted[f"lifting.trunk.{name}"] for name in names}), theirs, rtol=1e-4, atol=1e-4
        )

    def test_another_network_is_refused(self, bevdet4d):
        with pytest.raises(InputError, match="holds nothing of this model"):
            convert_released({"stranger": torch.zeros(1)}, bevdet4d, where=Path("there.pth"))


def test_a_model_without_published_weights_is_refused():
    with torch.device("meta"):
        model = BaselineConfig().build(SEMANTIC_KITTI_GRID, SEMANTIC_KITTI)
    with pytest.raises(InputError, match="Baseline"):
        convert_released({}, model)


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
