"""One training run, from a recipe to a folder of checkpoints."""

import math
import sys
import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from occloom.engine import checkpoint
from occloom.engine.average import start_average, update_average
from occloom.engine.config import Recipe, TrainConfig
from occloom.engine.evaluate import count, evenly_spaced
from occloom.engine.loading import BatchOrder, training_batches
from occloom.engine.logs import RunLog
from occloom.errors import InputError
from occloom.interfaces import OccupancyModel, SceneDataset
from occloom.metrics.protocols import OccupancyScores
from occloom.scene import Sample


class TrainStep(nn.Module):
    """A sample in, named losses out: what must run inside DDP's forward, because losses may have parameters."""

    def __init__(self, model: OccupancyModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, sample: Sample) -> dict[str, Float[Tensor, ""]]:
        """The model's losses.

        Raises:
            InputError: If the sample has no labels.
        """
        if sample.target is None:
            raise InputError(f"{sample.tokens[0]} has no labels", rule="only labelled frames can be trained on")
        return self.model.loss(self.model(sample.scene), sample.target)


@dataclass
class State:
    """What changes while a run goes on; `checkpoint.save` writes all of it."""

    model: OccupancyModel
    average: OccupancyModel
    optimizer: torch.optim.AdamW
    step: int = 0
    best_miou: float = -1.0
    seconds: float = 0.0


def fit(recipe: Recipe, run: Path, fabric: Fabric) -> Path:
    """Train a recipe in a run folder, or go on where that folder's latest checkpoint stands.

    The result, weights and logs, is the same bit for bit however often the run was stopped, on the same machine,
    thread count and number of processes.

    Args:
        recipe: Model, data and training.
        run: Folder of the checkpoints and logs.
        fabric: As `launch` returns it.

    Returns:
        The folder of the last step's checkpoint.

    Raises:
        InputError: If the folder holds a run of another recipe, the batch cannot be shared out, or data is bad.
    """
    config, model = recipe.train, build_model(recipe)
    description = checkpoint.describe(recipe, model.grid, model.label_space)
    latest = checkpoint.pointed(run, "latest")
    if latest is None:
        _take_weights(model, config, fabric)
    state = _start(model.to(fabric.device), config)
    if latest is not None:
        _refuse_other_recipe(checkpoint.read_description(latest), description, run)
        _resume(state, latest, fabric)
    if state.step < config.steps:
        _train(recipe, run, fabric, state, description)
    folder = checkpoint.pointed(run, "latest")
    assert folder is not None
    return folder


def _train(recipe: Recipe, run: Path, fabric: Fabric, state: State, description: dict[str, Any]) -> None:
    """All steps that are left, in the order in which they happen."""
    config = recipe.train
    train_data = recipe.data.build("train", state.model.needs)
    val_data = recipe.data.build("val", state.model.needs) if config.validate_every else None
    order = _batch_order(config, len(train_data), state.step, fabric)
    pin_memory = fabric.device.type == "cuda"
    batches = training_batches(train_data, order, workers=config.workers, pin_memory=pin_memory)
    train_step = _parallel(TrainStep(state.model.train()), fabric)
    optimizer: Any = fabric.setup_optimizers(state.optimizer)
    log = RunLog(run, first_step=state.step, steps=config.steps) if fabric.is_global_zero else None
    started = time.monotonic() - state.seconds

    with log or nullcontext():
        for step in range(state.step, config.steps):
            rate = config.learning_rate * config.schedule.factor(step, config.steps)
            for group in state.optimizer.param_groups:
                group["lr"] = rate
            # Dropout and the like: a function of the step, so that a resumed run draws what it would have drawn.
            torch.manual_seed(_mixed(config.seed, step, fabric.global_rank))

            parts = []
            for part in range(config.accumulate):
                sample = next(batches).to(fabric.device)
                with _synced(train_step, last=part == config.accumulate - 1):
                    with fabric.autocast():
                        losses = train_step(sample)
                        loss = torch.stack(list(losses.values())).sum()
                    fabric.backward(loss / config.accumulate)
                parts.append({name: value.detach() for name, value in losses.items()})

            # An infinite one clips nothing; the norm is logged either way.
            most = math.inf if config.clip_norm is None else config.clip_norm
            norm: Any = fabric.clip_gradients(state.model, state.optimizer, max_norm=most, error_if_nonfinite=False)
            optimizer.step()
            optimizer.zero_grad()
            update_average(state.average, state.model, decay=config.ema_decay, step=step)
            state.step = step + 1
            state.seconds = time.monotonic() - started

            logs = _due(state.step, config.log_every, config.steps)
            validates = val_data is not None and _due(state.step, config.validate_every, config.steps)
            saves = _due(state.step, config.save_every, config.steps)
            if logs or validates or saves:
                terms = _mean_terms(parts, fabric)
                _refuse_nan(terms, float(norm), config, state.step)
                if logs and log is not None:
                    log.add_losses(state.step, terms, rate=rate, norm=float(norm))

            best = False
            if val_data is not None and validates:
                scores = _validate(recipe, state, val_data, fabric)
                best = scores.miou > state.best_miou
                state.best_miou = max(scores.miou, state.best_miou)
                if log is not None:
                    log.add_scores(state.step, {"iou": scores.iou, "miou": scores.miou}, recipe.scored_by.title)

            if best or saves:
                if log is not None:
                    log.sync()
                    _save(run, state, description, fabric, best=best, keep=config.keep)
                fabric.barrier()


