from pathlib import Path

import pytest
import torch

from occloom.cli.main import run


@pytest.fixture(autouse=True)
def restored_determinism():
    """Commands that launch switch deterministic algorithms on for the whole process."""
    before = torch.are_deterministic_algorithms_enabled()
    yield
    torch.use_deterministic_algorithms(before)


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of the tiny recipe."""
    folder = tmp_path_factory.mktemp("tiny_run") / "run"
    assert run(["train", "tiny_recipes:tiny", "--train.steps", "6", "--out", str(folder)]) == 0
    return folder


@pytest.fixture(scope="session")
def tiny_drives(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A town of one drive in KITTI-360's layout, with prepared depth; do not write into it."""
    folder = tmp_path_factory.mktemp("tiny_drives") / "drives"
    town = ["--layout", "kitti360", "--sequences", "1", "--frames", "1", "--image-size", "32", "96"]
    assert run(["town", str(folder), *town, "--following-scans", "1", "--workers", "1"]) == 0
    assert run(["prepare", "depth", "--root", str(folder), "--workers", "1"]) == 0
    return folder


@pytest.fixture(scope="session")
def kitti_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of a recipe with SemanticKITTI's classes."""
    folder = tmp_path_factory.mktemp("kitti_run") / "run"
    assert run(["train", "tiny_recipes:tiny_kitti", "--train.steps", "6", "--out", str(folder)]) == 0
    return folder
