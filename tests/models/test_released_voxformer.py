"""Every published tensor of VoxFormer is used or listed, and converted weights answer as the reference describes."""

from dataclasses import replace
from pathlib import Path

import naive_voxformer as naive
import pytest
import torch
from tiny_surround import random_scene
from torch import Tensor

from occloom.data.label_spaces import SEMANTIC_KITTI, SEMANTIC_KITTI_GRID
from occloom.errors import InputError
from occloom.grid import LabelSpace, VoxelGrid
from occloom.models.released_checkpoints import convert_released
from occloom.models.released_names import fitting_pair, is_unused, our_name
from occloom.models.released_voxformer import (
    CROSS,
    VOXFORMER_NAMES,
    VOXFORMER_UNUSED,
    convert_voxformer,
    present_to_past,
    voxformer_names,
)
from occloom.models.voxformer import AttentionConfig, VoxFormer, VoxFormerConfig
from occloom.models.voxformer_released import ReleasedPlaces

VIEWS = {"voxformer_s": 1, "voxformer_t": 5}


def on_meta(views: int) -> VoxFormer:
    """The full-size model without memory."""
    with torch.device("meta"):
        return VoxFormerConfig(views=views).build(SEMANTIC_KITTI_GRID, SEMANTIC_KITTI)


def published(real_data: Path, name: str) -> dict[str, Tensor]:
    """Tensors of the published names and shapes, without memory."""
    return naive.without_memory(real_data.parent / "reference" / "state_dicts" / f"{name}.tsv")


@pytest.mark.real_data
@pytest.mark.parametrize("name", VIEWS)
class TestNames:
    def test_every_tensor_is_used_once_or_listed(self, real_data, name):
        released, own = published(real_data, name), on_meta(VIEWS[name]).state_dict()
        assert all(any(is_unused(key, (line,)) for key in released) for line in VOXFORMER_UNUSED)
        renamed = [our_name(key, VOXFORMER_NAMES) for key in released if not is_unused(key, VOXFORMER_UNUSED)]
        assert len(renamed) == len(set(renamed))
        assert set(renamed) == set(own)

    def test_the_shapes_fit(self, real_data, name):
        model = on_meta(VIEWS[name])
        converted = convert_released(published(real_data, name), model).weights
        own = model.state_dict()
        assert {key: (value.shape, value.dtype) for key, value in converted.items()} == {
            key: (value.shape, value.dtype) for key, value in own.items()
        }

    def test_no_line_of_the_table_is_idle(self, real_data, name):
        released = [key for key in published(real_data, name) if not is_unused(key, VOXFORMER_UNUSED)]
        assert {fitting_pair(key, VOXFORMER_NAMES) for key in released} == set(VOXFORMER_NAMES)

    def test_what_is_left_out_is_what_is_listed(self, real_data, name):
        """Statistics of norms are no parameters."""
        model, released = on_meta(VIEWS[name]), published(real_data, name)
        unused = [key for key in released if is_unused(key, VOXFORMER_UNUSED)]
        trained = [key for key in unused if not key.endswith(("running_mean", "running_var", "num_batches_tracked"))]
        idle = sum(released[key].numel() for key in trained) + 3 * 128
        assert sum(model.left_out.values()) == idle

    def test_another_number_of_frames_is_refused(self, real_data, name):
        other = 6 - VIEWS[name]
        with pytest.raises(InputError, match=r"another shape for lifting\.attention\.view_embedding"):
            convert_voxformer(published(real_data, name), on_meta(other).state_dict())


def test_frames_and_levels_are_turned_to_ours():
    state = {f"{CROSS}.cams_embeds": torch.arange(5.0)[:, None], f"{CROSS}.level_embeds": torch.arange(4.0)[:, None]}
    turned = present_to_past(state, (CROSS, "elsewhere"))
    assert turned[f"{CROSS}.cams_embeds"].flatten().tolist() == [0, 4, 3, 2, 1]
    assert turned[f"{CROSS}.level_embeds"].flatten().tolist() == [0]


def test_names_may_stand_under_a_prefix():
    assert our_name("img_backbone.conv1.weight", voxformer_names("base.")) == "base.images.trunk.conv1.weight"


# --- converted weights against formulas ------------------------------------------------------------------------------

FLAT, DEEP = naive.Sizes(), naive.Sizes(axes=3)
GRID = VoxelGrid(lower=(0.0, -4.0, -2.0), voxel_size=(1.0, 1.0, 0.6), shape=(12, 8, 8))
LABELS = LabelSpace(tuple("abcde"), 0, ((0, 0, 0),) * 5, (1e6, 1e3, 2e4, 3e3, 5e3))
SIZE = (37, 90)
TO_RELEASED = (0, 2, 1)
"""Of frames 0, -3, -6, as here, those in released order."""


def close(ours: Tensor, theirs: Tensor) -> None:
    assert theirs.std() > 1e-2, "an answer without structure would compare with anything"
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


def converted(sizes: naive.Sizes) -> tuple[VoxFormer, dict[str, Tensor]]:
    """A small model with a random released state, and that state."""
    attention = AttentionConfig(heads=sizes.heads, points=sizes.points, feedforward=sizes.feedforward)
    model = VoxFormerConfig(
        channels=sizes.channels,
        views=sizes.views,
        places=ReleasedPlaces(),
        lifting=attention,
        refinement=replace(attention, layers=2),
        sampling="flattened" if sizes.axes == 2 else "volume",
    ).build(GRID, LABELS)
    state = naive.released_state(sizes)
    model.load_state_dict(convert_released(state, model).weights)
    return model.eval(), state


@pytest.mark.parametrize("sizes", [FLAT, DEEP], ids=["flattened", "volume"])
@torch.no_grad()
def test_converted_weights_answer_as_the_reference_describes(sizes):
    """Part by part, each on what the reference's part before it gives; a sample without proposals among two."""
    model, state = converted(sizes)
    scene = random_scene(batch=3, cameras=1, frames=3, size=SIZE)
    proposals = torch.rand(3, *sizes.shape, generator=torch.Generator().manual_seed(2)) < 0.4
    proposals[1] = False
    scene = replace(scene, proposals=proposals)
    features = model.image_features(scene)
    rows = model.lifting(scene, features, model.proposed(scene))
    volume, answers = model.volume(scene), model(scene).logits
    centres = model.volume_grid.centres().view(-1, 3)
    for b in range(3):
        views = [naive.image_features(state, scene.images[b, t, 0]) for t in TO_RELEASED]
        for t, view in zip(TO_RELEASED, views, strict=True):
            close(features.values[b, t], view)
        cameras = [(scene.cameras.camera_from_ego[b, t, 0], scene.cameras.intrinsics[b, t, 0]) for t in TO_RELEASED]
        shares, seen = zip(*(naive.projected(centres, *camera, SIZE) for camera in cameras), strict=True)
        assert 0 < int(torch.stack(seen).sum()) < 3 * len(centres)
        chosen = proposals[b].flatten().nonzero()[:, 0]
        lifted = naive.lifted(state, sizes, views, shares, seen, chosen)
        if b == 1:
            assert torch.equal(rows[b], lifted)
        else:
            close(rows[b], lifted)
        refined = naive.refined(state, sizes, lifted)
        close(volume[b].flatten(1).T, refined)
        close(answers[b], naive.logits(state, sizes, refined, 2))
