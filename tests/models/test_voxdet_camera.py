import itertools
import math
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_voxdet import GRID, PLANES, STEADY, TINY, label_space, random_scene

from occloom.errors import InputError
from occloom.lifting.depth import DepthPlanes
from occloom.models.voxdet_camera import (
    PixelCentres,
    VoxDetConfig,
    nearest_depth,
    planes_one_hot,
)
from occloom.scene import Target


def random_target(batch=2, classes=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, classes, (batch, 4, 4, 2), generator=generator)
    for axis in (1, 2, 3):
        labels = labels.repeat_interleave(4, axis)
    observed = torch.rand(labels.shape, generator=generator) < 0.7
    return Target(labels=torch.where(observed, labels, 0), observed=observed)


def tiny_model(seed=0, config=STEADY, lively=True):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = config.build(GRID, label_space())
        if lively:
            stir(model)
    return model


def stir(module):
    """Give what starts at zero some weight, so that it matters: gates, embeddings, offsets of deformable layers."""
    for parameter in module.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.2)


def pick(scene, n):
    """The scene of one of its cameras."""
    cameras = scene.cameras.map(lambda t: t[:, :, n : n + 1])
    return replace(
        scene,
        cameras=cameras,
        camera_valid=scene.camera_valid[:, :, n : n + 1],
        images=scene.images[:, :, n : n + 1],
        depth=scene.depth[:, :, n : n + 1],
    )


