import pytest
import torch

from occloom.ops import row_sums as module
from occloom.ops.row_sums import add_row_sums_gradient, pad_pixels, pixel_corners, row_sums, scatter_rows


def random(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("size", [(1, 1), (1, 4), (5, 1), (3, 7)])
def test_shares_are_hats_around_each_pixel(size):
    height, width = size
    x, y = random(400) * width, random(400, seed=1) * height
    index, shares = pixel_corners(x, y, size)
    padded = torch.zeros(400, (height + 2) * (width + 2), dtype=torch.float64).scatter_add(1, index, shares)
    spread = padded.view(400, height + 2, width + 2)[:, 1:-1, 1:-1]
    column = torch.relu(1 - (x[:, None] - torch.arange(width)).abs())
    row = torch.relu(1 - (y[:, None] - torch.arange(height)).abs())
    torch.testing.assert_close(spread, row[:, :, None] * column[:, None])


def test_far_places_read_zeros_and_places_that_are_no_numbers_none():
    table = pad_pixels(torch.ones(1, 2, 4, 6)).reshape(-1, 2)
    far = torch.tensor([-1e30, 1e30, torch.inf, -torch.inf, 1e9, -2.0, 9.0])
    for x, y in ((far, torch.ones(7)), (torch.ones(7), far)):
        assert not row_sums(table, *pixel_corners(x, y, (4, 6))).any()
    nowhere = torch.full((3,), torch.nan)
    assert row_sums(table, *pixel_corners(nowhere, torch.ones(3), (4, 6))).isnan().all()


def test_whole_places_are_pixels():
    maps = random(1, 2, 3, 5)
    y, x = torch.meshgrid(torch.arange(3.0), torch.arange(5.0), indexing="ij")
    index, shares = pixel_corners(x.flatten().double(), y.flatten().double(), (3, 5))
    assert torch.equal(row_sums(pad_pixels(maps).reshape(-1, 2), index, shares), maps[0].flatten(1).T)


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


@pytest.mark.parametrize("chunk", [1 << 21, 30])
def test_scattered_rows_equal_a_loop_forward_and_backward(chunk, monkeypatch):
    monkeypatch.setattr(module, "CHUNK_ELEMENTS", chunk)
    rows, shares = random(7, 3).requires_grad_(), random(7, 4, seed=1).requires_grad_()
    index = torch.randint(0, 6, (7, 4), generator=torch.Generator().manual_seed(2))
    expected = torch.zeros(6, 3, dtype=torch.float64)
    for g in range(7):
        for k in range(4):
            expected = expected.index_add(0, index[g, k : k + 1], shares[g, k] * rows[g][None])
    table = scatter_rows(rows, index, shares, 6)
    torch.testing.assert_close(table, expected)
    grad = random(6, 3, seed=3)
    for ours, theirs in zip(
        torch.autograd.grad(table, [rows, shares], grad),
        torch.autograd.grad(expected, [rows, shares], grad),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs)


def test_scattering_is_the_adjoint_of_summing():
    rows, shares, table = random(7, 3), random(7, 4, seed=1), random(6, 3, seed=2)
    index = torch.randint(0, 6, (7, 4), generator=torch.Generator().manual_seed(2))
    there = (scatter_rows(rows, index, shares, 6) * table).sum()
    torch.testing.assert_close(there, (row_sums(table, index, shares) * rows).sum())
    none = [part.requires_grad_() for part in (rows[:0].clone(), shares[:0].clone())]
    empty = scatter_rows(none[0], index[:0], none[1], 6)
    empty.sum().backward()
    assert not empty.any()
    assert [part.grad.shape for part in none] == [(0, 3), (0, 4)]
