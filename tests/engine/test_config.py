import json
import math
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Literal

import pytest

from occloom.cli.arguments import parse
from occloom.engine.config import Constant, Cosine, OneCycle, Recipe, TrainConfig, from_json, override, to_json
from occloom.errors import InputError


@dataclass(frozen=True)
class Part:
    folder: Path = Path("a")
    size: tuple[int, int] = (1, 2)
    names: tuple[str, ...] = ()
    mode: Literal["x", "y"] = "x"
    limit: float | None = None
    on: bool = True


@dataclass(frozen=True)
class Whole:
    part: Part = Part()
    train: TrainConfig = field(default_factory=TrainConfig)


CHANGED = Whole(
    part=Part(folder=Path("b/c"), size=(3, 4), names=("p", "q"), mode="y", limit=2.5, on=False),
    train=TrainConfig(steps=7, schedule=Cosine(warmup=0.3), precision="bf16-mixed"),
)


def test_a_config_survives_json_text_by_the_types_of_its_base():
    base = Whole(train=TrainConfig(schedule=Cosine()))
    back = from_json(base, json.loads(json.dumps(to_json(CHANGED))), where="file")
    assert back == CHANGED
    assert isinstance(back.part.folder, Path)
    assert isinstance(back.part.size, tuple)


def test_fields_that_are_not_named_keep_their_values():
    assert from_json(CHANGED, {"train": {"steps": 9}}, where="file") == replace(
        CHANGED, train=replace(CHANGED.train, steps=9)
    )


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"part": {"folders": "x"}}, "part.folders"),
        ({"parts": {}}, "parts"),
        ({"part": {"size": [1]}}, "part.size"),
        ({"part": {"size": [1, 2.5]}}, "part.size"),
        ({"part": {"size": 3}}, "part.size"),
        ({"part": {"mode": "z"}}, "part.mode"),
        ({"part": {"limit": "far"}}, "part.limit"),
        ({"part": {"on": 1}}, "part.on"),
        ({"train": {"steps": True}}, "train.steps"),
        ({"train": {"steps": "10"}}, "train.steps"),
        ({"train": {"schedule": {"start": 0.1}}}, "train.schedule.start"),
        ({"part": 3}, "part"),
    ],
)
def test_what_the_base_does_not_declare_is_refused_by_name(values, named):
    base = Whole(train=TrainConfig(schedule=Cosine()))
    with pytest.raises(InputError, match=named) as error:
        from_json(base, values, where=Path("some.json"))
    assert "some.json" in str(error.value)


def test_dotted_keys_reach_nested_fields():
    changed = override(Whole(), {"train.schedule.warmup": 0, "train.steps": 3, "part.limit": 4}, where="file")
    assert changed.train.schedule == OneCycle(warmup=0.0)
    assert (changed.train.steps, changed.part.limit) == (3, 4.0)


@pytest.mark.parametrize("name", ["steps", "batch_size", "accumulate", "keep"])
def test_a_training_without_steps_or_samples_is_refused(name):
    with pytest.raises(InputError, match=f"train.{name}"):
        TrainConfig(**{name: 0})


@pytest.mark.parametrize("norm", [0.0, -1.0, math.inf, math.nan])
def test_a_norm_that_clips_everything_or_is_no_json_is_refused(norm):
    with pytest.raises(InputError, match=r"train\.clip_norm is .* or None"):
        TrainConfig(clip_norm=norm)


def test_no_clipping_is_said_in_strict_json_and_on_the_command_line():
    text = json.dumps(to_json(TrainConfig(clip_norm=None)), allow_nan=False)
    assert from_json(TrainConfig(), json.loads(text), where="file").clip_norm is None
    assert from_json(TrainConfig(clip_norm=None), {"clip_norm": 3}, where="file").clip_norm == 3.0
    _, parts = parse(Part, {"train": TrainConfig()}, ["--train.clip-norm", "None"], prog="x", description="x")
    assert parts["train"].clip_norm is None


@pytest.mark.parametrize("schedule", [OneCycle(), OneCycle(warmup=0.0), OneCycle(warmup=1.0), Cosine(), Cosine(0.0)])
@pytest.mark.parametrize("steps", [1, 2, 1000])
def test_a_schedule_stays_within_its_bounds(schedule, steps):
    factors = [schedule.factor(step, steps) for step in range(steps)]
    assert all(0 <= factor <= 1 for factor in factors)


