import sys
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from occloom.backbones.pretrained import RESNET50D_IMAGENET, load_trunk, pretrained_trunk
from occloom.backbones.resnet import load_torchvision_weights, resnet50d
from occloom.errors import InputError


@pytest.fixture
def empty_cache(tmp_path, monkeypatch):
    """A hub that holds nothing and may not use the network."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    return tmp_path


def refusal(source):
    with pytest.raises(InputError) as raised:
        pretrained_trunk(source)
    return str(raised.value)


def test_offline_the_error_says_what_to_download_and_which_option_names_it(empty_cache):
    message = refusal(RESNET50D_IMAGENET)
    assert "https://huggingface.co/timm/resnet50d.a1_in1k/resolve/main/model.safetensors" in message
    assert "--train.trunk-weights PATH" in message
    assert "\n" not in message


def test_without_the_package_the_error_names_the_extra_and_the_file(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    message = refusal(RESNET50D_IMAGENET)
    assert "occloom[hub]" in message
    assert RESNET50D_IMAGENET.url in message
    assert "--train.trunk-weights PATH" in message


def test_a_file_in_the_cache_serves_without_network_and_loads(empty_cache):
    source = replace(RESNET50D_IMAGENET, repository="someone/a-trunk")
    folder, commit = empty_cache / "models--someone--a-trunk", "0" * 40
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text(commit)
    (folder / "snapshots" / commit).mkdir(parents=True)
    original, trunk = resnet50d(width=8), resnet50d(width=8)
    save_file(original.state_dict(), folder / "snapshots" / commit / source.name)
    path = pretrained_trunk(source)
    assert path == folder / "snapshots" / commit / source.name
    load_torchvision_weights(trunk, path)
    assert all(torch.equal(trunk.state_dict()[key], value) for key, value in original.state_dict().items())
    other = resnet50d(width=8)
    load_trunk(other, "imagenet", imagenet=source)
    assert all(torch.equal(other.state_dict()[key], value) for key, value in original.state_dict().items())


def test_a_trunk_takes_the_file_that_is_named_or_says_that_nothing_is_published(tmp_path):
    original, trunk = resnet50d(width=8), resnet50d(width=8)
    save_file(original.state_dict(), tmp_path / "mine.safetensors")
    load_trunk(trunk, tmp_path / "mine.safetensors", imagenet=None)
    assert all(torch.equal(trunk.state_dict()[key], value) for key, value in original.state_dict().items())
    with pytest.raises(InputError, match=r"no ImageNet weights are published.*trunk-weights"):
        load_trunk(trunk, "imagenet", imagenet=None)
