import itertools
import math
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import ndimage
from tiny_drocc import COARSE, GRID, STEADY, STRIDE, mirrored, surround_scene, without_depth

from occloom.errors import InputError
from occloom.grid import VoxelGrid
from occloom.lifting.cross_attention import ReferencePoints
from occloom.models.drocc import (
    CrossAttentionBlock,
    DualProjection,
    RecursiveExpert,
    RecursiveExpertConfig,
    RefinementConfig,
    RegionExperts,
    RegionExpertsConfig,
    StandIn,
    View,
    grown,
    image_view,
    occupancy_mask,
    prior_view,
    quarter_centres,
    region_masks,
)

CHANNELS = 16
FULL = VoxelGrid(lower=(-40.0, -40.0, -1.0), voxel_size=(1.6, 1.6, 0.4), shape=(50, 50, 16))
REGIONS = RegionExpertsConfig(heights=(0.2, 1.0), distances=(2.0, 4.0), chosen=4)
NO_EXPERTS = replace(STEADY, experts=None)


def mask_of(scene, grid):
    return occupancy_mask(scene.prior, scene.cameras.camera_from_ego[:, 0], scene.camera_present, grid)


def stir(module, seed=0):
    """Noise on all parameters, so that each of them matters."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        parameter.data += 0.2 * torch.randn(parameter.shape, generator=generator)
    return module


def random_views(scene, channels=CHANNELS, seed=0):
    generator = torch.Generator().manual_seed(seed)
    batch, cameras = scene.prior.depth.shape[:2]
    points = quarter_centres(COARSE)
    features = torch.randn(batch, cameras, channels, 4, 8, generator=generator)
    return image_view(scene, points, features, STRIDE), prior_view(scene, points, scene.prior.features)


def random_queries(batch=2, channels=CHANNELS, seed=0):
    return torch.randn(batch, COARSE.num_voxels, channels, generator=torch.Generator().manual_seed(seed))


def seen_by(view):
    return view.references.visible.any(-1).any(1)


def dual_projection(config=NO_EXPERTS, depth_channels=6):
    return stir(DualProjection(CHANNELS, depth_channels=depth_channels, config=config))


# --- the occupancy mask ----------------------------------------------------------------------------------------------


def naive_mask(scene, grid):
    """Eq. 1-3, pixel by pixel, as they are written: x = d K^-1 [u v 1], p = R^T (x - t)."""
    prior = scene.prior
    mask = np.zeros((len(prior.depth), *grid.shape), dtype=bool)
    for b, n, v, u in itertools.product(*map(range, prior.depth.shape)):
        d = prior.depth[b, n, v, u].item()
        if d == 0 or not scene.camera_valid[b, 0, n]:
            continue
        x_camera = d * np.linalg.inv(prior.intrinsics[b, n].double().numpy()) @ [u, v, 1]
        pose = scene.cameras.camera_from_ego[b, 0, n].double().numpy()
        p = pose[:3, :3].T @ (x_camera - pose[:3, 3])
        place = [math.floor((p[a] - grid.lower[a]) / grid.voxel_size[a]) for a in range(3)]
        if all(0 <= i < size for i, size in zip(place, grid.shape, strict=True)):
            mask[b, *place] = True
    return torch.from_numpy(mask)


@pytest.mark.parametrize("cameras", [1, 3])
def test_the_mask_is_that_of_the_equations_and_its_blocks(cameras):
    scene = surround_scene(cameras=cameras)
    scene.camera_valid[1, 0, -1] = cameras == 1
    exact = scene.to(dtype=torch.float64)
    fine = mask_of(exact, GRID)
    assert torch.equal(fine, naive_mask(scene, GRID))
    # The maximum over blocks of 4 x 4 x 1 fine voxels is what the coarse grid gives at once.
    blocks = fine.unflatten(2, (5, 4)).unflatten(1, (5, 4)).any(4).any(2)
    assert torch.equal(mask_of(exact, COARSE), blocks)
    assert all(0 < sample.sum() < COARSE.num_voxels for sample in blocks)


@pytest.mark.parametrize(("x", "y"), [(True, False), (False, True), (True, True)])
def test_the_mask_is_mirrored_with_the_ego_frame(x, y):
    scene = surround_scene()
    axes = [axis for axis, flip in ((1, x), (2, y)) if flip]
    assert torch.equal(mask_of(mirrored(scene, x=x, y=y), GRID), mask_of(scene, GRID).flip(axes))


def test_nothing_known_gives_an_empty_mask():
    scene = surround_scene()
    assert not mask_of(without_depth(scene), GRID).any()
    nowhere = replace(scene.prior, depth=torch.full_like(scene.prior.depth, float("nan")))
    assert not mask_of(replace(scene, prior=nowhere), GRID).any()


@pytest.mark.parametrize("voxels", [0, 1, 2])
def test_a_mask_grows_in_every_direction(voxels):
    mask = torch.rand(2, 7, 6, 5, generator=torch.Generator().manual_seed(0)) < 0.03
    cube = np.ones((2 * voxels + 1,) * 3)
    expected = np.stack([ndimage.binary_dilation(sample, cube) for sample in mask.numpy()])
    assert torch.equal(grown(mask, voxels), torch.from_numpy(expected))


# --- where queries look ----------------------------------------------------------------------------------------------


def test_quarter_centres_lie_within_their_voxel():
    points = quarter_centres(FULL)
    assert points.shape == (40_000, 4, 3)
    offsets = points - FULL.centres().view(-1, 1, 3)
    expected = torch.tensor([[-0.4, -0.4, 0], [-0.4, 0.4, 0], [0.4, -0.4, 0], [0.4, 0.4, 0]])
    torch.testing.assert_close(offsets, expected.expand_as(offsets), atol=1e-5, rtol=0)


def test_query_i_samples_at_voxel_centre_i():
    """An image whose features name their pixel gives each query the pixels of its own voxel's quarters."""
    scene, height, width = surround_scene(batch=1, cameras=2), 32, 64
    points = quarter_centres(COARSE)
    view = image_view(scene, points, torch.zeros(1, 2, 1, 4, 8), STRIDE)
    checked = 0
    for x, y, z, n in itertools.product(range(5), range(5), range(4), range(2)):
        i = (x * 5 + y) * 4 + z
        centre = [COARSE.lower[a] + (index + 0.5) * COARSE.voxel_size[a] for a, index in enumerate((x, y, z))]
        for r, (sx, sy) in enumerate(itertools.product((-1, 1), repeat=2)):
            point = torch.tensor([centre[0] + 0.4 * sx, centre[1] + 0.4 * sy, centre[2], 1.0])
            camera = (scene.cameras.camera_from_ego[0, 0, n] @ point)[:3]
            u, v, w = (scene.cameras.intrinsics[0, 0, n] @ camera).tolist()
            inside = w > 1e-3 and -0.5 <= u / w < width - 0.5 and -0.5 <= v / w < height - 0.5
            assert view.references.visible[0, n, i, r].item() == inside
            if inside:
                place = view.references.locations[0, n, i, r, :2].tolist()
                assert place == pytest.approx([(u / w + 0.5) / width, (v / w + 0.5) / height], abs=1e-5)
                checked += 1
    assert checked > 50


