import pytest
import torch

from occloom.lifting.prior_features import StandInFeatures


@pytest.mark.parametrize(("size", "expected"), [((225, 400), (29, 50)), ((9, 17), (2, 3)), ((1, 1), (1, 1))])
def test_features_have_the_promised_size(size, expected):
    network = StandInFeatures(12).to("meta")
    assert network(torch.zeros(2, 3, *size, device="meta")).shape == (2, 3, 12, *expected)


def test_each_picture_is_looked_at_by_itself():
    torch.manual_seed(0)
    network, depth = StandInFeatures(5, halvings=2), torch.rand(2, 3, 14, 22) * 50 + 1
    together = network(depth)
    for b, n in ((0, 0), (1, 2)):
        torch.testing.assert_close(network(depth[b : b + 1, n : n + 1])[0, 0], together[b, n])


def test_unknown_is_not_near_and_nothing_known_is_no_trouble():
    torch.manual_seed(0)
    network = StandInFeatures(5)
    depth = torch.full((1, 1, 24, 40), 10.0)
    unknown = network(torch.zeros_like(depth))
    # At the typical depth the logarithm is 0, as it is where nothing is known: the second channel tells them apart.
    assert (network(depth) - unknown).abs().max() > 1e-3
    unknown.sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


def test_places_are_shares_of_the_picture():
    """A change in the right half is felt there, and one in the left half in the mirror image of that place."""
    torch.manual_seed(0)
    network = StandInFeatures(5, halvings=2).double()
    depth = torch.full((1, 1, 13, 42), 8.0, dtype=torch.float64)
    plain = network(depth)
    felt = []
    for columns in (slice(32, 34), slice(8, 10)):
        changed = depth.clone()
        changed[..., columns] = 30.0
        felt.append((network(changed) - plain).abs().sum(dim=(0, 1, 2, 3)) > 0)
    assert felt[0].tolist() == felt[1].flip(0).tolist()
    assert len(felt[0]) == 11
    # The middle of columns 32 and 33 is at 11/14 of the width, that of feature 8 at 17/22.
    assert felt[0][8]
    assert not felt[0][:5].any()
