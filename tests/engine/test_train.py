import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_recipes import TinyData, TinyModel, TinyModelConfig, tiny
from torch import nn

from occloom.engine import checkpoint
from occloom.engine.launch import launch
from occloom.engine.train import build_model, build_model_without_memory, fit
from occloom.errors import InputError

HERE = Path(__file__).parent
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(HERE)}


def with_train(**changes):
    return replace(tiny(), train=replace(tiny().train, **changes))


def weights(folder):
    return {name: load_file(folder / name) for name in ("model.safetensors", "ema.safetensors")}


def assert_equal_runs(one, two):
    """Bit for bit: weights, averages, optimiser, losses and scores."""
    folders = [checkpoint.pointed(run, "latest") for run in (one, two)]
    assert folders[0].name == folders[1].name
    first, second = (weights(folder) for folder in folders)
    for name, tensors in first.items():
        assert all(torch.equal(tensor, second[name][key]) for key, tensor in tensors.items())
    states = [checkpoint.load_progress(folder).optimizer["state"] for folder in folders]
    for key, state in states[0].items():
        assert all(torch.equal(value, states[1][key][name]) for name, value in state.items())
    for log in ("losses.csv", "validation.csv", "best"):
        assert (one / log).read_bytes() == (two / log).read_bytes()


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory):
    """An uninterrupted run of the tiny recipe, by the command line, with a worker."""
    run = tmp_path_factory.mktemp("whole") / "run"
    subprocess.run(command(run), env=ENVIRONMENT, check=True, capture_output=True, timeout=100)
    return run


def command(run, *more):
    options = ["--train.workers", "1", "--out", str(run), *more]
    return [sys.executable, "-m", "occloom", "train", "tiny_recipes:tiny", *options]


def test_training_lowers_the_loss(whole_run):
    losses = [float(row.split(",")[1]) for row in (whole_run / "losses.csv").read_text().splitlines()[1:]]
    assert len(losses) == 20
    assert sum(losses[-4:]) < 0.95 * sum(losses[:4])


def test_the_best_is_the_best_of_the_validation_log(whole_run):
    rows = [row.split(",") for row in (whole_run / "validation.csv").read_text().splitlines()[1:]]
    best = max(rows, key=lambda row: float(row[2]))
    assert (whole_run / "best").read_text() == f"step-{int(best[0]):06d}\n"


def test_training_twice_from_one_seed_gives_identical_losses_and_another_seed_others(fabric, tmp_path):
    runs = [tmp_path / name for name in ("one", "two", "other")]
    for run, seed in zip(runs, (4, 4, 5), strict=True):
        fit(with_train(steps=6, seed=seed), run, fabric)
    assert_equal_runs(runs[0], runs[1])
    assert (runs[0] / "losses.csv").read_text() != (runs[2] / "losses.csv").read_text()


def test_workers_and_saving_do_not_change_the_result(fabric, tmp_path):
    fit(with_train(steps=6), tmp_path / "one", fabric)
    fit(with_train(steps=6, workers=2, save_every=1), tmp_path / "two", fabric)
    assert_equal_runs(tmp_path / "one", tmp_path / "two")


@pytest.mark.multiprocess
@pytest.mark.timeout(200)
def test_a_run_that_was_killed_in_mid_epoch_ends_bitwise_equal(whole_run, tmp_path):
    run = tmp_path / "run"
    slow = {**ENVIRONMENT, "TINY_SECONDS": "0.1"}
    with (tmp_path / "output").open("w") as output:
        process = subprocess.Popen(command(run), env=slow, start_new_session=True, stdout=output, stderr=output)
    deadline = time.monotonic() + 100
    # Step 5 is saved; rows beyond it are on the disk, and an epoch has 3.5 steps.
    while not ((run / "losses.csv").exists() and (run / "losses.csv").read_text().count("\n") >= 8):
        assert time.monotonic() < deadline, (tmp_path / "output").read_text()
        assert process.poll() is None, (tmp_path / "output").read_text()
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    stopped = checkpoint.load_progress(checkpoint.pointed(run, "latest")).step
    assert 5 <= stopped < 20
    subprocess.run(command(run), env=ENVIRONMENT, check=True, capture_output=True, timeout=100)
    assert_equal_runs(whole_run, run)


