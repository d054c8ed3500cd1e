import torch
import torch.nn.functional as F

from occloom.ops.post_norm import PostNormLayer


def test_an_update_settles_as_written_out_and_dropout_rests_in_evaluation():
    torch.manual_seed(0)
    layer = PostNormLayer(6, hidden=10, dropout=0.5).eval()
    queries, update = torch.randn(2, 3, 6), torch.randn(2, 3, 6)
    first, second = layer.feedforward[0], layer.feedforward[3]
    seen = F.layer_norm(queries + update, (6,), layer.attention_norm.weight, layer.attention_norm.bias)
    mixed = torch.relu(seen @ first.weight.T + first.bias) @ second.weight.T + second.bias
    expected = F.layer_norm(seen + mixed, (6,), layer.feedforward_norm.weight, layer.feedforward_norm.bias)
    torch.testing.assert_close(layer.settled(queries, update), expected)
    torch.testing.assert_close(layer.settled(queries[0], update[0]), expected[0])
    layer.train()
    assert not torch.equal(layer.settled(queries, update), layer.settled(queries, update))