def test_one_cycle_begins_low_peaks_after_the_warmup_and_ends_at_the_end():
    schedule = OneCycle(warmup=0.2, start=0.1, end=0.01)
    factors = [schedule.factor(step, 100) for step in range(101)]
    assert factors[0] == pytest.approx(0.1)
    assert factors[20] == 1.0
    assert factors.index(max(factors)) == 20
    assert factors[100] == pytest.approx(0.01)
    # Half way down, the cosine stands at the mean of both ends.
    assert factors[60] == pytest.approx((1 + 0.01) / 2)


def test_cosine_rises_linearly_then_falls_along_a_cosine():
    schedule = Cosine(warmup=0.1)
    rises = [schedule.factor(step, 100) for step in range(10)]
    assert [b - a for a, b in pairwise(rises)] == pytest.approx([1 / 11] * 9)
    assert schedule.factor(10 + 30, 100) == pytest.approx(0.5 + 0.5 * math.cos(math.pi / 3))


def test_a_recipe_names_its_parts():
    from tiny_recipes import tiny

    recipe = tiny()
    assert isinstance(recipe, Recipe)
    assert set(to_json(recipe)) == {"name", "model", "data", "train", "protocol"}


@dataclass(frozen=True)
class Deep:
    drop: float = 0.5


@dataclass(frozen=True)
class Small:
    width: int = 32


@dataclass(frozen=True)
class Detector:
    trunk: Deep | Small = Small()
    blocks: tuple[int, ...] = (2, 2)


@dataclass(frozen=True)
class Nested:
    trunk: Deep | Small = Deep()
    detector: Detector = Detector()


def command_line(model, *arguments):
    _, parts = parse(
        NoOptions, {"model": model, "train": TrainConfig()}, list(arguments), prog="occloom x", description="x"
    )
    return parts["model"], parts["train"]


@dataclass(frozen=True)
class NoOptions:
    pass


@pytest.mark.parametrize(
    ("base", "arguments", "expected"),
    [
        (Nested(trunk=Small()), ["--model.trunk.width", "48"], Nested(trunk=Small(48))),
        (Nested(), ["--model.trunk.drop", "0"], Nested(trunk=Deep(0.0))),
        (Nested(), ["--model.detector.trunk.width", "8"], Nested(detector=Detector(trunk=Small(8)))),
        (Nested(), ["--model.detector.blocks", "1", "2", "3"], Nested(detector=Detector(blocks=(1, 2, 3)))),
    ],
)
def test_parts_within_parts_are_reached_from_the_command_line_and_survive_json(base, arguments, expected):
    model, _ = command_line(base, *arguments)
    assert model == expected
    assert from_json(base, json.loads(json.dumps(to_json(model))), where="file") == expected


def test_a_part_keeps_the_class_that_the_recipe_chose():
    with pytest.raises(InputError, match=r"model\.trunk\.width"):
        command_line(Nested(), "--model.trunk.width", "48")
    with pytest.raises(InputError, match=r"model\.trunk\.width"):
        from_json(Nested(), to_json(Nested(trunk=Small())), where="file", prefix="model")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], (None, None)),
        (["--train.trunk-weights", "imagenet"], (None, "imagenet")),
        (["--train.trunk-weights", "here/weights.pth"], (None, Path("here/weights.pth"))),
        (["--train.start-from", "runs/first"], (Path("runs/first"), None)),
        (["--train.trunk-weights", "None"], (None, None)),
    ],
)
def test_where_a_training_starts_is_named_by_a_path_or_a_word(words, expected):
    _, train = command_line(Nested(), *words)
    assert (train.start_from, train.trunk_weights) == expected
    back = from_json(TrainConfig(), json.loads(json.dumps(to_json(train))), where="file")
    assert (back.start_from, back.trunk_weights) == expected


def test_constant_rises_linearly_and_stays():
    schedule = Constant(warmup_steps=200, start=0.001)
    assert schedule.factor(0, 5000) == 0.001
    assert math.isclose(schedule.factor(100, 5000), 0.5005)
    assert [schedule.factor(step, 5000) for step in (200, 201, 4999)] == [1.0] * 3
    assert Constant(warmup_steps=0).factor(0, 10) == 1.0
