"""Every published tensor of MonoOcc is used or listed, and converted weights answer as the reference describes."""

from dataclasses import replace
from pathlib import Path

import naive_monoocc as naive
import naive_voxformer as voxformer
import pytest
import torch
from tiny_surround import random_scene
from torch import Tensor

from occloom.backbones.internimage import InternImageTrunk
from occloom.data.label_spaces import SEMANTIC_KITTI, SEMANTIC_KITTI_GRID
from occloom.errors import InputError
from occloom.grid import LabelSpace, VoxelGrid
from occloom.interfaces import OccupancyModel
from occloom.lifting.cross_view import JointViews, WindowedPairs
from occloom.models.monoocc import EQUATION_10, MonoOccConfig
from occloom.models.monoocc_teacher import MonoOccTeacherConfig
from occloom.models.released_checkpoints import convert_released
from occloom.models.released_monoocc import (
    JOINT_NAMES,
    LATE,
    MONOOCC_NAMES,
    MONOOCC_UNUSED,
    PAIR_NAMES,
    TEACHER_NAMES,
    convert_monoocc,
)
from occloom.models.released_names import Names, convert_names, fitting_pair, is_unused, our_name
from occloom.models.released_voxformer import CROSS
from occloom.models.voxformer import AttentionConfig, VoxFormerConfig
from occloom.models.voxformer_released import ReleasedPlaces

LARGE = MonoOccConfig(base=VoxFormerConfig(trunk=InternImageTrunk(), weights=EQUATION_10))
CASES: dict[str, tuple[MonoOccConfig | MonoOccTeacherConfig, Names]] = {
    "monoocc_s_paper": (MonoOccConfig(), MONOOCC_NAMES),
    "monoocc_l_asreleased": (LARGE, MONOOCC_NAMES),
    "monoocc_teacherr50_cvt": (MonoOccTeacherConfig(cross_view=WindowedPairs()), TEACHER_NAMES),
}


def on_meta(name: str) -> OccupancyModel:
    """The full-size model without memory."""
    with torch.device("meta"):
        return CASES[name][0].build(SEMANTIC_KITTI_GRID, SEMANTIC_KITTI)


def published(real_data: Path, name: str) -> dict[str, Tensor]:
    """Tensors of the published names and shapes, without memory."""
    return voxformer.without_memory(real_data.parent / "reference" / "state_dicts" / f"{name}.tsv")


@pytest.mark.real_data
@pytest.mark.parametrize("name", CASES)
class TestNames:
    def test_every_tensor_is_used_once_or_listed_and_fits(self, real_data, name):
        model, released, names = on_meta(name), published(real_data, name), CASES[name][1]
        own = model.state_dict()
        renamed = [our_name(key, names) for key in released if not is_unused(key, MONOOCC_UNUSED)]
        assert len(renamed) == len(set(renamed))
        assert set(renamed) == set(own)
        converted = convert_released(released, model).weights
        assert {key: (value.shape, value.dtype) for key, value in converted.items()} == {
            key: (value.shape, value.dtype) for key, value in own.items()
        }

    def test_no_line_of_the_table_is_idle(self, real_data, name):
        names = CASES[name][1]
        released = [key for key in published(real_data, name) if not is_unused(key, MONOOCC_UNUSED)]
        assert {fitting_pair(key, names) for key in released} == set(names)

    def test_what_is_left_out_is_what_is_listed(self, real_data, name):
        """Statistics of norms are no parameters; two level embeddings lose three rows each."""
        released = published(real_data, name)
        unused = [key for key in released if is_unused(key, MONOOCC_UNUSED)]
        trained = [key for key in unused if not key.endswith(("running_mean", "running_var", "num_batches_tracked"))]
        idle = sum(released[key].numel() for key in trained) + 2 * 3 * 128
        assert sum(on_meta(name).left_out.values()) == idle


@pytest.mark.real_data
def test_no_line_of_the_unused_is_idle(real_data):
    keys = [key for name in CASES for key in published(real_data, name)]
    assert all(any(is_unused(key, (line,)) for key in keys) for line in MONOOCC_UNUSED)


