import itertools
import math

import numpy as np
import pytest
import torch

from occloom.data.surround_augment import exact_change
from occloom.errors import InputError
from occloom.models.protoocc_mapping import (
    PAPER_GRIDS,
    ClusterConfig,
    LiteralForm,
    PrototypeGuide,
    PrototypeMapping,
    ScaledForm,
    cluster,
)

FORMS = [LiteralForm(), ScaledForm(steepness=3.0)]


def features(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def cell_of(pixel, length, count):
    """The cell that the middle of a pixel lies in."""
    return math.floor((pixel + 0.5) * count / length)


def naive_clusters(picture, config):
    """Pixel by pixel and cluster by cluster, in NumPy."""
    channels, height, width = picture.shape
    rows, columns = config.grid
    home = {(v, u): (cell_of(v, height, rows), cell_of(u, width, columns)) for v in range(height) for u in range(width)}
    clusters = list(itertools.product(range(rows), range(columns)))
    prototypes = {
        at: np.mean([picture[:, v, u] for (v, u), cell in home.items() if cell == at], axis=0) for at in clusters
    }
    for _ in range(config.iterations):
        sums, weights = {at: np.zeros(channels) for at in clusters}, dict.fromkeys(clusters, 0.0)
        for (v, u), (a, b) in home.items():
            pixel = picture[:, v, u]
            near = [at for at in clusters if abs(at[0] - a) <= 1 and abs(at[1] - b) <= 1]
            cosines = [pixel @ prototypes[at] / np.linalg.norm(pixel) / np.linalg.norm(prototypes[at]) for at in near]
            shares = np.exp(np.array(cosines) / config.temperature)
            for at, share in zip(near, shares / shares.sum(), strict=True):
                sums[at] += share * pixel
                weights[at] += share
        prototypes = {at: sums[at] / weights[at] for at in clusters}
    return np.stack([prototypes[at] for at in clusters])


@pytest.mark.parametrize(
    ("size", "grid", "iterations"),
    [((8, 12), (2, 3), 3), ((7, 11), (3, 4), 2), ((5, 9), (1, 5), 3), ((6, 5), (6, 5), 1), ((7, 4), (2, 2), 0)],
)
def test_clusters_equal_the_naive_twin_forward_and_backward(size, grid, iterations):
    """Also where cells have different numbers of pixels, and where a row of clusters has no neighbours."""
    config, maps = ClusterConfig(grid, iterations), features(2, 3, *size).requires_grad_()
    found = cluster(maps, config)
    assert found.shape == (2, grid[0] * grid[1], 3)
    for picture, ours in zip(maps.detach().numpy(), found.detach().numpy(), strict=True):
        np.testing.assert_allclose(ours, naive_clusters(picture, config), rtol=1e-9, atol=1e-12)
    torch.autograd.gradcheck(lambda m: cluster(m, config), maps[:1].detach().requires_grad_())


def test_grids_have_the_papers_numbers_of_prototypes():
    """Table 6; 1440 stands there for r = 2, which no rounding gives."""
    pixels = torch.zeros(1, 1, 56, 100)
    counts = {r: cluster(pixels, ClusterConfig(grid)).shape[1] for r, grid in PAPER_GRIDS.items()}
    assert counts == {2: 1400, 4: 350, 6: 144, 8: 91}
    assert ClusterConfig().grid == PAPER_GRIDS[4]


def test_clusters_follow_the_edges_of_a_picture():
    """Two plain halves whose edge lies within the middle column of cells: prototypes become one of the halves."""
    left, right = torch.tensor([1.0, 0.1]), torch.tensor([0.1, 1.0])
    picture = torch.where(torch.arange(24)[None, None] < 11, left[:, None, None], right[:, None, None]).expand(2, 8, 24)
    before = cluster(picture[None], ClusterConfig((2, 3), iterations=0))[0]
    after = cluster(picture[None], ClusterConfig((2, 3), iterations=3))[0]
    distance = torch.cdist(after, torch.stack([left, right])).amin(dim=1)
    assert torch.cdist(before, torch.stack([left, right])).amin(dim=1).max() > 0.3
    assert distance.max() < 0.05


def test_a_picture_of_zeros_has_zero_prototypes_and_finite_gradients():
    pixels = torch.zeros(1, 4, 6, 6, requires_grad=True)
    prototypes = cluster(pixels, ClusterConfig((2, 2)))
    prototypes.sum().backward()
    assert not prototypes.any()
    assert pixels.grad is not None
    assert pixels.grad.isfinite().all()


def naive_mapping(mapping, prototypes, queries, seen):
    """Equations 1a and 1b in loops over prototypes and queries of one picture; the scaled form's changes by name."""
    scaled = isinstance(mapping.form, ScaledForm)
    projected, answers = mapping.project(prototypes), queries.clone()
    hit = seen.nonzero()[:, 0].tolist()
    affinity = torch.zeros(len(prototypes), len(queries), dtype=queries.dtype)
    for m, k in itertools.product(range(len(prototypes)), hit):
        cosine = torch.dot(projected[m], queries[k]) / projected[m].norm() / queries[k].norm()
        affinity[m, k] = torch.sigmoid(mapping.form.steepness * cosine if scaled else cosine)
    voxel = torch.stack(
        [
            (projected[m] + sum(affinity[m, k] * queries[k] for k in hit)) / affinity[m].sum()
            for m in range(len(prototypes))
        ]
    )
    for k in hit:
        given = sum(affinity[m, k] * voxel[m] for m in range(len(prototypes)))
        answers[k] = queries[k] + mapping.dispatch(given / affinity[:, k].sum() if scaled else given)
    return answers


@pytest.mark.parametrize("form", FORMS)
def test_mapping_equals_the_equations(form):
    """Padding lies anywhere and holds anything."""
    mapping = PrototypeMapping(6, form).double()
    torch.nn.init.normal_(mapping.dispatch.weight)
    prototypes, queries = features(3, 5, 6), features(3, 7, 6, seed=1)
    seen = torch.rand(3, 7, generator=torch.Generator().manual_seed(2)) < 0.6
    assert len(seen.sum(1).unique()) > 1
    mapped = mapping(prototypes, queries, seen)
    expected = torch.stack([naive_mapping(mapping, *each) for each in zip(prototypes, queries, seen, strict=True)])
    torch.testing.assert_close(mapped.queries[seen], expected[seen], rtol=1e-9, atol=1e-9)
    changed = mapping(prototypes, torch.where(seen[..., None], queries, 1e3), seen)
    torch.testing.assert_close(changed.queries[seen], mapped.queries[seen])


def test_the_scaled_form_starts_as_the_baseline_and_hands_out_means():
    mapping, queries = PrototypeMapping(8, ScaledForm()), torch.randn(2, 5, 8)
    mapped = mapping(torch.randn(2, 3, 8), queries, torch.ones(2, 5, dtype=torch.bool))
    assert torch.equal(mapped.queries, queries)
    shares = ScaledForm().dispatch(torch.rand(2, 3, 5))
    torch.testing.assert_close(shares.sum(1), torch.ones(2, 5))


def test_the_literal_form_is_badly_scaled():
    """Reference protoocc 2.3: all affinities are alike, and what is dispatched is several times as long as a query."""
    mapping, queries = PrototypeMapping(256, LiteralForm()), features(1, 300, 256).float()
    seen = torch.ones(1, 300, dtype=torch.bool)
    with torch.no_grad():
        literal = mapping(features(1, 350, 256, seed=1).float(), queries, seen).dispatched.norm(dim=-1).mean()
        scaled = PrototypeMapping(256, ScaledForm())(features(1, 350, 256, seed=1).float(), queries, seen)
    assert literal > 3 * queries.norm(dim=-1).mean()
    assert scaled.dispatched.norm(dim=-1).mean() < queries.norm(dim=-1).mean()
    bounds = LiteralForm().affinity(torch.tensor([[[-1.0, 1.0]]])).flatten()
    torch.testing.assert_close(bounds, torch.tensor([0.2689, 0.7311]), atol=1e-4, rtol=0)


@pytest.mark.parametrize("form", FORMS)
def test_no_query_seen_at_all(form):
    mapping = PrototypeMapping(4, form)
    queries = torch.randn(2, 3, 4)
    mapped = mapping(torch.randn(2, 5, 4), queries, torch.zeros(2, 3, dtype=torch.bool))
    mapped.queries.sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in mapping.parameters())
    assert mapping(torch.randn(2, 5, 4), queries[:, :0], torch.zeros(2, 0, dtype=torch.bool)).queries.shape == (2, 0, 4)