def test_prior_places_are_fractions_of_the_priors_own_picture():
    scene = surround_scene(batch=1, cameras=1)
    point = torch.tensor([[[3.0, 0.4, 0.1]]])
    view = prior_view(scene, point, scene.prior.features)
    camera = (scene.cameras.camera_from_ego[0, 0, 0] @ torch.tensor([3.0, 0.4, 0.1, 1.0]))[:3]
    u, v, w = (scene.prior.intrinsics[0, 0] @ camera).tolist()
    assert view.references.locations[0, 0, 0, 0, :2].tolist() == pytest.approx([(u / w + 0.5) / 30, (v / w + 0.5) / 18])
    assert view.references.visible.all()


def test_missing_pictures_see_nothing():
    scene = surround_scene()
    scene.camera_valid[0, 0, 1] = False
    scene.frame_valid[1, 0] = False
    for view in random_views(scene):
        assert not view.references.visible[0, 1].any()
        assert not view.references.visible[1].any()
        assert view.references.visible[0, 0].any()


# --- attention -------------------------------------------------------------------------------------------------------


def test_block_changes_only_seen_queries_of_the_mask():
    scene = surround_scene()
    view, _ = random_views(scene)
    block = stir(CrossAttentionBlock(CHANNELS, heads=2, feedforward=12, dropout=0.0))
    queries = random_queries()
    where = torch.rand(queries.shape[:2], generator=torch.Generator().manual_seed(1)) < 0.5
    active = where & seen_by(view)
    assert (where & ~seen_by(view)).sum() > 0
    after = block(queries, view, where)
    assert torch.equal(after[~active], queries[~active])
    everywhere = block(queries, view)
    torch.testing.assert_close(after[active], everywhere[active])
    assert torch.equal(everywhere[~seen_by(view)], queries[~seen_by(view)])
    # What DCA is: attention, residual, norm, network, residual, norm.
    attended = block.attention_norm(queries + block.attention(queries, view.references, (view.features,)))
    expected = block.feedforward_norm(attended + block.feedforward(attended))
    torch.testing.assert_close(everywhere[seen_by(view)], expected[seen_by(view)])


