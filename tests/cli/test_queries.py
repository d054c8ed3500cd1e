import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from occloom.cli.main import run
from occloom.cli.queries import CorrectedQueries
from occloom.data.kitti_files import KittiFrame
from occloom.data.packed_volumes import PSEUDO_VOXELS, QUERIES, open_volumes
from occloom.data.queries import RawQueries
from occloom.inference import load_model
from occloom.interfaces import Needs
from occloom.models.lmscnet import LmscNet, LmscNetConfig
from occloom.recipes import resolve

SEQUENCES = ["--data.train", "00", "01", "--data.val", "02"]
SMALL = ["--model.widths", "4", "4", "4", "4", "--model.head-width", "2", "--train.steps", "2"]


@pytest.fixture(scope="module")
def prepared(tiny_town: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Depth and pseudo voxels of the tiny town; do not write into it."""
    folder = tmp_path_factory.mktemp("prepared")
    depth, pseudo = folder / "depth", folder / "pseudo"
    assert run(["prepare", "depth", "--root", str(tiny_town), "--out", str(depth), "--workers", "1"]) == 0
    words = ["--root", str(tiny_town), "--depth", str(depth), "--out", str(pseudo), "--workers", "1"]
    assert run(["prepare", "pseudo-voxels", *words]) == 0
    return folder


@pytest.fixture(scope="module")
def query_run(tiny_town: Path, prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of a narrow query network."""
    before = torch.are_deterministic_algorithms_enabled()
    folder = tmp_path_factory.mktemp("query_run") / "run"
    data = ["--data.root", str(tiny_town), "--data.pseudo-voxels", str(prepared / "pseudo"), *SEQUENCES]
    words = ["--train.validate-every", "0", "--train.workers", "0", "--out", str(folder)]
    assert run(["train", "voxformer-queries-town", *data, *SMALL, *words]) == 0
    torch.use_deterministic_algorithms(before)
    return folder


def test_raw_queries_are_prepared_for_every_sequence(tiny_town: Path, prepared: Path, tmp_path: Path):
    words = ["--root", str(tiny_town), "--pseudo-voxels", str(prepared / "pseudo"), "--out", str(tmp_path / "raw")]
    assert run(["prepare", "queries", *words]) == 0
    queries = open_volumes(QUERIES, tiny_town, tmp_path / "raw")
    pseudo = open_volumes(PSEUDO_VOXELS, tiny_town, prepared / "pseudo")
    frames = queries.frames(tiny_town, ())
    assert [frame.token for frame in frames] == [f"{s}/{n}" for s in ("00", "01", "02") for n in ("000000", "000005")]
    for frame in frames:
        assert torch.equal(queries.read(frame), RawQueries().queries(pseudo.read(frame)))
    written = tmp_path / "raw" / QUERIES.entry(frames[0])
    at = written.stat().st_mtime_ns
    assert run(["prepare", "queries", *words]) == 0
    assert written.stat().st_mtime_ns == at


def test_a_query_network_is_scored_corrects_queries_and_predicts_the_same(
    tiny_town: Path, prepared: Path, query_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    results, out, corrected = tmp_path / "results.json", tmp_path / "predicted", tmp_path / "corrected"
    words = ["--root", str(tiny_town), "--out"]
    assert run(["evaluate", str(query_run), *words, str(results), "--workers", "0"]) == 0
    printed = capsys.readouterr().out
    assert "128x128x16 voxels of 0.4 m" in printed
    report = json.loads(results.read_text())
    assert report["protocol"] == "queries"
    assert report["frames"] == 2
    assert set(report["per_class"]) == {"empty", "occupied"}
    (_, wrong), (missed, hit) = report["confusion"]
    assert report["recall"] == pytest.approx(hit / (hit + missed))
    assert report["precision"] == pytest.approx(hit / max(1, hit + wrong))
    assert report["iou"] == pytest.approx(report["miou"], abs=1e-6)

    assert run(["predict", str(query_run), *words, str(out), "--picture"]) == 0
    assert len(list((out / "pictures").glob("*.png"))) == 2
    pseudo = ["--pseudo-voxels", str(prepared / "pseudo"), "--network", str(query_run), "--sequences", "02"]
    assert run(["prepare", "queries", *words, str(corrected), *pseudo]) == 0
    for name in ("000000", "000005"):
        frame = KittiFrame(tiny_town, "02", name)
        predicted, prepared_ones = (open_volumes(QUERIES, tiny_town, f).read(frame) for f in (out, corrected))
        assert torch.equal(predicted, prepared_ones)


def test_other_weights_have_another_key(query_run: Path):
    network = load_model(query_run)
    assert isinstance(network, LmscNet)
    before = CorrectedQueries(network).settings
    assert CorrectedQueries(network).settings == before
    network.say_half.weight.data[0, 0, 0, 0] += 1
    assert CorrectedQueries(network).settings != before


def test_mistakes_give_one_line_and_code_2(
    tiny_town: Path, tiny_drives: Path, prepared: Path, tiny_run: Path, tmp_path: Path, capsys
):
    root, pseudo = ["--root", str(tiny_town)], ["--pseudo-voxels", str(prepared / "pseudo")]
    depth, out = ["--depth", str(prepared / "depth")], ["--out", str(tmp_path / "out")]
    there = ["--out", str(prepared / "pseudo")]
    for words, named in (
        (["queries", *root], "no pseudo voxels; run `occloom prepare pseudo-voxels"),
        (["queries", *root, *pseudo, "--network", str(tiny_run), *out], "holds a TinyModel"),
        (["queries", *root, *pseudo, "--sequences", "07", *out], "no pseudo voxels of sequence 07"),
        (["pseudo-voxels", *root, "--depth", str(tmp_path / "nowhere"), *out], "no depth of 00/000000"),
        (["pseudo-voxels", *root, *depth, "--scans", "0", *out], "--scans is 0"),
        (["pseudo-voxels", *root, *depth, "--scans", "5", *there], "setting scans 10, wanted 5"),
        (["pseudo-voxels", "--root", str(tiny_drives), *out], "not SemanticKITTI's layout"),
    ):
        capsys.readouterr()
        assert run(["prepare", *words]) == 2
        error = capsys.readouterr().err
        assert named in error
        assert error.count("\n") == 1


@pytest.mark.real_data
@pytest.mark.slow
def test_real_frames_give_queries_and_a_query_network_reads_them(real_data: Path, tmp_path: Path):
    """Frames without a right picture get no depth; 08/000005 has five scans before it that have both pictures."""
    root = real_data / "semantickitti"
    depth, pseudo, queries = (tmp_path / name for name in ("depth", "pseudo", "queries"))
    where = ["--root", str(root), "--workers", "1"]
    assert run(["prepare", "depth", *where, "--frames", "pictures", "--out", str(depth)]) == 0
    assert run(["prepare", "pseudo-voxels", *where, "--depth", str(depth), "--out", str(pseudo)]) == 0
    words = ["--root", str(root), "--pseudo-voxels", str(pseudo), "--out", str(queries)]
    assert run(["prepare", "queries", *words]) == 0
    config = replace(resolve("voxformer-queries-semantickitti").data, root=root, pseudo_voxels=pseudo, queries=queries)
    data = config.build("val", Needs(images=False, pseudo_voxels=True, proposals=True))
    assert data.tokens == ("08/000000", "08/000005")
    first, second = (data.sample(index).scene for index in range(2))
    assert second.pseudo_voxels.sum() > 2 * first.pseudo_voxels.sum() > 0
    network = LmscNetConfig(widths=(4, 4, 4, 4), head_width=2).build(config.grid, config.label_space)
    assert network(second).logits.shape == (1, 2, 128, 128, 16)