@pytest.mark.parametrize("changes", [{"accumulate": 2}, {"precision": "bf16-mixed"}])
def test_resuming_is_exact_with_every_kind_of_step(fabric, tmp_path, changes):
    fabric = launch(changes.get("precision", "32-true"))
    recipe = with_train(steps=8, save_every=2, keep=9, **changes)
    fit(recipe, tmp_path / "one", fabric)
    # The state after a kill: everything of step 4, rows and folders beyond it.
    fit(recipe, tmp_path / "two", fabric)
    (tmp_path / "two" / "latest").write_text("step-000004\n")
    (tmp_path / "two" / "best").unlink()
    fit(recipe, tmp_path / "two", fabric)
    (tmp_path / "one" / "best").write_bytes((tmp_path / "two" / "best").read_bytes())
    assert_equal_runs(tmp_path / "one", tmp_path / "two")


def test_a_finished_run_is_left_as_it_is(fabric, tmp_path):
    first = fit(with_train(steps=2), tmp_path, fabric)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert fit(with_train(steps=2), tmp_path, fabric) == first
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


@pytest.mark.parametrize(
    ("recipe", "named"),
    [
        (with_train(steps=3), r"train\.steps = 2, this one 3"),
        (replace(with_train(steps=2), model=TinyModelConfig(channels=9)), r"model\.channels = 8, this one 9"),
        (replace(with_train(steps=2), data=TinyData(image_size=(8, 8))), r"data\.image_size"),
    ],
)
def test_a_run_does_not_go_on_with_another_recipe(fabric, tmp_path, recipe, named):
    fit(with_train(steps=2), tmp_path, fabric)
    with pytest.raises(InputError, match=named):
        fit(recipe, tmp_path, fabric)


def test_a_run_goes_on_with_data_in_another_place_and_other_workers(fabric, tmp_path):
    recipe = with_train(steps=2)
    fit(recipe, tmp_path, fabric)
    moved = replace(recipe, data=replace(recipe.data, root=Path("elsewhere")), train=replace(recipe.train, workers=1))
    assert fit(moved, tmp_path, fabric).name == "step-000002"


def test_accumulated_parts_make_the_step_of_the_whole_batch(fabric, tmp_path):
    model, losses = TinyModelConfig(dropout=0.0, norm=False), []
    data = replace(TinyData(), all_observed=True)  # each part's mean is over as many voxels
    for parts in (1, 2, 4):
        recipe = replace(with_train(steps=5, batch_size=4, accumulate=parts), model=model, data=data)
        fit(recipe, tmp_path / str(parts), fabric)
        rows = (tmp_path / str(parts) / "losses.csv").read_text().splitlines()[1:]
        losses.append([float(row.split(",")[1]) for row in rows])
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    assert losses[2] == pytest.approx(losses[0], rel=1e-4)


def test_batches_that_cannot_be_shared_out_bad_data_and_bad_losses_are_one_line(fabric, tmp_path):
    with pytest.raises(InputError, match=r"batch-size is 2; it must be a multiple .* = 3"):
        fit(with_train(accumulate=3), tmp_path / "a", fabric)
    with pytest.raises(InputError, match=r"00/000002\.bin: truncated"):
        fit(replace(tiny(), data=TinyData(broken=2)), tmp_path / "b", fabric)
    with pytest.raises(InputError, match="loss cross_entropy is nan at step"):
        fit(with_train(learning_rate=float("inf")), tmp_path / "c", fabric)


@dataclass(frozen=True)
class PoisonedConfig(TinyModelConfig):
    from_step: int = 4

    def build(self, grid, label_space):
        return Poisoned(self, grid, label_space)