def test_block_without_anything_to_see_is_the_identity_and_trains():
    scene = surround_scene()
    scene.camera_valid[:] = False
    view, _ = random_views(scene)
    block = CrossAttentionBlock(CHANNELS, heads=2, feedforward=12, dropout=0.0)
    queries = random_queries().requires_grad_()
    after = block(queries, view)
    assert torch.equal(after, queries)
    after.sum().backward()
    assert all(p.grad is not None and not p.grad.any() for p in block.parameters())
    assert torch.equal(queries.grad, torch.ones_like(queries))


@pytest.mark.slow
def test_a_quarter_of_the_voxels_takes_at_most_35_percent_of_the_time():
    """D2-VFormer's DCA at the paper's size, network and norms included; processor time, the better of 3."""
    block = CrossAttentionBlock(256, heads=8, feedforward=512, dropout=0.0)
    generator = torch.Generator().manual_seed(0)
    queries = torch.randn(1, 40_000, 256, generator=generator)
    # Each voxel is seen by one camera, every fifth by a second one.
    q, n = torch.arange(40_000), torch.arange(6)[:, None]
    visible = ((n == q % 6) | ((n == (q + 1) % 6) & (q % 5 == 0)))[None, ..., None].expand(-1, -1, -1, 4)
    seen = ReferencePoints(torch.rand(1, 6, 40_000, 4, 3, generator=generator), visible)
    view = View(seen, torch.randn(1, 6, 256, 16, 44, generator=generator))
    where = torch.rand(1, 40_000, generator=generator) < 0.25

    def seconds(mask):
        start = time.process_time()
        with torch.no_grad():
            block(queries, view, mask)
        return time.process_time() - start

    masked, full = zip(*((seconds(where), seconds(None)) for _ in range(3)), strict=True)
    assert min(masked) <= 0.35 * min(full)


# --- D2-VFormer ------------------------------------------------------------------------------------------------------


def naive_stages(stages, queries, mask, image, depth):
    """Eq. 4-6 over whole volumes, chosen afterwards."""
    dense = stages.densify(queries, image)
    projected = torch.stack([stages.depth_projection(d.movedim(1, -1)).movedim(-1, 1) for d in depth.features])
    looked = stages.refine_geometry(dense, replace(depth, features=projected))
    geometry = torch.empty_like(dense)
    for b, q in itertools.product(*map(range, mask.shape)):
        outside = {"replace": stages.empty, "keep": dense[b, q]}.get(stages.unmasked)
        outside = dense[b, q] + stages.empty if outside is None else outside
        geometry[b, q] = looked[b, q] if mask[b, q] else outside
    refined = stages.refine_semantics(geometry, image)
    return torch.where(mask[..., None], refined, geometry)


