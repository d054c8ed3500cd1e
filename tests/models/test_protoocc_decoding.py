import itertools

import pytest
import torch

from occloom.errors import InputError
from occloom.models.protoocc_decoding import (
    Dropout,
    Flips,
    GaussianNoise,
    Transposition,
    decode_all,
    scene_consistency,
)

ALL = [Dropout(), GaussianNoise(), Transposition(), Flips(1.0)]


@pytest.mark.parametrize("perspective", [Transposition(), Flips(), Flips(1.0)])
def test_spatial_views_are_undone_behind_a_decoder_that_enlarges(perspective):
    torch.manual_seed(0)
    volume = torch.randn(2, 3, 4, 4, 2)
    for _ in range(4):
        view = perspective.view(volume)
        decoded = view.volume.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
        expected = volume.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
        assert torch.equal(view.undo(decoded), expected)
    assert not torch.equal(Flips(1.0).view(volume).volume, volume)
    assert torch.equal(Flips(1.0).view(volume).volume, volume.flip(2, 3))
    assert torch.equal(Transposition().view(volume).volume[:, :, 1, 3], volume[:, :, 3, 1])


def test_flips_take_every_combination():
    torch.manual_seed(0)
    volume = torch.arange(4.0).view(1, 1, 2, 2, 1)
    seen = {tuple(Flips().view(volume).volume.flatten().tolist()) for _ in range(40)}
    assert seen == {(0, 1, 2, 3), (2, 3, 0, 1), (1, 0, 3, 2), (3, 2, 1, 0)}


def test_dropout_drops_a_tenth_and_keeps_the_mean():
    torch.manual_seed(0)
    dropped = Dropout().view(torch.ones(1, 8, 20, 20, 8)).volume
    assert float((dropped == 0).float().mean()) == pytest.approx(0.1, abs=0.01)
    assert float(dropped.mean()) == pytest.approx(1, abs=0.01)


def test_noise_is_a_tenth_of_each_channels_deviation():
    torch.manual_seed(0)
    volume = torch.randn(2, 3, 20, 20, 5) * torch.tensor([1.0, 10.0, 0.0])[:, None, None, None]
    noise = (GaussianNoise().view(volume).volume - volume).std(dim=(0, 2, 3, 4))
    torch.testing.assert_close(noise, torch.tensor([0.1, 1.0, 0.0]), rtol=0.05, atol=1e-6)


def test_all_views_are_decoded_at_once_by_one_decoder():
    calls = []

    def decode(volume):
        calls.append(len(volume))
        return volume * 2

    volume = torch.randn(2, 3, 4, 4, 2)
    logits = decode_all(volume, ALL, decode)
    assert calls == [2 * 5]
    assert torch.equal(logits[0], 2 * volume)
    torch.testing.assert_close(logits[3], 2 * volume)
    torch.testing.assert_close(logits[4], 2 * volume)
    assert [torch.equal(view, 2 * volume) for view in logits[1:3]] == [False, False]
    assert torch.equal(decode_all(volume, (), decode)[0], 2 * volume)


def naive_consistency(logits, observed, temperature):
    """Equations 4 and 5 voxel by voxel."""
    distances = []
    for place in itertools.product(*map(range, observed.shape)):
        if not observed[place]:
            continue
        views = [view[place[0], :, *place[1:]].softmax(0) for view in logits]
        mean = sum(views) / len(views)
        sharpened = (mean ** (1 / temperature) / (mean ** (1 / temperature)).sum()).detach()
        distances += [((sharpened - view) ** 2).sum() for view in views]
    return sum(distances) / len(distances)


def test_consistency_equals_equations_4_and_5_forward_and_backward():
    generator = torch.Generator().manual_seed(0)
    logits = [torch.randn(2, 4, 3, 2, 2, generator=generator, requires_grad=True) for _ in range(3)]
    observed = torch.rand(2, 3, 2, 2, generator=generator) < 0.6
    ours = scene_consistency(logits, observed, temperature=0.5)
    expected = naive_consistency(logits, observed, 0.5)
    torch.testing.assert_close(ours, expected)
    for one, other in zip(torch.autograd.grad(ours, logits), torch.autograd.grad(expected, logits), strict=True):
        torch.testing.assert_close(one, other)


def test_views_that_agree_surely_cost_nothing():
    logits = 50.0 * torch.nn.functional.one_hot(torch.randint(0, 4, (1, 3, 3, 2)), 4).movedim(-1, 1)
    assert scene_consistency([logits, logits], torch.ones(1, 3, 3, 2, dtype=torch.bool), temperature=0.5) < 1e-12


def test_nothing_observed_costs_nothing():
    logits = torch.randn(1, 3, 2, 2, 2, requires_grad=True)
    loss = scene_consistency([logits, logits], torch.zeros(1, 2, 2, 2, dtype=torch.bool), temperature=0.5)
    loss.backward()
    assert loss == 0


def test_a_volume_that_is_not_square_cannot_be_transposed():
    with pytest.raises(InputError, match="3x4 cannot be transposed"):
        Transposition().view(torch.zeros(1, 1, 3, 4, 2))


@pytest.mark.parametrize("share", [-0.1, 1.0])
def test_shares_that_drop_nothing_or_all(share):
    with pytest.raises(InputError, match="a share"):
        Dropout(share)
