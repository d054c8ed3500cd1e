"""Train, stop, go on, evaluate, predict and draw: VoxFormer on the town, at its smallest widths."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from occloom.cli.main import run

WIDTHS = (
    *("--model.trunk.width", "8", "--model.channels", "8", "--model.volume-coarsening", "8", "8", "8"),
    *("--model.lifting.layers", "1", "--model.lifting.heads", "2", "--model.lifting.points", "1"),
    *("--model.refinement.layers", "1", "--model.refinement.heads", "2", "--model.refinement.points", "1"),
    *("--model.loss-stride", "8", "--data.image-size", "32", "96"),
)


@pytest.fixture(scope="module")
def town_queries(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Queries as VoxFormer's authors publish them: one bit a voxel, most significant first, the scores in the name."""
    folder, rng = tmp_path_factory.mktemp("town_queries"), np.random.default_rng(0)
    for sequence in ("00", "01"):
        for frame in ("000000", "000005"):
            path = folder / sequence / "queries" / f"{frame}.query_iou5203_pre7712_rec6153"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(np.packbits(rng.random(128 * 128 * 16) < 0.07).tobytes())
    return folder


def test_every_command_works_for_it(tiny_town: Path, town_queries: Path, tmp_path: Path):
    """VoxFormer-T, some of whose frames the town's first scans do not have; S is the same with one frame."""
    root = ["--data.root", str(tiny_town), "--data.train", "00", "--data.val", "01"]
    where = [*root, "--data.queries", str(town_queries)]
    few = ["--train.steps", "2", "--train.save-every", "1", "--train.validate-every", "2", "--train.workers", "0"]
    words = [
        "train",
        "voxformer-t-town",
        *where,
        *WIDTHS,
        *few,
        "--train.validate-samples",
        "1",
        "--train.batch-size",
        "1",
    ]
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert run([*words, "--out", str(whole)]) == 0
    # As a kill leaves it: the second step's rows are written, its weights are not.
    shutil.copytree(whole, stopped)
    shutil.rmtree(stopped / "step-000002")
    (stopped / "best").unlink()
    (stopped / "latest").write_text("step-000001\n")
    assert run([*words, "--out", str(stopped)]) == 0
    for name in ("step-000002/model.safetensors", "losses.csv"):
        assert (stopped / name).read_bytes() == (whole / name).read_bytes()

    assert run(["evaluate", str(stopped), *where, "--workers", "0", "--out", str(tmp_path / "r.json")]) == 0
    assert np.sum(json.loads((tmp_path / "r.json").read_text())["confusion"]) > 0

    out = tmp_path / "out"
    assert run(["predict", str(stopped), *where, "--out", str(out), "--tokens", "01/000005", "--picture"]) == 0
    prediction = out / "sequences" / "01" / "predictions" / "000005.label"
    words = ["render", str(prediction), "--root", str(tiny_town), "--token", "01/000005"]
    assert run([*words, "--panel-size", "40", "64", "--out", str(tmp_path / "frame.png")]) == 0
    for picture in (out / "pictures" / "01_000005.png", tmp_path / "frame.png"):
        with Image.open(picture) as drawn:
            assert len(np.unique(np.asarray(drawn.convert("RGB")).reshape(-1, 3), axis=0)) > 20


def test_missing_queries_are_named(tiny_town: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    words = ["--data.root", str(tiny_town), "--data.queries", str(tmp_path / "nowhere"), "--data.train", "00"]
    assert run(["train", "voxformer-s-town", *words, "--out", str(tmp_path / "run")]) != 0
    said = capsys.readouterr().err
    assert "nowhere" in said
    assert "occloom prepare queries" in said
