import torch

from occloom.heads.occupancy import OccupancyHead


def test_every_voxel_is_scored_by_the_same_layers_from_its_neighbourhood():
    torch.manual_seed(0)
    head = OccupancyHead(3, 5, hidden=4).double()
    volume = torch.randn(2, 3, 6, 5, 4, dtype=torch.float64)
    logits = head(volume)
    assert logits.shape == (2, 5, 6, 5, 4)
    for b, x, y, z in ((0, 2, 2, 1), (1, 4, 3, 2)):
        block = volume[b, :, x - 1 : x + 2, y - 1 : y + 2, z - 1 : z + 2]
        mixed = ((head.conv.weight * block).sum((1, 2, 3, 4)) + head.conv.bias).clamp(min=0)
        hidden = torch.log1p(torch.exp(head.hidden.weight @ mixed + head.hidden.bias))
        torch.testing.assert_close(logits[b, :, x, y, z], head.classify.weight @ hidden + head.classify.bias)


def test_mixed_precision_ends_at_the_logits():
    head = OccupancyHead(4, 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert head(torch.randn(1, 4, 3, 3, 3)).dtype == torch.float32
