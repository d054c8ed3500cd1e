"""From a teacher's run to a student that learns its prepared features, by the commands alone, at small widths."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from occloom.cli.main import run


def widths(model: str) -> tuple[str, ...]:
    """Options of a monocular branch that stands at some place of the model."""
    base = f"--model.{model}base"
    return (
        *(f"{base}.trunk.width", "8", f"{base}.channels", "8", f"{base}.volume-coarsening", "8", "8", "8"),
        *(f"{base}.lifting.layers", "1", f"{base}.lifting.heads", "2", f"{base}.lifting.points", "1"),
        *(f"{base}.refinement.heads", "2", f"{base}.refinement.points", "1", f"{base}.loss-stride", "8"),
        *(f"--model.{model}conditioning.heads", "2", f"--model.{model}conditioning.points", "1"),
    )


FEW = ["--train.steps", "2", "--train.save-every", "1", "--train.validate-every", "0", "--train.workers", "0"]
TEACHER = [*widths("branch."), *FEW, "--train.batch-size", "1", "--data.image-size", "32", "96"]
STUDENT = [*widths("student."), *widths("teacher.branch."), *TEACHER[len(widths("branch.")) :]]


@pytest.fixture(scope="module")
def queries(tiny_town: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Queries of the tiny town, from projected LiDAR; do not write into it."""
    folder = tmp_path_factory.mktemp("queries")
    depth, pseudo, out = (folder / name for name in ("depth", "pseudo", "queries"))
    words = ["--root", str(tiny_town), "--workers", "1"]
    assert run(["prepare", "depth", *words, "--source", "lidar", "--out", str(depth)]) == 0
    assert run(["prepare", "pseudo-voxels", *words, "--depth", str(depth), "--out", str(pseudo)]) == 0
    assert run(["prepare", "queries", "--root", str(tiny_town), "--pseudo-voxels", str(pseudo), "--out", str(out)]) == 0
    return out


@pytest.fixture
def data(tiny_town: Path, queries: Path) -> list[str]:
    return ["--data.root", str(tiny_town), "--data.queries", str(queries), "--data.train", "00", "--data.val", "01"]


def test_every_command_works_for_a_student_of_prepared_features(tiny_town: Path, data, tmp_path: Path, capsys):
    teacher, features, student = tmp_path / "teacher", tmp_path / "features", tmp_path / "student"
    assert run(["train", "monoocc-teacher-town", *data, *TEACHER, "--out", str(teacher)]) == 0
    command = ["prepare", "teacher-features", "--checkpoint", str(teacher), "--out", str(features)]
    assert run(command) == 0
    assert "Features of 2 frames" in capsys.readouterr().out
    written = {path: path.stat().st_mtime_ns for path in features.rglob("*.npz")}
    assert len(written) == 2
    assert run(command) == 0
    assert {path: path.stat().st_mtime_ns for path in features.rglob("*.npz")} == written

    weights = teacher / "step-000002" / "ema.safetensors"
    cached = ["--model.cached", "--data.frames", "0", "--data.teacher-features", str(features)]
    words = ["train", "monoocc-s-distilled-town", *data, *STUDENT, *cached, "--data.teacher-weights", str(weights)]
    assert run([*words, "--out", str(student)]) == 0
    assert "distillation" in (student / "losses.csv").read_text()
    stopped = tmp_path / "stopped"
    shutil.copytree(student, stopped)
    shutil.rmtree(stopped / "step-000002")
    (stopped / "latest").write_text("step-000001\n")
    assert run([*words, "--out", str(stopped)]) == 0
    weights = [folder / "step-000002" / "model.safetensors" for folder in (student, stopped)]
    assert weights[0].read_bytes() == weights[1].read_bytes()

    shutil.rmtree(teacher)
    shutil.rmtree(features)
    where = [str(student), *data[:4], *data[6:]]
    assert run(["evaluate", *where, "--workers", "0", "--out", str(tmp_path / "r.json")]) == 0
    assert np.sum(json.loads((tmp_path / "r.json").read_text())["confusion"]) > 0
    out = tmp_path / "out"
    assert run(["predict", *where, "--out", str(out), "--tokens", "01/000005", "--picture"]) == 0
    prediction = out / "sequences" / "01" / "predictions" / "000005.label"
    words = ["render", str(prediction), "--root", str(tiny_town), "--token", "01/000005"]
    assert run([*words, "--panel-size", "40", "64", "--out", str(tmp_path / "frame.png")]) == 0


def test_a_student_learns_from_a_teacher_beside_it_and_is_told_where_there_is_none(data, tmp_path: Path, capsys):
    words = ["train", "monoocc-s-distilled-town", *data, *STUDENT]
    assert run([*words, "--out", str(tmp_path / "alone")]) == 2
    assert "no teacher is named" in capsys.readouterr().err
    assert run(["train", "monoocc-teacher-town", *data, *TEACHER, "--out", str(tmp_path / "teacher")]) == 0
    words += ["--model.checkpoint", str(tmp_path / "teacher" / "step-000002"), "--out", str(tmp_path / "taught")]
    assert run(words) == 0
    assert "distillation" in (tmp_path / "taught" / "losses.csv").read_text()


def test_missing_queries_and_poses_are_named(tiny_town: Path, data, tmp_path: Path, capsys):
    words = [*widths(""), *FEW, "--data.queries", str(tmp_path / "nowhere"), "--out", str(tmp_path / "run")]
    assert run(["train", "monoocc-s-town", *data[:2], *data[4:], *words]) == 2
    assert "nowhere" in capsys.readouterr().err
    folder = tmp_path / "town" / "sequences" / "00"
    folder.mkdir(parents=True)
    for name in ("voxels", "image_2", "labels", "velodyne", "calib.txt"):
        (folder / name).symlink_to(tiny_town / "sequences" / "00" / name)
    words = ["--data.root", str(tmp_path / "town"), *data[2:], *TEACHER, "--out", str(tmp_path / "other")]
    assert run(["train", "monoocc-teacher-town", *words]) == 2
    assert "poses.txt" in capsys.readouterr().err


def test_a_run_of_another_model_is_refused(tiny_run: Path, capsys):
    assert run(["prepare", "teacher-features", "--checkpoint", str(tiny_run)]) == 2
    assert "no teacher" in capsys.readouterr().err
