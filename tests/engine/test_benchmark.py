import time
from dataclasses import replace

import pytest
import torch
from tiny_recipes import GRID, TinyData, TinyModel, TinyModelConfig, TinyOutputs, tiny
from torch import nn

from occloom.engine.benchmark import convolution_rate, count_frozen, count_parameters, example_scene, measure
from occloom.engine.train import build_model
from occloom.geometry.projection import unproject
from occloom.grid import LabelSpace, VoxelGrid
from occloom.scene import Scene


def test_modules_and_own_parameters_make_the_whole():
    model = build_model(tiny())
    counts = count_parameters(model)
    assert counts == {"stem": 8 * 3 * 9 + 8 + 16, "head": 8 * 3 * 32 + 3 * 32, "own": 1}
    assert count_frozen(model) == {}
    model.stem[0].weight.requires_grad_(False)
    assert count_parameters(model)["stem"] == 8 + 16
    assert count_frozen(model) == {"stem": 8 * 3 * 9}


def test_flops_are_two_for_each_multiply_add():
    recipe = tiny()
    cost = measure(build_model(recipe), example_scene(recipe), repeats=2)
    height, width = recipe.data.image_size
    assert cost.flops == 2 * (8 * 3 * 9 * height * width) + 2 * (8 * 3 * GRID.num_voxels)
    assert cost.latency_seconds > 0
    assert cost.peak_memory_bytes > 50e6


class ManyViews(TinyData):
    num_frames = 3
    num_cameras = 6


