from pathlib import Path

import pytest

from occloom.engine.logs import CsvLog, RunLog


def rows(path):
    return path.read_text().splitlines()


def test_a_log_that_goes_on_holds_every_step_once(tmp_path):
    path = tmp_path / "log.csv"
    log = CsvLog(path, first_step=0)
    for step in range(1, 6):
        log.add(step, {"loss": 0.1 * step})
    log.close()
    whole = path.read_bytes()
    path.write_bytes(whole + b"6,0.6")  # killed in mid-row
    log = CsvLog(path, first_step=3)
    for step in range(4, 6):
        log.add(step, {"loss": 0.1 * step})
    log.close()
    assert path.read_bytes() == whole


def test_a_log_that_begins_anew_forgets_what_was_there(tmp_path):
    path = tmp_path / "log.csv"
    path.write_text("step,loss\n1,0.5\n")
    log = CsvLog(path, first_step=0)
    log.add(1, {"error": 0.25})
    log.close()
    assert rows(path) == ["step,error", "1,0.25"]


def test_a_process_killed_while_a_log_is_taken_up_leaves_its_rows(tmp_path, monkeypatch):
    path = tmp_path / "log.csv"
    path.write_text("step,loss\n1,0.5\n2,0.25\n")

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as killing:
        killing.setattr(Path, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            CsvLog(path, first_step=1)
    assert rows(path) == ["step,loss", "1,0.5", "2,0.25"]
    CsvLog(path, first_step=1).close()
    assert rows(path) == ["step,loss", "1,0.5"]
    assert list(tmp_path.iterdir()) == [path]


def test_floats_read_back_exactly(tmp_path):
    log = CsvLog(tmp_path / "log.csv", first_step=0)
    values = [1 / 3, 1e-300, 2.0**-1074, 12345678.9]
    for step, value in enumerate(values, start=1):
        log.add(step, {"loss": value})
    log.close()
    assert [float(row.split(",")[1]) for row in rows(tmp_path / "log.csv")[1:]] == values


def test_a_run_writes_losses_scores_and_tensorboard(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with RunLog(tmp_path, first_step=0, steps=2) as log:
        log.add_losses(1, {"a": 1.0, "b": 0.5}, rate=0.1, norm=2.0)
        log.add_scores(2, {"iou": 0.5, "miou": 0.25}, "occ3d, camera mask")
        log.sync()
    assert rows(tmp_path / "losses.csv") == ["step,loss,a,b,learning_rate,gradient_norm", "1,1.5,1.0,0.5,0.1,2.0"]
    assert rows(tmp_path / "validation.csv") == ["step,iou,miou", "2,0.5,0.25"]
    board = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [event.value for event in board.Scalars("train/loss")] == [1.5]
    assert [event.step for event in board.Scalars("validation/miou")] == [2]