# --- geometry --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "stride"), [((8, 12), 4), ((7, 10), 4), ((5, 3), 1), ((3, 5), 8)])
def test_nearest_depth_against_a_loop_over_cells(size, stride):
    generator = torch.Generator().manual_seed(0)
    depth = torch.rand(2, *size, generator=generator, dtype=torch.float64) * 9
    depth = torch.where(torch.rand(2, *size, generator=generator) < 0.8, 0.0, depth)
    nearest = nearest_depth(depth, stride)
    h, w = -(-size[0] // stride), -(-size[1] // stride)
    assert nearest.shape == (2, h, w)
    for m, i, j in itertools.product(range(2), range(h), range(w)):
        cell = depth[m, i * stride : (i + 1) * stride, j * stride : (j + 1) * stride]
        assert nearest[m, i, j] == min((d for d in cell.flatten().tolist() if d > 0), default=0.0)


def test_nearest_depth_of_nothing_known_is_zero():
    assert not nearest_depth(torch.zeros(2, 5, 6), 4).any()
    assert not nearest_depth(torch.full((1, 4, 4), float("nan")), 4).any()


@pytest.mark.parametrize("planes", [PLANES, DepthPlanes()])
def test_one_hot_is_the_nearest_plane(planes):
    generator = torch.Generator().manual_seed(0)
    depth = torch.rand(1, 6, 7, generator=generator, dtype=torch.float64) * (planes.farthest + 4) + 0.01
    hot = PixelCentres(planes).one_hot(depth, 1)
    assert hot.shape == (1, planes.count, 6, 7)
    centres = planes.centres(dtype=torch.float64)
    within = 0
    for i, j in itertools.product(range(6), range(7)):
        gap, plane = (centres - depth[0, i, j]).abs().min(dim=0)
        expected = torch.zeros(planes.count, dtype=torch.float64)
        if gap < planes.step / 2:
            expected[plane] = 1
            within += 1
        assert torch.equal(hot[0, :, i, j], expected)
    assert 0 < within < 42


def test_one_hot_of_planes_that_are_not_there_is_zero():
    index = torch.tensor([[[-1.0, 0.0, 2.0, 3.0, 1.0]]])
    known = torch.tensor([[[True, True, True, True, False]]])
    assert planes_one_hot(index, known, 3)[0, :, 0].T.tolist() == [
        [0, 0, 0],
        [1, 0, 0],
        [0, 0, 1],
        [0, 0, 0],
        [0, 0, 0],
    ]


def test_camera_vector_says_intrinsics_and_pose():
    scene = random_scene(batch=2, cameras=3, size=(24, 40))
    vectors = PixelCentres(PLANES).camera_vector(scene)
    assert vectors.shape == (6, 33)
    for m, (b, n) in enumerate(itertools.product(range(2), range(3))):
        matrix = scene.cameras.intrinsics[b, 0, n].tolist()
        pose = torch.linalg.inv(scene.cameras.camera_from_ego[b, 0, n].double())[:3].flatten().tolist()
        identity = torch.eye(3)
        # Reference voxdet 3, in its order: fourth column of the projection, resize and crop, warp of the volume.
        shares = [matrix[0][0] / 40, matrix[1][1] / 24, matrix[0][2] / 40, matrix[1][2] / 24]
        resize = [*identity[0, :2].tolist(), 0, *identity[1, :2].tolist(), 0]
        warp = [*identity[:2, :2].flatten().tolist(), identity[2, 2].item(), 0, 0, 0]
        assert vectors[m].tolist() == pytest.approx([*shares, 0, 0, 0, *resize, *warp, *pose], abs=1e-5)


def test_references_name_the_place_of_a_point_among_pixels_and_planes():
    scene, height, width = random_scene(batch=1, cameras=2), 24, 40
    points = torch.tensor([[3.0, 0.2, 0.1], [2.0, -0.5, 0.3], [-2.0, 0.0, 0.0], [1.0, 6.0, 0.0], [6.0, 1.0, -0.4]])
    references = PixelCentres(PLANES).references(scene, points[None, :, None], (height, width))
    seen = 0
    for n, q in itertools.product(range(2), range(5)):
        camera = scene.cameras.camera_from_ego[0, 0, n] @ torch.cat([points[q], torch.ones(1)])
        u, v, w = (scene.cameras.intrinsics[0, 0, n] @ camera[:3]).tolist()
        visible = w > 0 and -0.5 < u / w < width - 0.5 and -0.5 < v / w < height - 0.5
        assert references.visible[0, n, q, 0].item() == visible
        if visible:
            # Plane j of D is at (j + 0.5) / D, pixel u of W at (u + 0.5) / W.
            plane = (camera[2].item() - PLANES.near) / PLANES.step
            expected = [(u / w + 0.5) / width, (v / w + 0.5) / height, (plane + 0.5) / PLANES.count]
            assert references.locations[0, n, q, 0].tolist() == pytest.approx(expected, abs=1e-5)
            seen += 1
    assert 4 <= seen < 10


def test_frustum_voxels_are_those_of_pixels_at_the_planes():
    scene = random_scene(batch=1, cameras=2)
    voxels = PixelCentres(PLANES).voxels(scene, GRID, (6, 10), 4)
    assert voxels.shape == (1, 2, 6, 10, PLANES.count)
    for n, i, j, d in itertools.product(range(2), range(0, 6, 5), range(1, 10, 4), range(0, PLANES.count, 3)):
        depth = PLANES.near + PLANES.step * d
        ray = torch.tensor([4 * j + 1.5, 4 * i + 1.5, 1.0], dtype=torch.float64)
        camera = torch.linalg.solve(scene.cameras.intrinsics[0, 0, n].double(), ray) * depth
        pose = scene.cameras.camera_from_ego[0, 0, n].double()
        point = torch.linalg.solve(pose, torch.cat([camera, torch.ones(1, dtype=torch.float64)]))[:3].tolist()
        place = [math.floor((p - low) / size) for p, low, size in zip(point, GRID.lower, GRID.voxel_size, strict=True)]
        inside = all(0 <= k < count for k, count in zip(place, GRID.shape, strict=True))
        flat = (place[0] * GRID.shape[1] + place[1]) * GRID.shape[2] + place[2]
        assert voxels[0, n, i, j, d] == (flat if inside else -1)


# --- the model -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("cameras", "size"), [(1, (24, 40)), (2, (22, 37)), (3, (24, 24))])
def test_shapes_and_prediction(cameras, size):
    model, scene = tiny_model().eval(), random_scene(cameras=cameras, size=size)
    outputs = model(scene)
    assert outputs.logits.shape == (2, 5, *GRID.shape)
    assert outputs.offsets.shape == (2, 6, 4, 4, 2)
    assert outputs.auxiliary is None
    assert torch.equal(model.predict(scene), outputs.logits.argmax(dim=1))


@pytest.mark.parametrize("stride", [4, 8])
def test_every_parameter_gets_a_gradient(stride):
    model = tiny_model(config=replace(STEADY, feature_stride=stride))
    scene = random_scene(cameras=2, size=(48, 64), known=0.05)
    sum(model.loss(model(scene), random_target()).values()).backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == []


def test_loss_terms_are_those_of_the_detector():
    model, scene, target = tiny_model(), random_scene(), random_target()
    outputs = model(scene)
    terms = model.loss(outputs, target)
    expected = model.detector.losses(outputs, target)
    assert terms.keys() == expected.keys()
    assert len(terms) == 7
    for name, value in expected.items():
        assert torch.equal(terms[name], value)


def test_batch_equals_one_by_one():
    model, scene = tiny_model().eval(), random_scene(batch=3, cameras=2)
    # Numbers of proposals differ; the second sample has none.
    scene.depth[1] = 0
    together = model(scene)
    for b in range(3):
        alone = model(scene.map(lambda tensor, b=b: tensor[b : b + 1]))
        torch.testing.assert_close(alone.logits, together.logits[b : b + 1], rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(alone.offsets, together.offsets[b : b + 1], rtol=1e-3, atol=1e-4)


def test_a_missing_camera_does_not_contribute():
    model, scene = tiny_model().eval(), random_scene(cameras=2)
    missing = replace(scene, camera_valid=torch.tensor([[[True, False]], [[True, True]]]))
    other = random_scene(cameras=2, seed=1)
    changed = replace(
        missing,
        images=torch.cat([missing.images[:, :, :1], other.images[:, :, 1:]], dim=2),
        depth=torch.cat([missing.depth[:, :, :1], other.depth[:, :, 1:]], dim=2),
    )
    before, after = model(missing).logits, model(changed).logits
    assert torch.equal(before[0], after[0])
    assert not torch.allclose(before[1], after[1])
    torch.testing.assert_close(before[:1], model(pick(scene, 0)).logits[:1], rtol=1e-3, atol=1e-3)


def test_a_missing_frame_shows_nothing():
    model, scene = tiny_model().eval(), random_scene()
    there = model(scene).logits
    gone = model(replace(scene, frame_valid=torch.tensor([[True], [False]]))).logits
    assert torch.equal(there[0], gone[0])
    blind = model(replace(scene, camera_valid=torch.tensor([[[True]], [[False]]]))).logits
    assert torch.equal(gone, blind)
    assert not torch.allclose(there[1], gone[1])


def test_older_frames_are_ignored():
    model, scene = tiny_model().eval(), random_scene(frames=3)
    present = replace(
        scene,
        cameras=scene.cameras.map(lambda t: t[:, :1]),
        now_from_then=scene.now_from_then[:, :1],
        time=scene.time[:, :1],
        frame_valid=scene.frame_valid[:, :1],
        camera_valid=scene.camera_valid[:, :1],
        images=scene.images[:, :1],
        depth=scene.depth[:, :1],
    )
    assert torch.equal(model(scene).logits, model(present).logits)


def test_images_and_depth_both_matter():
    model, scene = tiny_model().eval(), random_scene()
    logits = model(scene).logits
    assert not torch.allclose(logits, model(replace(scene, images=scene.images.flip(0))).logits)
    assert not torch.allclose(logits, model(replace(scene, depth=scene.depth.flip(0))).logits)
    unknown = model(replace(scene, depth=torch.zeros_like(scene.depth))).logits
    assert torch.isfinite(unknown).all()
    assert not torch.allclose(logits, unknown)


def test_a_single_sample_without_any_depth_trains_with_all_parameters():
    model, scene = tiny_model(), random_scene(batch=1, known=0.0)
    terms = model.loss(model(scene), random_target(batch=1))
    sum(terms.values()).backward()
    # Layers that no query goes through have a gradient too, of zero: processes wait for one another's.
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())


def test_two_training_steps_are_equal_bit_by_bit():
    states = []
    for _ in range(2):
        model = tiny_model(config=TINY)
        optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3)
        with torch.random.fork_rng():
            torch.manual_seed(3)
            for step in range(2):
                terms = model.loss(model(random_scene(cameras=2, seed=step)), random_target(seed=step))
                optimiser.zero_grad()
                sum(terms.values()).backward()
                optimiser.step()
        states.append(model.state_dict())
    for name, tensor in states[0].items():
        assert torch.equal(tensor, states[1][name]), name


