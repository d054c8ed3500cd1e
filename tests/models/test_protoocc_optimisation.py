import itertools

import pytest
import torch
import torch.nn.functional as F

from occloom.lifting.cross_attention import AttentionMaps
from occloom.models.protoocc_mapping import LiteralForm, PrototypeGuide, PrototypeMapping
from occloom.models.protoocc_optimisation import masks_of_cells, pixel_features, prototype_contrast


def made_maps(seen, *, cameras, heads=2, levels=3, points=2):
    """Maps of the pairs of pictures and queries that `seen` "M K" names; some look beyond the border."""
    generator = torch.Generator().manual_seed(1)
    image, query = seen.nonzero().unbind(1)
    locations = torch.rand(len(image), heads, levels, points, 2, generator=generator, dtype=torch.float64) * 1.3 - 0.15
    weights = torch.rand(len(image), heads, levels * points, generator=generator, dtype=torch.float64).softmax(-1)
    return AttentionMaps(image // cameras, image % cameras, query, locations, weights.unflatten(2, (levels, points)))


def naive_looks(maps, pair, level, size):
    """B of one pair: how much it looks at each cell, head by head and point by point."""
    height, width = size
    looks = torch.zeros(size, dtype=torch.float64)
    heads, points = maps.weights.shape[1], maps.weights.shape[3]
    for head, point in itertools.product(range(heads), range(points)):
        u, v = maps.locations[pair, head, level, point]
        down = torch.relu(1 - (v * height - 0.5 - torch.arange(height)).abs())
        right = torch.relu(1 - (u * width - 0.5 - torch.arange(width)).abs())
        looks = looks + maps.weights[pair, head, level, point] / heads * down[:, None] * right
    return looks


@pytest.mark.parametrize(("cameras", "size"), [(1, (4, 6)), (2, (3, 5))])
def test_pixel_features_equal_equation_2(cameras, size):
    """(G * H(A))^T P_vox with all of its matrices made, H(A) = sigma(A) B; one picture sees nothing."""
    images, queries, level = 2 * cameras, 6, 1
    generator = torch.Generator().manual_seed(0)
    seen = torch.rand(images, queries, generator=generator) < 0.7
    seen[-1] = False
    prototypes = torch.randn(images, 4, 5, generator=generator, dtype=torch.float64, requires_grad=True)
    features = torch.randn(images, queries, 5, generator=generator, dtype=torch.float64)
    mapping, maps = PrototypeMapping(5, LiteralForm()).double(), made_maps(seen, cameras=cameras)
    maps.locations.requires_grad_()
    maps.weights.requires_grad_()
    guide = PrototypeGuide(mapping, prototypes)
    guide(features, seen)
    ours = pixel_features(maps, guide.dispatched, level=level, cameras=cameras, images=images, size=size)
    for m in range(images):
        hit = seen[m].nonzero()[:, 0]
        pairs = ((maps.sample * cameras + maps.camera) == m).nonzero()[:, 0].tolist()
        if not pairs:
            assert not ours.features[m].any()
            assert not ours.saliency[m].any()
            continue
        projected, own = mapping.project(prototypes[m]), features[m, hit]
        affinity = torch.sigmoid(F.normalize(projected, dim=-1) @ F.normalize(own, dim=-1).T)
        voxel = (projected + affinity @ own) / affinity.sum(1, keepdim=True)
        looks = torch.stack([naive_looks(maps, pair, level, size).flatten() for pair in pairs])
        mass = looks.sum(0)
        saliency = mass / mass.max()
        dense = (saliency * (affinity @ (looks / mass.clamp(min=1e-6)))).T @ voxel
        torch.testing.assert_close(ours.features[m].flatten(1).T.double(), dense, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(ours.saliency[m].flatten().double(), saliency, rtol=1e-6, atol=1e-6)
        leaves = [prototypes, maps.locations, maps.weights]
        grad = torch.randn(dense.shape, generator=generator, dtype=torch.float64)
        for found, expected in zip(
            torch.autograd.grad(ours.features[m].flatten(1).T, leaves, grad.float(), retain_graph=True),
            torch.autograd.grad(dense, leaves, grad, retain_graph=True),
            strict=True,
        ):
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def naive_contrast(features, masks, counted, temperature):
    """Eq. 3 cell by cell."""
    losses = []
    for image, labels, counts in zip(features, masks, counted, strict=True):
        cells = {s: ((labels == s) & counts).nonzero().tolist() for s in labels.unique().tolist() if s >= 0}
        centroids = {s: sum(image[:, v, u] for v, u in at) / len(at) for s, at in cells.items() if len(at) >= 2}
        for s in centroids:
            for v, u in cells[s]:
                terms = {
                    other: torch.exp(F.cosine_similarity(centre, image[:, v, u], dim=0) / temperature)
                    for other, centre in centroids.items()
                }
                losses.append(-torch.log(terms[s] / sum(terms.values())))
    return torch.stack(losses).mean()


def test_contrast_equals_equation_3_forward_and_backward():
    """Masks of one cell, cells of no mask, cells that do not count; masks of one picture that another lacks."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(2, 4, 3, 5, generator=generator, requires_grad=True)
    masks = torch.randint(-1, 4, (2, 3, 5), generator=generator)
    masks[0, 0, 0], masks[1, masks.shape[1] - 1] = 9, -1
    counted = torch.rand(2, 3, 5, generator=generator) < 0.9
    ours = prototype_contrast(features, masks, counted, temperature=0.1)
    expected = naive_contrast(features, masks, counted, 0.1)
    torch.testing.assert_close(ours, expected)
    torch.testing.assert_close(*(torch.autograd.grad(loss, features)[0] for loss in (ours, expected)))


def test_contrast_falls_where_features_follow_the_masks():
    masks = (torch.arange(8) // 2).expand(1, 6, 8)
    clear = F.one_hot(masks, 4).movedim(-1, 1).float()
    everywhere = torch.ones_like(masks, dtype=torch.bool)
    mixed = torch.rand(clear.shape, generator=torch.Generator().manual_seed(0))
    assert prototype_contrast(clear, masks, everywhere, temperature=0.1) < 1e-3
    assert prototype_contrast(mixed, masks, everywhere, temperature=0.1) > 0.5


@pytest.mark.parametrize("masks", [torch.full((1, 2, 3), -1), torch.arange(6).view(1, 2, 3)])
def test_no_mask_of_two_cells_costs_nothing_and_keeps_the_graph(masks):
    features = torch.randn(1, 4, 2, 3, requires_grad=True)
    loss = prototype_contrast(features, masks, torch.ones_like(masks, dtype=torch.bool), temperature=0.1)
    loss.backward()
    assert loss == 0
    assert features.grad is not None
    assert not features.grad.any()


@pytest.mark.parametrize(("stride", "size"), [(8, (3, 4)), (4, (5, 7)), (2, (9, 13))])
def test_a_cell_has_the_mask_of_the_pixel_at_its_middle(stride, size):
    """The nearest pixel, half to even (docs/conventions.md); cells beyond the picture have none."""
    height, width = 17, 25
    masks = torch.arange(height * width).view(1, height, width)
    found = masks_of_cells(masks, stride, size)[0]
    for i, j in itertools.product(*map(range, size)):
        v, u = (round(stride * k + (stride - 1) / 2) for k in (i, j))
        assert found[i, j] == (masks[0, v, u] if v < height and u < width else -1)
