import json

import pytest

from occloom.cli.main import run
from occloom.data.semantickitti import SemanticKittiConfig
from occloom.models.monoocc import MonoOccConfig
from occloom.models.monoocc_distillation import MonoOccDistillationConfig
from occloom.models.monoocc_teacher import MonoOccTeacherConfig
from occloom.recipes import RECIPES, resolve
from occloom.recipes_monoocc import MONOOCC_RECIPES

KINDS = ("s", "s-distilled", "teacher")


def test_they_are_listed():
    assert MONOOCC_RECIPES.items() <= RECIPES.items()


@pytest.mark.parametrize(
    ("kind", "published"),
    [
        ("s", 58_972_924),
        ("s-distilled", 58_972_924),
        ("l", 364_403_352),
        # Reference monoocc 10 counts the windowed transformer; the recipes take the paper's.
        ("teacher-s", 62_124_796 - 3_150_336 + 626_816),
        ("teacher", 367_555_224 - 3_150_336 + 626_816),
    ],
)
def test_the_command_tells_the_published_number_of_parameters(kind, published, capsys):
    """Reference monoocc 10: as the paper describes them, with all that the code builds and never uses."""
    assert run(["benchmark", f"monoocc-{kind}-semantickitti", "--parameters-only", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["parameters"]["published"] == published


@pytest.mark.parametrize("where", ["semantickitti", "town"])
def test_teacher_and_student_are_those_of_their_own_recipes(where):
    student, distilled, teacher = (resolve(f"monoocc-{kind}-{where}") for kind in KINDS)
    assert isinstance(distilled.model, MonoOccDistillationConfig)
    assert (distilled.model.student, distilled.model.teacher) == (student.model, teacher.model)
    assert distilled.data == teacher.data
    assert isinstance(student.model, MonoOccConfig)
    assert student.data.num_frames == student.model.base.views == 1
    assert isinstance(teacher.model, MonoOccTeacherConfig)
    assert teacher.data.num_frames == teacher.model.branch.base.views


def test_frames_of_the_teacher_stand_in_the_order_of_time():
    for where, frames in (("semantickitti", (0, -3, -6, -9, -12)), ("town", (0, -5, -10))):
        data = resolve(f"monoocc-teacher-{where}").data
        assert isinstance(data, SemanticKittiConfig)
        assert data.frames == frames
