from dataclasses import replace

import pytest
import torch
from tiny_recipes import GRID, TinyData, tiny

from occloom.engine.benchmark import count_parameters, example_scene, measure
from occloom.engine.train import build_model


def test_modules_and_own_parameters_make_the_whole():
    model = build_model(tiny())
    counts = count_parameters(model)
    assert counts == {"stem": 8 * 3 * 9 + 8 + 16, "head": 8 * 3 * 32 + 3 * 32, "own": 1}
    model.stem[0].weight.requires_grad_(False)
    assert count_parameters(model)["stem"] == 8 + 16


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
    assert float(scene.depth.min()) > 0
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
