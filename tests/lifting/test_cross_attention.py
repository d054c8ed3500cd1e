import itertools
import math
import time

import pytest
import torch

from occloom.errors import InputError
from occloom.geometry.projection import project
from occloom.geometry.rigid import transform_points
from occloom.grid import VoxelGrid
from occloom.lifting import cross_attention as module
from occloom.lifting.cross_attention import (
    DeformableCrossAttention,
    DepthAwareCrossAttention,
    ReferencePoints,
    project_references,
)

GRID = VoxelGrid(lower=(-3.6, -3.0, -1.0), voxel_size=(0.8, 0.6, 0.5), shape=(9, 10, 4))
IMAGE = (24, 40)
KINDS = [DeformableCrossAttention, DepthAwareCrossAttention]


def ring(cameras, batch=1):
    """Cameras that look around in a circle, displaced from sample to sample."""
    intrinsics = torch.tensor([[22.0, 0.4, 19.1], [0, 21.0, 11.3], [0, 0, 1]], dtype=torch.float64)
    axes = torch.tensor([[0.0, -1, 0], [0, 0, -1], [1, 0, 0]], dtype=torch.float64)
    camera_from_ego = torch.eye(4, dtype=torch.float64).repeat(batch, cameras, 1, 1)
    for b, n in itertools.product(range(batch), range(cameras)):
        angle = 2 * math.pi * n / max(cameras, 1) + 0.2 * b
        c, s = math.cos(angle), math.sin(angle)
        turn = torch.tensor([[c, s, 0], [-s, c, 0], [0, 0, 1]], dtype=torch.float64)
        camera_from_ego[b, n, :3, :3] = axes @ turn
        camera_from_ego[b, n, :3, 3] = torch.tensor([0.1, 0.05 * b, 0.3])
    return intrinsics.repeat(batch, cameras, 1, 1), camera_from_ego


