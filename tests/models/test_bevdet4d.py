"""BEVDet4D-stereo-Occ: published size, frames, augmentation, cameras that are missing."""

from dataclasses import replace

import pytest
import torch
from tiny_surround import GRID, LABELS, LIFTING, TINY, augmented, built, random_scene, random_target, sample_of

from occloom.errors import InputError
from occloom.grid import LabelSpace, VoxelGrid
from occloom.losses.cross_entropy import BalancedClasses
from occloom.models.bevdet4d import BevDet4dConfig, LiftingConfig, camera_vector, depth_loss

OCC3D = VoxelGrid((-40.0, -40.0, -1.0), (0.4, 0.4, 0.4), (200, 200, 16))


def count(module):
    return sum(p.numel() for p in module.parameters())


@pytest.fixture(scope="module")
def full_size():
    """Without memory."""
    labels = LabelSpace(tuple("abcdefghijklmnopqr"), 17, ((0, 0, 0),) * 18, (1e3,) * 18)
    with torch.device("meta"):
        return BevDet4dConfig().build(OCC3D, labels)


def test_parameters_of_each_module_are_those_of_the_reference(full_size):
    # Reference drocc 7.
    assert count(full_size.lifting.trunk) == 23_508_032
    assert count(full_size.lifting.neck) == 1_377_024
    assert count(full_size.lifting.depth_net) == 5_840_638
    assert count(full_size.lifting.refine) == 83_136
    assert count(full_size.encoder) == 4_122_688
    assert count(full_size.neck) == 7_232
    assert count(full_size.head.conv) == 27_680
    assert count(full_size.head.hidden) + count(full_size.head.classify) == 3_282
    assert count(full_size) == 34_969_712


def test_full_size_volumes_fit_together(full_size):
    levels = full_size.encoder(torch.empty(1, 64, 200, 200, 16, device="meta"))
    assert [tuple(level.shape) for level in levels] == [
        (1, 32, 200, 200, 16),
        (1, 64, 100, 100, 8),
        (1, 128, 50, 50, 4),
    ]
    assert full_size.head(full_size.neck(levels, (200, 200, 16))).shape == (1, 18, 200, 200, 16)
    assert full_size.neck(levels, (50, 50, 16)).shape == (1, 32, 50, 50, 16)


@pytest.fixture(scope="module")
def model():
    return built(TINY).eval()


def test_the_oldest_frames_channels_come_first(model):
    scene = random_scene(batch=1)
    lifted = model.lifting(scene)
    assert lifted.volume.shape == (1, 16, *GRID.shape)
    assert lifted.features.shape == (1, 2, 12, 4, 8)
    assert lifted.depth.shape == (1, 2, 8, 4, 8)
    assert lifted.stride == 8
    now = scene.images.clone()
    now[:, 0] = 1 - now[:, 0]
    changed = model.lifting(replace(scene, images=now))
    assert torch.equal(changed.volume[:, :8], lifted.volume[:, :8])
    assert not torch.allclose(changed.volume[:, 8:], lifted.volume[:, 8:])
    # The frame before those that are lifted is the stereo reference of the older one alone.
    before = scene.images.clone()
    before[:, 2] = 1 - before[:, 2]
    changed = model.lifting(replace(scene, images=before))
    assert not torch.equal(changed.volume[:, :8], lifted.volume[:, :8])
    assert torch.equal(changed.volume[:, 8:], lifted.volume[:, 8:])