def test_a_guide_keeps_what_it_dispatched_pair_by_pair():
    mapping, prototypes, queries = PrototypeMapping(4, LiteralForm()), torch.randn(2, 3, 4), torch.randn(2, 5, 4)
    seen = torch.tensor([[True, False, True, True, False], [False, True, False, False, False]])
    guide = PrototypeGuide(mapping, prototypes)
    mapped = mapping(prototypes, queries, seen)
    assert torch.equal(guide(queries, seen), mapped.queries)
    expected = torch.stack([mapped.dispatched[m, k] for m, k in seen.nonzero().tolist()])
    assert torch.equal(guide.dispatched, expected)


def test_three_layers_add_what_the_paper_counts():
    """16.107 M less PanoOcc-Small's 15.515 M: reference protoocc 4."""
    with torch.device("meta"):
        layers = [PrototypeMapping(256, form) for form in (ScaledForm(), LiteralForm(), LiteralForm())]
    assert sum(p.numel() for layer in layers for p in layer.parameters()) == 592_128


@pytest.mark.parametrize("wrong", [{"grid": (0, 3)}, {"iterations": -1}, {"temperature": 0.0}])
def test_numbers_that_make_no_clusters(wrong):
    with pytest.raises(InputError, match="the grid is"):
        ClusterConfig(**wrong)


