from dataclasses import replace

import pytest
import torch
from tiny_surround import built, random_target, sample_of
from tiny_views import IMAGES, VIEW, moving_scene, shaken

from occloom.errors import InputError
from occloom.grid import VoxelGrid
from occloom.lifting.cross_attention import ReferencePoints
from occloom.lifting.depth import DepthPlanes
from occloom.models.panoocc import PanoOccConfig
from occloom.models.panoocc_depth import DepthAwareLooking, FrameDepth
from occloom.models.view_layers import Pictures

GRID = VoxelGrid(lower=(-8.0, -8.0, -1.0), voxel_size=(1.0, 1.0, 1.6), shape=(16, 16, 4))
LOOKING = DepthAwareLooking(planes=DepthPlanes(near=1.0, step=1.0, count=9))
TINY = PanoOccConfig(
    images=IMAGES,
    view=replace(VIEW, looking=LOOKING),
    coarsening=(4, 4, 1),
    frames=3,
    voxel_channels=8,
    hidden=8,
)


def pictures(strides=(4, 8, 16), size=(32, 48)):
    generator = torch.Generator().manual_seed(0)
    levels = tuple(torch.randn(2, 3, 6, size[0] // s, size[1] // s, generator=generator) for s in strides)
    return Pictures(levels, levels, strides, size)


def test_each_level_has_a_distribution_and_the_coarser_one_the_means_of_blocks():
    depths = FrameDepth(LOOKING, 6).eval()(pictures())
    assert [tuple(d.shape) for d in depths] == [(2, 3, 9, 8, 12), (2, 3, 9, 4, 6), (2, 3, 9, 2, 3)]
    for depth in depths:
        torch.testing.assert_close(depth.sum(2), torch.ones_like(depth[:, :, 0]))
    blocks = depths[1].unflatten(4, (3, 2)).unflatten(3, (2, 2)).mean(dim=(4, 6))
    torch.testing.assert_close(depths[2], blocks)


def test_a_query_finds_the_feature_as_far_as_its_depth_is_probable():
    """One sample at each reference: the update is the feature there times the probability of the query's plane."""
    look = LOOKING.build_layer(6, heads=1, points=1, levels=1, references=1)
    with torch.no_grad():
        for projection in (look.value_proj, look.output_proj):
            projection.weight.copy_(torch.eye(6))
        for offsets in (look.sampling_offsets, look.sampling_offsets_depth):
            offsets.bias.zero_()
    maps = pictures(strides=(8,))
    depth = torch.rand(2, 3, 9, 4, 6, generator=torch.Generator().manual_seed(1)).softmax(2)
    # Query q stands before the middle of cell (2, q) of every picture, 2 + q metres away: on plane 1 + q.
    cells = torch.arange(5)
    places = torch.stack([(cells + 0.5) / 6, torch.full((5,), 2.5 / 4), 2.0 + cells], dim=-1)
    locations = places[None, None, :, None].expand(2, 3, -1, -1, -1)
    seen = ReferencePoints(locations, torch.ones(2, 3, 5, 1, dtype=torch.bool))
    with torch.no_grad():
        update = look(torch.zeros(2, 5, 6), seen, maps, (depth,)).update
    for q in range(5):
        expected = (maps.levels[0][:, :, :, 2, q] * depth[:, :, 1 + q, 2, q, None]).mean(dim=1)
        torch.testing.assert_close(update[:, q], expected)


def test_the_model_trains_all_its_parts_and_a_batch_equals_its_samples():
    model, scene = shaken(built(TINY, grid=GRID)), moving_scene()
    sum(model.loss(model(scene), random_target(scene, GRID)).values()).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    depth = [p.grad for n, p in model.named_parameters() if ".summary." in n]
    assert len(depth) == 5
    assert all(grad.abs().sum() > 0 for grad in depth)
    model.eval()
    with torch.no_grad():
        alone = torch.cat([model(sample_of(scene, b)).logits for b in range(2)])
        torch.testing.assert_close(model(scene).logits, alone, rtol=1e-4, atol=1e-4)


def test_a_stride_that_no_level_has():
    looking = replace(LOOKING, stride=64)
    with pytest.raises(InputError, match=r"looking\.stride is 64"):
        FrameDepth(looking, 6)(pictures())
