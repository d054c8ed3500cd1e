import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from occloom.data.kitti_files import read_points
from occloom.data.label_spaces import SEMANTIC_KITTI, SEMANTIC_KITTI_GRID
from occloom.data.semantickitti import SemanticKittiConfig
from occloom.errors import InputError
from occloom.grid import LabelSpace, VoxelGrid
from occloom.models.voxdet import DetectorConfig, FactorisedClasses
from occloom.models.voxdet_lidar import (
    PointEncoder,
    VoxDetLConfig,
    maximum_of_voxels,
    point_features,
)
from occloom.scene import Cameras, Points, Scene, Target, collate

GRID = VoxelGrid(lower=(0.0, -6.4, -2.0), voxel_size=(0.4, 0.4, 0.4), shape=(32, 32, 8))
VOLUME = GRID.coarsen((2, 2, 2))
TINY = VoxDetLConfig(
    point_channels=(8, 12),
    channels=8,
    blocks=(1, 1),
    detector=DetectorConfig(blocks=(1, 1), groups=4, offset_hidden=8, aggregation_layers=2),
)


def label_space(classes=4):
    frequencies = tuple(1e6 if c == 0 else 1e3 * (c + 1) for c in range(classes))
    return LabelSpace(tuple(f"c{c}" for c in range(classes)), 0, ((0, 0, 0),) * classes, frequencies)


def random_points(counts, seed=0, grid=GRID):
    """As many points of each sample, most within the grid and some around it."""
    generator = torch.Generator().manual_seed(seed)
    lower, upper = torch.tensor(grid.lower), torch.tensor(grid.upper)
    total = sum(counts)
    positions = lower + (upper - lower) * (1.2 * torch.rand(total, 3, generator=generator) - 0.1)
    index = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    order = torch.randperm(total, generator=generator)
    return Points(
        positions=positions,
        features=torch.rand(total, 1, generator=generator),
        batch_index=index[order],
        time=torch.zeros(total),
    )


def scene_of(points, batch):
    return Scene(
        cameras=Cameras(
            intrinsics=torch.eye(3).repeat(batch, 1, 1, 1, 1),
            camera_from_ego=torch.eye(4).repeat(batch, 1, 1, 1, 1),
            time=torch.zeros(batch, 1, 1),
        ),
        now_from_then=torch.eye(4).repeat(batch, 1, 1, 1),
        time=torch.zeros(batch, 1),
        frame_valid=torch.ones(batch, 1, dtype=torch.bool),
        camera_valid=torch.ones(batch, 1, 1, dtype=torch.bool),
        points=points,
    )