def test_a_batch_of_different_augmentations_equals_one_by_one(model):
    scene = random_scene(batch=3)
    scene = augmented(scene, 0, turn=0.07, scale=1.1, shift=(-3.0, 2.0))
    scene = augmented(scene, 1, flip_x=True, flip_y=True, scale=0.9)
    together = model(scene)
    for b in range(3):
        alone = model(sample_of(scene, b))
        torch.testing.assert_close(together.logits[b : b + 1], alone.logits, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(together.depth[b : b + 1], alone.depth, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("axis", [0, 1])
def test_a_mirrored_ego_frame_mirrors_the_splat(model, axis):
    scene = random_scene(batch=1)
    mirrored = augmented(scene, 0, flip_x=axis == 0, flip_y=axis == 1)
    volumes = []
    for each in (scene, mirrored):
        lifting = built(TINY).eval().lifting
        # Told nothing of the cameras, and without a 3D network, the lift knows no direction.
        lifting.refine = torch.nn.Identity()
        camera = torch.zeros(2, 27)
        matched = lifting.trunk.first_stage(each.images[:, 1].flatten(0, 1))
        volumes.append(lifting.lift_frame(each, 0, camera, matched).volume)
    assert volumes[0].any()
    # A point on a border between voxels may fall to either side of it.
    agree = torch.isclose(volumes[1], volumes[0].flip(2 + axis), atol=1e-5).all(dim=1)
    assert agree.float().mean() > 0.995


def test_a_camera_without_its_picture_is_as_good_as_none(model):
    scene = random_scene(batch=2, cameras=3)
    valid = scene.camera_valid.clone()
    valid[:, :, 1] = False
    images = torch.where(valid[..., None, None, None], scene.images, 0.0)
    missing = model(replace(scene, camera_valid=valid, images=images))
    kept = torch.tensor([0, 2])
    cameras = scene.cameras.map(lambda tensor: tensor[:, :, kept])
    without = model(replace(scene, cameras=cameras, camera_valid=valid[:, :, kept], images=scene.images[:, :, kept]))
    torch.testing.assert_close(missing.logits, without.logits, rtol=1e-4, atol=1e-5)
    assert missing.valid.tolist() == [[True, False, True]] * 2


def test_no_camera_at_all_still_answers(model):
    scene = random_scene(batch=1)
    blind = replace(scene, camera_valid=torch.zeros_like(scene.camera_valid))
    assert torch.isfinite(model(blind).logits).all()


def test_a_standing_neighbour_says_nothing_of_depth(model):
    scene = random_scene(batch=1, frames=3)
    same = {"images": scene.images[:, :1].expand_as(scene.images)}
    cameras = scene.cameras.map(lambda tensor: tensor[:, :1].expand_as(tensor))
    alone = replace(scene, cameras=cameras, frame_valid=torch.tensor([[True, False, False]]), **same)
    first = model.lifting.trunk.first_stage(alone.images[:, 0].flatten(0, 1))
    matching = model.lifting.match(alone, 0, first, first)
    torch.testing.assert_close(matching, torch.full_like(matching, 1 / 8), rtol=1e-3, atol=0)
    assert torch.isfinite(model(alone).logits).all()


def test_a_missing_older_picture_says_nothing_of_depth(model):
    scene = random_scene(batch=1)
    valid = scene.camera_valid.clone()
    valid[:, 1, 0] = False
    first = model.lifting.trunk.first_stage(scene.images[:, 0].flatten(0, 1))
    older = model.lifting.trunk.first_stage(scene.images[:, 1].flatten(0, 1))
    matching = model.lifting.match(replace(scene, camera_valid=valid), 0, first, older)
    assert torch.equal(matching[0], torch.full_like(matching[0], 1 / 8))
    assert not torch.allclose(matching[1], torch.full_like(matching[1], 1 / 8), atol=1e-3)


def test_too_few_frames_are_refused(model):
    with pytest.raises(InputError, match="have 2 frames, the model looks at 3"):
        model(random_scene(frames=2))


def test_only_the_present_frame_is_learnt_from():
    model = built(TINY).train()
    scene = random_scene()
    images = scene.images.clone().requires_grad_()
    losses = model.loss(model(replace(scene, images=images)), random_target(scene))
    assert set(losses) == {"cross_entropy", "depth"}
    torch.stack(list(losses.values())).sum().backward()
    assert images.grad[:, 0].any()
    assert not images.grad[:, 1:].any()
    assert not [name for name, p in model.named_parameters() if p.grad is None]


def test_older_frames_count_in_batch_statistics():
    model = built(TINY).train()
    model(random_scene(seed=3))
    assert model.lifting.depth_net.reduce[1].num_batches_tracked == 2
    assert model.lifting.refine.norm1.num_batches_tracked == 2


def test_one_camera_and_one_sample_can_be_trained_on():
    model = built(TINY).train()
    scene = random_scene(batch=1, cameras=1)
    for _ in range(2):
        losses = model.loss(model(scene), random_target(scene))
        assert all(torch.isfinite(value) for value in losses.values())


def test_the_camera_vector_tells_source_and_augmentation_apart():
    scene = random_scene(batch=2)
    plain = camera_vector(scene)
    assert plain.shape == (4, 27)
    changed = camera_vector(augmented(scene, 1, flip_x=True, turn=0.05, scale=0.9, shift=(4.0, -3.0)))
    assert torch.equal(changed[:2], plain[:2])
    untouched = [0, 1, 2, 3, *range(15, 27)]
    torch.testing.assert_close(changed[2:, untouched], plain[2:, untouched], rtol=1e-4, atol=1e-4)
    c, s = torch.cos(torch.tensor(0.05)), torch.sin(torch.tensor(0.05))
    done = torch.tensor([0.9 * c, 0.9 * s, 4.0, -0.9 * s, 0.9 * c, -3.0, -1.0, 0.0, 0.0, 1.0, 1.0])
    torch.testing.assert_close(changed[2:, 4:15], done.expand(2, -1))
    torch.testing.assert_close(plain[0, :15], torch.tensor([38.4, 38.4, 31.5, 15.5, 1, 0, 0, 0, 1, 0, 1, 0, 0, 1, 1]))
    # Camera 0 looks forward: its forward axis is x of the ego frame.
    torch.testing.assert_close(plain[0, 15:].view(3, 4)[:, 2:].T, torch.tensor([[1.0, 0, 0], [0.3, 0, 0.6]]))


def test_depth_counts_where_a_camera_is_and_a_plane_is_hit(model):
    scene = random_scene(batch=1)
    outputs = model(scene)
    nowhere = replace(random_target(scene), depth=torch.zeros(1, 2, 32, 64))
    assert depth_loss(outputs, nowhere, LIFTING.planes) == 0
    depth = torch.zeros(1, 2, 32, 64)
    # Too near for any plane, then on the third plane; in one cell.
    depth[0, 1, 8, 8], depth[0, 1, 9, 9] = 0.4, 3.2
    target = replace(nowhere, depth=depth)
    p = outputs.depth[0, 1, :, 1, 1]
    expected = -(p[2].log() + (1 - torch.cat([p[:2], p[3:]])).log().sum())
    torch.testing.assert_close(depth_loss(outputs, target, LIFTING.planes), expected)
    blind = replace(outputs, valid=torch.tensor([[True, False]]))
    assert depth_loss(blind, target, LIFTING.planes) == 0


def test_balanced_classes_are_a_part():
    scene = random_scene(batch=1)
    target = random_target(scene)
    plain, balanced = built(TINY), built(replace(TINY, classes=BalancedClasses()))
    assert torch.equal(plain.class_weights, torch.ones(4))
    assert torch.equal(balanced.class_weights, LABELS.class_weights())
    assert plain.state_dict().keys() == balanced.state_dict().keys()
    outputs = plain.eval()(scene)
    assert plain.loss(outputs, target)["cross_entropy"] != balanced.loss(outputs, target)["cross_entropy"]
    log_p = outputs.logits.log_softmax(1).gather(1, target.labels[:, None])[:, 0]
    mean = -log_p[target.observed].mean()
    torch.testing.assert_close(plain.loss(outputs, target)["cross_entropy"], mean)


@pytest.mark.parametrize("change", [{"feature_stride": 12}, {"frames": 0}])
def test_impossible_sizes_are_refused(change):
    with pytest.raises(InputError):
        LiftingConfig(**change)


def test_sizes_that_no_stride_divides(model):
    assert model(random_scene(batch=1, cameras=1, size=(30, 50))).logits.shape == (1, 4, *GRID.shape)
