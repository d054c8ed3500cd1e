import zipfile

import numpy as np
import torch
from PIL import Image

from occloom.cli.main import run
from occloom.data.label_spaces import to_train_ids
from occloom.data.semantickitti import SEMANTIC_KITTI_GRID
from occloom.inference import load_model, load_recipe


def predictions(folder):
    return {path.relative_to(folder).as_posix(): path for path in folder.rglob("*.label")}


def test_every_frame_gets_a_file_of_the_official_layout_with_what_the_model_says(kitti_run, tmp_path):
    assert run(["predict", str(kitti_run), "--root", "x", "--out", str(tmp_path)]) == 0
    model = load_model(kitti_run)
    data = load_recipe(kitti_run).data.build("val", model.needs)
    files = predictions(tmp_path)
    assert len(files) == len(data)
    for index, token in enumerate(data.tokens):
        sequence, frame = token.split("/")
        raw = np.fromfile(files[f"sequences/{sequence}/predictions/{frame}.label"], dtype="<u2").reshape(
            SEMANTIC_KITTI_GRID.shape
        )
        with torch.no_grad():
            expected = model.predict(data.sample(index).scene.to(dtype=torch.float32))[0]
        assert np.array_equal(to_train_ids(raw), expected.numpy())


def test_only_the_named_frames_and_their_pictures_are_written(kitti_run, tmp_path):
    words = ["predict", str(kitti_run), "--out", str(tmp_path), "--picture", "--split", "train"]
    assert run([*words, "--tokens", "00/000002", "01/000005"]) == 0
    assert set(predictions(tmp_path)) == {
        "sequences/00/predictions/000002.label",
        "sequences/01/predictions/000005.label",
    }
    pictures = sorted((tmp_path / "pictures").iterdir())
    assert [path.name for path in pictures] == ["00_000002.png", "01_000005.png"]
    with Image.open(pictures[0]) as picture:
        assert len(picture.convert("RGB").getcolors(maxcolors=1 << 24) or []) > 20


def test_frames_that_are_not_there_are_refused(kitti_run, tmp_path, capsys):
    assert run(["predict", str(kitti_run), "--out", str(tmp_path), "--tokens", "77/000000"]) == 2
    assert "no frame 77/000000 in the split; its 5 frames are named like 00/000000" in capsys.readouterr().err


def test_other_classes_cannot_be_written_as_semantickitti(tiny_run, tmp_path, capsys):
    assert run(["predict", str(tiny_run), "--out", str(tmp_path)]) == 2
    assert "other classes" in capsys.readouterr().err


def test_another_grid_cannot_be_written_as_semantickitti(tmp_path, capsys):
    words = ["--train.steps", "1", "--data.no-kitti-grid", "--out", str(tmp_path / "run")]
    assert run(["train", "tiny_recipes:tiny_kitti", *words]) == 0
    assert run(["predict", str(tmp_path / "run"), "--out", str(tmp_path / "out")]) == 2
    assert "a grid of 4x4x2 voxels; .label files hold 256x256x32 voxels" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_submission_holds_the_predictions_as_they_lie_in_the_folder(kitti_run, tmp_path, capsys):
    out, archive = tmp_path / "out", tmp_path / "deep" / "submission.zip"
    assert run(["predict", str(kitti_run), "--split", "test", "--out", str(out), "--submission", str(archive)]) == 0
    assert f"submission: {archive}, 2 predictions" in capsys.readouterr().out
    with zipfile.ZipFile(archive) as zipped:
        assert "sequences/00/predictions/" in zipped.namelist()
        packed = {name: zipped.read(name) for name in zipped.namelist() if name.endswith(".label")}
    assert packed == {name: path.read_bytes() for name, path in predictions(out).items()}
    assert len(packed) == 2


def test_a_submission_that_cannot_be_written_is_refused_before_work(kitti_run, tmp_path, capsys):
    assert run(["predict", str(kitti_run), "--out", str(tmp_path / "out"), "--submission", str(tmp_path)]) == 2
    assert "a file is written there" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_without_a_checkpoint_the_help_is_pointed_to(capsys):
    assert run(["predict"]) == 2
    assert "occloom predict --help" in capsys.readouterr().err
    assert run(["predict", "--help"]) == 0
    assert "usage: occloom predict" in capsys.readouterr().out
