import pytest
import torch
import torch.nn.functional as F

from occloom.heads.normalised import NormalisedHead


def plain(head, volume, size):
    """What the head stands for: enlarged features, normalised and classified voxel by voxel."""
    features = F.interpolate(volume, size=size, mode="trilinear", align_corners=True).permute(0, 2, 3, 4, 1)
    return head.classify(head.norm(features)).permute(0, 4, 1, 2, 3)


def made(channels=12, classes=5, factors=(2, 2, 2), seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        head = NormalisedHead(channels, classes, factors=factors)
        for parameter in head.parameters():
            torch.nn.init.normal_(parameter)
    return head


@pytest.mark.parametrize(
    ("shape", "factors"),
    [((4, 5, 3), (2, 2, 2)), ((3, 2, 2), (4, 4, 4)), ((5, 1, 3), (1, 2, 3)), ((1, 1, 1), (2, 2, 2))],
)
def test_equals_enlarging_the_features_forward_and_backward(shape, factors):
    head, twin = made(factors=factors), made(factors=factors)
    size = tuple(n * f for n, f in zip(shape, factors, strict=True))
    volume = (torch.randn(2, 12, *shape, generator=torch.Generator().manual_seed(1)) * 3 + 1).requires_grad_()
    other = volume.detach().clone().requires_grad_()
    answer, expected = head(volume).logits, plain(twin, other, size)
    torch.testing.assert_close(answer, expected, rtol=1e-4, atol=1e-4)
    grad = torch.randn_like(expected)
    answer.backward(grad)
    expected.backward(grad)
    torch.testing.assert_close(volume.grad, other.grad, rtol=1e-3, atol=1e-3)
    for ours, theirs in zip(head.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-3, atol=1e-3)


def test_features_that_cancel_between_two_voxels_give_no_nonsense():
    """Half-way between a feature and its opposite nothing is left to normalise: all classes have their bias."""
    head = made(factors=(3, 1, 1))
    feature = torch.randn(12)
    volume = torch.stack([feature, -feature], dim=1)[None, :, :, None, None]
    size = (6, 1, 1)
    torch.testing.assert_close(head(volume).logits, plain(head, volume, size), rtol=1e-3, atol=1e-3)
    assert torch.isfinite(head(torch.zeros(1, 12, 2, 1, 1)).logits).all()


def test_some_voxels_are_scored_as_among_all():
    head, volume = made(), torch.randn(2, 12, 3, 4, 2)
    scores = head(volume)
    x, y, z = torch.tensor([5, 0, 3]), torch.tensor([1, 7]), torch.tensor([2])
    torch.testing.assert_close(scores.at(x, y, z), scores.logits[:, :, x][:, :, :, y][..., z])


@pytest.mark.parametrize("slab", [1, 4, 100])
def test_the_best_class_is_that_of_the_logits(slab):
    scores = made()(torch.randn(2, 12, 3, 4, 2))
    assert torch.equal(scores.argmax(slab=slab), scores.logits.argmax(dim=1))
