from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from occloom.cli.main import run
from occloom.data.semantickitti import SemanticKittiConfig
from occloom.interfaces import Needs


def test_the_towns_pictures_are_labelled_once_and_read(tiny_town: Path, tmp_path: Path, capsys):
    sequence = min(path.name for path in (tiny_town / "sequences").iterdir())
    folder = tmp_path / "labels"
    command = ["prepare", "image-labels", "--root", str(tiny_town), "--sequences", sequence, "--out", str(folder)]
    assert run([*command, "--sweeps", "0", "-5", "--pictures"]) == 0
    assert "Image labels of" in capsys.readouterr().out
    config = SemanticKittiConfig(
        root=tiny_town, image_size=(96, 320), train=(sequence,), image_labels=folder, label_sweeps=(0, -5)
    )
    sample = config.build("train", Needs(image_labels=True)).sample(0)
    target = sample.target
    assert target is not None
    assert target.image_labels is not None
    assert (np.unique(target.image_labels) < 20).all()
    drawn = {path.name: np.asarray(Image.open(path)) for path in (folder / "pictures").iterdir()}
    assert len(drawn) == len(list((folder / "sequences" / sequence / "image_2").glob("*.npz")))
    labels = target.image_labels[0, 0]
    colours = np.array(config.label_space.colours)
    row, column = np.argwhere(labels.numpy() > 0)[-1]  # the last one: no later dot lies on it
    picture = drawn[f"{sequence}_image_2_{sample.tokens[0].split('/')[1]}.png"]
    assert (picture[row, column] == colours[labels[row, column]]).all()
    assert run(command) == 2
    assert "setting sweeps '0 -5', wanted '0'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "named"),
    [(["--sweeps", "-1", "0"], "0 comes first"), (["--sequences", "77"], "no such sequence")],
)
def test_what_cannot_be_prepared_is_refused(tiny_town: Path, tmp_path: Path, change, named, capsys):
    command = ["prepare", "image-labels", "--root", str(tiny_town), "--out", str(tmp_path / "labels"), *change]
    assert run(command) == 2
    assert named in capsys.readouterr().err


def test_pictures_without_labelled_scans_are_refused(tmp_path: Path, capsys):
    picture = tmp_path / "sequences" / "00" / "image_2" / "000000.png"
    picture.parent.mkdir(parents=True)
    picture.write_bytes(b"")
    assert run(["prepare", "image-labels", "--root", str(tmp_path)]) == 2
    assert "no picture has a labelled scan" in capsys.readouterr().err
    (tmp_path / "data_2d_raw").mkdir()
    assert run(["prepare", "image-labels", "--root", str(tmp_path)]) == 2
    assert "no point labels" in capsys.readouterr().err
