import torch
import torch.nn.functional as F

from occloom.backbones.pixel_decoder import PixelDecoder, cell_centres
from occloom.interfaces import FeaturePyramid


def made(**changes):
    torch.manual_seed(0)
    sizes = {"in_channels": (6, 8), "channels": 8, "layers": 1, "heads": 2, "points": 2, "feedforward": 12, "groups": 2}
    decoder = PixelDecoder(**{**sizes, **changes}).eval()
    for parameter in decoder.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return decoder


def test_the_full_size_has_the_parameters_of_the_reference():
    """Reference monoocc 10: deformable encoder 7.69 M, input projections 5.64 M; embeddings of four levels besides."""
    with torch.device("meta"):
        decoder = PixelDecoder(
            in_channels=(512, 1024, 2048), channels=256, layers=6, heads=8, points=4, feedforward=2048, groups=32
        )
    layer = (65_792 + 32_896 + 2 * 65_792) + (256 * 2048 + 2048 + 2048 * 256 + 256) + 4 * 256
    assert sum(p.numel() for p in decoder.layers.parameters()) == 6 * layer
    projections = [*decoder.project.parameters(), *decoder.project_further.parameters()]
    assert round(6 * layer / 1e6, 2) == 7.69
    assert round(sum(p.numel() for p in projections) / 1e6, 2) == 5.64


@torch.no_grad()
def test_equals_a_loop_over_levels_with_pytorchs_sampling():
    decoder = made()
    pyramid = FeaturePyramid((torch.randn(2, 6, 5, 7), torch.randn(2, 8, 3, 4)), (8, 16))
    answer = decoder(pyramid)
    assert [tuple(level.shape) for level in answer.levels] == [(2, 8, 5, 7), (2, 8, 3, 4)]
    assert answer.strides == (8, 16)

    levels = [project(level) for project, level in zip(decoder.project, pyramid.levels, strict=True)]
    levels.append(decoder.project_further(pyramid.levels[-1]))
    sizes = [tuple(level.shape[-2:]) for level in levels]
    assert sizes[-1] == (2, 2)
    cells = torch.cat([level.flatten(2).transpose(1, 2) for level in levels], dim=1)
    layer, centres = decoder.layers[0], cell_centres(tuple(sizes), 2).locations[0, 0, :, 0, :2]
    captured = {}
    layer.attention.register_forward_hook(lambda _, inputs, __: captured.update(queries=inputs[0]))
    decoder(pyramid)
    told = captured["queries"]
    attention = layer.attention
    offsets = attention.sampling_offsets(told).view(2, -1, 2, 3, 2, 2)
    weights = attention.attention_weights(told).view(2, -1, 2, 6).softmax(-1).view(2, -1, 2, 3, 2)
    looked = torch.zeros(2, cells.shape[1], 2, 4)
    for number, level in enumerate(torch.split(cells, [h * w for h, w in sizes], dim=1)):
        height, width = sizes[number]
        values = attention.value_proj(level).transpose(1, 2).unflatten(2, (height, width))
        for head in range(2):
            places = centres[None, :, None] + offsets[:, :, head, number] / torch.tensor([width, height])
            picked = F.grid_sample(values.unflatten(1, (2, 4))[:, head], 2 * places - 1, align_corners=False)
            looked[:, :, head] += (picked * weights[:, None, :, head, number]).sum(-1).transpose(1, 2)
    x = layer.attention_norm(cells + attention.output_proj(looked.flatten(2)))
    x = layer.feedforward_norm(x + layer.feedforward(x))
    expected = torch.split(x, [h * w for h, w in sizes], dim=1)
    for level, rows in zip(answer.levels, expected, strict=False):
        torch.testing.assert_close(level.flatten(2).transpose(1, 2), rows, rtol=1e-4, atol=1e-4)


def test_every_parameter_learns():
    decoder = made().train()
    levels = decoder(FeaturePyramid((torch.randn(1, 6, 5, 7), torch.randn(1, 8, 3, 4)), (8, 16))).levels
    sum(level.square().sum() for level in levels).backward()
    assert [name for name, p in decoder.named_parameters() if p.grad is None] == []