@pytest.mark.parametrize("unmasked", ["replace", "keep", "add"])
@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_dual_projection_against_the_equations(unmasked, share):
    stages = dual_projection(replace(NO_EXPERTS, unmasked=unmasked))
    image, depth = random_views(surround_scene())
    queries = random_queries()
    mask = torch.rand(queries.shape[:2], generator=torch.Generator().manual_seed(1)) < share
    with torch.no_grad():
        expected = naive_stages(stages, queries, mask, image, depth)
        torch.testing.assert_close(stages(queries, mask, image, depth), expected)


def test_the_empty_embedding_learns_from_masked_out_voxels_only():
    stages = dual_projection()
    image, depth = random_views(surround_scene())
    queries = random_queries()
    mask = torch.rand(queries.shape[:2], generator=torch.Generator().manual_seed(1)) < 0.3
    out = stages(queries, mask, image, depth)
    (inside,) = torch.autograd.grad(out[mask].sum(), stages.empty, retain_graph=True, allow_unused=True)
    assert inside is None or not inside.any()
    (outside,) = torch.autograd.grad(out[~mask].sum(), stages.empty, retain_graph=True)
    torch.testing.assert_close(outside, torch.full_like(outside, float((~mask).sum())))
    assert torch.equal(out[~mask], stages.empty.expand_as(out[~mask]))
    # A mask that covers all leaves nothing to the embedding.
    full = stages(queries, torch.ones_like(mask), image, depth)
    (nothing,) = torch.autograd.grad(full.sum(), stages.empty, allow_unused=True)
    assert nothing is None or not nothing.any()


def test_the_mask_alone_looks_at_no_depth():
    stages = dual_projection(depth_channels=None)
    image, _ = random_views(surround_scene())
    queries = random_queries()
    mask = torch.rand(queries.shape[:2], generator=torch.Generator().manual_seed(1)) < 0.3
    dense = stages.densify(queries, image)
    expected = stages.refine_semantics(torch.where(mask[..., None], dense, stages.empty), image, mask)
    torch.testing.assert_close(stages(queries, mask, image, None), expected)


# --- experts ---------------------------------------------------------------------------------------------------------


def test_regions_partition_the_papers_grid():
    """Counts by brute force over voxels with the intervals of section 4.1; they are those of the reference."""
    heights = [(-1.0, 0.2), (0.2, 2.2), (2.2, 5.4)]
    distances = [(0.0, 10.0), (10.0, 30.0), (30.0, math.inf)]
    counts = dict.fromkeys(itertools.product(range(3), range(3)), 0)
    for x, y in itertools.product(range(50), repeat=2):
        distance = math.hypot(-40 + 1.6 * (x + 0.5), -40 + 1.6 * (y + 0.5))
        far = next(i for i, (low, high) in enumerate(distances) if low <= distance < high)
        for z in range(16):
            height = -1 + 0.4 * (z + 0.5)
            counts[next(i for i, (low, high) in enumerate(heights) if low <= height < high), far] += 1
    masks = region_masks(FULL, RegionExpertsConfig())
    assert masks.sum(dim=0).eq(1).all()
    assert masks.sum(dim=1).tolist() == list(counts.values())
    assert list(counts.values()) == [360, 2988, 4152, 600, 4980, 6920, 960, 7968, 11072]
    # Mirrored along x or y, regions stay what they are.
    volume = masks.unflatten(1, FULL.shape)
    assert torch.equal(volume, volume.flip(1))
    assert torch.equal(volume, volume.flip(2))


