"""The commands on nuScenes' and Occ3D's layout, one after the other, as a person would give them."""

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from occloom.cli.main import run
from occloom.data.occ3d_files import read_labels

RECIPE = """
from pathlib import Path
from occloom.data.occ3d import Occ3dConfig
from occloom.engine.config import Recipe, TrainConfig
from occloom.metrics.protocols import OCC3D
from tiny_recipes import TinyModelConfig

def tiny():
    return Recipe(
        name="recipe_of_surround:tiny",
        model=TinyModelConfig(),
        data=Occ3dConfig(root=Path("nuscenes"), image_size=(32, 56), keyframes=(0, -1)),
        train=TrainConfig(steps=2, batch_size=2, learning_rate=1e-2, validate_every=2, save_every=2, workers=0),
        protocol=OCC3D,
    )
"""
FIRST, SECOND = ("0002" + f"{number:028d}" for number in range(2))


@pytest.fixture(scope="module")
def folder(made_nuscenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The made scenes, and a run on them."""
    folder = tmp_path_factory.mktemp("surround")
    (folder / "nuscenes").symlink_to(made_nuscenes)
    (folder / "recipe_of_surround.py").write_text(RECIPE)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.syspath_prepend(folder)
        assert run(["train", "recipe_of_surround:tiny", "--out", "run"]) == 0
        assert run(["predict", "run", "--out", "results", "--submission", "results.zip"]) == 0
    return folder


@pytest.fixture(autouse=True)
def there(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(folder)


def scored(protocol: str, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[dict, str]:
    assert (
        run(["score", "results", "nuscenes", "--protocol", protocol, "--common-frames-only", *words, "--json", "s"])
        == 0
    )
    return json.loads(Path("s").read_text()), capsys.readouterr().out


@pytest.mark.parametrize(
    ("mask", "protocol", "words"),
    [
        ("camera", "occ3d", "camera: voxels whose mask_camera is 1"),
        ("lidar", "occ3d-lidar-mask", "lidar: voxels whose mask_lidar is 1"),
        ("none", "occ3d-no-mask", "none: all voxels"),
    ],
)
def test_predictions_score_as_the_evaluation_says_and_the_mask_is_told(capsys, mask: str, protocol: str, words: str):
    assert run(["evaluate", "run", "--data.val-mask", mask, "--out", "r.json"]) == 0
    report, printed = json.loads(Path("r.json").read_text()), capsys.readouterr().out
    assert report["protocol"] == protocol
    assert report["mask"].startswith(words)
    assert printed.count(words) == 2
    scores, printed = scored(protocol, capsys)
    assert words in " ".join(printed.split())
    assert scores["frames"] == [FIRST, SECOND]
    assert scores["confusion_rows_truth_columns_prediction"] == report["confusion"]
    assert scores["scores"]["miou"] == report["miou"]


def test_rings_layers_and_the_f_score(capsys):
    scores, printed = scored("occ3d", capsys, "--detail", "--f-score")
    assert [part["below"] for part in scores["detail"]["distance"]] == [10.0, 20.0, 40.0]
    assert 0 <= scores["f_score"] <= 1
    assert "F-score at 0.4 m, mean of frames, camera mask" in printed
    assert run(["score", "results", "nuscenes", "--f-score"]) == 2
    assert "--f-score is for Occ3D" in capsys.readouterr().err


def test_a_submission_is_packed_as_the_challenge_wants_it():
    names = [f"results/{token}.npz" for token in (FIRST, SECOND)]
    with zipfile.ZipFile("results.zip") as archive:
        assert archive.namelist() == names


def test_validation_scores_say_their_mask(capsys):
    words = ["--data.val-mask", "none", "--out", "other", "--train.validate-samples", "1"]
    assert run(["train", "recipe_of_surround:tiny", *words]) == 0
    assert "(percent; occ3d-no-mask, no mask)" in capsys.readouterr().err


def test_pictures_show_six_cameras_around_the_volumes():
    assert run(["predict", "run", "--out", "drawn", "--picture", "--tokens", f"scene-0002/{FIRST}"]) == 0
    with Image.open(f"drawn/pictures/scene-0002_{FIRST}.png") as picture:
        assert picture.height > picture.width / 2
        assert len(picture.convert("RGB").getcolors(maxcolors=1 << 24) or []) > 200


def test_frames_are_rendered_from_a_folder_or_from_files(capsys):
    size = ["--panel-size", "60", "100"]
    frame = ["--root", "nuscenes", "--token", f"scene-0002/{FIRST}", "--layout", "occ3d"]
    prediction = f"results/{FIRST}.npz"
    labels = f"nuscenes/gts/scene-0002/{FIRST}/labels.npz"
    assert run(["render", prediction, *frame, "--errors", "--out", "a.png", *size]) == 0
    assert run(["render", prediction, "--layout", "occ3d", "--truth", labels, "--out", "b.png", *size]) == 0
    assert run(["render", "--layout", "occ3d", "--truth", labels, "--mask", "none", "--out", "c.png", *size]) == 0
    widths = []
    for name in ("a.png", "b.png", "c.png"):
        with Image.open(name) as picture:
            widths.append(picture.width)
    assert np.diff(widths).tolist() == [-112, -112]
    capsys.readouterr()
    assert run(["render", *frame[:3], "scene-0002/nothing", *frame[4:], "--out", "d.png"]) == 2
    assert f"no frame scene-0002/nothing; there are scene-0002/{FIRST}" in capsys.readouterr().err


def test_a_missing_camera_is_told(own_nuscenes: Path, capsys):
    (own_nuscenes / "samples" / "CAM_BACK" / f"{FIRST}.png").unlink()
    assert run(["evaluate", "run", "--data.root", str(own_nuscenes), "--out", "r.json"]) == 0
    line = "no picture of CAM_BACK in 1 of 2 frames: the model ran with the cameras that are there"
    assert line in capsys.readouterr().out
    assert json.loads(Path("r.json").read_text())["frames_without_a_picture_of_every_camera"] == 1


def test_folders_without_files_are_named(tmp_path: Path, capsys):
    assert run(["score", str(tmp_path), "nuscenes", "--protocol", "occ3d"]) == 2
    assert "no files to score; expected SAMPLE_TOKEN.npz" in capsys.readouterr().err
    assert run(["score", "results", str(tmp_path / "no"), "--protocol", "occ3d"]) == 2
    assert "no such folder; expected gts/SCENE/SAMPLE_TOKEN/labels.npz" in capsys.readouterr().err


def test_errors_of_the_data_are_one_line(own_nuscenes: Path, capsys):
    labels = own_nuscenes / "gts" / "scene-0002" / FIRST / "labels.npz"
    assert read_labels(labels).semantics.shape == (200, 200, 16)
    np.savez(labels, semantics=np.zeros((16, 200, 200), np.uint8))
    assert run(["evaluate", "run", "--data.root", str(own_nuscenes)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "semantics is uint8 of shape 16x200x200; it is uint8 of shape 200x200x16" in error
    assert run(["evaluate", "run", "--data.root", "nuscenes", "--data.val", "scene-0900"]) == 2
    assert "no scene scene-0900" in capsys.readouterr().err
