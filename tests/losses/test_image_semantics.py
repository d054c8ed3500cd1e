"""Sparse labels come to coarser cells as a loop brings them, and the loss counts each cell once."""

import math
from collections import Counter

import pytest
import torch
import torch.nn.functional as F

from occloom.errors import InputError
from occloom.losses.image_semantics import scattered_labels, sparse_cross_entropy


def sparse(images, height, width, *, classes=5, share=0.1, seed=0):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, classes, (images, height, width), generator=generator)
    return torch.where(torch.rand(labels.shape, generator=generator) < share, labels, -1)


@pytest.mark.parametrize(
    ("height", "width", "size"), [(8, 12, (2, 3)), (7, 10, (2, 3)), (9, 5, (4, 2)), (3, 2, (1, 1))]
)
@pytest.mark.parametrize("share", [0.0, 0.2, 0.9])
def test_equals_a_loop_over_cells(height, width, size, share):
    labels = sparse(2, height, width, share=share)
    found = scattered_labels(labels, size, 4, classes=5)
    for m in range(2):
        for i in range(size[0]):
            for j in range(size[1]):
                block = labels[m, 4 * i : 4 * i + 4, 4 * j : 4 * j + 4].flatten().tolist()
                votes = Counter(value for value in block if value >= 0)
                best = min(votes, key=lambda c: (-votes[c], c)) if votes else -1
                assert found[m, i, j] == best


def test_no_labelled_cell_is_lost_where_the_nearest_pixel_loses_most():
    labels = sparse(1, 96, 308, share=0.01)
    cells = scattered_labels(labels, (24, 77), 4, classes=5)
    nearest = labels[:, ::4, ::4]
    assert (cells >= 0).sum() > 0.9 * (labels >= 0).sum()
    assert (nearest >= 0).sum() < 0.2 * (labels >= 0).sum()


def test_the_loss_is_the_mean_over_labelled_cells():
    labels, logits = sparse(2, 8, 12), torch.randn(2, 5, 2, 3, requires_grad=True)
    cells = scattered_labels(labels, (2, 3), 4, classes=5)
    values = [
        -F.log_softmax(logits[m, :, i, j], 0)[cells[m, i, j]]
        for m in range(2)
        for i in range(2)
        for j in range(3)
        if cells[m, i, j] >= 0
    ]
    loss = sparse_cross_entropy(logits, labels, 4)
    torch.testing.assert_close(loss, torch.stack(values).mean())
    loss.backward()
    assert (logits.grad.abs().sum(1) > 0).eq(cells >= 0).all()


def test_without_labels_the_loss_is_zero_and_has_a_gradient():
    logits = torch.randn(1, 5, 2, 3, requires_grad=True)
    loss = sparse_cross_entropy(logits, torch.full((1, 8, 12), -1), 4)
    loss.backward()
    assert loss == 0
    assert torch.equal(logits.grad, torch.zeros_like(logits))


def test_half_precision_is_summed_in_full():
    labels, logits = sparse(1, 8, 12, share=1.0), torch.zeros(1, 5, 2, 3, dtype=torch.float16)
    loss = sparse_cross_entropy(logits, labels, 4)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(math.log(5), rel=1e-6)


def test_cells_that_do_not_cover_the_picture_are_refused():
    with pytest.raises(InputError, match="cells cover"):
        scattered_labels(sparse(1, 9, 12), (2, 3), 4, classes=5)
