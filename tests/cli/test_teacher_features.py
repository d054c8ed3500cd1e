"""From a teacher's run to a student that learns its prepared features, by the commands alone."""

from pathlib import Path

import pytest
import torch

from occloom.cli.main import run


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
    words = ["--data.root", str(tiny_town), "--data.queries", str(queries), "--data.train", "00", "--data.val", "02"]
    words += ["--train.steps", "1", "--train.batch-size", "1", "--train.validate-every", "0", "--train.workers", "0"]
    return words


def trained(recipe: str, out: Path, *words: str) -> int:
    before = torch.are_deterministic_algorithms_enabled()
    code = run(["train", recipe, "--out", str(out), *words])
    torch.use_deterministic_algorithms(before)
    return code


def test_a_students_run_on_prepared_features(tiny_town: Path, data, tmp_path: Path, capsys):
    teacher, features = tmp_path / "teacher", tmp_path / "features"
    assert trained("monoocc-teacher-town", teacher, *data) == 0
    command = ["prepare", "teacher-features", "--checkpoint", str(teacher), "--out", str(features)]
    assert run(command) == 0
    assert "Features of 2 frames" in capsys.readouterr().out
    written = {path: path.stat().st_mtime_ns for path in features.rglob("*.npz")}
    assert len(written) == 2
    assert run(command) == 0
    assert {path: path.stat().st_mtime_ns for path in features.rglob("*.npz")} == written
    weights = teacher / "step-000001" / "ema.safetensors"
    cached = ["--model.cached", "--data.frames", "0", "--data.teacher-features", str(features)]
    cached += ["--data.teacher-weights", str(weights)]
    assert trained("monoocc-s-distilled-town", tmp_path / "cached", *data, *cached) == 0
    assert "distillation" in (tmp_path / "cached" / "log.csv").read_text()


def test_a_student_without_a_teacher_is_told_so(data, tmp_path: Path, capsys):
    assert trained("monoocc-s-distilled-town", tmp_path / "run", *data) == 2
    assert "no teacher is named" in capsys.readouterr().err


def test_missing_queries_and_poses_are_named(tiny_town: Path, data, tmp_path: Path, capsys):
    assert trained("monoocc-s-town", tmp_path / "run", *data, "--data.queries", str(tmp_path / "nowhere")) == 2
    assert "nowhere" in capsys.readouterr().err
    for name in ("voxels", "image_2", "labels", "velodyne"):
        (tmp_path / "town" / "sequences" / "00").mkdir(parents=True, exist_ok=True)
        (tmp_path / "town" / "sequences" / "00" / name).symlink_to(tiny_town / "sequences" / "00" / name)
    calibration = (tiny_town / "sequences" / "00" / "calib.txt").read_bytes()
    (tmp_path / "town" / "sequences" / "00" / "calib.txt").write_bytes(calibration)
    words = [*data, "--data.root", str(tmp_path / "town"), "--data.val", "00"]
    assert trained("monoocc-teacher-town", tmp_path / "other", *words) == 2
    assert "poses.txt" in capsys.readouterr().err


def test_a_run_of_another_model_is_refused(tiny_run: Path, capsys):
    assert run(["prepare", "teacher-features", "--checkpoint", str(tiny_run)]) == 2
    assert "no teacher" in capsys.readouterr().err
