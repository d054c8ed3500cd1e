import pytest
import torch

from occloom.heads.factorised import FactorisedHead, FactorisedScores


def scores(empty, classes=5, factors=(2, 3, 1), seed=0):
    generator = torch.Generator().manual_seed(seed)
    shape = (4, 2, 3)
    fine = tuple(n * f for n, f in zip(shape, factors, strict=True))
    return FactorisedScores(
        occupancy=torch.randn(2, *fine, generator=generator, dtype=torch.float64) * 2,
        classes=torch.randn(2, classes - 1, *shape, generator=generator, dtype=torch.float64) * 3,
        empty=empty,
    )


@pytest.mark.parametrize("empty", [0, 2, 4])
def test_logits_are_the_joint_log_probabilities(empty):
    s = scores(empty)
    probability = s.logits.exp()
    torch.testing.assert_close(probability.sum(dim=1), torch.ones_like(s.occupancy))
    torch.testing.assert_close(probability[:, empty], 1 - s.occupancy.sigmoid())
    b, x, y, z = 1, 5, 4, 2
    given = torch.softmax(s.classes[b, :, x // 2, y // 3, z], dim=0)
    others = [c for c in range(5) if c != empty]
    torch.testing.assert_close(probability[b, others, x, y, z], s.occupancy[b, x, y, z].sigmoid() * given)


@pytest.mark.parametrize("empty", [0, 2, 4])
def test_argmax_is_that_of_the_logits(empty):
    for seed in range(5):
        s = scores(empty, seed=seed)
        expected = s.logits.argmax(dim=1)
        assert torch.equal(s.argmax(), expected)
        assert len(expected.unique()) == 5


def test_head_shapes_for_unequal_factors():
    head = FactorisedHead(channels=8, num_classes=5, empty=4, factors=(4, 2, 1), class_factors=(2, 2, 1))
    s = head(torch.randn(2, 8, 3, 5, 2, generator=torch.Generator().manual_seed(0)))
    assert s.occupancy.shape == (2, 12, 10, 2)
    assert s.classes.shape == (2, 4, 6, 10, 2)
    assert s.factors == (2, 1, 1)
    assert s.logits.shape == (2, 5, 12, 10, 2)