def test_a_centre_on_a_border_belongs_to_the_upper_region():
    grid = VoxelGrid(lower=(-2.0, -2.0, -1.0), voxel_size=(0.8, 0.8, 0.8), shape=(5, 5, 3))
    masks = region_masks(grid, RegionExpertsConfig(heights=(0.2,), distances=(), chosen=1))
    assert masks.view(2, 25, 3).all(dim=1).tolist() == [[True, False, False], [False, True, True]]


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (lambda: RegionExpertsConfig(heights=(2.0, 1.0)), "increase"),
        (lambda: RegionExpertsConfig(chosen=10), "1 to 9"),
        (lambda: RegionExpertsConfig(chosen=0), "1 to 9"),
        (lambda: region_masks(COARSE, RegionExpertsConfig()), "holds no voxel"),
        (lambda: RecursiveExpertConfig(shares=(0.9, 0.5)), "begin with 1"),
        (lambda: RecursiveExpertConfig(shares=(1.0, 0.5, 0.5)), "fall"),
        (lambda: RecursiveExpertConfig(shares=()), "begin with 1"),
        (lambda: RecursiveExpertConfig(shares=(1.0, 0.0)), "none is 0"),
        (lambda: RefinementConfig(heads=0), "at least 1"),
        (lambda: RefinementConfig(dilation=-1), "at least 0"),
    ],
)
def test_what_cannot_be_is_refused(make, what):
    with pytest.raises(InputError, match=what):
        make()


@pytest.mark.parametrize("chosen", [1, 4, 9])
def test_region_experts_against_a_loop(chosen):
    regions = replace(REGIONS, chosen=chosen)
    experts = stir(RegionExperts(CHANNELS, grid=COARSE, regions=regions, config=STEADY))
    image, _ = random_views(surround_scene())
    queries = random_queries()
    scores = torch.empty(2, 9)
    for b, m in itertools.product(range(2), range(9)):
        scores[b, m] = experts.router(queries[b][experts.regions[m]].mean(dim=0))[0]
    expected = queries.clone()
    for b in range(2):
        best = scores[b].argsort(descending=True)[:chosen].tolist()
        total = sum(math.exp(scores[b, m].item()) for m in best)
        for m in best:
            weight = chosen * math.exp(scores[b, m].item()) / total
            refined = experts.experts[m](queries, image)[b]
            here = experts.regions[m]
            expected[b, here] += weight * (refined - queries[b])[here]
    with torch.no_grad():
        torch.testing.assert_close(experts(queries, image), expected, rtol=1e-4, atol=1e-5)


def test_region_experts_and_their_router_learn():
    experts = stir(RegionExperts(CHANNELS, grid=COARSE, regions=REGIONS, config=STEADY))
    image, _ = random_views(surround_scene(batch=1))
    experts(random_queries(batch=1), image).square().sum().backward()
    assert all(p.grad is not None for p in experts.parameters())
    assert all(p.grad.any() for p in experts.router[1:].parameters())
    # An expert that is not chosen learns nothing.
    working = [any(p.grad.any() for p in expert.parameters()) for expert in experts.experts]
    assert 1 < sum(working) <= 4


def test_masks_of_the_recursion_are_nested():
    recursion = RecursiveExpertConfig()
    expert = stir(RecursiveExpert(CHANNELS, recursion=recursion, config=STEADY))
    image, _ = random_views(surround_scene())
    out, masks = expert.with_masks(random_queries(), image)
    assert torch.equal(out, expert(random_queries(), image))
    assert [mask.sum(dim=1).tolist() for mask in masks] == [[100, 100], [75, 75], [50, 50]]
    for wide, narrow in itertools.pairwise(masks):
        assert not (narrow & ~wide).any()
    assert not torch.equal(masks[1][0], masks[1][1])