class Poisoned(TinyModel):
    """From a step on the loss is as it was, and its gradient NaN: that of a root at 0."""

    steps = 0

    def loss(self, outputs, target):
        self.steps += 1
        terms = super().loss(outputs, target)
        if self.steps >= self.config.from_step:
            terms["size"] = terms["size"] + (0 * self.temperature).sqrt()
        return terms


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize(
    ("save_every", "left", "named"),
    [(2, 2, "norm of the gradient is nan at step 4"), (3, 3, "loss cross_entropy is nan at step 6")],
)
def test_weights_that_are_no_numbers_are_never_saved(tmp_path, precision, save_every, left, named):
    recipe = with_train(steps=8, save_every=save_every, log_every=99, validate_every=0, precision=precision)
    with pytest.raises(InputError, match=named):
        fit(replace(recipe, model=PoisonedConfig()), tmp_path, launch(precision))
    assert [path.name for path in tmp_path.glob("step-*")] == [f"step-{left:06d}"]
    folder = checkpoint.pointed(tmp_path, "latest")
    assert folder is not None
    assert folder.name == f"step-{left:06d}"
    for tensors in weights(folder).values():
        assert all(bool(tensor.isfinite().all()) for tensor in tensors.values())


def test_clipping_and_the_schedule_reach_the_log(fabric, tmp_path):
    recipe = with_train(steps=4)
    fit(recipe, tmp_path, fabric)
    rows = [row.split(",") for row in (tmp_path / "losses.csv").read_text().splitlines()]
    rates = [float(row[rows[0].index("learning_rate")]) for row in rows[1:]]
    assert rates == [recipe.train.learning_rate * recipe.train.schedule.factor(step, 4) for step in range(4)]
    assert all(float(row[-1]) > 0 for row in rows[1:])


def test_without_clipping_steps_are_those_of_a_norm_that_is_never_reached(fabric, tmp_path):
    weights_of = {}
    for clip in (None, 1e9, 1e-3):
        recipe = with_train(steps=3, clip_norm=clip)
        fit(recipe, tmp_path / str(clip), fabric)
        folder = checkpoint.pointed(tmp_path / str(clip), "latest")
        assert folder is not None
        weights_of[clip] = weights(folder)["model.safetensors"]
    assert all(torch.equal(tensor, weights_of[1e9][name]) for name, tensor in weights_of[None].items())
    assert not all(torch.equal(tensor, weights_of[1e-3][name]) for name, tensor in weights_of[None].items())


def test_weights_depend_on_the_seed_alone():
    torch.manual_seed(1)
    one = build_model(tiny())
    torch.manual_seed(2)
    two = build_model(tiny())
    other = build_model(with_train(seed=1))
    assert torch.equal(one.stem[0].weight, two.stem[0].weight)
    assert not torch.equal(one.stem[0].weight, other.stem[0].weight)


def test_a_model_without_memory_has_the_shapes_of_the_real_one():
    meta, real = build_model_without_memory(tiny()), build_model(tiny())
    assert all(parameter.is_meta for parameter in meta.parameters())
    assert [p.shape for p in meta.parameters()] == [p.shape for p in real.parameters()]


