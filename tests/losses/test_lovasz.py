import pytest
import torch

from occloom.losses.lovasz import lovasz_jaccard, lovasz_softmax


def naive_extension(errors, member):
    """The Lovasz extension as an integral over thresholds, without sorting: of the Jaccard loss of {error >= t}."""
    total, below = 0.0, 0.0
    for threshold in sorted(set(errors.tolist())):
        wrong = errors >= threshold
        right = member & ~wrong
        jaccard = 1 - int(right.sum()) / int((member | wrong).sum())
        total += (threshold - below) * jaccard
        below = threshold
    return total


@pytest.mark.parametrize("count", [1, 2, 7, 40])
def test_a_class_has_the_lovasz_extension_of_its_jaccard_loss(count):
    generator = torch.Generator().manual_seed(count)
    probability = torch.rand(count, generator=generator, dtype=torch.float64)
    member = torch.rand(count, generator=generator) < 0.5
    member[0] = True
    errors = torch.where(member, 1 - probability, probability)
    assert float(lovasz_jaccard(probability, member)) == pytest.approx(naive_extension(errors, member), abs=1e-12)


def test_equal_errors_in_any_order():
    probability, member = torch.tensor([0.5, 0.5, 0.5, 0.2]), torch.tensor([True, False, True, False])
    errors = torch.where(member, 1 - probability, probability)
    expected = naive_extension(errors, member)
    for order in ([0, 1, 2, 3], [1, 2, 0, 3], [3, 0, 2, 1]):
        assert float(lovasz_jaccard(probability[order], member[order])) == pytest.approx(expected)


def test_on_hard_answers_it_is_one_less_the_iou():
    probability, member = torch.tensor([1.0, 1, 0, 0, 1]), torch.tensor([True, False, True, False, True])
    assert float(lovasz_jaccard(probability, member)) == pytest.approx(1 - 2 / 4)


def test_classes_are_those_of_the_counted_voxels():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 4, 3, 3, 2, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, 3, (2, 3, 3, 2), generator=generator)
    counted = (torch.rand(labels.shape, generator=generator) < 0.6) & (labels != 2)
    rows, truth = logits.softmax(1).movedim(1, -1)[counted], labels[counted]
    expected = [
        naive_extension(torch.where(truth == c, 1 - rows[:, c], rows[:, c]), truth == c)
        for c in truth.unique().tolist()
    ]
    assert len(expected) == 2
    assert float(lovasz_softmax(logits, labels, counted)) == pytest.approx(sum(expected) / 2)
    other = torch.where(counted, labels, 3)
    assert torch.equal(lovasz_softmax(logits, other, counted), lovasz_softmax(logits, labels, counted))


def test_its_gradient_is_right_where_errors_differ():
    logits = torch.randn(1, 3, 3, 2, 1, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    labels = torch.randint(0, 3, (1, 3, 2, 1), generator=torch.Generator().manual_seed(3))
    counted = torch.ones_like(labels, dtype=torch.bool)
    assert torch.autograd.gradcheck(lambda x: lovasz_softmax(x, labels, counted), logits.requires_grad_())


def test_nothing_counted_costs_nothing():
    logits = torch.randn(1, 3, 2, 2, 1, requires_grad=True)
    loss = lovasz_softmax(logits, torch.zeros(1, 2, 2, 1, dtype=torch.int64), torch.zeros(1, 2, 2, 1, dtype=torch.bool))
    loss.backward()
    assert loss == 0
    assert not logits.grad.any()
