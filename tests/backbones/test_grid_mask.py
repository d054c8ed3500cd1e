import torch

from occloom.backbones.grid_mask import GridMask

FILL = torch.tensor([2.0, 3.0, 4.0]).view(3, 1, 1)


def hidden_of(mask, images):
    hidden = mask(images, FILL) == FILL
    assert torch.equal(hidden, hidden[:1, :1].expand_as(hidden))
    return hidden[0, 0]


def test_squares_of_a_lattice_are_hidden_in_all_pictures_alike():
    torch.manual_seed(0)
    mask, images = GridMask(probability=1.0), torch.rand(3, 3, 40, 64)
    periods = set()
    for _ in range(20):
        hidden = hidden_of(mask, images)
        rows, columns = hidden.any(1), hidden.any(0)
        assert torch.equal(hidden, rows[:, None] & columns)
        changes = torch.diff(rows.int()).nonzero()[:, 0]
        if len(changes) >= 3:
            period = int(changes[2] - changes[0])
            periods.add(period)
            assert torch.equal(rows[period:], rows[:-period])
            assert torch.equal(columns[period:], columns[:-period])
            assert abs(float(rows[:period].float().mean()) - 0.5) <= 0.5 / period + 1e-6
    assert len(periods) > 3


def test_some_calls_hide_nothing_and_evaluation_never_does():
    torch.manual_seed(0)
    mask, images = GridMask(probability=0.5), torch.rand(1, 3, 20, 20)
    untouched = sum(mask(images, FILL) is images for _ in range(100))
    assert 30 < untouched < 70
    assert all(mask.eval()(images, FILL) is images for _ in range(5))


def test_a_larger_ratio_leaves_more():
    torch.manual_seed(0)
    shares = [
        torch.stack(
            [hidden_of(GridMask(probability=1.0, ratio=r), torch.rand(1, 3, 50, 50)).float().mean() for _ in range(40)]
        ).mean()
        for r in (0.3, 0.8)
    ]
    assert shares[0] > 2 * shares[1]


def test_the_smallest_pictures():
    torch.manual_seed(0)
    for _ in range(5):
        assert GridMask(probability=1.0)(torch.rand(1, 3, 1, 2), FILL).shape == (1, 3, 1, 2)