def test_recursion_against_a_loop_and_its_routers_learn():
    expert = stir(RecursiveExpert(CHANNELS, recursion=RecursiveExpertConfig(), config=STEADY))
    image, _ = random_views(surround_scene())
    queries = random_queries()
    out = expert(queries, image)
    expected, allowed = expert.expert(queries, image), [set(range(100)), set(range(100))]
    for router, count in zip(expert.routers, (75, 50), strict=True):
        scores, refined, next_ = router(expected)[..., 0], expert.expert(expected, image), expected.clone()
        for b in range(2):
            best = sorted(allowed[b], key=lambda q, b=b: -scores[b, q].item())[:count]
            allowed[b] = set(best)
            for q in best:
                gate = 1 / (1 + math.exp(-scores[b, q].item()))
                next_[b, q] = expected[b, q] + gate * (refined[b, q] - expected[b, q])
        expected = next_
    torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-5)
    out.square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in expert.parameters())


# --- a volume refined ------------------------------------------------------------------------------------------------


def refinement(config=STEADY, grid=COARSE):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = config.build(volume_channels=5, image_channels=CHANNELS, grid=grid)
    return stir(made)


def volume_and_features(scene, seed=0):
    generator = torch.Generator().manual_seed(seed)
    batch, cameras = scene.prior.depth.shape[:2]
    volume = torch.randn(batch, 5, *COARSE.shape, generator=generator)
    return volume, torch.randn(batch, cameras, CHANNELS, 4, 8, generator=generator)