def test_more_clusters_than_pixels():
    pixels = torch.randn(1, 2, 3, 9)
    torch.testing.assert_close(cluster(pixels, ClusterConfig((4, 2))), cluster(pixels, ClusterConfig((3, 2))))


@pytest.mark.real_data
def test_prototypes_of_a_real_picture_come_nearer_to_the_pixels_that_they_are_shared_by(real_data):
    """Colours of the 56x100 blocks of a nuScenes picture and 350 prototypes: the mean cosine by share grows."""
    (path,) = (real_data / "nuscenes_scene0061" / "samples" / "CAM_FRONT").glob("*.jpg")
    colours = exact_change((900, 1600), (448, 800)).image(path)[None]
    pixels = torch.nn.functional.avg_pool2d(colours, 8) - colours.mean(dim=(2, 3), keepdim=True)
    directions = torch.nn.functional.normalize(pixels[0], dim=0)
    expected = []
    for iterations in (0, 1, 3):
        prototypes = cluster(pixels, ClusterConfig(iterations=iterations))[0].T.unflatten(1, (14, 25))
        around = torch.nn.functional.pad(torch.nn.functional.normalize(prototypes, dim=0), (1, 1, 1, 1))
        # Of each pixel the cosines with the clusters around its own cell of 4x4; outside there is none.
        near = torch.stack([around[:, i : i + 14, j : j + 25] for i in range(3) for j in range(3)])
        near = near.repeat_interleave(4, dim=2).repeat_interleave(4, dim=3)
        cosines = (near * directions).sum(dim=1)
        shares = torch.where(near.abs().sum(dim=1) > 0, cosines / 0.07, -torch.inf).softmax(dim=0)
        expected.append(float((shares * cosines).sum(dim=0).mean()))
    assert expected[0] + 0.003 < expected[1] < expected[2]
