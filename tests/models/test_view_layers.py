from dataclasses import dataclass, replace

import pytest
import torch
from tiny_views import IMAGES, VIEW, moving_scene
from torch import nn

from occloom.errors import InputError
from occloom.geometry.projection import project
from occloom.geometry.rigid import transform_points
from occloom.grid import VoxelGrid
from occloom.lifting.cross_attention import DeformableCrossAttention
from occloom.models.view_layers import (
    FrameView,
    ImageBranch,
    ImageBranchConfig,
    Looked,
    Looking,
    PlainLooking,
    ViewConfig,
    ViewLayer,
    evaluating,
    frame_references,
)

ODD = VoxelGrid(lower=(-8.0, -8.0, -1.0), voxel_size=(3.2, 4.0, 1.6), shape=(5, 4, 3))


def count(part):
    return sum(parameter.numel() for parameter in part.parameters())


def view_of(branch, scene, grid=ODD, channels=16):
    pictures = branch(scene.images[:, 0])
    references = frame_references(scene, 0, grid, pictures.size)
    return FrameView(torch.randn(grid.num_voxels, channels), grid.shape, references, pictures, None)


# --- pictures --------------------------------------------------------------------------------------------------------


def test_the_full_size_has_five_levels_of_the_published_sizes():
    """Reference protoocc 1.3: 29,841 tokens a camera of 432x800 pictures, filled up to 448x800."""
    with torch.device("meta"):
        branch = ImageBranch(ImageBranchConfig()).eval()
        pictures = branch(torch.empty(1, 1, 3, 432, 800))
    assert pictures.size == (448, 800)
    assert pictures.strides == (4, 8, 16, 32, 64)
    sizes = [tuple(level.shape[-2:]) for level in pictures.levels]
    assert sizes == [(112, 200), (56, 100), (28, 50), (14, 25), (7, 13)]
    assert sum(h * w for h, w in sizes) == 29_841
    assert count(branch.trunk) == 23_508_032
    assert branch.camera_embedding.numel() + branch.level_embedding.numel() == 2_816


def test_what_is_filled_up_has_the_mean_colour():
    branch = ImageBranch(IMAGES).eval()
    images = torch.rand(1, 1, 3, 30, 50)
    filled = branch.trunk.mean.expand(1, 1, 3, 32, 64).clone()
    filled[..., :30, :50] = images
    one, two = branch(images), branch(filled)
    assert one.size == two.size == (32, 64)
    assert all(torch.equal(a, b) for a, b in zip(one.levels, two.levels, strict=True))


def test_values_are_levels_with_the_embeddings_of_their_camera_and_level():
    branch = ImageBranch(IMAGES).eval()
    pictures = branch(torch.rand(2, 3, 3, 32, 64))
    assert len(pictures.levels) == branch.levels == 4
    for i, (level, value) in enumerate(zip(pictures.levels, pictures.values, strict=True)):
        assert level.shape[:3] == (2, 3, 16)
        for n in range(3):
            expected = level[:, n] + (branch.camera_embedding[n] + branch.level_embedding[i])[:, None, None]
            torch.testing.assert_close(value[:, n], expected)


def test_squares_are_hidden_in_training_alone():
    torch.manual_seed(0)
    branch, images = ImageBranch(replace(IMAGES, hide=1.0)), torch.rand(1, 1, 3, 32, 64)
    plain = branch.eval()(images).levels[0]
    assert torch.equal(branch(images).levels[0], plain)
    assert not torch.allclose(branch.train()(images).levels[0], plain)


def test_more_cameras_than_embeddings_are_refused():
    with pytest.raises(InputError, match="4 cameras, the model knows 3"):
        ImageBranch(IMAGES)(torch.rand(1, 4, 3, 32, 64))


@pytest.mark.parametrize(("field", "value"), [("finest_stride", 12), ("hide", 1.5)])
def test_impossible_sizes_are_refused(field, value):
    with pytest.raises(InputError, match=field):
        replace(IMAGES, **{field: value})


# --- references ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("t", "anchors"), [(0, 1), (2, 1), (1, 2)])
def test_query_i_looks_at_voxel_i_of_its_own_frame(t, anchors):
    scene = moving_scene()
    found = frame_references(scene, t, ODD, (32, 64), anchors)
    assert found.visible.shape == (2, 2, 60, anchors)
    centres = ODD.centres().view(-1, 1, 3).repeat(1, anchors, 1)
    centres[..., 2] += (torch.arange(anchors) + 0.5) / anchors * 1.6 - 0.8
    for b, n in ((0, 0), (1, 1)):
        now = transform_points(scene.now_from_then[b, t], centres.view(-1, 3))
        camera = transform_points(scene.cameras.camera_from_ego[b, t, n], now)
        pixels, depth = project(camera, scene.cameras.intrinsics[b, t, n])
        seen = (depth > 1e-5) & ((pixels >= -0.5) & (pixels < torch.tensor([63.5, 31.5]))).all(-1)
        assert 0 < int(seen.sum()) < len(seen)
        assert torch.equal(found.visible[b, n].flatten(), seen)
        torch.testing.assert_close(
            found.locations[b, n].flatten(0, 1)[seen, :2],
            (pixels[seen] + 0.5) / torch.tensor([64.0, 32.0]),
            rtol=1e-4,
            atol=1e-4,
        )


