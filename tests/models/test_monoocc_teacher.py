"""The privileged branch: published sizes, the order of time, and laws of frames that are missing."""

from dataclasses import replace

import pytest
import torch
from tiny_monoocc import TINY, count, labelled, proposed_scene
from tiny_surround import GRID, built, sample_of

from occloom.data.label_spaces import SEMANTIC_KITTI, SEMANTIC_KITTI_GRID
from occloom.lifting.cross_view import JointViews, WindowedPairs
from occloom.models.monoocc_teacher import MonoOccTeacherConfig

TEACHER = MonoOccTeacherConfig(branch=TINY, cross_view=JointViews(heads=2, blocks=1))


@pytest.mark.parametrize(("kind", "parameters"), [(WindowedPairs(), 3_150_336), (JointViews(), 626_816)])
def test_five_frames_and_r50_have_the_published_parameters(kind, parameters):
    """Reference monoocc 10: 62,124,796 with the windowed transformer."""
    with torch.device("meta"):
        model = MonoOccTeacherConfig(cross_view=kind).build(SEMANTIC_KITTI_GRID, SEMANTIC_KITTI)
    total = count(model) + sum(model.left_out.values())
    assert total == 62_124_796 - 3_150_336 + parameters


@pytest.mark.parametrize("kind", [TEACHER.cross_view, WindowedPairs(blocks=2)])
@pytest.mark.parametrize(("cameras", "frames", "size"), [(1, 3, (33, 61)), (2, 2, (24, 40)), (1, 1, (32, 64))])
def test_a_batch_is_answered_as_one_by_one(kind, cameras, frames, size):
    model = built(replace(TEACHER, cross_view=kind)).eval()
    scene = proposed_scene(batch=2, cameras=cameras, frames=frames, size=size)
    with torch.no_grad():
        together = model(scene).logits
        for b in range(2):
            torch.testing.assert_close(together[b : b + 1], model(sample_of(scene, b)).logits, rtol=1e-4, atol=1e-4)
        assert torch.equal(model.predict(scene), together.argmax(dim=1))
    assert together.shape == (2, 4, *GRID.shape)


def test_neighbours_meet_in_the_order_of_time_camera_by_camera():
    model = built(TEACHER).eval()
    values = torch.randn(2, 6, 16, 3, 4, generator=torch.Generator().manual_seed(0))  # three frames of two cameras
    with torch.no_grad():
        enriched = model.enriched(values, frames=3)
        for b in range(2):
            for n in range(2):
                now, before, oldest = (values[b, 2 * t + n] for t in range(3))
                oldest, before = model.cross_view(torch.stack([oldest, before])[None])[0]
                before, now = model.cross_view(torch.stack([before, now])[None])[0]
                expected = torch.stack([now, before, oldest])
                torch.testing.assert_close(enriched[b, n::2], expected, rtol=1e-4, atol=1e-5)


def test_one_frame_is_the_monocular_branch():
    model, scene = built(TEACHER).eval(), proposed_scene(frames=1)
    with torch.no_grad():
        assert torch.equal(model(scene).logits, model.branch(scene).logits)


def test_the_past_changes_the_answer_and_every_parameter_learns():
    model, scene = built(TEACHER).train(), proposed_scene(frames=3)
    losses = model.loss(model(scene), labelled(scene))
    assert "pixel_classes" in losses
    torch.stack(list(losses.values())).sum().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not torch.isfinite(p.grad).all()] == []
    images = scene.images.clone()
    images[:, 2] = 0.5
    with torch.no_grad():
        assert not torch.equal(model.eval()(scene).volume, model(replace(scene, images=images)).volume)
