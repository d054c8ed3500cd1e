from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from tiny_surround import LABELS, augmented, built, random_target, sample_of
from tiny_views import IMAGES, VIEW, moving_scene, shaken

from occloom.data.occ3d import Occ3dConfig
from occloom.data.occ3d_labels import OCC3D, OCC3D_GRID
from occloom.engine.benchmark import measure
from occloom.errors import InputError
from occloom.geometry.rigid import rigid
from occloom.grid import VoxelGrid
from occloom.losses.cross_entropy import cross_entropy
from occloom.losses.lovasz import lovasz_softmax
from occloom.models.panoocc import PanoOccConfig, VoxelDecoder, motion_numbers
from occloom.scene import Target, collate
from occloom.voxel.alignment import aligned

TINY = PanoOccConfig(images=IMAGES, view=VIEW, coarsening=(4, 4, 1), frames=3, voxel_channels=8, hidden=8)
GRID = VoxelGrid(lower=(-8.0, -8.0, -1.0), voxel_size=(1.0, 1.0, 1.6), shape=(16, 16, 4))
ODD = VoxelGrid(lower=(-8.0, -8.0, -1.0), voxel_size=(1.0, 1.2, 1.6), shape=(13, 10, 3))


def count(part):
    return sum(parameter.numel() for parameter in part.parameters())


def tiny(grid=GRID, **changes):
    return built(replace(TINY, **changes), grid=grid)


# --- the full size ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("coarsening", "voxels", "view", "positions", "decoder"),
    [
        ((2, 2, 1), 160_000, 46_235_328, 55_296, 131_168),
        ((4, 4, 1), 40_000, 15_515_328, 29_696, 1_180_512),
        ((4, 4, 4), 10_000, 7_835_328, 26_624, None),
    ],
    ids=["base", "small", "tiny"],
)
def test_the_full_size_has_the_published_parameters_by_module(coarsening, voxels, view, positions, decoder):
    """Reference protoocc 4: 46.24, 15.52 and 7.84 M of view transformation; decoders without the "occupied" head."""
    with torch.device("meta"):
        model = PanoOccConfig(coarsening=coarsening, motion="poses").build(OCC3D_GRID, OCC3D)
    assert count(model.view_transformation) == view
    assert model.view_transformation.queries.numel() == 256 * voxels
    assert count(model.view_transformation.layers) == 3 * 971_328
    assert count(model.view_transformation.fuser) == 2_361_344
    assert count(model.positions) == positions
    assert decoder is None or count(model.decoder) == decoder
    assert count(model.head) == 25_458
    # Of the released vector's 18 numbers there are five here.
    assert count(model.motion) == 38_784 - 2_816 - 13 * 128


@pytest.mark.parametrize("coarsening", [(2, 2, 1), (4, 4, 1), (4, 4, 4)])
def test_full_size_volumes_fit_together(coarsening):
    with torch.device("meta"):
        model = PanoOccConfig(coarsening=coarsening).build(OCC3D_GRID, OCC3D)
        volume = torch.empty(1, 256, *model.query_grid.shape)
        fused = model.view_transformation.fuser([volume] * 4)
        assert fused.shape == volume.shape
        assert model.decode(fused).shape == (1, 18, 200, 200, 16)


def test_the_cost_of_the_view_transformation_is_that_of_layers_and_fusion():
    cost = measure(tiny(), moving_scene(batch=1), repeats=1, levels=2).modules
    layers, fuser = cost["view_transformation.layers"], cost["view_transformation.fuser"]
    assert cost["view_transformation"].flops == layers.flops + fuser.flops
    # Of the fusion, by hand: 64 voxels, 16 channels, three frames; of the layers, more than their linear parts.
    assert fuser.flops == 2 * 64 * (2 * 48 * 16 + 27 * 16 * 16 + 16 * 16)
    assert layers.flops > 3 * 2 * 2 * 64 * 2 * 16 * 12


# --- frames ----------------------------------------------------------------------------------------------------------


