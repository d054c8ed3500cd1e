"""The commands on KITTI-360's layout, one after the other, as a person would give them."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from occloom.cli.main import run

RECIPE = """
from pathlib import Path
from occloom.data.kitti360 import Kitti360Config
from occloom.engine.config import Recipe, TrainConfig
from occloom.metrics.protocols import SSCBENCH
from occloom.models.baseline import BaselineConfig

def tiny():
    return Recipe(
        name="recipe_of_kitti360:tiny",
        model=BaselineConfig(volume_coarsening=(8, 8, 8)),
        data=Kitti360Config(
            root=Path("drives"), image_size=(32, 96), depth=Path("stereo-sgbm"), train=("0000",), val=("0000",)
        ),
        train=TrainConfig(steps=1, batch_size=1, learning_rate=1e-3, validate_every=1, save_every=1),
        protocol=SSCBENCH,
    )
"""


@pytest.fixture(scope="module")
def folder(tiny_drives: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A town of one drive with prepared depth, and a run on it."""
    folder = tmp_path_factory.mktemp("kitti360")
    (folder / "drives").symlink_to(tiny_drives)
    (folder / "recipe_of_kitti360.py").write_text(RECIPE)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.syspath_prepend(folder)
        assert run(["train", "recipe_of_kitti360:tiny", "--out", "run"]) == 0
    return folder


@pytest.fixture(autouse=True)
def there(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(folder)


def test_evaluation_follows_the_recipe_s_protocol(folder: Path, capsys: pytest.CaptureFixture[str]):
    assert run(["evaluate", "run"]) == 0
    report = json.loads((folder / "results.json").read_text())
    assert report["protocol"] == "sscbench"
    assert list(report["per_class"])[-2:] == ["other-structure", "other-object"]
    assert "SSCBench" in capsys.readouterr().out


def test_predictions_score_as_the_evaluation_says_and_can_be_drawn(folder: Path):
    token = "2013_05_28_drive_0000_sync/000000"
    assert run(["predict", "run", "--out", "out", "--picture"]) == 0
    prediction = folder / "out" / "sequences" / token.replace("/", "/predictions/")
    assert run(["score", "out", "drives", "--protocol", "sscbench", "--json", "s.json"]) == 0
    assert run(["evaluate", "run", "--out", "r.json"]) == 0
    scores, report = (json.loads((folder / name).read_text()) for name in ("s.json", "r.json"))
    assert scores["frames"] == [token]
    assert scores["confusion_rows_truth_columns_prediction"] == report["confusion"]
    words = ["render", f"{prediction}.label", "--root", "drives", "--token", token, "--layout", "kitti360"]
    assert run([*words, "--errors", "--panel-size", "40", "64", "--out", "frame.png"]) == 0
    for name in ("frame.png", f"out/pictures/{token.replace('/', '_')}.png"):
        with Image.open(folder / name) as picture:
            assert len(np.unique(np.asarray(picture.convert("RGB")).reshape(-1, 3), axis=0)) > 20


def test_a_submission_is_refused_as_there_is_no_server(folder: Path, capsys: pytest.CaptureFixture[str]):
    assert run(["predict", "run", "--out", "other", "--submission", "other.zip"]) == 2
    assert "there is no server" in capsys.readouterr().err
    assert not (folder / "other.zip").exists()