def random_target(batch=2, classes=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randint(0, classes, (batch, 8, 8, 2), generator=generator)
    labels = coarse.repeat_interleave(4, 1).repeat_interleave(4, 2).repeat_interleave(4, 3)
    observed = torch.rand(labels.shape, generator=generator) < 0.8
    return Target(labels=torch.where(observed, labels, 0), observed=observed)


def tiny_model(config=TINY, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return config.build(GRID, label_space())


def only(points, chosen):
    return points.map(lambda tensor: tensor[chosen])


def test_every_part_of_full_size_has_the_published_count():
    with torch.device("meta"):
        model = VoxDetLConfig().build(SEMANTIC_KITTI_GRID, SEMANTIC_KITTI)

    def count(*modules):
        return sum(p.numel() for module in modules for p in module.parameters() if p.requires_grad)

    detector = model.detector
    assert count(model.points) == 75_596
    assert count(model.backbone) == 6_639_360
    assert count(model.neck) == 951_296
    assert count(detector.encoder, detector.classification, detector.regression) == 13_485_528
    assert count(detector.offset_head, detector.aggregation, detector.class_head) == 710_528
    assert count(detector.auxiliary_head) == 222_592
    assert count(model) == 22_084_900


def test_point_features_are_those_of_a_loop():
    points = random_points((40, 0, 60))
    features, voxels = point_features(points, VOLUME)
    expected_features, expected_voxels = [], []
    upper = VOLUME.upper
    for position, intensity, sample in zip(
        points.positions.tolist(), points.features.tolist(), points.batch_index.tolist(), strict=True
    ):
        if all(low < p < high for low, p, high in zip(VOLUME.lower, position, upper, strict=True)):
            index = [int((p - low) // 0.8) for p, low in zip(position, VOLUME.lower, strict=True)]
            centre = [low + (i + 0.5) * 0.8 for i, low in zip(index, VOLUME.lower, strict=True)]
            offset = [p - c for p, c in zip(position, centre, strict=True)]
            expected_features.append([*offset, position[0], position[1], intensity[0]])
            expected_voxels.append(int(np.ravel_multi_index((sample, *index), (3, *VOLUME.shape))))
    assert 0 < len(expected_voxels) < 100
    torch.testing.assert_close(features, torch.tensor(expected_features), rtol=0, atol=2e-6)
    assert voxels.tolist() == expected_voxels
    assert features[:, :3].abs().max() <= 0.4 + 1e-6


def test_points_on_the_outer_border_are_left_out_and_those_just_inside_stay():
    grid = VoxelGrid(lower=(-1.0, -2.0, 0.0), voxel_size=(0.1, 0.3, 0.7), shape=(20, 10, 3))
    lower, upper = torch.tensor(grid.lower), torch.tensor(grid.upper)
    middle = (lower + upper) / 2
    on, inside = [], []
    for axis in range(3):
        for border, towards in ((lower, upper), (upper, lower)):
            point = middle.clone()
            point[axis] = border[axis]
            on.append(point.clone())
            point[axis] = torch.nextafter(border[axis], towards[axis])
            inside.append(point)

    def voxels_of(positions):
        stacked = torch.stack(positions)
        count = len(stacked)
        points = Points(stacked, torch.zeros(count, 1), torch.zeros(count, dtype=torch.int64), torch.zeros(count))
        return point_features(points, grid)[1]

    assert len(voxels_of(on)) == 0
    kept = voxels_of(inside)
    assert ((kept >= 0) & (kept < grid.num_voxels)).all()
    assert len(kept) >= 3  # where floating-point numbers cannot tell a point from the upper border it is left out
    assert len(voxels_of([lower - 5, upper + 5, torch.full((3,), torch.nan)])) == 0


def test_the_maximum_is_that_of_a_loop_whatever_the_order():
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(200, 5, generator=generator)
    voxels = torch.randint(0, 50, (200,), generator=generator)
    expected = torch.zeros(60, 5)
    for voxel in range(60):
        if (voxels == voxel).any():
            expected[voxel] = rows[voxels == voxel].amax(dim=0)
    assert (expected < 0).any()
    order = torch.randperm(200, generator=generator)
    assert torch.equal(maximum_of_voxels(rows, voxels, 60), expected)
    assert torch.equal(maximum_of_voxels(rows[order], voxels[order], 60), expected)
    assert torch.equal(maximum_of_voxels(rows[:0], voxels[:0], 60), torch.zeros(60, 5))


def test_the_gradient_of_the_maximum():
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(12, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    voxels = torch.randint(0, 4, (12,), generator=generator)
    assert torch.autograd.gradcheck(lambda r: maximum_of_voxels(r, voxels, 5), (rows,))


def test_voxels_without_points_are_zero_and_samples_keep_apart():
    points = random_points((30, 0, 50))
    encoder = PointEncoder((6,), 4, VOLUME).eval()
    volume = encoder(points, batch=3)
    assert volume.shape == (3, 4, *VOLUME.shape)
    filled = volume.permute(0, 2, 3, 4, 1).abs().sum(dim=-1).flatten() > 0
    assert torch.equal(filled.nonzero()[:, 0], point_features(points, VOLUME)[1].unique())
    assert not volume[1].any()
    for sample in range(3):
        own = only(points, points.batch_index == sample)
        alone = encoder(replace(own, batch_index=torch.zeros_like(own.batch_index)), batch=1)
        torch.testing.assert_close(alone[0], volume[sample], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("count", [0, 1])
def test_a_batch_with_too_few_points_for_statistics_trains(count):
    model = tiny_model().train()
    points = only(random_points((300, 300)), slice(0, 0))
    if count:
        points = Points(torch.tensor([[3.0, 0.1, 0.3]]), torch.ones(1, 1), torch.tensor([1]), torch.zeros(1))
    terms = model.loss(model(scene_of(points, 2)), random_target())
    sum(terms.values()).backward()
    assert all(term.isfinite() for term in terms.values())
    assert all(buffer.isfinite().all() for buffer in model.buffers())
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, f"{name} would be missed by DistributedDataParallel"
        assert parameter.grad.isfinite().all(), name
    assert model.eval().predict(scene_of(points, 2)).shape == (2, *GRID.shape)


def test_batch_equals_one_by_one():
    model = tiny_model().eval()
    points = random_points((200, 150, 0))
    together = model(scene_of(points, 3))
    assert together.auxiliary is None
    for sample in range(3):
        own = only(points, points.batch_index == sample)
        own = replace(own, batch_index=torch.zeros_like(own.batch_index))
        alone = model(scene_of(own, 1))
        torch.testing.assert_close(alone.logits, together.logits[sample : sample + 1], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(alone.offsets, together.offsets[sample : sample + 1], rtol=1e-4, atol=1e-4)


def test_the_prediction_is_the_argmax_of_the_logits():
    model, scene = tiny_model().eval(), scene_of(random_points((200, 100)), 2)
    logits = model(scene).logits
    assert logits.shape == (2, 4, *GRID.shape)
    assert torch.equal(model.predict(scene), logits.argmax(dim=1))


def test_older_sweeps_are_ignored():
    model, points = tiny_model().eval(), random_points((200, 100))
    older = random_points((120, 80), seed=1)
    both = Points(
        positions=torch.cat([points.positions, older.positions]),
        features=torch.cat([points.features, older.features]),
        batch_index=torch.cat([points.batch_index, older.batch_index]),
        time=torch.cat([points.time, older.time - 0.1]),
    )
    expected = model(scene_of(points, 2)).logits
    assert torch.equal(model(scene_of(both, 2)).logits, expected)
    assert not torch.equal(model(scene_of(replace(both, time=torch.zeros_like(both.time)), 2)).logits, expected)


def test_every_parameter_gets_a_gradient():
    model = tiny_model(replace(TINY, drop_path=0.0, detector=replace(TINY.detector, drop_path=0.0)))
    scene = scene_of(random_points((500, 300)), 2)
    sum(model.loss(model(scene), random_target()).values()).backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == []


def test_learns_one_sample():
    """A street whose points lie on the labels."""
    target = random_target(batch=1, seed=3)
    occupied = (target.labels[0] > 0).nonzero()
    positions = torch.tensor(GRID.lower) + (occupied + 0.5) * 0.4
    intensity = target.labels[0][tuple(occupied.T)][:, None] / 4
    points = Points(positions, intensity, torch.zeros(len(occupied), dtype=torch.int64), torch.zeros(len(occupied)))
    # Voxels of 1.6 m, of which each holds one class.
    config = replace(
        TINY, volume_coarsening=(4, 4, 4), detector=replace(TINY.detector, scoring=FactorisedClasses((1, 1, 1)))
    )
    model, scene = tiny_model(config), scene_of(points, 1)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(60):
        loss = sum(model.loss(model(scene), target).values())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.4 * losses[0]
    right = (model.eval().predict(scene) == target.labels)[target.observed].float().mean()
    assert right > 0.8


def test_losses_hold_in_mixed_precision():
    config = replace(TINY, drop_path=0.0, detector=replace(TINY.detector, drop_path=0.0))
    model, scene, target = tiny_model(config), scene_of(random_points((500, 300)), 2), random_target()
    full = model.loss(model(scene), target)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = model.loss(model(scene), target)
    for name, value in full.items():
        assert mixed[name].dtype == torch.float32
        torch.testing.assert_close(mixed[name], value, rtol=0.05, atol=0.05)


def test_neither_images_nor_depth_are_opened(tiny_town, tmp_path):
    """A copy of the town without them answers the same as the town."""
    blind = tmp_path / "town"
    shutil.copytree(tiny_town, blind, ignore=shutil.ignore_patterns("image_*", "depth"))
    assert not [path for path in blind.rglob("*") if path.suffix in (".png", ".npy")]
    config = replace(
        TINY,
        volume_coarsening=(8, 8, 4),
        detector=replace(TINY.detector, scoring=FactorisedClasses(class_factors=(2, 2, 2))),
    )
    model = config.build(SEMANTIC_KITTI_GRID, SEMANTIC_KITTI)
    predictions = []
    for root in (blind, tiny_town):
        dataset = SemanticKittiConfig(root=root, train=("00", "01")).build("train", model.needs)
        rng = np.random.default_rng(0)
        sample = collate([dataset.sample(index, rng) for index in (0, len(dataset) - 1)])
        assert sample.scene.images is None
        assert sample.scene.depth is None
        predictions.append(model.eval().predict(sample.scene))
    assert torch.equal(*predictions)
    sum(model.train().loss(model(sample.scene), sample.target).values()).backward()


@pytest.mark.real_data
@pytest.mark.parametrize("token", ["00/000000", "08/000005"])
def test_a_real_scan_fills_its_voxels_and_is_answered(real_data, token):
    sequence, frame = token.split("/")
    scan = read_points(Path(real_data) / "semantickitti" / "sequences" / sequence / "velodyne" / f"{frame}.bin")
    points = Points(
        positions=torch.from_numpy(scan[:, :3]),
        features=torch.from_numpy(scan[:, 3:]),
        batch_index=torch.zeros(len(scan), dtype=torch.int64),
        time=torch.zeros(len(scan)),
    )
    config = replace(TINY, volume_coarsening=(4, 4, 4), detector=replace(TINY.detector, scoring=FactorisedClasses()))
    model = config.build(SEMANTIC_KITTI_GRID, SEMANTIC_KITTI).eval()
    with torch.no_grad():
        volume = model.points(points, batch=1)
        outputs = model(scene_of(points, 1))
    exact = scan[:, :3].astype(np.float64)
    inside = ((exact > [0, -25.6, -2]) & (exact < [51.2, 25.6, 4.4])).all(axis=1)
    voxels = np.unique(np.floor((exact[inside] - [0, -25.6, -2]) / 0.8).astype(int), axis=0)
    filled = volume[0].abs().sum(dim=0).nonzero().numpy()
    assert 10_000 < inside.sum() < len(scan)
    # Points within rounding of a voxel's border may fall to either side of it.
    shared = {tuple(v) for v in voxels.tolist()} & {tuple(v) for v in filled.tolist()}
    assert len(shared) > 0.999 * max(len(voxels), len(filled))
    assert outputs.offsets.isfinite().all()
    assert outputs.scores.argmax().shape == (1, 256, 256, 32)


def test_sizes_that_do_not_fit_are_refused():
    with pytest.raises(InputError, match="blocks"):
        replace(TINY, blocks=(2,))
    with pytest.raises(InputError, match="at least 1"):
        replace(TINY, channels=0)
    with pytest.raises(ValueError, match="divide the shape"):
        replace(TINY, volume_coarsening=(5, 2, 2)).build(GRID, label_space())
    with pytest.raises(InputError, match="offset_stride is"):
        replace(TINY, volume_coarsening=(2, 2, 8)).build(GRID, label_space())
