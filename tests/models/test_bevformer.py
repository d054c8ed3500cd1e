import itertools
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_surround import augmented, built, random_target, sample_of
from tiny_views import IMAGES, VIEW, moving_scene, shaken

from occloom.data.occ3d import Occ3dConfig
from occloom.data.occ3d_labels import OCC3D, OCC3D_GRID
from occloom.errors import InputError
from occloom.grid import VoxelGrid
from occloom.models.bevformer import BevFormerConfig, HeightHead
from occloom.scene import collate
from occloom.voxel.alignment import aligned

TINY = BevFormerConfig(images=IMAGES, view=VIEW, coarsening=(2, 2), anchors=2, voxel_channels=8, hidden=8)
GRID = VoxelGrid(lower=(-8.0, -8.0, -1.0), voxel_size=(1.0, 1.0, 1.6), shape=(16, 16, 4))
ODD = VoxelGrid(lower=(-8.0, -8.0, -1.0), voxel_size=(1.0, 1.2, 1.6), shape=(13, 10, 2))


def count(part):
    return sum(parameter.numel() for parameter in part.parameters())


def tiny(grid=GRID, **changes):
    return built(replace(TINY, **changes), grid=grid)


# --- the full size ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("coarsening", "cells"), [((1, 1), 200), ((2, 2), 100), ((4, 4), 50)])
def test_the_full_size_has_the_parameters_of_its_layers(coarsening, cells):
    """Linear layers by the reference's sizes (protoocc 1.5, 1.10): 4 and 8 points, 4 levels."""
    with torch.device("meta"):
        model = BevFormerConfig(coarsening=coarsening).build(OCC3D_GRID, OCC3D)
    assert model.plane_grid.shape == (cells, cells, 1)
    assert model.image_branch.levels == 4
    offsets, weights = 512 * 128 + 128, 512 * 64 + 64
    layer = model.view_transformation.layers[0]
    assert count(layer.self_attention) == offsets + weights + 2 * 65_792
    assert count(layer.cross_attention) == 256 * 512 + 512 + 256 * 256 + 256 + 2 * 65_792
    assert len(model.view_transformation.layers) == 4
    assert count(model.view_transformation) == 256 * cells**2 + 4 * count(layer)
    assert count(model.head) == 27 * (16 * 32 + 32 * 32) + 4 * 32 + 33 * 64 + 65 * 18


# --- the head --------------------------------------------------------------------------------------------------------


def test_channels_are_laid_out_over_the_height():
    head = HeightHead(6, 2, 3, height=2, hidden=4)
    seen = []
    head.convs.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    plane = torch.randn(2, 6, 4, 5, 1)
    assert head(plane, (4, 5, 2)).shape == (2, 3, 4, 5, 2)
    for c, z in itertools.product(range(3), range(2)):
        assert torch.equal(seen[0][:, c, :, :, z], plane[:, 2 * c + z, :, :, 0])
    assert head(plane, (8, 9, 2)).shape == (2, 3, 8, 9, 2)
    assert seen[1].shape == (2, 3, 8, 9, 2)


def test_a_height_that_does_not_divide_the_channels_is_refused():
    with pytest.raises(InputError, match="a multiple of 5"):
        HeightHead(16, 2, 3, height=5, hidden=4)


# --- frames ----------------------------------------------------------------------------------------------------------


def test_each_frame_sees_the_plane_of_the_one_before_it_moved_to_where_the_car_is():
    model, scene = shaken(tiny()).eval(), moving_scene()
    seen = []
    hook = model.view_transformation.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].before))
    with torch.no_grad():
        answer = model(scene).logits
        hook.remove()
        planes = [model.encode(scene, 2, None)]
        for t in (1, 0):
            moved = torch.linalg.inv(scene.now_from_then[:, t]) @ scene.now_from_then[:, t + 1]
            expected = aligned(planes[-1], moved, model.plane_grid).flatten(2).transpose(1, 2)
            torch.testing.assert_close(seen[2 - t], expected, rtol=1e-3, atol=1e-4)
            memory = None
            for older in reversed(range(t + 1, 3)):
                memory = model.remember(scene, older, model.encode(scene, older, memory), memory)
            planes.append(model.encode(scene, t, memory))
        torch.testing.assert_close(answer, model.head(planes[-1], GRID.shape))
    assert seen[0] is None


