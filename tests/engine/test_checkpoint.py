import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_recipes import GRID, LABELS, TinyModelConfig, tiny

from occloom.engine import checkpoint
from occloom.engine.train import build_model
from occloom.errors import InputError


def write(run, step, *, best=False, keep=2):
    """A checkpoint as a run writes it."""
    model = build_model(replace(tiny(), train=replace(tiny().train, seed=step)))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.25)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    progress = checkpoint.Progress(step, 0.5, 1.25, optimizer.state_dict(), {})
    description = checkpoint.describe(tiny(), GRID, LABELS)
    folder = checkpoint.save(run, weights=model, average=model, description=description, progress=progress)
    if best:
        checkpoint.point(run, "best", folder)
    checkpoint.point(run, "latest", folder)
    checkpoint.prune(run, keep)
    return folder, model, optimizer


def test_everything_comes_back_as_it_was(tmp_path):
    folder, model, optimizer = write(tmp_path, 3)
    other = build_model(tiny())
    checkpoint.load_weights(other, folder / "model.safetensors")
    for name, tensor in model.state_dict().items():
        assert torch.equal(other.state_dict()[name], tensor)
    progress = checkpoint.load_progress(folder)
    assert (progress.step, progress.best_miou, progress.seconds) == (3, 0.5, 1.25)
    fresh = torch.optim.AdamW(other.parameters(), lr=0.1)
    fresh.load_state_dict(progress.optimizer)
    assert fresh.param_groups[0]["lr"] == 0.25
    for one, two in zip(optimizer.state.values(), fresh.state.values(), strict=True):
        assert all(torch.equal(one[key], two[key]) for key in ("exp_avg", "exp_avg_sq", "step"))


def test_the_description_rebuilds_recipe_grid_and_labels(tmp_path):
    changed = replace(tiny(), model=TinyModelConfig(channels=5))
    text = json.dumps(checkpoint.describe(changed, GRID, LABELS))
    description = json.loads(text)
    assert checkpoint.described_recipe(tiny(), description, where=tmp_path) == changed
    assert checkpoint.described_labels(description, where=tmp_path) == (GRID, LABELS)
    assert set(description) >= {"schema", "version", "commit", "recipe"}
    assert "TinyModelConfig" not in text


def test_only_the_newest_and_the_best_are_kept(tmp_path):
    for step in range(1, 12):
        write(tmp_path, step, best=step == 4, keep=2)
    assert {path.name for path in tmp_path.glob("step-*")} == {"step-000004", "step-000010", "step-000011"}
    assert checkpoint.pointed(tmp_path, "best").name == "step-000004"
    assert checkpoint.find(tmp_path).name == "step-000004"


def test_what_a_killed_run_left_unfinished_is_no_checkpoint_and_is_swept_away(tmp_path):
    write(tmp_path, 1)
    (tmp_path / ".step-000002").mkdir()
    (tmp_path / ".step-000002" / "model.safetensors").write_bytes(b"half")
    assert checkpoint.find(tmp_path).name == "step-000001"
    write(tmp_path, 2)
    assert not list(tmp_path.glob(".step-*"))
    # Killed between a finished folder and the pointer: the step is written again.
    (tmp_path / "latest").write_text("step-000001\n")
    assert write(tmp_path, 2)[0].name == "step-000002"


def test_a_pointer_to_nothing_is_no_pointer(tmp_path):
    write(tmp_path, 1)
    (tmp_path / "best").write_text("step-000099\n")
    assert checkpoint.find(tmp_path).name == "step-000001"


def test_an_export_has_the_average_and_no_path_of_this_machine(tmp_path):
    folder, model, _ = write(tmp_path / "run", 1)
    description = json.loads((folder / "recipe.json").read_text())
    description["data"]["root"] = "/home/somebody/town"
    (folder / "recipe.json").write_text(json.dumps(description))
    checkpoint.export(folder, tmp_path / "shipped", base=tiny())
    assert {path.name for path in (tmp_path / "shipped").iterdir()} == {"model.safetensors", "recipe.json"}
    assert "somebody" not in (tmp_path / "shipped" / "recipe.json").read_text()
    weights = load_file(tmp_path / "shipped" / "model.safetensors")
    assert torch.equal(weights["stem.0.weight"], model.stem[0].weight)