VARIANTS = {
    "D2": NO_EXPERTS,
    "R": replace(STEADY, experts=REGIONS),
    "R2": STEADY,
    "image": replace(NO_EXPERTS, guide="image"),
    "mask": replace(NO_EXPERTS, guide="none"),
    "grown": replace(NO_EXPERTS, dilation=1),
    "stand-in": replace(NO_EXPERTS, depth_features=StandIn(7)),
}


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("cameras", [1, 3])
def test_batch_equals_one_by_one(name, cameras):
    made, scene = refinement(VARIANTS[name]).eval(), surround_scene(cameras=cameras)
    scene.prior.depth[1, :, :9] = 0
    volume, features = volume_and_features(scene)
    with torch.no_grad():
        together = made(scene, volume, features, STRIDE)
        assert together.shape == volume.shape
        for b in range(2):
            alone = made(scene.map(lambda t, b=b: t[b : b + 1]), volume[b : b + 1], features[b : b + 1], STRIDE)
            torch.testing.assert_close(alone, together[b : b + 1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", VARIANTS)
def test_every_parameter_learns(name):
    made, scene = refinement(replace(VARIANTS[name], dropout=0.1)), surround_scene(known=0.02)
    out = made(scene, *volume_and_features(scene), STRIDE)
    out.square().sum().backward()
    idle = {n for n, p in made.named_parameters() if p.grad is None or not p.grad.any()}
    assert not {n for n in idle if not n.startswith("experts.experts.")}


@pytest.mark.parametrize("name", VARIANTS)
def test_no_picture_and_nothing_known_still_give_an_answer(name):
    made, scene = refinement(VARIANTS[name]), surround_scene()
    volume, features = volume_and_features(scene)
    empty = made(without_depth(scene), volume, features, STRIDE)
    assert empty.isfinite().all()
    scene.camera_valid[:] = False
    out = made(scene, volume, features, STRIDE)
    assert out.isfinite().all()
    out.sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in made.parameters())


def test_what_the_mask_and_the_features_of_the_prior_change():
    scene = surround_scene()
    volume, features = volume_and_features(scene)
    other = replace(scene, prior=replace(scene.prior, features=-scene.prior.features))
    for name in ("D2", "image", "mask", "stand-in"):
        made = refinement(VARIANTS[name]).eval()
        before = made(scene, volume, features, STRIDE)
        # Only where voxels look at the prior's features do they matter; the mask always does.
        assert torch.equal(before, made(other, volume, features, STRIDE)) == (name != "D2")
        assert not torch.equal(before, made(without_depth(scene), volume, features, STRIDE))


def test_needs_are_what_is_looked_at():
    features = {name: config.needs.prior_features for name, config in VARIANTS.items()}
    assert features == {name: name in ("D2", "R", "R2", "grown") for name in VARIANTS}
    assert all(config.needs.prior_depth and config.needs.images for config in VARIANTS.values())
    scene = surround_scene()
    bare = replace(scene, prior=replace(scene.prior, features=None))
    for name in ("image", "mask", "stand-in"):
        made = refinement(VARIANTS[name]).eval()
        volume, features = volume_and_features(scene)
        assert torch.equal(made(bare, volume, features, STRIDE), made(scene, volume, features, STRIDE))


def even(made):
    """Treat the four quarters of a voxel, and the places of voxels, alike."""
    for block in made.modules():
        if isinstance(block, CrossAttentionBlock):
            for linear, last in ((block.attention.sampling_offsets, 2), (block.attention.attention_weights, 1)):
                for parameter in (linear.weight, linear.bias):
                    parts = parameter.data.view(2, 1, 4, last, -1)
                    parts.copy_(parts[:, :, :1].clone().expand_as(parts))
    for table in made.positions.tables:
        table.data.zero_()
    return made


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize(("x", "y"), [(True, False), (True, True)])
def test_a_mirrored_ego_frame_mirrors_the_answer(name, x, y):
    made, scene = even(refinement(VARIANTS[name])).eval(), surround_scene()
    volume, features = volume_and_features(scene)
    axes = [axis for axis, flip in ((2, x), (3, y)) if flip]
    with torch.no_grad():
        expected = made(scene, volume, features, STRIDE).flip(axes)
        found = made(mirrored(scene, x=x, y=y), volume.flip(axes), features, STRIDE)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


# --- the paper's size ------------------------------------------------------------------------------------------------


def count(module):
    return sum(p.numel() for p in module.parameters())


BLOCK = 420_192
"""DCA of 256 channels, 8 heads, 4 points, 512 hidden channels (reference drocc 7)."""


def full_size(experts):
    with torch.device("meta"):
        return RefinementConfig(experts=experts).build(volume_channels=32, image_channels=256, grid=FULL)


def test_parameters_of_the_papers_size():
    """The baseline has 34,969,712; the reference gives 36.36 M with D2, 40.16 M with R too, 36.78 M with R2."""
    attention = 256 * 64 + 64 + 256 * 32 + 32 + 2 * (256 * 256 + 256)
    assert 4 * 256 + attention + 256 * 512 + 512 + 512 * 256 + 256 == BLOCK
    d2, r, r2 = (full_size(experts) for experts in (None, RegionExpertsConfig(), RecursiveExpertConfig()))
    assert count(d2.dual_projection.densify) == BLOCK
    ends = 32 * 256 + 256 + 256 * 32 + 32
    positions = 50 * 96 + 50 * 96 + 16 * 64
    prior = 384 * 256 + 256 + 2 * 256
    assert count(d2) == 3 * BLOCK + ends + positions + prior + 256
    router = 2 * 256 + 256 * 64 + 64 + 64
    assert count(r) - count(d2) == 9 * BLOCK + router
    assert count(r2) - count(d2) == BLOCK + 2 * 257
    totals = [34_969_712 + count(made) for made in (d2, r, r2)]
    assert totals == [36_356_912, 40_155_664, 36_777_618]
    assert [round(total / 1e6, 2) for total in totals] == [36.36, 40.16, 36.78]


def test_the_recursion_chooses_the_papers_numbers_of_voxels():
    expert = RecursiveExpert(8, recursion=RecursiveExpertConfig(), config=replace(STEADY, feedforward=8))
    scene = surround_scene(batch=1, cameras=1)
    view = image_view(scene, quarter_centres(FULL), torch.zeros(1, 1, 8, 4, 8), STRIDE)
    _, masks = expert.with_masks(torch.rand(1, 40_000, 8, generator=torch.Generator().manual_seed(0)), view)
    assert [mask.sum().item() for mask in masks] == [40_000, 30_000, 20_000]
