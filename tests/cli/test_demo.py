import re

import pytest
from PIL import Image

from occloom import inference
from occloom.cli import demo
from occloom.cli.main import run


@pytest.mark.slow
def test_the_demo_scores_five_predictors_and_draws(tmp_path, capsys):
    assert run(["demo", str(tmp_path / "demo"), "--sequences", "2", "--frames", "1", "--pictures", "1"]) == 0
    printed = capsys.readouterr().out
    text = (tmp_path / "demo/scores.txt").read_text()
    rows = re.findall(r"│ (\S.*?) +│ +([\d.]+) │ +([\d.]+) │ +([\d.]+) │ +([\d.]+) │", text)
    scores = {name: float(iou) for name, iou, *_ in rows}
    assert len(scores) == 5
    models = {demo.MODEL, demo.CONTROL}
    assert min(scores[name] for name in models) > max(iou for name, iou in scores.items() if name not in models)
    assert "evaluate_completion.py" in text
    (picture,) = (tmp_path / "demo/pictures").iterdir()
    assert Image.open(picture).width > 600
    assert picture.name in printed


def test_a_machine_that_cannot_cast_rays_uses_the_shipped_frames(without_embreex, tmp_path, capsys):
    assert run(["demo", str(tmp_path / "demo"), "--pictures", "1", "--workers", "1"]) == 0
    assert "shipped frames" in capsys.readouterr().out
    assert (tmp_path / "demo/scores.txt").read_text().count(demo.MODEL) == 2


def test_more_drives_than_were_kept_unseen_are_refused(tmp_path, capsys):
    assert run(["demo", str(tmp_path / "demo"), "--sequences", "11"]) == 2
    assert "1 to 10" in capsys.readouterr().err


def test_one_frame_is_refused_before_streets_are_made(tmp_path, capsys):
    assert run(["demo", str(tmp_path / "demo"), "--sequences", "1", "--frames", "1"]) == 2
    assert "one frame" in capsys.readouterr().err
    assert not (tmp_path / "demo").exists()


def test_a_package_without_weights_is_refused_before_streets_are_made(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(inference, "SHIPPED", tmp_path / "nothing")
    assert run(["demo", str(tmp_path / "demo"), "--sequences", "2", "--frames", "1"]) == 2
    assert demo.MODEL in capsys.readouterr().err
    assert not (tmp_path / "demo").exists()