def inputs(*, batch=1, cameras=2, channels=8, sizes=((6, 10), (3, 5)), planes=7, references=1, every=1):
    """Queries at the voxels of a grid, reference points above one another, and maps of every camera."""
    generator = torch.Generator().manual_seed(0)

    def random(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    points = GRID.centres(dtype=torch.float64).reshape(1, -1, 1, 3)[:, ::every].repeat(batch, 1, references, 1)
    points[..., 2] += 0.4 * torch.arange(references)
    seen = project_references(points, *ring(cameras, batch), IMAGE, near=0.5, far=8.0)
    values = tuple(random(batch, cameras, channels, *size) for size in sizes)
    depths = tuple(random(batch, cameras, planes, *size).softmax(2) for size in sizes)
    return random(batch, points.shape[1], channels), seen, values, depths


def built(kind, *, channels=8, heads=2, points=4, levels=2, references=1):
    """An attention whose every parameter matters."""
    attention = kind(channels, heads=heads, points=points, levels=levels, references=references).double()
    generator = torch.Generator().manual_seed(1)
    for parameter in attention.parameters():
        noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        parameter.data += 0.3 * noise
    return attention


def call(attention, queries, references, values, depths, where=None, *, maps=False):
    run = attention.with_maps if maps else attention
    if isinstance(attention, DepthAwareCrossAttention):
        return run(queries, references, values, depths, where)
    return run(queries, references, values, where)


def call_dense(attention, queries, references, values, depths, where=None):
    if isinstance(attention, DepthAwareCrossAttention):
        return attention.dense(queries, references, values, depths, where)
    return attention.dense(queries, references, values, where)


def hat(fraction, count):
    return torch.relu(1 - (fraction * count - 0.5 - torch.arange(count)).abs())


def naive_look(attention, query, centres, visible, values, depths):
    """What one query sees in one camera: the samples one by one, each over all cells of its map."""
    heads, levels, points = attention.layout
    offsets = attention.sampling_offsets(query).view(heads, levels, points, 2)
    weights = attention.attention_weights(query).view(heads, -1).softmax(1).view(heads, levels, points)
    parts = [query.new_zeros(len(query) // heads)] * heads
    for head, level, point in itertools.product(range(heads), range(levels), range(points)):
        reference = point % len(centres)
        if not visible[reference]:
            continue
        _, height, width = values[level].shape
        feature = attention.value_proj(values[level].movedim(0, -1)).unflatten(-1, (heads, -1))[:, :, head]
        u = centres[reference, 0] + offsets[head, level, point, 0] / width
        v = centres[reference, 1] + offsets[head, level, point, 1] / height
        share = hat(v, height)[:, None] * hat(u, width)
        if isinstance(attention, DepthAwareCrossAttention):
            count = len(depths[level])
            along = attention.sampling_offsets_depth(query).view(heads, levels, points)[head, level, point]
            share = share * (hat(centres[reference, 2] + along / count, count)[:, None, None] * depths[level]).sum(0)
        parts[head] = parts[head] + weights[head, level, point] * (feature * share[..., None]).sum((0, 1))
    return torch.cat(parts)


def naive(attention, queries, references, values, depths, where):
    update = torch.zeros_like(queries)
    for b, q in itertools.product(*map(range, queries.shape[:2])):
        cameras = references.visible[b, :, q].any(dim=1).nonzero()[:, 0].tolist()
        looks = [
            naive_look(
                attention,
                queries[b, q],
                references.locations[b, n, q],
                references.visible[b, n, q],
                [value[b, n] for value in values],
                [depth[b, n] for depth in depths],
            )
            for n in cameras
        ]
        mean = sum(looks) / len(looks) if looks else torch.zeros_like(queries[b, q])
        if where[b, q]:
            update[b, q] = attention.output_proj(mean)
    return update


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("references", "levels"), [(1, 1), (2, 2), (4, 1)])
def test_equals_the_naive_twin_forward_and_backward(kind, references, levels):
    sizes = ((3, 5), (2, 2))[:levels]
    attention = built(kind, levels=levels, references=references)
    queries, seen, values, depths = inputs(batch=2, cameras=3, sizes=sizes, references=references, every=29)
    where = torch.rand(queries.shape[:2], generator=torch.Generator().manual_seed(2)) < 0.8
    assert set(seen.visible.any(-1).sum(1).unique().tolist()) >= {0, 1}
    leaves = [queries.requires_grad_(), *(t.requires_grad_() for t in values)]
    leaves += [t.requires_grad_() for t in depths] if kind is DepthAwareCrossAttention else []
    answers = []
    for update in (
        call(attention, queries, seen, values, depths, where),
        naive(attention, queries, seen, values, depths, where),
    ):
        grad = torch.randn(update.shape, dtype=update.dtype, generator=torch.Generator().manual_seed(3))
        answers.append((update, *torch.autograd.grad(update, [*leaves, *attention.parameters()], grad)))
    for ours, expected in zip(*answers, strict=True):
        assert expected.any()
        torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("references", "levels", "cameras"), [(1, 1, 6), (2, 2, 5), (4, 1, 1)])
def test_the_dense_form_is_the_gathered_one_forward_and_backward(kind, references, levels, cameras):
    """With queries that no camera sees, that several see, that lie outside the mask, and half of whose points show."""
    sizes = ((6, 10), (3, 5))[:levels]
    attention = built(kind, levels=levels, references=references)
    queries, seen, values, depths = inputs(batch=2, cameras=cameras, sizes=sizes, references=references)
    where = torch.rand(queries.shape[:2], generator=torch.Generator().manual_seed(2)) < 0.6
    seeing = seen.visible.any(-1).sum(1)
    for chosen in (where, ~where):
        assert set(seeing[chosen].tolist()) >= ({0, 1} if cameras == 1 else {0, 1, 2})
    assert references == 1 or (seen.visible.any(-1) & ~seen.visible.all(-1)).any()
    leaves = [queries.requires_grad_(), *(t.requires_grad_() for t in values)]
    leaves += [t.requires_grad_() for t in depths] if kind is DepthAwareCrossAttention else []
    for mask in (where, None):
        answers = []
        for form in (call, call_dense):
            update = form(attention, queries, seen, values, depths, mask)
            grad = torch.randn(update.shape, dtype=update.dtype, generator=torch.Generator().manual_seed(3))
            answers.append((update, *torch.autograd.grad(update, [*leaves, *attention.parameters()], grad)))
        for gathered, dense in zip(*answers, strict=True):
            assert gathered.any()
            torch.testing.assert_close(dense, gathered, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_the_dense_form_is_traced_without_looking_at_numbers(kind):
    """A program exported from one scene answers another one, in which other cameras see other queries."""

    class Dense(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = built(kind)

        def forward(self, queries, locations, visible, values, depths, where):
            return call_dense(self.attention, queries, ReferencePoints(locations, visible), values, depths, where)

    def arguments(batch):
        queries, seen, values, depths = inputs(batch=2, cameras=3)
        one = slice(batch, batch + 1)
        where = torch.rand(1, queries.shape[1], generator=torch.Generator().manual_seed(batch)) < 0.5
        maps = (tuple(t[one] for t in pyramid) for pyramid in (values, depths))
        return queries[one], seen.locations[one], seen.visible[one], *maps, where

    model, first, second = Dense(), arguments(0), arguments(1)
    assert not torch.equal(first[2], second[2])
    exported = torch.export.export(model, first, strict=False).module()
    torch.testing.assert_close(exported(*second), model(*second))


class MeanOfSeen(torch.nn.Module):
    """A guide that mixes the queries an image sees: whatever else it is given would show."""

    def __init__(self):
        super().__init__()
        self.mix = torch.nn.Linear(8, 8, dtype=torch.float64)

    def forward(self, queries, seen):
        total = torch.where(seen[..., None], queries, 0).sum(dim=1, keepdim=True)
        return queries + self.mix(total / seen.sum(dim=1).clamp(min=1)[:, None, None])


def naive_guided(attention, guide, queries, references, values, where):
    """Camera by camera: its own queries refined among themselves, then one by one where they look."""
    looks = torch.zeros_like(queries)
    cameras = torch.zeros(queries.shape[:2], dtype=queries.dtype)
    for b, n in itertools.product(range(len(queries)), range(references.visible.shape[1])):
        hit = (references.visible[b, n].any(dim=1) & where[b]).nonzero()[:, 0]
        refined = guide(queries[b, hit][None], torch.ones(1, len(hit), dtype=torch.bool))[0]
        for row, q in enumerate(hit.tolist()):
            maps = [value[b, n] for value in values]
            place = references.locations[b, n, q], references.visible[b, n, q]
            looks[b, q] += naive_look(attention, refined[row], *place, maps, [])
            cameras[b, q] += 1
    return attention.output_proj(looks / cameras.clamp(min=1)[..., None]) * where[..., None]


@pytest.mark.parametrize(("cameras", "references"), [(1, 1), (3, 2)])
def test_a_guide_refines_the_queries_of_each_camera_alone(cameras, references):
    """The update, its gradients and the maps; gathered, dense and one by one."""
    attention, guide = built(DeformableCrossAttention, levels=1, references=references), MeanOfSeen()
    sizes = ((3, 5),)
    queries, seen, values, _ = inputs(batch=2, cameras=cameras, sizes=sizes, references=references, every=23)
    where = torch.rand(queries.shape[:2], generator=torch.Generator().manual_seed(2)) < 0.8
    counts = (seen.visible.any(-1) & where[:, None]).sum(-1).flatten()
    assert len(counts.unique()) > 1, "padding is put to the test"
    leaves = [queries.requires_grad_(), *(t.requires_grad_() for t in values), *attention.parameters()]
    leaves += guide.parameters()
    answers = []
    for update in (
        naive_guided(attention, guide, queries, seen, values, where),
        attention(queries, seen, values, where, guide),
        attention.dense(queries, seen, values, where, guide),
    ):
        grad = torch.randn(update.shape, dtype=update.dtype, generator=torch.Generator().manual_seed(3))
        answers.append((update, *torch.autograd.grad(update, leaves, grad)))
    for expected, *others in zip(*answers, strict=True):
        assert expected.any()
        for ours in others:
            torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-9)


def test_a_guide_that_changes_nothing_changes_nothing():
    attention = built(DeformableCrossAttention)
    queries, seen, values, _ = inputs(batch=2, cameras=3)
    guided, maps = attention.with_maps(queries, seen, values, guide=lambda queries, seen: queries)
    expected, expected_maps = attention.with_maps(queries, seen, values)
    torch.testing.assert_close(guided, expected)
    torch.testing.assert_close(maps.locations, expected_maps.locations)
    torch.testing.assert_close(maps.weights, expected_maps.weights)


def test_a_guide_is_trained_though_no_camera_sees_a_query():
    attention, guide = built(DeformableCrossAttention), MeanOfSeen()
    queries, seen, values, _ = inputs(batch=2)
    blind = ReferencePoints(seen.locations, torch.zeros_like(seen.visible))
    update = attention(queries, blind, values, guide=guide)
    torch.testing.assert_close(update, attention(queries, blind, values))
    update.sum().backward()
    assert all(parameter.grad is not None and not parameter.grad.any() for parameter in guide.parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_cameras_that_share_a_query_are_averaged(kind):
    attention = built(kind)
    queries, seen, values, depths = inputs(cameras=3)
    seen = ReferencePoints(seen.locations, torch.ones_like(seen.visible))

    def one(n):
        of_camera = ReferencePoints(seen.locations[:, n : n + 1], seen.visible[:, n : n + 1])
        maps = (tuple(t[:, n : n + 1] for t in pyramid) for pyramid in (values, depths))
        return call(attention, queries, of_camera, *maps)

    together = call(attention, queries, seen, values, depths)
    torch.testing.assert_close(together, torch.stack([one(n) for n in range(3)]).mean(dim=0))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("cameras", [1, 2, 5])
def test_a_batch_with_different_cameras_equals_one_by_one(kind, cameras):
    attention = built(kind)
    queries, seen, values, depths = inputs(batch=3, cameras=cameras)
    assert not torch.equal(seen.visible[0], seen.visible[1])
    together = call(attention, queries, seen, values, depths)
    for b in range(3):
        one = slice(b, b + 1)
        alone = call(
            attention,
            queries[one],
            ReferencePoints(seen.locations[one], seen.visible[one]),
            tuple(t[one] for t in values),
            tuple(t[one] for t in depths),
        )
        torch.testing.assert_close(alone, together[one], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_unseen_queries_get_the_bias_and_those_outside_the_mask_nothing(kind):
    attention = built(kind)
    queries, seen, values, depths = inputs()
    where = torch.arange(queries.shape[1])[None] % 3 == 0
    blind = ReferencePoints(seen.locations, torch.zeros_like(seen.visible))
    update = call(attention, queries.requires_grad_(), blind, values, depths, where)
    update.sum().backward()
    assert torch.equal(update[where], attention.output_proj.bias.expand(int(where.sum()), -1))
    assert not update[~where].any()
    assert queries.grad is not None
    assert not queries.grad.any()
    for name, parameter in attention.named_parameters():
        assert parameter.grad is not None, f"{name} would be missed by DistributedDataParallel"


@pytest.mark.parametrize("kind", KINDS)
def test_an_empty_mask_and_no_queries(kind):
    attention = built(kind)
    queries, seen, values, depths = inputs()
    nowhere = torch.zeros(queries.shape[:2], dtype=torch.bool)
    assert not call(attention, queries, seen, values, depths, nowhere).any()
    none = ReferencePoints(seen.locations[:, :, :0], seen.visible[:, :, :0])
    assert call(attention, queries[:, :0], none, values, depths).shape == (1, 0, 8)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("anything", [1e30, float("nan"), float("inf")])
@pytest.mark.parametrize("form", [call, call_dense])
def test_what_cannot_be_seen_has_no_influence(kind, anything, form):
    """Places behind a camera may be anything, also no number at all."""
    attention = built(kind, references=2)
    queries, seen, values, depths = inputs(references=2)
    wild = torch.where(seen.visible[..., None], seen.locations, anything)
    assert (seen.visible.any(-1) & ~seen.visible.all(-1)).any()
    answers = []
    for locations in (wild, seen.locations):
        update = form(attention, queries.requires_grad_(), ReferencePoints(locations, seen.visible), values, depths)
        answers.append((update, *torch.autograd.grad(update.sum(), [queries, *attention.parameters()])))
    for ours, expected in zip(*answers, strict=True):
        torch.testing.assert_close(ours, expected)


@pytest.mark.parametrize("cameras", [1, 4])
def test_query_i_samples_at_voxel_centre_i(cameras):
    """Maps that hold their own coordinates, read without offsets, give back the pixels of the voxel centres."""
    stride, near, far, planes = 4, 0.5, 12.5, 24
    h, w = IMAGE[0] // stride, IMAGE[1] // stride
    attention = DepthAwareCrossAttention(3, heads=1, points=1).double()
    with torch.no_grad():
        for projection in (attention.value_proj, attention.output_proj):
            projection.weight.copy_(torch.eye(3))
        attention.sampling_offsets.bias.zero_()
        attention.sampling_offsets_depth.bias.zero_()
    # Feature (i, j) sits at pixel 4 j + 1.5, plane d at the middle of its half metre; the third channel holds 1.
    u = (stride * torch.arange(w, dtype=torch.float64) + 1.5).expand(h, w)
    v = (stride * torch.arange(h, dtype=torch.float64) + 1.5)[:, None].expand(h, w)
    metres = near + (torch.arange(planes, dtype=torch.float64) + 0.5) * (far - near) / planes
    value = torch.stack([u, v, torch.ones_like(u)]).expand(1, cameras, 3, h, w)
    depth = metres[:, None, None].expand(1, cameras, planes, h, w)
    points = GRID.centres(dtype=torch.float64).reshape(1, -1, 1, 3)
    intrinsics, camera_from_ego = ring(cameras)
    seen = project_references(points, intrinsics, camera_from_ego, IMAGE, near, far)
    queries = torch.zeros(1, points.shape[1], 3, dtype=torch.float64)
    for n in range(cameras):
        only = seen.visible & (torch.arange(cameras) == n)[:, None, None]
        update = attention(queries, ReferencePoints(seen.locations, only), (value,), (depth,))[0]
        places = transform_points(camera_from_ego[0, n], points[0, :, 0])
        pixels, z = project(places, intrinsics[0, n])
        # Not where a sample lies between the border and the first cell's centre: there it fades to zero.
        whole = (pixels >= 1.5).all(1) & (pixels <= torch.tensor([IMAGE[1], IMAGE[0]]) - 2.5).all(1)
        whole &= (z >= metres[0]) & (z <= metres[-1])
        assert whole.sum() > 10
        assert only[0, n, whole, 0].all()
        expected = torch.cat([pixels, torch.ones_like(z)[:, None]], dim=1) * z[:, None]
        torch.testing.assert_close(update[whole], expected[whole])


def test_references_are_seen_within_the_picture_and_in_front():
    intrinsics = torch.tensor([[10.0, 0, 9.5], [0, 10, 4.5], [0, 0, 1]])[None, None]
    camera_from_ego = torch.eye(4)[None, None]
    u, v, depth = torch.tensor(
        [
            [-0.5, -0.5, 2.0],
            [19.45, 9.45, 2.0],
            [-0.55, 4.0, 2.0],
            [19.55, 4.0, 2.0],
            [4.0, -0.55, 2.0],
            [4.0, 9.55, 2.0],
            [4.0, 4.0, -2.0],
            [4.0, 4.0, 0.0],
            [4.0, 4.0, 500.0],
        ]
    ).T
    points = torch.stack([(u - 9.5) / 10 * depth, (v - 4.5) / 10 * depth, depth], dim=1)
    seen = project_references(points[None, :, None], intrinsics, camera_from_ego, (10, 20), near=2.0, far=58.0)
    assert seen.visible[0, 0, :, 0].tolist() == [True, True] + [False] * 6 + [True]
    first, second = seen.locations[0, 0, :2, 0]
    torch.testing.assert_close(first, torch.zeros(3), atol=1e-6, rtol=0)
    torch.testing.assert_close(second, torch.tensor([19.95 / 20, 9.95 / 10, 0.0]))


@pytest.mark.parametrize("kind", KINDS)
def test_maps_are_what_the_update_was_made_of(kind):
    """ProtoOcc's use: 5 levels, 4 frames of 2 cameras as 8 images, and the maps handed back."""
    sizes = ((9, 12), (5, 6), (3, 3), (2, 2), (1, 1))
    attention = built(kind, levels=5)
    queries, seen, values, depths = inputs(cameras=8, sizes=sizes)
    update, maps = call(attention, queries, seen, values, depths, maps=True)
    assert torch.equal(update, call(attention, queries, seen, values, depths))
    expected = seen.visible[..., 0].nonzero()
    assert torch.equal(torch.stack([maps.sample, maps.camera, maps.query], dim=1), expected)
    torch.testing.assert_close(maps.weights.flatten(2).sum(2), torch.ones(len(expected), 2, dtype=torch.float64))
    # Summed by hand from the maps, for one query.
    query = int(maps.query[len(expected) // 2])
    looks = []
    for p in (maps.query == query).nonzero()[:, 0].tolist():
        parts = [torch.zeros(4, dtype=torch.float64) for _ in range(2)]
        for head, level, point in itertools.product(range(2), range(5), range(4)):
            at, (h, w) = maps.locations[p, head, level, point], sizes[level]
            share = hat(at[1], h)[:, None] * hat(at[0], w)
            if kind is DepthAwareCrossAttention:
                share = share * (hat(at[2], 7)[:, None, None] * depths[level][0, maps.camera[p]]).sum(0)
            feature = attention.value_proj(values[level][0, maps.camera[p]].movedim(0, -1)).unflatten(-1, (2, -1))
            parts[head] += maps.weights[p, head, level, point] * (feature[:, :, head] * share[..., None]).sum((0, 1))
        looks.append(torch.cat(parts))
    mean = attention.output_proj(torch.stack(looks).mean(dim=0))
    torch.testing.assert_close(update[0, query], mean)


def test_maps_of_unseen_references_weigh_nothing():
    attention = built(DeformableCrossAttention, references=2)
    queries, seen, values, depths = inputs(references=2)
    _, maps = call(attention, queries, seen, values, depths, maps=True)
    of_pair = seen.visible[maps.sample, maps.camera, maps.query]
    assert (of_pair.sum(1) == 1).any()
    weights = maps.weights.unflatten(3, (-1, 2)).sum(dim=(2, 3))
    assert torch.equal(weights > 0, of_pair[:, None].expand_as(weights))


@pytest.mark.parametrize("kind", KINDS)
def test_the_cost_falls_with_the_mask(kind, monkeypatch):
    """Dr.Occ's use: 6 cameras and a quarter of the voxels. The work is what passes through the sampling."""
    attention = built(kind, levels=1)
    queries, seen, values, depths = inputs(cameras=6, sizes=((4, 11),))
    where = torch.arange(queries.shape[1])[None] % 4 == 0
    counted = []

    def counting(attend):
        def count(*arguments):
            counted.append(arguments[-1].numel())
            return attend(*arguments)

        return count

    for name in ("deformable_attention", "deformable_attention_3d"):
        monkeypatch.setattr(module, name, counting(getattr(module, name)))
    some, everything = (call(attention, queries, seen, values, depths, mask) for mask in (where, None))
    torch.testing.assert_close(some[where], everything[where])
    visible = seen.visible[..., 0]
    assert counted == [int(visible[:, :, chosen].sum()) * 2 * 4 for chosen in (where[0], slice(None))]
    assert counted[0] < 0.35 * counted[1]


@pytest.mark.slow
def test_a_quarter_of_the_voxels_takes_at_most_35_percent_of_the_time():
    """Dr.Occ's sizes: 40,000 voxels, 6 cameras, one level of 16 x 44, 256 channels; processor time, the better of 2."""
    attention = DeformableCrossAttention(256)
    generator = torch.Generator().manual_seed(0)
    queries = torch.randn(1, 40_000, 256, generator=generator)
    # Each voxel is seen by one camera, every fifth by a second one.
    q = torch.arange(40_000)
    visible = (torch.arange(6)[:, None] == q % 6) | ((torch.arange(6)[:, None] == (q + 1) % 6) & (q % 5 == 0))
    locations = torch.rand(1, 6, 40_000, 1, 3, generator=generator)
    seen = ReferencePoints(locations, visible[None, ..., None])
    values = (torch.randn(1, 6, 256, 16, 44, generator=generator),)
    where = torch.rand(1, 40_000, generator=generator) < 0.25

    def seconds(mask):
        start = time.process_time()
        with torch.no_grad():
            attention(queries, seen, values, mask)
        return time.process_time() - start

    masked, full = zip(*((seconds(where), seconds(None)) for _ in range(2)), strict=True)
    assert min(masked) <= 0.35 * min(full)


def test_starts_by_looking_around():
    """Head 0 looks to the right, head 2 of 8 down; point i looks i + 1 cells far, whatever the query."""
    attention = DepthAwareCrossAttention(16, heads=8, points=3, levels=2)
    along, across = (
        attention.sampling_offsets_depth.bias.view(8, 2, 3),
        attention.sampling_offsets.bias.view(8, 2, 3, 2),
    )
    for level, point in itertools.product(range(2), range(3)):
        far = float(point + 1)
        torch.testing.assert_close(across[0, level, point], torch.tensor([far, 0.0]))
        torch.testing.assert_close(across[1, level, point], torch.tensor([far, far]))
        torch.testing.assert_close(across[2, level, point], torch.tensor([0.0, far]), atol=1e-6, rtol=0)
        torch.testing.assert_close(along[4, level, point], torch.tensor(-far / 2))
    assert not attention.sampling_offsets.weight.any()
    assert not attention.attention_weights.weight.any()


def test_parameters_are_those_of_the_released_layer():
    """VoxDet's cross-attention: reference section 11 counts 66,048."""
    attention = DepthAwareCrossAttention(128)
    assert {name: tuple(p.shape) for name, p in attention.named_parameters() if name.endswith("weight")} == {
        "sampling_offsets.weight": (128, 128),
        "sampling_offsets_depth.weight": (64, 128),
        "attention_weights.weight": (64, 128),
        "value_proj.weight": (128, 128),
        "output_proj.weight": (128, 128),
    }
    assert sum(p.numel() for p in attention.parameters()) == 66_048


@pytest.mark.parametrize("kind", KINDS)
def test_mixed_precision_does_not_move_samples(kind):
    torch.manual_seed(0)
    attention = kind(8, heads=2, points=4, levels=2)
    queries, seen, values, depths = inputs()
    seen = ReferencePoints(seen.locations.float(), seen.visible)
    values, depths = (tuple(t.float() for t in pyramid) for pyramid in (values, depths))
    _, plain = call(attention, queries.float(), seen, values, depths, maps=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        _, mixed = call(attention, queries.float(), seen, values, depths, maps=True)
        intrinsics, camera_from_ego = (t.float() for t in ring(3))
        points = GRID.centres().reshape(1, -1, 1, 3)
        again = project_references(points, intrinsics, camera_from_ego, IMAGE, 0.5, 8.0)
    assert torch.equal(mixed.locations, plain.locations)
    assert torch.equal(
        again.locations, project_references(points, intrinsics, camera_from_ego, IMAGE, 0.5, 8.0).locations
    )


@pytest.mark.parametrize(
    "sizes",
    [{"heads": 3}, {"points": 8, "references": 3}, {"heads": 0}, {"points": 0}, {"levels": 0}, {"references": 0}],
)
@pytest.mark.parametrize("kind", KINDS)
def test_heads_and_points_must_be_shared_out(kind, sizes):
    with pytest.raises(InputError, match="divide"):
        kind(16, **sizes)
