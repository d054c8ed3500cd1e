import pytest
import torch

from occloom.ops.row_sums import add_row_sums_gradient, pixel_corners, row_sums


def random(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("size", [(1, 1), (1, 4), (5, 1), (3, 7)])
def test_shares_are_hats_around_each_pixel(size):
    height, width = size
    x, y = random(400) * width, random(400, seed=1) * height
    index, shares = pixel_corners(x, y, size)
    spread = torch.zeros(400, height * width, dtype=torch.float64).scatter_add(1, index, shares)
    column = torch.relu(1 - (x[:, None] - torch.arange(width)).abs())
    row = torch.relu(1 - (y[:, None] - torch.arange(height)).abs())
    torch.testing.assert_close(spread, (row[:, :, None] * column[:, None]).flatten(1))


def test_far_places_share_in_nothing():
    far = torch.tensor([-1e30, 1e30, torch.inf, -torch.inf, 1e9, -2.0, 9.0])
    index, shares = pixel_corners(far, torch.zeros_like(far), (4, 6))
    assert ((index >= 0) & (index < 24)).all()
    assert not shares.any()


def test_whole_places_are_pixels():
    y, x = torch.meshgrid(torch.arange(3.0), torch.arange(5.0), indexing="ij")
    index, shares = pixel_corners(x.flatten(), y.flatten(), (3, 5))
    largest = shares.argmax(dim=1, keepdim=True)
    assert torch.equal(index.gather(1, largest)[:, 0], torch.arange(15))
    assert torch.equal(shares.amax(dim=1), shares.sum(dim=1))


def test_sums_and_their_gradients_equal_a_plain_sum():
    table, shares = random(9, 4).requires_grad_(), random(6, 5, seed=1).requires_grad_()
    index = torch.randint(0, 9, (6, 5), generator=torch.Generator().manual_seed(2))
    grad = random(6, 4, seed=3)
    naive = (shares[:, :, None] * table[index]).sum(dim=1)
    torch.testing.assert_close(row_sums(table, index, shares), naive)
    of_table, of_shares = torch.autograd.grad(naive, (table, shares), grad)
    before = random(9, 4, seed=4)
    after = before.clone()
    ours = add_row_sums_gradient(table.detach(), index, shares.detach(), grad, after)
    torch.testing.assert_close(ours, of_shares)
    torch.testing.assert_close(after - before, of_table)