def test_missing_damaged_and_foreign_checkpoints_are_named(tmp_path):
    with pytest.raises(InputError, match="nowhere: no such folder"):
        checkpoint.find(tmp_path / "nowhere")
    with pytest.raises(InputError, match="holds no checkpoint"):
        checkpoint.find(tmp_path)
    with pytest.raises(InputError, match=r"no recipe\.json"):
        checkpoint.read_description(tmp_path)
    folder, _, _ = write(tmp_path, 1)
    with pytest.raises(InputError, match=r"model\.safetensors.*stem\.0\.weight"):
        checkpoint.load_weights(TinyModelConfig(channels=3).build(GRID, LABELS), folder / "model.safetensors")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-40])
    with pytest.raises(InputError, match=r"model\.safetensors"):
        checkpoint.load_weights(build_model(tiny()), weights)
    progress = folder / "progress.pt"
    progress.write_bytes(progress.read_bytes()[:100])
    with pytest.raises(InputError, match=r"progress\.pt"):
        checkpoint.load_progress(folder)
    progress.write_bytes(b"")
    with pytest.raises(InputError, match=r"progress\.pt"):
        checkpoint.load_progress(folder)
    (folder / "recipe.json").write_text('{"schema": 99}')
    with pytest.raises(InputError, match="schema 99"):
        checkpoint.read_description(folder)
    (folder / "recipe.json").write_text("{")
    with pytest.raises(InputError, match="not JSON"):
        checkpoint.read_description(folder)


def test_tensors_of_the_same_name_and_shape_are_taken_and_the_others_told(tmp_path):
    folder, model, _ = write(tmp_path, 3)
    wide = build_model(replace(tiny(), model=TinyModelConfig(channels=9)))
    before = {name: tensor.clone() for name, tensor in wide.state_dict().items()}
    taken = checkpoint.take_weights(wide, tmp_path)
    assert taken.source == folder / "ema.safetensors"
    fitting = {name for name, tensor in model.state_dict().items() if tensor.shape == before[name].shape}
    assert set(taken.names) == fitting == {"temperature", "head.1.bias", "stem.1.num_batches_tracked"}
    for name, tensor in wide.state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name] if name in fitting else before[name])
    assert set(taken.misshapen) == set(before) - fitting
    assert "3 tensors taken" in str(taken)
    assert "of another shape (head, stem)" in str(taken)


def test_parts_of_another_model_are_taken_by_name(tmp_path):
    model = build_model(tiny())
    state = {name: tensor + 1 for name, tensor in model.state_dict().items() if name.startswith("stem")}
    save_file({**state, "foreign.weight": torch.zeros(3)}, tmp_path / "part.safetensors")
    taken = checkpoint.take_weights(model, tmp_path / "part.safetensors")
    assert set(taken.names) == set(state)
    assert taken.not_used == ("foreign.weight",)
    assert set(taken.not_there) == {"temperature", "head.1.weight", "head.1.bias"}
    for name, tensor in state.items():
        assert torch.equal(model.state_dict()[name], tensor)


def test_weights_of_which_nothing_fits_are_refused(tmp_path):
    save_file({"encoder.weight": torch.zeros(3)}, tmp_path / "foreign.safetensors")
    (tmp_path / "broken.safetensors").write_bytes(b"nothing")
    for path, message in (
        ("foreign.safetensors", r"no tensor fits the model \(the file holds encoder\.weight\)"),
        ("broken.safetensors", "cannot be loaded"),
        ("missing.safetensors", "no such file"),
        ("missing", "no such folder"),
    ):
        with pytest.raises(InputError, match=message):
            checkpoint.take_weights(build_model(tiny()), tmp_path / path)


def test_an_exported_model_does_not_say_where_on_this_machine_it_started(tmp_path):
    folder, *_ = write(tmp_path / "run", 3)
    path = folder / "recipe.json"
    for trunk, kept in (("/home/me/trunk.pth", None), ("imagenet", "imagenet")):
        description = json.loads(path.read_text())
        description["train"] |= {"start_from": "/home/me/run", "trunk_weights": trunk}
        path.write_text(json.dumps(description))
        checkpoint.export(folder, tmp_path / "out", base=tiny())
        train = json.loads((tmp_path / "out" / "recipe.json").read_text())["train"]
        assert (train["start_from"], train["trunk_weights"]) == (None, kept)