def build_model(recipe: Recipe) -> OccupancyModel:
    """The recipe's model with random weights, which depend on the seed alone.

    Raises:
        InputError: If the model's sizes do not fit together, or not the data's grid.
    """
    with torch.random.fork_rng():
        torch.manual_seed(recipe.train.seed)
        try:
            return recipe.model.build(recipe.data.grid, recipe.data.label_space)
        except ValueError as error:
            raise InputError(f"{recipe.name} cannot be built: {error}", remedy="change --model or --data") from error


def build_model_without_memory(recipe: Recipe) -> OccupancyModel:
    """The recipe's model on the meta device: shapes without values, made in no time."""
    with torch.device("meta"):
        return build_model(recipe)


def _take_weights(model: OccupancyModel, config: TrainConfig, fabric: Fabric) -> None:
    """Put the weights of others in the place of random ones, as the training names them; say which on stderr.

    Raises:
        InputError: If there are none, or they do not fit.
    """
    if config.trunk_weights is not None:
        source = config.trunk_weights
        if source != "imagenet" and source.is_dir():
            source = checkpoint.weights_file(source)
        model.load_trunk_weights(source)
        _say(f"trunk: weights of {source}", fabric)
    if config.start_from is not None:
        _say(f"start: {checkpoint.take_weights(model, config.start_from)}", fabric)


def _say(line: str, fabric: Fabric) -> None:
    """Print a line on stderr, on the first process alone."""
    if fabric.is_global_zero:
        print(line, file=sys.stderr)


