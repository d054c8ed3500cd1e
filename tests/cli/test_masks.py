from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from occloom.cli.main import run
from occloom.data.mask_cache import UNCOVERED
from occloom.data.occ3d import Occ3dConfig
from occloom.interfaces import Needs


def test_superpixels_are_prepared_once_and_read_by_the_data_set(own_nuscenes: Path, capsys: pytest.CaptureFixture[str]):
    command = ["prepare", "masks", "--root", str(own_nuscenes), "--source", "seeds", "--superpixels", "20"]
    assert run(command) == 0
    assert "Masks of 36 pictures" in capsys.readouterr().out
    files = sorted((own_nuscenes / "masks" / "seeds").rglob("*.png"))
    written = [file.stat().st_mtime_ns for file in files]
    assert len(files) == 36
    assert run(command) == 0
    assert [file.stat().st_mtime_ns for file in files] == written
    config = Occ3dConfig(root=own_nuscenes, image_size=(32, 56), keyframes=(0,), masks=Path("seeds"))
    masks = config.build("train", Needs(pseudo_masks=True)).sample(0).target.pseudo_masks
    assert masks.shape == (1, 6, 32, 56)
    assert all(len(one.unique()) > 4 for one in masks[0])
    assert run([*command[:-1], "30"]) == 2
    assert "setting superpixels" in capsys.readouterr().err


def test_a_towns_own_things_are_prepared(tiny_surround_town: Path, tmp_path: Path):
    command = ["prepare", "masks", "--root", str(tiny_surround_town), "--source", "town-exact", "--out", str(tmp_path)]
    assert run([*command, "--scenes", "scene-0001"]) == 0
    files = sorted(tmp_path.rglob("*.png"))
    assert len(files) == 12
    masks = np.asarray(Image.open(files[0]))
    assert masks.shape == (72, 128)
    assert (masks == UNCOVERED).any(), "the sky"
    assert len(np.unique(masks)) > 3


def test_a_front_towns_left_pictures_are_prepared(tiny_town: Path, tmp_path: Path):
    command = ["prepare", "masks", "--root", str(tiny_town), "--source", "seeds", "--superpixels", "30"]
    assert run([*command, "--out", str(tmp_path), "--scenes", "01"]) == 0
    found = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.png"))
    assert found == ["01/000000/image_2.png", "01/000005/image_2.png"]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--source", "sam"], "--source sam needs --weights"),
        (["--source", "sam", "--weights", "nowhere"], "no weights of Segment Anything"),
        (["--source", "seeds", "--scenes", "scene-9"], "no scene scene-9"),
        (["--source", "town-exact"], "no picture of a town"),
    ],
)
def test_what_cannot_be_prepared_is_refused(own_nuscenes: Path, capsys: pytest.CaptureFixture[str], options, reason):
    assert run(["prepare", "masks", "--root", str(own_nuscenes), *options]) == 2
    assert reason in capsys.readouterr().err
