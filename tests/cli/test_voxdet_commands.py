"""Train, stop, go on, evaluate, predict and draw: recipes of the town that see depth or LiDAR, at smallest widths."""

import json
import shutil
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from occloom.cli.main import run

DETECTOR = (
    *("--model.detector.blocks", "1", "1", "--model.detector.groups", "2", "--model.detector.offset-hidden", "2"),
    *("--model.detector.aggregation-layers", "1", "--model.volume-coarsening", "8", "8", "8", "--model.channels", "4"),
)
IMAGES = (
    *("--model.trunk.width", "8", "--model.neck-channels", "8", "--model.depth-channels", "8"),
    *("--model.fusion-channels", "8", "--data.image-size", "32", "96"),
)
LIFTING = ("--model.attention-layers", "1", "--model.heads", "2", "--model.points", "1", "--model.feedforward", "4")
LIDAR = ("--model.point-channels", "4", "--model.blocks", "1", "1")
PRETRAINING = ("--model.channels", "4", "--model.segmentation-channels", "2", "2")
SYMPHONIES = (
    *("--model.trunk.width", "8", "--model.pixel-channels", "8", "--model.pixel-feedforward", "8"),
    *("--model.pixel-groups", "2", "--model.decoder.channels", "8", "--model.decoder.layers", "1"),
    *("--model.decoder.heads", "2", "--model.volume-coarsening", "8", "8", "8", "--data.image-size", "32", "96"),
)


@dataclass(frozen=True)
class Case:
    """A recipe, and where its data lies."""

    recipe: str
    widths: tuple[str, ...]
    train: str
    val: str
    token: str
    """A frame of val."""
    layout: str = "semantickitti"
    sees_depth: bool = True


CASES = (
    Case("voxdet-town", (*DETECTOR, *IMAGES, *LIFTING), "00", "01", "01/000000"),
    Case("voxdet-l-town", (*DETECTOR, *LIDAR), "00", "01", "01/000000", sees_depth=False),
    Case("symphonies-small-town", SYMPHONIES, "00", "01", "01/000000"),
    Case("voxdet-depth-pretrain-town", (*IMAGES, *PRETRAINING), "00", "01", "01/000000"),
    Case(
        "voxdet-kitti360-town",
        (*DETECTOR, *IMAGES, *LIFTING),
        "0000",
        "0000",
        "2013_05_28_drive_0000_sync/000000",
        layout="kitti360",
    ),
)


@pytest.fixture(scope="session")
def town_depth(tiny_town: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stereo depth of the tiny town, beside it."""
    folder = tmp_path_factory.mktemp("town_depth") / "stereo-sgbm"
    assert run(["prepare", "depth", "--root", str(tiny_town), "--out", str(folder), "--workers", "1"]) == 0
    return folder


def data_of(case: Case, request: pytest.FixtureRequest) -> tuple[Path, list[str]]:
    """Where a case's data lies, and the options that say so."""
    kitti360 = case.layout == "kitti360"
    root = request.getfixturevalue("tiny_drives" if kitti360 else "tiny_town")
    options = ["--data.root", str(root), "--data.train", case.train, "--data.val", case.val]
    if case.sees_depth and not kitti360:
        options += ["--data.depth", str(request.getfixturevalue("town_depth"))]
    if not case.sees_depth:
        options += ["--data.depth", "None"]
    return root, options


def colours(path: Path) -> int:
    """How many colours a picture has."""
    with Image.open(path) as picture:
        return len(np.unique(np.asarray(picture.convert("RGB")).reshape(-1, 3), axis=0))


def stopped_after_one_step(whole: Path, folder: Path) -> None:
    """A copy of a run of two steps as a kill leaves it: the second step's rows are written, its weights are not."""
    shutil.copytree(whole, folder)
    shutil.rmtree(folder / "step-000002")
    (folder / "best").unlink()
    (folder / "latest").write_text("step-000001\n")


@pytest.mark.parametrize("case", CASES, ids=[case.recipe for case in CASES])
def test_every_command_works_for_it(case: Case, request: pytest.FixtureRequest, tmp_path: Path):
    root, where = data_of(case, request)
    out, whole, stopped = tmp_path / "out", tmp_path / "whole", tmp_path / "stopped"
    few = ["--train.steps", "2", "--train.save-every", "1", "--train.validate-every", "2", "--train.workers", "0"]
    words = ["train", case.recipe, *where, *case.widths, *few, "--train.validate-samples", "1"]
    assert run([*words, "--train.batch-size", "1", "--out", str(whole)]) == 0
    stopped_after_one_step(whole, stopped)
    assert run([*words, "--train.batch-size", "1", "--out", str(stopped)]) == 0
    for name in ("step-000002/model.safetensors", "step-000002/ema.safetensors", "losses.csv"):
        assert (stopped / name).read_bytes() == (whole / name).read_bytes()

    assert run(["evaluate", str(stopped), *where, "--workers", "0", "--out", str(tmp_path / "r.json")]) == 0
    report = json.loads((tmp_path / "r.json").read_text())
    assert np.sum(report["confusion"]) > 0
    assert report["protocol"] == ("sscbench" if case.layout == "kitti360" else "semantickitti")

    words = ["predict", str(stopped), *where, "--out", str(out), "--tokens", case.token, "--picture"]
    submission = [] if case.layout == "kitti360" else ["--submission", str(tmp_path / "s.zip")]
    assert run([*words, *submission]) == 0
    prediction = out / "sequences" / f"{case.token.replace('/', '/predictions/')}.label"
    if submission:
        with zipfile.ZipFile(tmp_path / "s.zip") as zipped:
            assert zipped.read(prediction.relative_to(out).as_posix()) == prediction.read_bytes()
    assert colours(out / "pictures" / f"{case.token.replace('/', '_')}.png") > 20

    words = ["render", str(prediction), "--root", str(root), "--token", case.token, "--layout", case.layout]
    assert run([*words, "--errors", "--panel-size", "40", "64", "--out", str(tmp_path / "frame.png")]) == 0
    assert colours(tmp_path / "frame.png") > 20
