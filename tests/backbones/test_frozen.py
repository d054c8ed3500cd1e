import torch

from occloom.backbones.frozen import FrozenBatchNorm2d


def test_training_changes_nothing_and_needs_no_gradient():
    norm = FrozenBatchNorm2d(3).train()
    norm.running_mean.copy_(torch.tensor([1.0, 2.0, 3.0]))
    norm.running_var.fill_(4.0)
    before = {key: value.clone() for key, value in norm.state_dict().items()}
    images = torch.randn(2, 3, 4, 5, requires_grad=True)
    answer = norm(images)
    torch.testing.assert_close(answer, (images - torch.tensor([1.0, 2.0, 3.0])[:, None, None]) / 2)
    answer.sum().backward()
    assert images.grad is not None
    assert all(parameter.grad is None for parameter in norm.parameters())
    assert {key: torch.equal(value, before[key]) for key, value in norm.state_dict().items()} == dict.fromkeys(
        before, True
    )
