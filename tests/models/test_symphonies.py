from dataclasses import replace

import pytest
import torch
from tiny_surround import GRID, LABELS, built, random_scene, random_target, sample_of

from occloom.data.label_spaces import SEMANTIC_KITTI, SEMANTIC_KITTI_GRID
from occloom.errors import InputError
from occloom.losses.affinity import class_sums, geometric_affinity, semantic_affinity
from occloom.losses.cross_entropy import cross_entropy
from occloom.losses.frustum import frustum_proportion
from occloom.models.symphonies import SymphoniesConfig, frustum_cells
from occloom.models.symphonies_decoder import SceneDecoderConfig
from occloom.models.voxdet_camera import SmallTrunk

TINY = SymphoniesConfig(
    trunk=SmallTrunk(width=8),
    pixel_channels=16,
    pixel_layers=1,
    pixel_feedforward=16,
    pixel_groups=4,
    decoder=SceneDecoderConfig(
        channels=16, layers=2, heads=2, image_points=2, scene_points=2, enlargements=((1, 1, 2),)
    ),
    volume_coarsening=(2, 2, 4),
    queries=5,
)


def deep_scene(**sizes):
    """One camera with a depth of a few metres, unknown in the upper half."""
    scene = random_scene(**{"cameras": 1, "frames": 1, **sizes})
    depth = 2 + 5 * torch.rand(scene.images[:, :, :, 0].shape, generator=torch.Generator().manual_seed(1))
    depth[..., : depth.shape[-2] // 2, :] = 0
    return replace(scene, depth=depth)


def count(part):
    return sum(parameter.numel() for parameter in part.parameters())


def test_the_full_size_has_the_parameters_of_the_reference():
    """Reference monoocc 10: the decoder as instantiated there; encoder and whole as they add up."""
    with torch.device("meta"):
        model = SymphoniesConfig().build(SEMANTIC_KITTI_GRID, SEMANTIC_KITTI)
    decoder = model.decoder
    assert count(decoder) == 21_584_596
    assert count(decoder.proposal) == 202_400
    assert [count(layer) for layer in decoder.layers] == [715_040, 715_040, 458_720]
    assert decoder.scene.numel() == 16_777_216
    assert count(decoder.positions) == 57_600
    assert count(decoder.context) == 1_770_496
    assert count(decoder.head) == 888_084
    left_out = sum(model.left_out.values())
    assert round((count(model.encoder) + left_out) / 1e6, 1) == 37.7
    assert round((count(model) + left_out) / 1e6, 1) == 59.3


@pytest.mark.parametrize("size", [(32, 64), (33, 61)])
def test_a_batch_is_answered_as_one_by_one(size):
    model, scene = built(TINY).eval(), deep_scene(size=size)
    scene.depth[0] = 0  # a sample without proposals
    with torch.no_grad():
        together = model(scene).logits
        for b in range(2):
            torch.testing.assert_close(together[b : b + 1], model(sample_of(scene, b)).logits, rtol=1e-3, atol=1e-3)
        assert torch.equal(model.predict(scene), together.argmax(dim=1))
    assert together.shape == (2, 4, *GRID.shape)


def test_every_parameter_learns():
    model, scene = built(TINY).train(), deep_scene()
    losses = model.loss(model(scene), random_target(scene))
    assert losses.keys() == {"cross_entropy", "semantic_affinity", "geometric_affinity", "frustum"}
    torch.stack(list(losses.values())).sum().backward()
    # Places of queries are rounded to pixels on their way into the scene, but not on that into the picture.
    assert [name for name, p in model.named_parameters() if p.grad is None] == []
    assert model.encoder.places.grad.any()


def test_earlier_layers_count_half():
    model, scene = built(TINY).train(), deep_scene()
    target = random_target(scene)
    with torch.no_grad():
        outputs = model(scene)
        losses = model.loss(outputs, target)
        cells = frustum_cells(outputs, GRID.centres())
        expected = dict.fromkeys(losses, 0.0)
        for weight, scores in zip((0.5, 1.0), outputs.scores, strict=True):
            logits, labels, observed = scores.logits, target.labels, target.observed
            sums = class_sums(logits, labels, observed)
            expected["cross_entropy"] += weight * cross_entropy(logits, labels, observed, LABELS.class_weights())
            expected["semantic_affinity"] += weight * semantic_affinity(sums)
            expected["geometric_affinity"] += weight * geometric_affinity(sums, LABELS.empty)
            expected["frustum"] += weight * frustum_proportion(logits, labels, observed, cells, 64)
    for name, value in expected.items():
        torch.testing.assert_close(losses[name], value, rtol=1e-4, atol=1e-5)


def test_a_step_may_look_at_some_voxels():
    model, scene = built(replace(TINY, loss_stride=2)).train(), deep_scene()
    target = random_target(scene)
    with torch.no_grad():
        outputs = model(scene)
        drawn = {float(model.loss(outputs, target)["cross_entropy"]) for _ in range(20)}
        assert 2 <= len(drawn) <= 8
        assert len({float(model.eval().loss(outputs, target)["cross_entropy"]) for _ in range(3)}) == 1


def test_frustums_are_an_eighth_of_the_picture_each_way():
    model, scene = built(TINY).eval(), deep_scene()
    with torch.no_grad():
        cells = frustum_cells(model(scene), GRID.centres())
    camera, intrinsics = scene.cameras.camera_from_ego[1, 0, 0], scene.cameras.intrinsics[1, 0, 0]
    for place in ((9, 8, 4), (14, 3, 2), (2, 2, 2), (12, 12, 6)):
        x, y, z = camera[:3, :3] @ GRID.centres()[place] + camera[:3, 3]
        u, v = ((intrinsics @ torch.stack([x, y, z]))[:2] / z).tolist()
        column, row = (u + 0.5) / 64 * 8, (v + 0.5) / 32 * 8
        inside = z > 0 and 0 <= column < 8 and 0 <= row < 8
        assert int(cells[(1, *place)]) == (int(row) * 8 + int(column) if inside else -1)


def test_queries_stand_in_the_scene_where_their_pixel_is():
    model, scene = built(TINY).eval(), deep_scene()
    pixel = torch.tensor([40.0, 25.0])
    places = ((pixel + 0.5) / torch.tensor([64.0, 32.0])).expand(2, 1, 2)
    camera, intrinsics = scene.cameras.camera_from_ego[:, 0, 0], scene.cameras.intrinsics[:, 0, 0]
    found = model.places_in_scene(places, scene.depth[:, 0, 0], intrinsics, camera)
    grid = model.volume_grid
    for b in range(2):
        depth = scene.depth[b, 0, 0, 25, 40]
        ray = torch.linalg.solve(intrinsics[b], torch.tensor([40.0, 25.0, 1.0])) * depth
        point = torch.linalg.solve(camera[b], torch.cat([ray, torch.ones(1)]))[:3]
        x, y, z = ((point - torch.tensor(grid.lower)) / torch.tensor(grid.voxel_size)).tolist()
        _, ny, nz = grid.shape
        expected = torch.tensor([(int(y) * nz + z) / (ny * nz), x / grid.shape[0]])
        torch.testing.assert_close(found[b, 0], expected, rtol=1e-4, atol=1e-4)


def test_a_missing_picture_proposes_and_sees_nothing():
    model, scene = built(TINY).eval(), deep_scene()
    scene = replace(scene, camera_valid=torch.zeros_like(scene.camera_valid))
    with torch.no_grad():
        seen = model.view(scene, model.encoder(scene.images[:, 0, 0]))
    assert not seen.proposed.any()
    assert not seen.voxels.visible.any()


def test_several_cameras_are_refused():
    with pytest.raises(InputError, match="2 cameras"):
        built(TINY)(deep_scene(cameras=2))


@pytest.mark.parametrize("change", [{"queries": 0}, {"volume_coarsening": (2, 2, 3)}])
def test_sizes_that_mean_nothing_are_refused(change):
    with pytest.raises(InputError):
        replace(TINY, **change)