def test_an_example_has_the_recipes_sizes_and_cameras_all_around():
    scene = example_scene(replace(tiny(), data=ManyViews(image_size=(8, 10))))
    assert scene.images.shape == (1, 3, 6, 3, 8, 10)
    assert scene.depth.shape == (1, 3, 6, 8, 10)
    assert 0.2 < float((scene.depth > 0).float().mean()) < 1
    assert float(scene.depth.max()) <= 50
    x, y, z = ManyViews().grid.shape
    assert scene.pseudo_voxels.shape == (1, 2 * x, 2 * y, 2 * z)
    assert scene.proposals.shape == (1, -(-x // 2), -(-y // 2), -(-z // 2))
    assert 0 < float(scene.pseudo_voxels.float().mean()) < 0.2
    ahead = scene.cameras.camera_from_ego[0, 0, :, 2, :3]
    for n in range(6):
        angle = torch.tensor(torch.pi * n / 3)
        assert torch.allclose(ahead[n], torch.stack([angle.cos(), angle.sin(), torch.zeros(())]), atol=1e-6)


def test_the_example_cameras_are_rigid_and_upright():
    scene = example_scene(replace(tiny(), data=ManyViews()))
    rotation = scene.cameras.camera_from_ego[0, 0, :, :3, :3]
    assert torch.allclose(rotation @ rotation.mT, torch.eye(3).expand(6, 3, 3), atol=1e-6)
    assert torch.linalg.det(rotation).tolist() == pytest.approx([1.0] * 6, abs=1e-5)
    down = rotation @ torch.tensor([0.0, 0.0, -1.0])
    assert torch.allclose(down, torch.tensor([0.0, 1.0, 0.0]).expand(6, 3), atol=1e-6)


def test_modules_share_time_and_operations_of_the_same_runs():
    recipe = tiny()
    model = build_model(recipe)
    cost = measure(model, example_scene(recipe), repeats=3, levels=2)
    assert {name: module.flops for name, module in cost.modules.items() if "." not in name} == {
        "stem": 2 * 8 * 3 * 9 * recipe.data.image_size[0] * recipe.data.image_size[1],
        "head": 2 * 8 * 3 * GRID.num_voxels,
    }
    assert cost.modules["stem.0"].flops == cost.modules["stem"].flops
    assert 0 < cost.modules["stem.0"].seconds < cost.modules["stem"].seconds < 1
    assert set(measure(model, example_scene(recipe), repeats=1).modules) == {"stem", "head"}
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_a_slow_module_takes_the_time(monkeypatch):
    recipe = tiny()
    model, forward = build_model(recipe), nn.Sequential.forward

    def slow(self, x):
        if self is model.head:
            time.sleep(0.05)
        return forward(self, x)

    monkeypatch.setattr(nn.Sequential, "forward", slow)
    cost = measure(model, example_scene(recipe), repeats=3)
    assert cost.latency_seconds > cost.modules["head"].seconds > 0.05 > cost.modules["stem"].seconds


class Holder(nn.Module):
    """Holds the parts of a model, and is never called itself."""

    def __init__(self, stem: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.early = nn.ModuleList([stem])
        self.late = head
        self.unused = nn.Linear(2, 2)


class ThroughHolder(TinyModel):
    """Calls only what lies within its one module."""

    def __init__(self, config: TinyModelConfig, grid: VoxelGrid, label_space: LabelSpace) -> None:
        super().__init__(config, grid, label_space)
        self.parts = Holder(self.stem, self.head)
        del self.stem, self.head

    def forward(self, scene: Scene) -> TinyOutputs:
        assert scene.images is not None
        features = self.parts.early[0](scene.images[:, 0, 0]).relu().mean((2, 3))
        logits = self.parts.late(features).reshape(-1, self.label_space.num_classes, *GRID.shape)
        return TinyOutputs(logits)


def test_a_module_that_only_holds_others_has_what_they_take(monkeypatch):
    recipe = tiny()
    plain = measure(build_model(recipe), example_scene(recipe), repeats=1)
    model, forward = ThroughHolder(TinyModelConfig(), GRID, recipe.data.label_space), nn.Sequential.forward

    def slow(self, x):
        time.sleep(0.05)
        return forward(self, x)

    monkeypatch.setattr(nn.Sequential, "forward", slow)
    cost = measure(model, example_scene(recipe), repeats=1, levels=3)
    parts = cost.modules["parts"]
    assert parts.flops == plain.flops == cost.flops
    assert cost.latency_seconds > parts.seconds > 0.1
    assert parts.seconds == cost.modules["parts.early"].seconds + cost.modules["parts.late"].seconds
    assert cost.modules["parts.early"] == cost.modules["parts.early.0"]
    assert cost.modules["parts.late"].flops == plain.modules["head"].flops
    assert "parts.unused" not in cost.modules


def test_the_street_is_as_far_as_its_geometry_says():
    recipe = replace(tiny(), data=TinyData(image_size=(96, 320)))
    scene = example_scene(recipe)
    points = unproject_all(scene.depth[0, 0, 0], scene.cameras.intrinsics[0, 0, 0])
    known = scene.depth[0, 0, 0].flatten() > 0
    on_road = (points[:, 1] - 1.7).abs() < 1e-3
    at_house = (points[:, 0].abs() - 8).abs() < 1e-3
    assert (on_road | at_house)[known].all()
    assert on_road[known].any()
    assert at_house[known].any()
    assert (points[known, 1] < 1.7 + 1e-3).all()


def unproject_all(depth, intrinsics):
    v, u = torch.meshgrid(*(torch.arange(n, dtype=torch.float32) for n in depth.shape), indexing="ij")
    return unproject(torch.stack([u, v], dim=-1).view(-1, 2), depth.flatten(), intrinsics)


def test_the_rate_of_convolutions_is_that_of_a_plain_stopwatch():
    rate = convolution_rate(channels=8, repeats=2)
    volume, weight = torch.ones(1, 8, 32, 64, 16), torch.ones(8, 8, 3, 3, 3)
    nn.functional.conv3d(volume, weight, padding=1)
    started = time.perf_counter()
    nn.functional.conv3d(volume, weight, padding=1)
    other = 2 * volume.numel() * 8 * 27 / (time.perf_counter() - started)
    assert 0.1 < rate / other < 10


def test_a_parameter_that_a_module_is_handed_is_counted_and_stays_trainable():
    recipe = tiny()

    class Handing(type(build_model(recipe))):
        def forward(self, scene):
            self.layer(self.query[:1].expand(2, -1))
            return super().forward(scene)

    model = build_model(recipe)
    model.__class__ = Handing
    model.layer, model.query = torch.nn.Linear(3, 5), torch.nn.Parameter(torch.ones(4, 3))
    plain, handed = (
        measure(build_model(recipe), example_scene(recipe), repeats=1),
        measure(model, example_scene(recipe), repeats=1),
    )
    assert handed.flops - plain.flops == 2 * 2 * 3 * 5
    assert all(parameter.requires_grad for parameter in model.parameters())
