"""What a run is: frozen dataclasses, and their way to JSON and back.

JSON holds no class names: it is read against a base instance of the same recipe, whose own types say how.
"""

import math
import types
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from occloom.errors import InputError
from occloom.interfaces import DataConfig, MaskedData, ModelConfig
from occloom.metrics.protocols import OCC3D_BY_MASK, SEMANTICKITTI, ScoringProtocol

Config = TypeVar("Config")


@dataclass(frozen=True)
class OneCycle:
    """Learning rate that rises along half a cosine, then falls along another (Smith and Topin, 2018)."""

    warmup: float = 0.1
    """Share of the steps in which the rate rises."""
    start: float = 0.04
    """First rate as a share of the highest."""
    end: float = 1e-4
    """Last rate as a share of the highest."""

    def factor(self, step: int, steps: int) -> float:
        """Share of the highest rate at `step` of `steps`."""
        rise = self.warmup * steps
        if step < rise:
            return self.start + (1 - self.start) * _half_cosine(step / rise)
        return 1 - (1 - self.end) * _half_cosine((step - rise) / max(steps - rise, 1))


@dataclass(frozen=True)
class Cosine:
    """Learning rate that rises linearly, then falls along half a cosine (Loshchilov and Hutter, 2017)."""

    warmup: float = 0.02
    """Share of the steps in which the rate rises."""
    end: float = 0.0
    """Last rate as a share of the highest."""

    def factor(self, step: int, steps: int) -> float:
        """Share of the highest rate at `step` of `steps`."""
        rise = self.warmup * steps
        if step < rise:
            return (step + 1) / (rise + 1)
        return 1 - (1 - self.end) * _half_cosine((step - rise) / max(steps - rise, 1))


@dataclass(frozen=True)
class Constant:
    """Learning rate that rises linearly over the first steps, then stays: BEVDet's."""

    warmup_steps: int = 200
    """In which the rate rises."""
    start: float = 0.001
    """First rate as a share of the highest."""

    def factor(self, step: int, steps: int) -> float:  # noqa: ARG002
        """Share of the highest rate at `step` of `steps`."""
        if step < self.warmup_steps:
            return self.start + (1 - self.start) * step / self.warmup_steps
        return 1.0


def _half_cosine(progress: float) -> float:
    """From 0 to 1 along half a cosine."""
    return 0.5 - 0.5 * math.cos(math.pi * min(progress, 1.0))


@dataclass(frozen=True)
class TrainConfig:
    """How a model is fitted."""

    steps: int = 1000
    """Optimiser steps of the whole run."""
    batch_size: int = 2
    """Samples an optimiser step, over all processes and accumulated parts together."""
    accumulate: int = 1
    """Parts into which each process cuts its share of a batch, to save memory."""
    learning_rate: float = 3e-4
    """The highest rate of the schedule."""
    weight_decay: float = 0.01
    """AdamW's, on tensors of two or more axes; biases and norms have none."""
    schedule: OneCycle | Cosine | Constant = OneCycle()
    """How the learning rate moves over the steps."""
    clip_norm: float | None = 35.0
    """Largest norm of the gradient; None clips nothing."""
    ema_decay: float = 0.99
    """Of the moving average of the weights, which is what is validated and shipped; 0 keeps the weights themselves."""
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"
    """Of the forward pass; the weights stay float32."""
    workers: int = 1
    """Processes that load samples, for each training process; 0 loads in the training process. No effect on results."""
    validate_every: int = 500
    """Steps between two validations; 0 for none. The best by mIoU is kept."""
    validate_samples: int = 0
    """Validate on that many samples, evenly spaced; 0 for all."""
    save_every: int = 200
    """Steps between two checkpoints; the last step is always saved."""
    keep: int = 2
    """Newest checkpoints to keep, besides the best."""
    log_every: int = 10
    """Steps between two rows of the log."""
    seed: int = 0
    """Of the weights, the batch order, the augmentation and dropout."""
    start_from: Path | None = None
    """A run folder, checkpoint folder or .safetensors file: the first step begins with its tensors that this model has
    too, by name and shape."""
    trunk_weights: Literal["imagenet"] | Path | None = None
    """Weights of the image trunk before the first step: a file, a run or checkpoint folder of any model with such a
    trunk, or "imagenet" for those of its authors. What start_from holds goes before them."""

    def __post_init__(self) -> None:
        counts = ("steps", "batch_size", "accumulate", "save_every", "keep", "log_every")
        others = ("learning_rate", "weight_decay", "ema_decay", "workers", "validate_every", "validate_samples", "seed")
        for names, least in ((counts, 1), (others, 0)):
            for name in names:
                if not getattr(self, name) >= least:
                    raise InputError(f"train.{name} is {getattr(self, name)}", rule=f"it must be at least {least}")
        if self.clip_norm is not None and not 0 < self.clip_norm < math.inf:
            raise InputError(f"train.clip_norm is {self.clip_norm}", rule="it is a number above 0, or None for none")


