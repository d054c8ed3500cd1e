"""A student and its frozen teacher: who sees what, what is saved, and which checkpoints are refused."""

from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tiny_monoocc import TINY, labelled, proposed_scene
from tiny_surround import GRID, LABELS, built

from occloom.errors import InputError
from occloom.lifting.cross_view import JointViews
from occloom.losses.distillation import RawDivergence
from occloom.models.monoocc_distillation import (
    MonoOccDistillationConfig,
    occupied_blocks,
    present_frame,
    teacher_weights,
)
from occloom.models.monoocc_teacher import MonoOccTeacherConfig
from occloom.models.voxdet_camera import SmallTrunk

TEACHER = MonoOccTeacherConfig(
    branch=replace(TINY, base=replace(TINY.base, trunk=SmallTrunk(width=12))), cross_view=JointViews(heads=2, blocks=1)
)
DISTILLED = MonoOccDistillationConfig(student=TINY, teacher=TEACHER)


@pytest.fixture
def trained(tmp_path) -> Path:
    """A checkpoint folder of the teacher."""
    folder = tmp_path / "step-000003"
    folder.mkdir()
    save_file(built(TEACHER, seed=5).state_dict(), folder / "ema.safetensors")
    return folder


def test_the_teacher_answers_with_its_trained_weights_and_stays_as_it_is(trained):
    model, scene = built(replace(DISTILLED, checkpoint=trained)).train(), proposed_scene(frames=3)
    expected = built(TEACHER, seed=5).eval()(scene).volume
    outputs = model(scene)
    torch.testing.assert_close(outputs.taught, expected.detach())
    assert not outputs.taught.requires_grad
    losses = model.loss(outputs, labelled(scene))
    torch.stack(list(losses.values())).sum().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not torch.isfinite(p.grad).all()] == []
    torch.testing.assert_close(model(scene).taught, expected.detach())


def test_the_teacher_is_no_part_of_the_checkpoint_or_of_copies(trained):
    model = built(replace(DISTILLED, checkpoint=trained)).train()
    names = set(model.state_dict())
    model(proposed_scene(frames=2))
    assert set(model.state_dict()) == names == {f"student.{name}" for name in built(TINY).state_dict()}
    assert len(list(deepcopy(model).parameters())) == len(list(built(TINY).parameters()))


def test_the_student_sees_the_present_alone_and_needs_no_teacher_to_predict():
    model, scene = built(DISTILLED).eval(), proposed_scene(frames=3)
    images = scene.images.clone()
    images[:, 1:] = 0.5
    with torch.no_grad():
        outputs = model(scene)
        assert outputs.taught is None
        assert torch.equal(outputs.logits, model(replace(scene, images=images)).logits)
        assert torch.equal(outputs.logits, model.student(present_frame(scene)).logits)
        assert torch.equal(model.predict(scene), outputs.logits.argmax(dim=1))
    assert "distillation" not in model.loss(outputs, labelled(scene))


@pytest.mark.parametrize("divergence", [DISTILLED.divergence, RawDivergence()])
def test_the_loss_is_the_mean_over_occupied_blocks(trained, divergence):
    model = built(replace(DISTILLED, checkpoint=trained, divergence=divergence)).train()
    scene = proposed_scene(frames=2)
    target, outputs = labelled(scene), model(scene)
    found = model.loss(outputs, target)["distillation"]
    values = []
    for b in range(2):
        for x in range(8):
            for y in range(8):
                for z in range(4):
                    block = (b, slice(2 * x, 2 * x + 2), slice(2 * y, 2 * y + 2), slice(2 * z, 2 * z + 2))
                    if ((target.labels[block] != LABELS.empty) & target.observed[block]).any():
                        rows = [v[b, :, x, y, z][None] for v in (outputs.taught, outputs.student.volume)]
                        values.append(divergence.rows(*rows)[0])
    assert 0 < len(values) < 512
    torch.testing.assert_close(found, 3.0 * torch.stack(values).mean(), rtol=1e-4, atol=1e-5)


def test_prepared_volumes_teach_as_the_teacher_on_line(trained):
    scene = proposed_scene(frames=2)
    online = built(replace(DISTILLED, checkpoint=trained)).train()
    cached = built(replace(DISTILLED, cached=True)).train()
    assert cached.needs.teacher_features
    assert not online.needs.teacher_features
    outputs, target = online(scene), labelled(scene)
    where = occupied_blocks(target, (2, 2, 2), LABELS.empty)
    kept = torch.where(where[:, None], outputs.taught, 0.0)
    torch.manual_seed(0)
    first = online.loss(outputs, target)
    torch.manual_seed(0)
    second = cached.loss(replace(outputs, taught=None), replace(target, teacher_volume=kept))
    assert second.keys() == first.keys()
    torch.testing.assert_close(second["distillation"], first["distillation"])


def test_released_and_coarse_occupancy_agree_at_factor_two():
    """Reference monoocc 11.5: at factor 2 any occupied voxel wins; a block with none is empty or ignored."""
    target = labelled(proposed_scene())
    coarse = occupied_blocks(target, (2, 2, 2), LABELS.empty)
    ids = torch.where(target.observed, target.labels, -1)
    for place in coarse.nonzero()[:50].tolist():
        b, (x, y, z) = place[0], (2 * i for i in place[1:])
        assert set(ids[b, x : x + 2, y : y + 2, z : z + 2].flatten().tolist()) - {-1, LABELS.empty}
    assert coarse.shape == (2, 8, 8, 4)
    assert not occupied_blocks(replace(target, observed=target.observed & False), (2, 2, 2), LABELS.empty).any()


def test_a_missing_teacher_is_named_where_training_begins(tmp_path):
    scene = proposed_scene(frames=2)
    with pytest.raises(InputError, match=r"no teacher is named.*--model.checkpoint"):
        built(DISTILLED).train()(scene)
    with pytest.raises(InputError, match="no weights of a teacher"):
        built(replace(DISTILLED, checkpoint=tmp_path)).train()(scene)
    with pytest.raises(InputError, match="no such weights file"):
        built(replace(DISTILLED, checkpoint=tmp_path / "a.safetensors")).train()(scene)


def test_the_checkpoint_of_another_model_is_refused(tmp_path):
    save_file(built(TINY).state_dict(), tmp_path / "model.safetensors")
    assert teacher_weights(tmp_path) == tmp_path / "model.safetensors"
    with pytest.raises(InputError):
        built(replace(DISTILLED, checkpoint=tmp_path)).train()(proposed_scene(frames=2))


@pytest.mark.parametrize("change", [{"channels": 8}, {"volume_coarsening": (4, 4, 4)}])
def test_volumes_of_other_sizes_are_refused(change):
    branch = replace(TEACHER.branch, base=replace(TEACHER.branch.base, **change))
    with pytest.raises(InputError, match="for the student"):
        replace(DISTILLED, teacher=replace(TEACHER, branch=branch))


def test_the_grid_is_the_students():
    assert built(DISTILLED).grid == GRID