def test_learns_one_sample():
    model, scene, target = tiny_model(seed=1, lively=False), random_scene(batch=1, known=0.3), random_target(batch=1)
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-2)
    losses = []
    for _ in range(8):
        loss = sum(model.loss(model(scene), target).values())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.85 * losses[0]


def test_losses_hold_in_mixed_precision():
    model, scene, target = tiny_model(lively=False).eval(), random_scene(known=0.3), random_target()
    full = model.loss(model(scene), target)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = model.loss(model(scene), target)
    for name, value in full.items():
        assert mixed[name].dtype == torch.float32
        torch.testing.assert_close(mixed[name], value, rtol=0.05, atol=0.05)


def test_saved_weights_give_the_same_bits(tmp_path):
    model, scene = tiny_model(seed=0).eval(), random_scene()
    save_file(model.state_dict(), tmp_path / "weights.safetensors")
    other = tiny_model(seed=1).eval()
    assert not torch.equal(other(scene).logits, model(scene).logits)
    other.load_state_dict(load_file(tmp_path / "weights.safetensors"))
    assert torch.equal(other(scene).logits, model(scene).logits)


def test_trunk_weights_come_from_a_file(tmp_path):
    model, other = tiny_model(seed=0), tiny_model(seed=1)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    save_file(other.trunk.state_dict(), tmp_path / "trunk.safetensors")
    model.load_trunk_weights(tmp_path / "trunk.safetensors")
    for name, tensor in model.state_dict().items():
        trunk = name.startswith("trunk.")
        assert torch.equal(tensor, other.state_dict()[name] if trunk else before[name]), name
    save_file({"nothing": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(InputError, match="lacks"):
        model.load_trunk_weights(tmp_path / "other.safetensors")


def test_no_weights_for_a_trunk_of_which_none_are_published():
    with pytest.raises(InputError, match="no ImageNet weights are published"):
        tiny_model().load_trunk_weights("imagenet")


def test_what_cannot_be_built_is_refused():
    with pytest.raises(InputError, match="feature_stride is 5"):
        VoxDetConfig(feature_stride=5)
    with pytest.raises(InputError, match="heads divides channels"):
        VoxDetConfig(channels=12)
    for changes in ({"attention_layers": 0}, {"heads": 0}, {"points": 0}):
        with pytest.raises(InputError, match="all are at least 1"):
            replace(TINY, **changes)
    for changes, named in (
        ({"fusion_channels": 12}, "fusion_channels is 12"),
        ({"geometry": PixelCentres(replace(PLANES, count=10))}, "planes is 10"),
        ({"volume_coarsening": (16, 2, 2)}, "offset_stride is"),
    ):
        with pytest.raises(InputError, match=named):
            replace(TINY, **changes).build(GRID, label_space())
    with pytest.raises(ValueError, match="divide the shape"):
        replace(TINY, volume_coarsening=(5, 4, 4)).build(GRID, label_space())