@pytest.mark.real_data
def test_the_shipped_small_configuration_is_one_without_a_decoder(real_data):
    with torch.device("meta"):
        model = MonoOccConfig(pixel_classes=False).build(SEMANTIC_KITTI_GRID, SEMANTIC_KITTI)
    assert convert_released(published(real_data, "monoocc_s_asreleased"), model).weights.keys() == set(
        model.state_dict()
    )
    with pytest.raises(InputError, match="lacks decoder"):
        convert_released(published(real_data, "monoocc_s_asreleased"), on_meta("monoocc_s_paper"))


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("name", "kind", "names"),
    [("cvt_surrounddepth_c128", JointViews(), JOINT_NAMES), ("tvt_gmflow", WindowedPairs(), PAIR_NAMES)],
)
def test_cross_view_transformers_convert_and_answer_as_the_reference(real_data, name, kind, names):
    path = real_data.parent / "reference" / "state_dicts" / f"{name}.tsv"
    state, model = naive.random_state(naive.table(path), scale=0.1), kind.build(128).eval()
    assert {fitting_pair(key, names) for key in state} == set(names)
    model.load_state_dict(convert_names(state, model.state_dict(), names=names, unused=(), where=None))
    views = torch.randn(1, 2, 128, 5, 4, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        if isinstance(kind, JointViews):
            expected = naive.joint_views(state, views[0])
        else:
            expected = torch.stack(naive.windowed_pair(state, *views[0]))
        torch.testing.assert_close(model(views)[0], expected, rtol=1e-3, atol=1e-3)


# --- converted weights against formulas ------------------------------------------------------------------------------

SIZES = voxformer.Sizes()
GRID = VoxelGrid(lower=(0.0, -4.0, -2.0), voxel_size=(1.0, 1.0, 0.6), shape=(12, 8, 8))
LABELS = LabelSpace(tuple("abcde"), 0, ((0, 0, 0),) * 5, (1e6, 1e3, 2e4, 3e3, 5e3))
PICTURE = (37, 90)
TO_RELEASED = (0, 2, 1)
"""Of frames 0, -3, -6, as here, those in released order."""


def close(ours: Tensor, theirs: Tensor) -> None:
    assert theirs.std() > 1e-2, "an answer without structure would compare with anything"
    torch.testing.assert_close(ours, theirs, atol=1e-3, rtol=1e-3)


def branch() -> MonoOccConfig:
    attention = AttentionConfig(heads=SIZES.heads, points=SIZES.points, feedforward=SIZES.feedforward)
    base = VoxFormerConfig(
        channels=SIZES.channels,
        views=SIZES.views,
        places=ReleasedPlaces(),
        lifting=attention,
        refinement=replace(attention, layers=2),
    )
    return MonoOccConfig(base=base, conditioning=attention)


def released_state(*, cross_view: bool) -> dict[str, Tensor]:
    """A random one of the small structure, dead heads among it."""
    state = voxformer.released_state(SIZES)
    other = voxformer.released_state(SIZES, seed=1)
    late = {key.replace(CROSS, LATE): value for key, value in other.items() if key.startswith(f"{CROSS}.")}
    c, head = SIZES.channels, "pts_bbox_head"
    shapes = {f"{head}.mlp.0.weight": (3,), f"{head}.header.conv_3d.1.running_mean": (c,)}
    for name in ("upconv", "upconv2"):
        shapes |= {f"{head}.sem_decoder.{name}.{key}": shape for key, shape in _enlarging(c).items()}
    shapes |= {f"{head}.sem_decoder.head.0.weight": (c, c, 3, 3), f"{head}.sem_decoder.head.4.weight": (5, c, 1, 1)}
    shapes |= {f"{head}.sem_decoder.head.4.bias": (5,)}
    shapes |= {f"{head}.sem_decoder.head.1.{key}": shape for key, shape in _norm(c).items()}
    if cross_view:
        for i in range(6):
            for name in ("self_attn", "cross_attn_ffn"):
                layer = f"{head}.cvt.layers.{i}.{name}"
                shapes |= {f"{layer}.{key}.weight": (c, c) for key in ("q_proj", "k_proj", "v_proj", "merge")}
                shapes |= {f"{layer}.norm1.weight": (c,), f"{layer}.norm1.bias": (c,)}
            shapes |= {f"{layer}.norm2.weight": (c,), f"{layer}.norm2.bias": (c,)}
            shapes |= {f"{layer}.mlp.0.weight": (8 * c, 2 * c), f"{layer}.mlp.2.weight": (c, 8 * c)}
    return {**state, **late, **naive.random_state(shapes, scale=0.5)}


def _norm(channels):
    kinds = ("weight", "bias", "running_mean", "running_var")
    return {**dict.fromkeys(kinds, (channels,)), "num_batches_tracked": ()}


def _enlarging(channels):
    convolutions = {"conv1.weight": (channels, 1, 1, 1), "conv1.bias": (channels,)}
    norm = {f"bn.0.{key}": shape for key, shape in _norm(channels).items()}
    return {**convolutions, "pointwise.weight": (channels, channels, 1, 1), **norm}


def looked_late(state, features, shares, seen, rows):
    """The released attention of proposals, with its later namesake's weights, of all voxels."""
    renamed = {key.replace(LATE, CROSS): value for key, value in state.items() if not key.startswith(f"{CROSS}.")}
    renamed["pts_bbox_head.bev_embed.weight"] = rows
    return voxformer.lifted(renamed, SIZES, features, shares, seen, torch.arange(len(rows)))


@pytest.mark.parametrize("cross_view", [False, True])
@torch.no_grad()
def test_converted_weights_answer_as_the_reference_describes(cross_view):
    """Part by part, each on what the reference's part before it gives; a sample without proposals among two."""
    config = MonoOccTeacherConfig(branch(), WindowedPairs()) if cross_view else branch()
    model, state = config.build(GRID, LABELS).eval(), released_state(cross_view=cross_view)
    model.load_state_dict(convert_released(state, model).weights)
    monoocc = model.branch if cross_view else model
    scene = random_scene(batch=2, cameras=1, frames=3, size=PICTURE)
    proposals = torch.rand(2, *SIZES.shape, generator=torch.Generator().manual_seed(2)) < 0.4
    proposals[1] = False
    scene = replace(scene, proposals=proposals)
    outputs = model(scene)
    centres = monoocc.base.volume_grid.centres().view(-1, 3)
    for b in range(2):
        views = [voxformer.image_features(state, scene.images[b, t, 0]) for t in range(3)]
        if cross_view:
            # In the order of time: -6 with -3, then -3 with 0.
            part = naive.part(state, "pts_bbox_head.cvt")
            views[2], views[1] = naive.windowed_pair(part, views[2], views[1])
            views[1], views[0] = naive.windowed_pair(part, views[1], views[0])
        close(outputs.features.values[b], torch.stack(views))
        views = [outputs.features.values[b, t] for t in TO_RELEASED]
        cameras = [(scene.cameras.camera_from_ego[b, t, 0], scene.cameras.intrinsics[b, t, 0]) for t in TO_RELEASED]
        places = [voxformer.projected(centres, *camera, PICTURE) for camera in cameras]
        shares, seen = zip(*places, strict=True)
        lifted = voxformer.lifted(state, SIZES, views, shares, seen, proposals[b].flatten().nonzero()[:, 0])
        rows = looked_late(state, views, shares, seen, voxformer.refined(state, SIZES, lifted))
        close(outputs.volume[b].flatten(1).T, rows)
        close(outputs.logits[b], voxformer.logits(state, SIZES, rows, 2))
        pixels = naive.semantic_decoder(naive.part(state, "pts_bbox_head.sem_decoder"), views[0][None])
        close(monoocc.decoder(outputs.features.values[b, :1]), pixels)


def test_weights_of_another_model_are_refused():
    state = voxformer.released_state(SIZES)
    with pytest.raises(InputError, match="lacks"):
        convert_monoocc(state, branch().build(GRID, LABELS).state_dict(), where=Path("there.pth"))