def volumes_of(model, scene):
    """What is fused, oldest first."""
    seen = []
    model.view_transformation.fuser.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))
    with torch.no_grad():
        model(scene)
    return seen[0]


def test_past_volumes_are_moved_to_the_present_frame_oldest_first():
    model, scene = tiny().eval(), moving_scene()
    oldest, older, present = volumes_of(model, scene)
    with torch.no_grad():
        torch.testing.assert_close(present, model.encode(scene, 0).volume)
        for volume, t in ((older, 1), (oldest, 2)):
            expected = aligned(model.encode(scene, t).volume, scene.now_from_then[:, t], model.query_grid)
            torch.testing.assert_close(volume, expected)
    assert not oldest.all()


def test_a_frame_that_does_not_exist_has_the_volume_of_the_one_after_it():
    model, scene = tiny().eval(), moving_scene()
    scene = replace(scene, frame_valid=torch.tensor([[True, True, False], [True, False, False]]))
    oldest, older, present = volumes_of(model, scene)
    assert torch.equal(oldest, older)
    assert torch.equal(older[1], present[1])
    assert not torch.allclose(older[0], present[0])


def test_fewer_frames_than_are_fused_repeat_the_oldest_and_more_are_refused():
    model, scene = tiny().eval(), moving_scene(frames=2)
    oldest, older, present = volumes_of(model, scene)
    assert torch.equal(oldest, older)
    assert not torch.allclose(older, present)
    alone = volumes_of(tiny().eval(), moving_scene(frames=1))
    assert torch.equal(alone[0], alone[2])
    with pytest.raises(InputError, match="have 4 frames, the model fuses 3"):
        model(moving_scene(frames=4))


def test_only_the_present_frame_is_learnt_from():
    model, scene = tiny().train(), moving_scene()
    images = scene.images.clone().requires_grad_()
    losses = model.loss(model(replace(scene, images=images)), random_target(scene, GRID))
    torch.stack(list(losses.values())).sum().backward()
    assert images.grad[:, 0].any()
    assert not images.grad[:, 1:].any()
    assert not [name for name, p in model.named_parameters() if p.grad is None]


def test_past_frames_are_encoded_as_in_evaluation_also_in_training():
    model, scene = tiny(), moving_scene()
    expected = volumes_of(model.eval(), scene)[0]
    trained = volumes_of(tiny().train(), scene)
    assert torch.equal(trained[0], expected)
    assert not torch.allclose(trained[2], volumes_of(tiny().eval(), scene)[2])
    model.train()
    model(scene)
    assert all(part.training for part in model.modules())
    assert model.view_transformation.fuser.mix[1].num_batches_tracked == 1


def test_two_frames_of_one_place_are_one_volume():
    """A car that has moved sees the same world at the same places: alignment and references are of one mind."""
    model, scene = tiny(), moving_scene(batch=1, frames=2)
    shift = rigid(torch.eye(3), torch.tensor([-4.0, 0.0, 0.0]))
    # The camera of the past frame stands where the present one does, on a car that was 4 m (one voxel) further back.
    cameras = scene.cameras.map(lambda tensor: tensor[:, :1].repeat(1, 2, *[1] * (tensor.ndim - 2)))
    now_from_then = torch.stack([torch.eye(4), shift])[None]
    scene = replace(
        scene, cameras=cameras, now_from_then=now_from_then, images=scene.images[:, :1].repeat(1, 2, 1, 1, 1, 1)
    )
    with torch.no_grad():
        model.view_transformation.queries.zero_()
        for table in model.positions.tables:
            table.zero_()
        for layer in model.view_transformation.layers:
            # Without a look around, a voxel's answer depends on its place in the world alone.
            layer.self_attention.output_proj.weight.zero_()
        past, present = volumes_of(model.eval(), scene)[1:]
    torch.testing.assert_close(past[:, :, :-1], present[:, :, :-1], rtol=1e-3, atol=1e-4)
    assert present.std() > 0.1
    assert not past[:, :, -1].any()