@pytest.mark.multiprocess
@pytest.mark.timeout(150)
def test_two_processes_train_one_model(tmp_path):
    """Each step's loss over two processes is that of one process that sees the same samples in two parts."""
    shared = ["tiny_recipes:tiny", "--model.dropout", "0", "--train.steps", "5", "--train.batch-size", "4"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    two, one = tmp_path / "two", tmp_path / "one"
    for words in (
        [*torchrun, "-m", "occloom", "train", *shared, "--out", str(two)],
        [sys.executable, "-m", "occloom", "train", *shared, "--train.accumulate", "2", "--out", str(one)],
    ):
        subprocess.run(words, env=ENVIRONMENT, check=True, capture_output=True, timeout=100)
    losses = [
        [float(row.split(",")[1]) for row in (run / "losses.csv").read_text().splitlines()[1:]] for run in (one, two)
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_a_run_starts_from_another_ones_weights_and_from_nothing_else_when_it_goes_on(fabric, tmp_path, capsys):
    fit(with_train(steps=4), tmp_path / "first", fabric)
    start = load_file(tmp_path / "first" / "step-000004" / "ema.safetensors")
    frozen = {"steps": 4, "learning_rate": 0.0, "weight_decay": 0.0, "save_every": 2, "validate_every": 0, "keep": 9}
    recipe = replace(with_train(**frozen, start_from=tmp_path / "first"), model=TinyModelConfig(norm=True))
    fit(recipe, tmp_path / "second", fabric)
    assert f"{len(start)} tensors taken from {tmp_path / 'first'}" in capsys.readouterr().err
    second = load_file(tmp_path / "second" / "step-000004" / "model.safetensors")
    for name in ("stem.0.weight", "head.1.weight", "temperature"):
        assert torch.equal(second[name], start[name])
    written = checkpoint.read_description(tmp_path / "second" / "step-000004")["train"]["start_from"]
    assert written == str(tmp_path / "first")
    # What it started from may be gone by the time that it goes on.
    (tmp_path / "first").rename(tmp_path / "gone")
    (tmp_path / "second" / "latest").write_text("step-000002\n")
    fit(recipe, tmp_path / "second", fabric)
    again = load_file(tmp_path / "second" / "step-000004" / "model.safetensors")
    assert all(torch.equal(again[name], second[name]) for name in second)
    with pytest.raises(InputError, match="no such folder"):
        fit(recipe, tmp_path / "third", fabric)


@dataclass(frozen=True)
class PretrainedConfig(TinyModelConfig):
    def build(self, grid, label_space):
        return Pretrained(self, grid, label_space)


class Pretrained(TinyModel):
    """A trunk of ones."""

    def load_trunk_weights(self, source):
        nn.init.constant_(self.stem[0].weight, 1.0 if source == "imagenet" else 2.0)


@pytest.mark.parametrize(("source", "value"), [("imagenet", 1.0), (Path("a.pth"), 2.0), (None, None)])
def test_trunk_weights_are_the_models_business_before_the_first_step(fabric, tmp_path, source, value):
    recipe = with_train(steps=1, learning_rate=0.0, weight_decay=0.0, trunk_weights=source)
    fit(replace(recipe, model=PretrainedConfig()), tmp_path, fabric)
    weight = load_file(tmp_path / "step-000001" / "model.safetensors")["stem.0.weight"]
    assert bool((weight == value).all()) if value else weight.unique().numel() > 1


@dataclass(frozen=True)
class HeirConfig(TinyModelConfig):
    def build(self, grid, label_space):
        return Heir(self, grid, label_space)


class Heir(TinyModel):
    """Takes a layer of the file that it is handed."""

    def load_trunk_weights(self, source):
        self.stem[0].load_state_dict({key: load_file(source)[f"stem.0.{key}"] for key in ("weight", "bias")})


@pytest.mark.parametrize("place", ["", "step-000001"])
def test_trunk_weights_may_be_those_of_a_run(fabric, tmp_path, place):
    fit(with_train(steps=1), tmp_path / "first", fabric)
    source = tmp_path / "first" / place
    recipe = with_train(steps=1, learning_rate=0.0, weight_decay=0.0, trunk_weights=source, seed=1)
    fit(replace(recipe, model=HeirConfig()), tmp_path / "second", fabric)
    first, second = (
        load_file(tmp_path / run / "step-000001" / name)["stem.0.weight"]
        for run, name in (("first", "ema.safetensors"), ("second", "model.safetensors"))
    )
    assert torch.equal(first, second)


def test_a_start_goes_before_trunk_weights(fabric, tmp_path):
    fit(with_train(steps=1), tmp_path / "first", fabric)
    recipe = with_train(
        steps=1, learning_rate=0.0, weight_decay=0.0, trunk_weights="imagenet", start_from=tmp_path / "first"
    )
    fit(replace(recipe, model=PretrainedConfig()), tmp_path / "second", fabric)
    first, second = (
        load_file(tmp_path / run / "step-000001" / name)
        for run, name in (("first", "ema.safetensors"), ("second", "model.safetensors"))
    )
    assert torch.equal(first["stem.0.weight"], second["stem.0.weight"])


def test_a_model_without_pretrained_trunk_says_so(fabric, tmp_path):
    with pytest.raises(InputError, match="TinyModel takes no trunk weights"):
        fit(with_train(steps=1, trunk_weights="imagenet"), tmp_path, fabric)
