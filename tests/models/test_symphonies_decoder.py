from dataclasses import replace

import pytest
import torch

from occloom.errors import InputError
from occloom.grid import VoxelGrid
from occloom.lifting.cross_attention import ReferencePoints
from occloom.models.symphonies_decoder import (
    SceneDecoder,
    SceneDecoderConfig,
    SqueezedPositions,
    View,
    as_plane,
    in_plane,
    plane_centres,
)

GRID = VoxelGrid(lower=(0.0, -4.0, -1.0), voxel_size=(1.0, 1.0, 0.5), shape=(5, 4, 4))
TINY = SceneDecoderConfig(channels=16, layers=2, heads=2, image_points=2, scene_points=2, enlargements=((2, 2, 2),))


def made(config=TINY, factors=(2, 4, 2)):
    torch.manual_seed(0)
    return SceneDecoder(config, GRID, 5, levels=2, factors=factors)


def view(batch=2, seed=0, proposed=0.2):
    generator = torch.Generator().manual_seed(seed)

    def places(*lead):
        return torch.rand(*lead, 2, generator=generator)

    voxels = in_plane(places(batch, GRID.num_voxels))
    seen = torch.rand(voxels.visible.shape, generator=generator) < 0.6
    return View(
        levels=tuple(torch.randn(batch, 1, 16, *size, generator=generator) for size in ((6, 9), (3, 5))),
        voxels=ReferencePoints(voxels.locations, seen),
        proposed=torch.rand(batch, GRID.num_voxels, generator=generator) < proposed,
        queries_image=in_plane(places(batch, 7)),
        queries_scene=in_plane(places(batch, 7)),
    )


def test_the_plane_has_a_row_for_each_x():
    rows = torch.arange(2.0 * GRID.num_voxels).view(2, -1, 1)
    plane = as_plane(rows, (5, 16))
    index = (3 * 4 + 2) * 4 + 1  # voxel (3, 2, 1)
    assert plane[1, 0, 0, 3, 2 * 4 + 1] == rows[1, index, 0]
    place = plane_centres((5, 16), rows).locations[0, 0, index, 0]
    torch.testing.assert_close(place[:2], torch.tensor([(2 * 4 + 1 + 0.5) / 16, 3.5 / 5]))


@pytest.mark.parametrize(
    ("shape", "sizes"),
    [((128, 128, 8), (256, 256, 2)), ((4, 3, 2), (8, 3, 1)), ((3, 2, 3), (3, 2, 3)), ((3, 2, 4), (6, 4, 1))],
)
def test_positions_of_all_voxels_differ(shape, sizes):
    """Reference state_dicts/symphonies_decoder.tsv has 256, 256 and 2 places for 128x128x8 voxels."""
    with torch.device("meta" if shape[0] == 128 else "cpu"):
        positions = SqueezedPositions(8, shape)
    assert tuple(len(table) for table in positions.tables) == sizes
    if shape[0] != 128:
        rows = positions()
        assert rows.shape == (shape[0] * shape[1] * shape[2], 8)
        assert len(rows.unique(dim=0)) == len(rows)


@pytest.mark.parametrize("proposed", [0.0, 0.3, 1.0])
def test_a_batch_is_answered_as_one_by_one(proposed):
    decoder, seen, queries = made().eval(), view(proposed=proposed), torch.randn(2, 7, 16)
    (together,) = decoder(queries, seen)
    assert together.logits.shape == (2, 5, 10, 16, 8)
    for b in range(2):
        alone = View(
            levels=tuple(level[b : b + 1] for level in seen.levels),
            **{
                name: ReferencePoints(points.locations[b : b + 1], points.visible[b : b + 1])
                for name, points in (
                    ("voxels", seen.voxels),
                    ("queries_image", seen.queries_image),
                    ("queries_scene", seen.queries_scene),
                )
            },
            proposed=seen.proposed[b : b + 1],
        )
        (one,) = decoder(queries[b : b + 1], alone)
        torch.testing.assert_close(together.coarse[b : b + 1], one.coarse, rtol=1e-4, atol=1e-4)


def test_training_answers_after_every_layer_and_every_parameter_learns():
    decoder = made().train()
    answers = decoder(torch.randn(2, 7, 16), view())
    assert len(answers) == 2
    sum(answer.coarse.square().mean() for answer in answers).backward()
    assert [name for name, p in decoder.named_parameters() if p.grad is None] == []


def test_only_proposed_voxels_look_into_the_picture_at_first():
    decoder, seen = made().eval(), view()
    rows = decoder.propose(seen, decoder.positions())
    kept = ~seen.proposed
    assert torch.equal(rows[kept], decoder.scene.expand(2, -1, -1)[kept])
    assert not torch.equal(rows[seen.proposed], decoder.scene.expand(2, -1, -1)[seen.proposed])


@torch.no_grad()
def test_voxels_out_of_view_ask_no_query():
    decoder, seen = made().eval(), view()
    layer, asked = decoder.layers[0], {}
    layer.scene_from_queries.register_forward_hook(lambda _, inputs, answer: asked.update(answer=answer, at=inputs[0]))
    scene, queries = torch.randn(2, GRID.num_voxels, 16), torch.randn(2, 7, 16)
    before = {}
    layer.scene_from_scene.norm.register_forward_hook(lambda _, inputs, __: before.setdefault("scene", inputs[0]))
    layer(scene, queries, seen, decoder.positions(), decoder.plane)
    visible = seen.voxels.visible[:, 0, :, 0]
    assert torch.equal(before["scene"][~visible], scene[~visible])
    for b in range(2):
        count = int(visible[b].sum())
        assert torch.equal(before["scene"][b][visible[b]], asked["answer"][b, :count])
    # Attention written out for one voxel.
    block = layer.scene_from_queries
    q, k, v = (part for part in block.attention.in_proj_weight.chunk(3))
    qb, kb, vb = block.attention.in_proj_bias.chunk(3)
    told = layer.queries_from_image(queries, seen.queries_image, seen.levels)[0]
    first = int(visible[0].nonzero()[0])
    row = scene[0, first]
    asking = (block.norm(row) + decoder.positions()[first]) @ q.T + qb
    answer = []
    for h in range(2):
        part = slice(8 * h, 8 * h + 8)
        scores = (told @ k.T + kb)[:, part] @ asking[part] / 8**0.5
        answer.append(scores.softmax(0) @ (told @ v.T + vb)[:, part])
    expected = row + block.attention.out_proj(torch.cat(answer))
    torch.testing.assert_close(asked["answer"][0, 0], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("change", [{"heads": 3}, {"layers": 0}, {"channels": 12, "heads": 4}])
def test_sizes_that_mean_nothing_are_refused(change):
    with pytest.raises(InputError):
        replace(TINY, **change)


def test_enlargements_are_parts_of_the_coarsening():
    assert TINY.left_factors((2, 4, 2)) == (1, 2, 1)
    with pytest.raises(InputError, match="enlargements"):
        TINY.left_factors((2, 3, 2))
