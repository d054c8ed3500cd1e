import pytest
import torch

from occloom.losses import masks as module
from occloom.losses.masks import dice_loss, focal_loss, focal_terms, mask_sums


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_focal_loss_is_that_of_the_paper():
    """Eq. 5 of Lin et al.: -alpha_t (1 - p_t)^2 log p_t, voxel by voxel."""
    logits, truth = 3 * random(2, 7), random(2, 7, seed=1) > 0
    total = 0.0
    for x, t in zip(logits.flatten().tolist(), truth.flatten().tolist(), strict=True):
        p = torch.tensor(x).sigmoid().item()
        p_t, alpha = (p, 0.25) if t else (1 - p, 0.75)
        total -= alpha * (1 - p_t) ** 2 * torch.tensor(p_t).log().item()
    torch.testing.assert_close(focal_loss(logits, truth).item(), total / 14, rtol=1e-5, atol=1e-8)


def test_focal_terms_stay_finite_where_the_mask_is_sure():
    logits = torch.tensor([-1e4, 1e4], requires_grad=True)
    inside, outside = focal_terms(logits)
    torch.testing.assert_close(inside, torch.tensor([2500.0, 0.0]))
    torch.testing.assert_close(outside, torch.tensor([0.0, 7500.0]))
    (gradient,) = torch.autograd.grad((inside + outside).sum(), logits)
    assert torch.isfinite(gradient).all()


def test_dice_loss_by_hand():
    logits = torch.full((1, 4), 1e3)
    logits[0, 2:] = -1e3
    truth = torch.tensor([[True, False, False, False]])
    torch.testing.assert_close(dice_loss(logits, truth), torch.tensor(1 - 3 / 4))
    assert dice_loss(logits, logits > 0) == 0


def test_no_mask_and_no_voxel_cost_nothing_but_keep_the_graph():
    for shape in ((0, 5), (3, 0)):
        logits = torch.zeros(shape, requires_grad=True)
        truth = torch.zeros(shape, dtype=torch.bool)
        total = focal_loss(logits, truth) + dice_loss(logits, truth)
        assert total == 0
        (gradient,) = torch.autograd.grad(total, logits)
        assert gradient.shape == logits.shape


@pytest.mark.parametrize("chunk", [1, 40, 1 << 22])
def test_losses_against_unions_of_classes_follow_from_the_sums(chunk, monkeypatch):
    monkeypatch.setattr(module, "CHUNK_ELEMENTS", chunk)
    embeddings, features = random(5, 3), random(40, 3, seed=1)
    labels = torch.randint(0, 4, (40,), generator=torch.Generator().manual_seed(2))
    sums = mask_sums(embeddings, features, labels, 6)
    members = torch.tensor([[1, 0, 0], [0, 1, 0], [0, 1, 0], [1, 0, 0], [1, 0, 0], [0, 0, 1]], dtype=torch.bool)
    assert sums.voxels.sum() == 40
    for q in range(5):
        logits = (features @ embeddings[q])[None]
        for label in range(3):
            truth = members[labels, label][None]
            torch.testing.assert_close(sums.focal(members)[q, label], focal_loss(logits, truth))
            torch.testing.assert_close(sums.dice(members)[q, label], dice_loss(logits, truth))