def test_the_queries_may_be_told_of_the_cars_motion():
    scene = moving_scene(batch=2)
    torch.testing.assert_close(motion_numbers(scene, 2), torch.zeros(2, 5))
    told = motion_numbers(scene, 0)
    # now_from_then of frame 1 turns by -0.1 and shifts by -1.5 m: from there, now lies ahead and to the left.
    c, s = torch.cos(torch.tensor(0.1)), torch.sin(torch.tensor(0.1))
    torch.testing.assert_close(told[0], torch.stack([1.5 * c, 1.5 * s, c * 0, s * 0 + 0.1, c * 0 + 0.5]))
    model = tiny(motion="poses").eval()
    other = replace(scene, time=scene.time * 2)
    with torch.no_grad():
        assert not torch.allclose(model.encode(scene, 0).volume, model.encode(other, 0).volume)
        assert torch.equal(tiny().eval().encode(scene, 0).volume, tiny().eval().encode(other, 0).volume)


# --- the decoder -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("factors", "strides"),
    [
        ((2, 2, 1), [(2, 2, 1)]),
        ((4, 4, 1), [(2, 2, 1), (2, 2, 1)]),
        ((4, 4, 4), [(2, 2, 2), (2, 2, 2)]),
        ((8, 8, 2), [(2, 2, 2), (2, 2, 1), (2, 2, 1)]),
    ],
)
def test_the_decoder_doubles_axes_until_they_are_fine_enough(factors, strides):
    decoder = VoxelDecoder(6, 3, factors)
    assert [step[0].stride for step in decoder.steps] == strides
    assert [step[0].out_channels for step in decoder.steps] == [6] * (len(strides) - 1) + [3]
    size = tuple(f * n for f, n in zip(factors, (2, 3, 2), strict=True))
    assert decoder(torch.randn(2, 6, 2, 3, 2), size).shape == (2, 3, *size)
    assert decoder(torch.randn(2, 6, 2, 3, 2), (5, 6, 3)).shape == (2, 3, 5, 6, 3)


def test_a_doubling_is_the_transposed_convolution_of_its_definition():
    """Every voxel spreads over a block of four along a doubled axis, the first of which lies one before its pair."""
    decoder = VoxelDecoder(2, 3, (2, 1, 1)).eval()
    conv = decoder.steps[0][0]
    volume = torch.randn(1, 2, 3, 2, 2)
    expected = torch.zeros(1, 3, 8, 2, 2)
    for x in range(3):
        for tap in range(4):
            expected[:, :, 2 * x + tap] += torch.einsum("bcyz,co->boyz", volume[:, :, x], conv.weight[:, :, tap, 0, 0])
    torch.testing.assert_close(conv(volume), expected[:, :, 1:-1])
    scale = (1 + decoder.steps[0][1].eps) ** -0.5
    torch.testing.assert_close(decoder(volume, (6, 2, 2)), F.relu(expected[:, :, 1:-1] * scale))


@pytest.mark.parametrize("coarsening", [(1, 1, 1), (3, 3, 1), (0, 2, 1)])
def test_other_coarsenings_are_refused(coarsening):
    with pytest.raises(InputError, match="powers of two"):
        VoxelDecoder(2, 2, coarsening)


# --- the whole -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("coarsening", [(4, 4, 1), (4, 4, 4)])
@pytest.mark.parametrize("cameras", [1, 3])
def test_a_batch_is_answered_as_one_by_one(cameras, coarsening):
    model, scene = (
        shaken(tiny(ODD, coarsening=coarsening)).eval(),
        moving_scene(batch=3, cameras=cameras, size=(30, 50)),
    )
    scene = augmented(scene, 1, turn=0.07, scale=1.1, shift=(-3.0, 2.0))
    scene = replace(scene, frame_valid=torch.tensor([[True, True, True], [True, True, False], [True, False, False]]))
    with torch.no_grad():
        together = model(scene).logits
        assert together.shape == (3, 4, *ODD.shape)
        for b in range(3):
            alone = model(sample_of(scene, b)).logits
            torch.testing.assert_close(together[b : b + 1], alone, rtol=1e-3, atol=1e-4)


