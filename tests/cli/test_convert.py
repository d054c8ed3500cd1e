import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import naive_voxdet as naive
import pytest
import torch

from occloom.cli.main import run
from occloom.engine import checkpoint
from occloom.engine.train import build_model
from occloom.inference import load_model
from occloom.models.released_checkpoints import convert_lidar
from occloom.recipes import resolve

RECIPE = "released_recipes:lidar"


@pytest.fixture
def swept_path(tmp_path) -> Iterator[Path]:
    """A folder for files of a hundred megabytes, which do not outlive the test."""
    yield tmp_path
    shutil.rmtree(tmp_path)


@pytest.mark.real_data  # the list of released names lies beside the real frames
def test_a_published_checkpoint_becomes_one_that_can_be_loaded(real_data, swept_path, capsys):
    table = real_data.parent / "reference" / "state_dicts" / "voxdet_lidar_semantickitti.tsv"
    state = naive.released_state(table)
    published, out = swept_path / "published.ckpt", swept_path / "converted"
    torch.save({"state_dict": {f"model.{key}": value for key, value in state.items()}}, published)
    assert run(["convert", RECIPE, str(published), "--out", str(out)]) == 0
    assert f"occloom evaluate {out}" in capsys.readouterr().out
    description = json.loads((out / "recipe.json").read_text())
    assert (description["recipe"], description["converted_from"]) == (RECIPE, "published.ckpt")
    model = load_model(out)
    for name, tensor in convert_lidar(state, model.state_dict()).items():
        assert torch.equal(model.state_dict()[name], tensor)


def refused(capsys, *arguments: str) -> str:
    assert run(["convert", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1
    return captured.err


def test_what_is_there_is_not_overwritten(tmp_path, capsys):
    assert "already there" in refused(capsys, RECIPE, "published.ckpt", "--out", str(tmp_path))


def test_wrong_weights_leave_nothing_behind(tmp_path, capsys):
    out = tmp_path / "converted"
    torch.save({"stranger": torch.zeros(1)}, tmp_path / "weights.pth")
    assert "lacks" in refused(capsys, RECIPE, str(tmp_path / "weights.pth"), "--out", str(out))
    assert "no published weights" in refused(
        capsys, "tiny_recipes:tiny", str(tmp_path / "weights.pth"), "--out", str(out)
    )
    assert "no such checkpoint" in refused(capsys, RECIPE, str(tmp_path / "nowhere.pth"), "--out", str(out))
    assert not out.exists()


def test_of_a_detector_the_part_that_fits_is_written_and_trained_from(tmp_path, capsys):
    out, bias = tmp_path / "detector", torch.rand(32)
    state = {"final_conv.conv.bias": bias, "pts_bbox_head.shared_conv.conv.weight": torch.zeros(1)}
    torch.save({"state_dict": state}, tmp_path / "detector.pth")
    recipe = "released_recipes:surround"
    assert run(["convert", recipe, str(tmp_path / "detector.pth"), "--out", str(out)]) == 0
    told = capsys.readouterr().out
    assert "1 are of no use to this model: pts_bbox_head.shared_conv.conv.weight" in told
    assert f"occloom train {recipe} --train.start-from {out}" in told
    model = build_model(resolve(recipe))
    assert checkpoint.take_weights(model, out).names == ("head.conv.bias",)
    assert torch.equal(model.state_dict()["head.conv.bias"], bias)