def test_frames_that_do_not_exist_are_passed_over():
    model, scene = shaken(tiny()).eval(), moving_scene()
    scene = replace(scene, frame_valid=torch.tensor([[True, True, False], [True, False, True]]))

    def without(frames):
        """The scene of some frames alone."""
        kept = torch.tensor(frames)
        return replace(
            scene,
            cameras=scene.cameras.map(lambda tensor: tensor[:, kept]),
            now_from_then=scene.now_from_then[:, kept],
            time=scene.time[:, kept],
            frame_valid=torch.ones(2, len(frames), dtype=torch.bool),
            camera_valid=scene.camera_valid[:, kept],
            images=scene.images[:, kept],
        )

    with torch.no_grad():
        answer = model(scene).logits
        for b, frames in ((0, [0, 1]), (1, [0, 2])):
            torch.testing.assert_close(answer[b], model(without(frames)).logits[b], rtol=1e-3, atol=1e-4)
        alone = replace(scene, frame_valid=torch.tensor([[True, False, False]] * 2))
        torch.testing.assert_close(model(alone).logits, model(without([0])).logits, rtol=1e-3, atol=1e-4)


def test_only_the_present_frame_is_learnt_from():
    model, scene = tiny().train(), moving_scene()
    images = scene.images.clone().requires_grad_()
    losses = model.loss(model(replace(scene, images=images)), random_target(scene, GRID))
    assert losses.keys() == {"cross_entropy"}
    losses["cross_entropy"].backward()
    assert images.grad[:, 0].any()
    assert not images.grad[:, 1:].any()
    assert not [name for name, p in model.named_parameters() if p.grad is None]
    assert all(part.training for part in model.modules())


def test_the_queries_may_be_told_of_the_cars_motion():
    scene = moving_scene()
    other = replace(scene, time=scene.time * 2)
    with torch.no_grad():
        told, untold = tiny(motion="poses").eval(), tiny().eval()
        assert not torch.allclose(told(scene).logits, told(other).logits)
        assert torch.equal(untold(scene).logits, untold(other).logits)


# --- the whole -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cameras", [1, 3])
def test_a_batch_is_answered_as_one_by_one(cameras):
    model, scene = shaken(tiny(ODD)).eval(), moving_scene(batch=3, cameras=cameras, size=(30, 50))
    scene = augmented(scene, 1, turn=0.07, scale=1.1, shift=(-3.0, 2.0))
    scene = replace(scene, frame_valid=torch.tensor([[True, True, True], [True, True, False], [True, False, False]]))
    with torch.no_grad():
        together = model(scene).logits
        assert together.shape == (3, 4, *ODD.shape)
        for b in range(3):
            torch.testing.assert_close(together[b : b + 1], model(sample_of(scene, b)).logits, rtol=1e-3, atol=1e-4)


def test_no_camera_at_all_still_answers():
    model, scene = tiny().eval(), moving_scene()
    with torch.no_grad():
        blind = model(replace(scene, camera_valid=torch.zeros_like(scene.camera_valid))).logits
        assert torch.isfinite(blind).all()
        assert not torch.allclose(blind, model(scene).logits)


def test_the_town_can_be_learnt_from(tiny_surround_town: Path):
    data = Occ3dConfig(root=tiny_surround_town, image_size=(40, 64), keyframes=(0, -1), label_scale=4)
    config = replace(TINY, images=replace(IMAGES, cameras=6))
    torch.manual_seed(0)
    model = config.build(data.grid, OCC3D).train()
    train = data.build("train", model.needs)
    sample = collate([train.sample(0), train.sample(1)])
    optimizer, totals = torch.optim.AdamW(model.parameters(), lr=3e-3), []
    for _ in range(4):
        total = model.loss(model(sample.scene), sample.target)["cross_entropy"]
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        totals.append(total.item())
    assert totals[-1] < 0.97 * totals[0]
