import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from occloom.backbones.weight_files import HubFile, fill_trunk, of_trunk, read_tensors
from occloom.errors import InputError

STATE = {"weight": torch.arange(6.0).view(2, 3), "bias": torch.tensor([7.0, 8.0])}


@pytest.mark.parametrize(
    "wrap", [lambda s: s, lambda s: {"state_dict": s, "meta": {"epoch": 3}}, lambda s: {"model": s}]
)
def test_tensors_are_found_in_checkpoints_and_state_dicts(wrap, tmp_path):
    torch.save(wrap(STATE), tmp_path / "weights.pth")
    found = read_tensors(tmp_path / "weights.pth", remedy="")
    assert all(torch.equal(found[key], value) for key, value in STATE.items())


def test_safetensors_are_read(tmp_path):
    save_file(STATE, tmp_path / "weights.safetensors")
    assert read_tensors(tmp_path / "weights.safetensors", remedy="").keys() == STATE.keys()


class Harmful:
    def __reduce__(self):
        return (print, ("unpickled",))


def test_nothing_but_tensors_is_unpickled(tmp_path, capsys):
    torch.save({"state_dict": Harmful()}, tmp_path / "weights.pth")
    with pytest.raises(InputError, match=r"cannot be read as weights.*do this"):
        read_tensors(tmp_path / "weights.pth", remedy="do this")
    assert "unpickled" not in capsys.readouterr().out


@pytest.mark.parametrize("content", [{}, [1, 2], {"state_dict": {"step": 3}}])
def test_files_without_tensors_are_refused(content, tmp_path):
    torch.save(content, tmp_path / "weights.pth")
    with pytest.raises(InputError, match="holds no tensors"):
        read_tensors(tmp_path / "weights.pth", remedy="")


def test_a_missing_or_damaged_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"none.pth: no such weights file; do this"):
        read_tensors(tmp_path / "none.pth", remedy="do this")
    for name in ("weights.pth", "weights.safetensors"):
        (tmp_path / name).write_bytes(b"damaged")
        with pytest.raises(InputError, match="cannot be read as weights"):
            read_tensors(tmp_path / name, remedy="")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"bias": None}, "lacks bias"),
        ({"scale": torch.ones(1), "shift": torch.ones(1)}, "has the unknown key scale and 1 more"),
        ({"bias": torch.ones(3)}, "has another shape for bias"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_taken(change, named, tmp_path):
    trunk = nn.Linear(3, 2)
    before = trunk.weight.clone()
    state = {key: value for key, value in {**STATE, **change}.items() if value is not None}
    with pytest.raises(InputError, match=named):
        fill_trunk(trunk, state, tmp_path, remedy="do this")
    assert torch.equal(trunk.weight, before)


@pytest.mark.parametrize("place", ["trunk.", "images.trunk.", "student.base.images.trunk."])
def test_the_trunk_of_a_model_is_found_wherever_it_is(place):
    model = {f"{place}{key}": value for key, value in STATE.items()} | {"head.weight": torch.ones(1)}
    assert of_trunk(model) == STATE


@pytest.mark.parametrize("names", [("x.weight", "trunks.x"), ("a.trunk.x", "b.trunk.x")])
def test_without_one_trunk_all_tensors_stay(names):
    others = {name: torch.ones(1) for name in names}
    assert of_trunk(others) is others


def test_optional_tensors_may_be_missing(tmp_path):
    trunk = nn.Linear(3, 2)
    fill_trunk(trunk, {"weight": STATE["weight"]}, tmp_path, remedy="", optional=("bias",))
    assert torch.equal(trunk.weight, STATE["weight"])


def test_a_file_of_the_hub_tells_how_to_have_it_by_hand():
    file = HubFile(repository="someone/a-trunk", name="weights.pth")
    assert file.url == "https://huggingface.co/someone/a-trunk/resolve/main/weights.pth"
    assert file.url in file.by_hand
    assert "--train.trunk-weights PATH" in file.by_hand