def _start(model: OccupancyModel, config: TrainConfig) -> State:
    """The state before the first step."""
    decayed = [p for p in model.parameters() if p.requires_grad and p.ndim >= 2]
    others = [p for p in model.parameters() if p.requires_grad and p.ndim < 2]
    groups = [
        {"params": decayed, "weight_decay": config.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW([group for group in groups if group["params"]], lr=config.learning_rate)
    return State(model=model, average=start_average(model), optimizer=optimizer)


def _resume(state: State, folder: Path, fabric: Fabric) -> None:
    """Take over a checkpoint."""
    checkpoint.load_weights(state.model, folder / "model.safetensors")
    checkpoint.load_weights(state.average, folder / "ema.safetensors")
    progress = checkpoint.load_progress(folder)
    state.optimizer.load_state_dict(progress.optimizer)
    fabric.strategy.precision.load_state_dict(progress.scaler)
    state.step, state.best_miou, state.seconds = progress.step, progress.best_miou, progress.seconds


def _refuse_other_recipe(old: dict[str, Any], new: dict[str, Any], run: Path) -> None:
    """Refuse to go on with a run whose result would differ; where data lies and who loads it does not matter."""
    for part in ("recipe", "model", "data", "train", "grid", "label_space"):
        mine, theirs = new[part], old[part]
        names = set(mine) | set(theirs) if isinstance(mine, dict) else {""}
        for name in sorted(names - {"root", "workers"}):
            before, now = (theirs.get(name), mine.get(name)) if name else (theirs, mine)
            if before != now:
                raise InputError(
                    f"the run there has {part}{'.' if name else ''}{name} = {before}, this one {now}",
                    where=run,
                    rule="a run goes on with its own recipe only",
                    remedy="name another --out, or remove the folder",
                )


def _save(run: Path, state: State, description: dict[str, Any], fabric: Fabric, *, best: bool, keep: int) -> None:
    """Write a checkpoint, then move the pointers; `latest` moves last, so that a killed run repeats the rest."""
    progress = checkpoint.Progress(
        step=state.step,
        best_miou=state.best_miou,
        seconds=state.seconds,
        optimizer=state.optimizer.state_dict(),
        scaler=fabric.strategy.precision.state_dict(),
    )
    folder = checkpoint.save(
        run, weights=state.model, average=state.average, description=description, progress=progress
    )
    if best:
        checkpoint.point(run, "best", folder)
    checkpoint.point(run, "latest", folder)
    checkpoint.prune(run, keep)


def _validate(recipe: Recipe, state: State, samples: SceneDataset, fabric: Fabric) -> OccupancyScores:
    """Score the averaged weights."""
    indices = evenly_spaced(len(samples), recipe.train.validate_samples)
    counts = count(state.average, samples, fabric, indices=indices, workers=recipe.train.workers)
    return recipe.scored_by.scores(counts.total)


def _batch_order(config: TrainConfig, num_samples: int, first_step: int, fabric: Fabric) -> BatchOrder:
    """This process's part of all steps that are left.

    Raises:
        InputError: If the batch cannot be shared out evenly.
    """
    shares = fabric.world_size * config.accumulate
    if config.batch_size % shares:
        raise InputError(
            f"train.batch-size is {config.batch_size}",
            rule=f"it must be a multiple of processes x train.accumulate = {shares}",
        )
    if not num_samples:
        raise InputError("the training split has no samples", remedy="check --data.root")
    return BatchOrder(
        num_samples=num_samples,
        batch_size=config.batch_size,
        parts=config.accumulate,
        first_step=first_step,
        last_step=config.steps,
        seed=config.seed,
        rank=fabric.global_rank,
        world=fabric.world_size,
    )


def _parallel(step: TrainStep, fabric: Fabric) -> nn.Module:
    """The step, its gradients averaged over processes where there are several.

    Fabric's own wrapper refuses frozen dataclasses, so DDP is put on by hand. Batch norms share their statistics on
    GPUs only, as PyTorch has no such norm for CPUs; there those of the first process are kept.
    """
    if fabric.world_size == 1:
        return step
    if fabric.device.type == "cuda":
        return DistributedDataParallel(nn.SyncBatchNorm.convert_sync_batchnorm(step), device_ids=[fabric.device])
    return DistributedDataParallel(step)


def _synced(step: nn.Module, *, last: bool) -> AbstractContextManager[None]:
    """Let processes exchange gradients in the last part of a step only."""
    return step.no_sync() if isinstance(step, DistributedDataParallel) and not last else nullcontext()


def _mean_terms(parts: list[dict[str, Tensor]], fabric: Fabric) -> dict[str, float]:
    """Each loss term, averaged over the parts of a step and over the processes."""
    names = list(parts[0])
    values = torch.stack([torch.stack([part[name].float() for name in names]) for part in parts]).mean(0)
    means = fabric.all_reduce(values, reduce_op="mean")
    assert isinstance(means, Tensor)
    return dict(zip(names, means.tolist(), strict=True))


def _refuse_nan(terms: dict[str, float], norm: float, config: TrainConfig, step: int) -> None:
    """Stop a run that cannot recover, before its weights are saved.

    In 16-mixed a gradient may overflow: the scaler then leaves the step out.
    """
    values = {f"loss {name}": value for name, value in terms.items()}
    if config.precision != "16-mixed":
        values["norm of the gradient"] = norm
    wrong = [name for name, value in values.items() if not math.isfinite(value)]
    if wrong:
        raise InputError(
            f"the {wrong[0]} is {values[wrong[0]]} at step {step}",
            rule="a finite number is expected",
            remedy="lower --train.learning-rate or --train.clip-norm; the last checkpoint is as it was",
        )


def _due(step: int, every: int, steps: int) -> bool:
    """Whether something that happens every so many steps, and at the end, happens after this step."""
    return step == steps or (every > 0 and step % every == 0)


def _mixed(*numbers: int) -> int:
    """One seed of several numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0])
