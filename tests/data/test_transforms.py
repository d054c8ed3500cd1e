from dataclasses import replace

import numpy as np
import pytest
import torch

from occloom.data.label_spaces import SEMANTIC_KITTI_GRID
from occloom.data.semantickitti import SemanticKittiConfig
from occloom.data.transforms import ColourShift, draw_colour_shift, mirror, shift_colours
from occloom.grid import VoxelGrid
from occloom.interfaces import Needs


@pytest.fixture(scope="module")
def sample(made_kitti):
    config = SemanticKittiConfig(root=made_kitti, image_size=(36, 122), frames=(0, -2), train=("00",))
    return config.build("train", Needs(points=True)).sample(1)


def test_mirroring_needs_a_symmetric_grid(sample):
    grid = VoxelGrid(lower=(0.0, -25.0, -2.0), voxel_size=(0.2, 0.2, 0.2), shape=(256, 256, 32))
    with pytest.raises(ValueError, match="symmetric"):
        mirror(sample, grid, width=122)


def test_mirrored_points_lie_in_the_mirrored_voxels_and_rotations_stay_rotations(sample):
    mirrored = mirror(sample, SEMANTIC_KITTI_GRID, width=122)
    assert torch.equal(mirrored.scene.points.positions[:, 1], -sample.scene.points.positions[:, 1])
    assert torch.equal(mirrored.scene.points.positions[:, ::2], sample.scene.points.positions[:, ::2])
    turn = mirrored.scene.cameras.camera_from_ego[..., :3, :3]
    assert torch.allclose(torch.linalg.det(turn), torch.ones((), dtype=turn.dtype))
    assert (mirrored.scene.cameras.intrinsics[..., 0, 0] > 0).all()


def test_mirrored_volumes_follow_the_labels(sample):
    fine, coarse = sample.target.labels == 9, sample.target.labels[:, ::2, ::2, ::2] == 9
    scene = replace(sample.scene, pseudo_voxels=fine, proposals=coarse)
    mirrored = mirror(replace(sample, scene=scene), SEMANTIC_KITTI_GRID, width=122)
    assert fine.any()
    assert torch.equal(mirrored.scene.pseudo_voxels, mirrored.target.labels == 9)
    assert torch.equal(mirrored.scene.proposals, coarse.flip(2))


def test_a_teachers_volume_follows_the_labels(sample):
    volume = torch.rand(1, 3, 4, 8, 2)
    taught = replace(sample, target=replace(sample.target, teacher_volume=volume))
    mirrored = mirror(taught, SEMANTIC_KITTI_GRID, width=122)
    assert torch.equal(mirrored.target.teacher_volume, volume.flip(3))


def test_no_shift_leaves_colours_and_greying_takes_them(sample):
    same = shift_colours(sample, ColourShift(1.0, 1.0, 1.0)).scene.images
    assert torch.allclose(same, sample.scene.images, atol=1e-6)
    grey = shift_colours(sample, ColourShift(1.0, 1.0, 0.0)).scene.images
    assert torch.allclose(grey, grey.mean(dim=-3, keepdim=True).expand_as(grey), atol=1e-6)
    dark = shift_colours(sample, ColourShift(0.5, 1.0, 1.0)).scene.images
    assert torch.allclose(dark, 0.5 * sample.scene.images, atol=1e-6)
    flat = shift_colours(sample, ColourShift(1.0, 0.0, 1.0)).scene.images
    assert float(flat.std(dim=(-2, -1)).max()) < 1e-5


def test_drawn_shifts_stay_within_their_strength_and_repeat():
    shifts = [draw_colour_shift(np.random.default_rng(seed), 0.4) for seed in range(50)]
    values = np.array([[s.brightness, s.contrast, s.saturation] for s in shifts])
    assert values.min() >= 0.6
    assert values.max() <= 1.4
    assert values.std(axis=0).min() > 0.1
    assert draw_colour_shift(np.random.default_rng(3), 0.4) == shifts[3]