def test_a_camera_without_its_picture_is_as_good_as_none():
    model, scene = shaken(tiny()).eval(), moving_scene(cameras=3)
    valid = scene.camera_valid.clone()
    valid[:, :, 2] = False
    fewer = replace(
        scene,
        cameras=scene.cameras.map(lambda tensor: tensor[:, :, :2]),
        camera_valid=valid[:, :, :2],
        images=scene.images[:, :, :2],
    )
    with torch.no_grad():
        missing, without = model(replace(scene, camera_valid=valid)).logits, model(fewer).logits
    torch.testing.assert_close(missing, without, rtol=1e-4, atol=1e-4)


def test_no_camera_at_all_still_answers_and_learns():
    model, scene = tiny().train(), moving_scene()
    blind = replace(scene, camera_valid=torch.zeros_like(scene.camera_valid))
    losses = model.loss(model(blind), random_target(scene, GRID))
    torch.stack(list(losses.values())).sum().backward()
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in model.parameters())


def test_the_loss_is_that_of_the_reference_on_the_voxels_that_count():
    model, scene = tiny().eval(), moving_scene()
    target = random_target(scene, GRID)
    with torch.no_grad():
        outputs = model(scene)
        losses = model.loss(outputs, target)
    log_p = outputs.logits.log_softmax(1).gather(1, target.labels[:, None])[:, 0]
    torch.testing.assert_close(losses["cross_entropy"], -10 * log_p[target.observed].mean())
    occupied = target.observed & (target.labels != 3)
    torch.testing.assert_close(losses["lovasz"], lovasz_softmax(outputs.logits, target.labels, occupied))
    assert losses.keys() == {"cross_entropy", "lovasz"}
    halved = tiny(class_weight=1.0, lovasz_weight=0.5).loss(outputs, target)
    ones = torch.ones(4)
    torch.testing.assert_close(
        halved["cross_entropy"], cross_entropy(outputs.logits, target.labels, target.observed, ones)
    )
    torch.testing.assert_close(halved["lovasz"], losses["lovasz"] / 2)


def test_unobserved_voxels_do_not_matter_and_nothing_observed_costs_nothing():
    model, scene = tiny().eval(), moving_scene()
    target = random_target(scene, GRID)
    changed = replace(target, labels=torch.where(target.observed, target.labels, (target.labels + 1) % 4))
    with torch.no_grad():
        outputs = model(scene)
        assert model.loss(outputs, changed) == model.loss(outputs, target)
        blind = Target(torch.full_like(target.labels, 3), torch.zeros_like(target.observed))
        assert all(value == 0 for value in model.loss(outputs, blind).values())
    assert LABELS.empty == 3


def test_the_town_can_be_learnt_from(tiny_surround_town: Path):
    data = Occ3dConfig(root=tiny_surround_town, image_size=(40, 64), keyframes=(0, -1), label_scale=4)
    train, val = (data.build(split, TINY.build(data.grid, OCC3D).needs) for split in ("train", "val"))
    torch.manual_seed(0)
    config = replace(TINY, frames=2, images=replace(IMAGES, cameras=6))
    model = config.build(data.grid, OCC3D).train()
    sample = collate([train.sample(0), train.sample(1)])
    assert sample.scene.frame_valid.tolist() == [[True, False], [True, True]]
    optimizer, totals = torch.optim.AdamW(model.parameters(), lr=3e-3), []
    for _ in range(4):
        total = torch.stack(list(model.loss(model(sample.scene), sample.target).values())).sum()
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        totals.append(total.item())
    assert totals[-1] < 0.97 * totals[0]
    predicted = model.eval().predict(collate([val.sample(1)]).scene)
    assert predicted.shape == (1, *data.grid.shape)