@dataclass(frozen=True)
class Recipe:
    """A complete run: which model, which data, how fitted."""

    name: str
    """A name of `occloom recipes`, or `package.module:function` of an importable recipe function."""
    model: ModelConfig
    """Which model, and its knobs."""
    data: DataConfig
    """Which benchmark, and where it lies."""
    train: TrainConfig
    """How it is fitted."""
    protocol: ScoringProtocol = SEMANTICKITTI
    """By which it is validated and evaluated; part of the recipe function, not of the JSON."""

    @property
    def scored_by(self) -> ScoringProtocol:
        """The protocol, of the mask that the data validates by where it can choose."""
        if self.protocol in OCC3D_BY_MASK.values() and isinstance(self.data, MaskedData):
            return OCC3D_BY_MASK[self.data.val_mask]
        return self.protocol


def to_json(config: object) -> Any:
    """A dataclass as plain JSON values: no class names, paths as strings, tuples as lists."""
    if is_dataclass(config) and not isinstance(config, type):
        return {field.name: to_json(getattr(config, field.name)) for field in fields(config)}
    if isinstance(config, tuple | list):
        return [to_json(item) for item in config]
    return str(config) if isinstance(config, Path) else config


def from_json(base: Config, values: Any, *, where: Path | str, prefix: str = "") -> Config:
    """`base` with the fields that `values` names replaced, by the types that `base` declares.

    Args:
        base: A frozen dataclass; a field that holds a dataclass keeps its class.
        values: Names to JSON values; a field that is not named keeps its value.
        where: The file that the values come from, for the error.
        prefix: Dotted path of `base` within the whole, for the error.

    Raises:
        InputError: If a name or a value's type is not what `base` declares, or the dataclass refuses a value.
    """
    if not isinstance(values, dict):
        raise InputError(f"{prefix or 'the whole'} is {values!r}", where=where, rule="a table of fields is expected")
    assert is_dataclass(base)
    assert not isinstance(base, type)
    types_of = get_type_hints(type(base))
    known = [field.name for field in fields(base)]
    changes = {}
    for name, value in values.items():
        path = f"{prefix}.{name}" if prefix else name
        if name not in known:
            raise InputError(f"unknown field {path}", where=where, rule=f"the fields are {', '.join(known)}")
        current = getattr(base, name)
        if is_dataclass(current) and not isinstance(current, type):
            changes[name] = from_json(current, value, where=where, prefix=path)
            continue
        try:
            changes[name] = _typed(value, types_of[name])
        except TypeError:
            kind = types_of[name].__name__ if isinstance(types_of[name], type) else str(types_of[name])
            raise InputError(
                f"{path} is {value!r}", where=where, rule=f"expected {kind.replace('typing.', '')}", remedy="change it"
            ) from None
    try:
        return replace(base, **changes)
    except ValueError as error:
        raise InputError(f"{prefix or 'the whole'} is refused: {error}", where=where, remedy="change it") from None


def override(base: Config, dotted: dict[str, Any], *, where: Path | str) -> Config:
    """`base` with dotted keys such as `train.steps` replaced, by the types that `base` declares.

    Raises:
        InputError: As `from_json`, or if one key stands for a part of what another one names.
    """
    nested: dict[str, Any] = {}
    for key, value in dotted.items():
        *parents, last = key.split(".")
        level = nested
        for parent in parents:
            level = level.setdefault(parent, {})
            if not isinstance(level, dict):
                raise InputError(f"{key} and {parent} are both named", where=where, remedy="name the fields one by one")
        level[last] = value
    return from_json(base, nested, where=where)


def _typed(value: Any, kind: Any) -> Any:
    """A JSON value as the annotated type `kind`.

    Raises:
        TypeError: If the value is not of that type.
    """
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return _first_typed(value, arguments)
    if origin is Literal:
        if value in arguments:
            return value
        raise TypeError
    if origin is tuple and isinstance(value, list | tuple):
        items = [arguments[0]] * len(value) if arguments[1:] == (...,) else list(arguments)
        if len(items) != len(value):
            raise TypeError
        return tuple(_typed(item, item_kind) for item, item_kind in zip(value, items, strict=True))
    if kind is Path and isinstance(value, str | Path):
        return Path(value)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(kind, type) and isinstance(value, kind) and isinstance(value, bool) == (kind is bool):
        return value
    raise TypeError


def _first_typed(value: Any, kinds: tuple[Any, ...]) -> Any:
    """The value as the first of several types that takes it."""
    for kind in kinds:
        try:
            return _typed(value, kind)
        except TypeError:
            continue
    raise TypeError