def test_on_a_car_whose_cameras_do_not_move_all_frames_look_alike():
    scene = moving_scene()
    one, two = frame_references(scene, 0, ODD, (32, 64)), frame_references(scene, 2, ODD, (32, 64))
    both = one.visible & two.visible
    assert both.sum() > 0.9 * one.visible.sum()
    torch.testing.assert_close(one.locations[both], two.locations[both], rtol=1e-3, atol=1e-3)


def test_a_missing_picture_sees_nothing():
    scene = moving_scene(cameras=3)
    valid = scene.camera_valid.clone()
    valid[1, 0, 2] = False
    found = frame_references(replace(scene, camera_valid=valid), 0, ODD, (32, 64))
    assert not found.visible[1, 2].any()
    assert found.visible[0, 2].any()
    assert found.visible[1, :2].any()


# --- layers ----------------------------------------------------------------------------------------------------------


def test_the_full_size_layer_has_the_published_parameters():
    """Reference protoocc 4."""
    with torch.device("meta"):
        layer = ViewLayer(256, ViewConfig(), levels=5)
    assert count(layer.self_attention) == 328_576
    assert count(layer.cross_attention) == 378_304
    assert count(layer.feedforward) == 262_912
    assert count(layer) == 971_328


def test_a_layer_is_three_residual_steps_each_normalised_behind():
    torch.manual_seed(0)
    branch, scene = ImageBranch(IMAGES).eval(), moving_scene()
    layer = ViewLayer(16, VIEW, levels=4).eval()
    view, queries = view_of(branch, scene), torch.randn(2, 60, 16)
    answer, record = layer(queries, view)
    x = layer.norms[0](queries + layer.self_attention(queries, view.position, view.shape))
    attention = DeformableCrossAttention(16, heads=2, points=2, levels=4)
    attention.load_state_dict(layer.cross_attention.state_dict())
    x = layer.norms[1](x + attention(x, view.references, view.pictures.values))
    x = layer.norms[2](x + layer.feedforward(x))
    torch.testing.assert_close(answer, x)
    assert record is None


@dataclass(frozen=True)
class Recording:
    """A way to look that knows what it was handed."""

    def build_summary(self, channels):
        return nn.Linear(channels, 3)

    def build_layer(self, channels, *, heads, points, levels, references):
        return RecordingLook(channels)


class RecordingLook(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(channels))

    def forward(self, queries, references, pictures, summary):
        return Looked(queries * self.scale, (references, pictures, summary))


def test_how_queries_look_is_a_part():
    assert isinstance(Recording(), Looking)
    assert isinstance(PlainLooking(), Looking)
    branch, scene = ImageBranch(IMAGES).eval(), moving_scene()
    layer, view = ViewLayer(16, replace(VIEW, looking=Recording()), levels=4).eval(), view_of(branch, scene)
    _, record = layer(torch.randn(2, 60, 16), replace(view, summary="told"))
    assert record[0] is view.references
    assert record[1] is view.pictures
    assert record[2] == "told"


def test_what_was_there_before_is_looked_at():
    branch, scene = ImageBranch(IMAGES).eval(), moving_scene()
    layer, view = ViewLayer(16, VIEW, levels=4).eval(), view_of(branch, scene)
    queries, before = torch.randn(2, 60, 16), torch.randn(2, 60, 16)
    alone, both = layer(queries, view)[0], layer(queries, replace(view, before=before))[0]
    assert not torch.allclose(alone, both)
    torch.testing.assert_close(layer(queries, replace(view, before=queries))[0], alone)


def test_evaluating_leaves_every_part_in_the_mode_it_was_in():
    module = nn.Sequential(nn.Dropout(), nn.Sequential(nn.BatchNorm1d(2), nn.Dropout())).train()
    module[1][0].eval()

    def fail_within():
        with evaluating(module):
            assert not any(part.training for part in module.modules())
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_within()
    assert [part.training for part in module.modules()] == [True, True, True, False, True]


def test_cameras_of_the_moving_scene_sit_on_its_car():
    scene = moving_scene()
    mounted = scene.cameras.camera_from_ego @ scene.now_from_then[:, :, None]
    torch.testing.assert_close(mounted, scene.cameras.camera_from_ego[:, :1].expand_as(mounted), rtol=1e-4, atol=1e-4)
