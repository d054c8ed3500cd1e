import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from occloom.cli.evaluate import report_text
from occloom.cli.main import run
from occloom.metrics.protocols import SEMANTICKITTI

ENGINE_TESTS = Path(__file__).parents[1] / "engine"


def evaluate(run_folder, tmp_path, *words):
    out = tmp_path / "results.json"
    assert run(["evaluate", str(run_folder), "--out", str(out), *words]) == 0
    return json.loads(out.read_text())


def test_the_report_holds_scores_and_their_origin(tiny_run, tmp_path, capsys):
    report = evaluate(tiny_run, tmp_path)
    assert report["recipe"] == "tiny_recipes:tiny"
    assert Path(report["checkpoint"]).parent == tiny_run
    assert (report["frames"], report["split"], report["shuffled_images"]) == (5, "val", False)
    assert set(report) >= {"commit", "seed", "iou", "miou", "per_class", "by_distance", "by_height", "confusion"}
    printed = capsys.readouterr().out
    assert SEMANTICKITTI.card() in printed
    assert f"miou       {100 * report['miou']:6.2f}" in printed


def test_the_score_of_the_best_step_is_the_one_validation_saw(tiny_run, tmp_path):
    report = evaluate(tiny_run, tmp_path)
    rows = [row.split(",") for row in (tiny_run / "validation.csv").read_text().splitlines()[1:]]
    assert report["miou"] == max(float(row[2]) for row in rows)


def test_split_samples_and_protocol_can_be_chosen(tiny_run, tmp_path):
    assert evaluate(tiny_run, tmp_path, "--split", "train")["frames"] == 7
    assert evaluate(tiny_run, tmp_path, "--samples", "2", "--workers", "0")["frames"] == 2
    assert evaluate(tiny_run, tmp_path, "--protocol", "monoscene")["protocol"] == "monoscene"


def test_the_root_has_a_short_name(tiny_run, tmp_path):
    assert evaluate(tiny_run, tmp_path, "--root", "elsewhere")["root"] == "elsewhere"
    assert evaluate(tiny_run, tmp_path, "--data.root", "elsewhere")["root"] == "elsewhere"


def test_shuffled_images_change_predictions_and_not_the_truth(tiny_run, tmp_path):
    plain, shuffled = evaluate(tiny_run, tmp_path), evaluate(tiny_run, tmp_path, "--shuffle-images")
    assert shuffled["shuffled_images"]
    assert [sum(row) for row in plain["confusion"]] == [sum(row) for row in shuffled["confusion"]]
    assert plain["confusion"] != shuffled["confusion"]


def test_a_missing_checkpoint_is_one_line(tmp_path, capsys):
    assert run(["evaluate", str(tmp_path / "nowhere")]) == 2
    assert "no such folder" in capsys.readouterr().err
    assert run(["evaluate"]) == 2
    assert "occloom evaluate --help" in capsys.readouterr().err


def test_undefined_scores_are_dashes():
    scores = {"iou": None, "precision": 0.0, "recall": 0.5, "miou": 0.25, "per_class": {"car": None}}
    text = report_text({"frames": 1, "mask": "all voxels", **scores, "by_distance": [], "by_height": []})
    assert "iou             -" in text
    assert "recall      50.00" in text
    assert "mask       all voxels" in text


@pytest.mark.multiprocess
@pytest.mark.timeout(600)  # three times several processes that import PyTorch, on cores that others may use
def test_counts_are_identical_on_one_two_and_three_processes(tiny_run, tmp_path):
    """Five frames: neither two nor three processes share them evenly."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ENGINE_TESTS)}
    reports = []
    for processes in ("1", "2", "3"):
        out = tmp_path / f"{processes}.json"
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", processes]
        words = ["-m", "occloom", "evaluate", str(tiny_run), "--workers", "0", "--out", str(out)]
        done = subprocess.run(
            [*torchrun, *words], env=environment, capture_output=True, text=True, timeout=180, check=False
        )
        assert done.returncode == 0, done.stderr
        # The checkout may change between two processes, and the commit with it.
        reports.append({key: value for key, value in json.loads(out.read_text()).items() if key != "commit"})
    assert reports[0]["frames"] == 5
    assert reports[0]["confusion"] == reports[1]["confusion"] == reports[2]["confusion"]
    assert reports[0] == reports[1] == reports[2]
