import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from occloom.backbones.resnet import load_torchvision_weights, resnet18, resnet34, resnet50
from occloom.errors import InputError


def count(trunk):
    return sum(p.numel() for p in trunk.parameters())


@pytest.mark.parametrize(
    ("build", "published", "classifier"),
    [(resnet18, 11_689_512, 512 * 1000), (resnet34, 21_797_672, 512 * 1000), (resnet50, 25_557_032, 2048 * 1000)],
)
def test_parameters_are_the_published_count_less_the_classifier(build, published, classifier):
    with torch.device("meta"):
        trunk = build()
    assert count(trunk) == published - classifier - 1000


def test_keys_are_torchvision_s():
    with torch.device("meta"):
        keys = list(resnet50().state_dict())
    assert keys[:6] == [
        "conv1.weight",
        "bn1.weight",
        "bn1.bias",
        "bn1.running_mean",
        "bn1.running_var",
        "bn1.num_batches_tracked",
    ]
    assert {"layer1.0.downsample.0.weight", "layer4.2.conv3.weight", "layer2.0.downsample.1.running_var"} <= set(keys)
    assert len(keys) == 318  # 53 convolutions and 53 normalisations of five tensors
    assert not any(key.startswith("layer1.1.downsample") for key in keys)


@pytest.mark.parametrize("size", [(64, 96), (37, 53)])
def test_levels_have_the_stated_strides_and_channels(size):
    trunk = resnet18(width=8, finest_stride=8).eval()
    pyramid = trunk(torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0)))
    assert pyramid.strides == trunk.strides == (8, 16, 32)
    assert trunk.channels == (16, 32, 64)
    for level, stride, channels in zip(pyramid.levels, pyramid.strides, trunk.channels, strict=True):
        assert level.shape == (2, channels, -(-size[0] // stride), -(-size[1] // stride))


def published_names(blocks, convolutions):
    """The names that torchvision and timm both give a ResNet's tensors, classifier left out."""
    pairs = [("conv1", "bn1")]
    for layer, count in enumerate(blocks, start=1):
        for block in range(count):
            base = f"layer{layer}.{block}"
            pairs += [(f"{base}.conv{i}", f"{base}.bn{i}") for i in range(1, convolutions + 1)]
            if block == 0 and (layer > 1 or convolutions == 3):
                pairs.append((f"{base}.downsample.0", f"{base}.downsample.1"))
    norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    return [name for conv, bn in pairs for name in (f"{conv}.weight", *(f"{bn}.{part}" for part in norm))]


@pytest.mark.parametrize("counts", [True, False])
@pytest.mark.parametrize("classifier", [True, False])
@pytest.mark.parametrize(
    ("build", "blocks", "convolutions"), [(resnet18, (2, 2, 2, 2), 2), (resnet50, (3, 4, 6, 3), 3)]
)
def test_weights_of_torchvision_and_timm_load(tmp_path, build, blocks, convolutions, classifier, counts):
    trunk, generator = build(width=8), torch.Generator().manual_seed(0)
    state = {}
    for name in published_names(blocks, convolutions):
        if counts or not name.endswith("num_batches_tracked"):
            own = trunk.state_dict()[name]
            state[name] = torch.randn(own.shape, generator=generator) if own.shape else torch.tensor(7)
    classes = {"fc.weight": torch.zeros(10, trunk.channels[-1]), "fc.bias": torch.zeros(10)} if classifier else {}
    torch.save({**state, **classes}, tmp_path / "weights.pth")
    load_torchvision_weights(trunk, tmp_path / "weights.pth")
    loaded = trunk.state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in state.items())
    assert {name for name in loaded if name not in state} == {
        name for name in loaded if not counts and name.endswith("num_batches_tracked")
    }


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_weights_load_without_the_classifier(tmp_path, suffix):
    source, trunk = resnet18(width=8), resnet18(width=8)
    state = {**source.state_dict(), "fc.weight": torch.zeros(10, 64), "fc.bias": torch.zeros(10)}
    path = tmp_path / f"weights{suffix}"
    save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
    load_torchvision_weights(trunk, path)
    for key, value in source.state_dict().items():
        assert torch.equal(trunk.state_dict()[key], value)


def drop_one(state):
    del state["layer1.0.conv1.weight"]


def add_one(state):
    state["layer9.weight"] = torch.zeros(1)


def reshape_one(state):
    state["conv1.weight"] = torch.zeros(1)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (drop_one, "lacks layer1.0.conv1.weight"),
        (add_one, "unknown key layer9.weight"),
        (reshape_one, "another shape for conv1.weight"),
    ],
)
def test_weights_of_another_network_are_refused(tmp_path, damage, message):
    trunk = resnet18(width=8)
    state = dict(trunk.state_dict())
    damage(state)
    torch.save(state, tmp_path / "weights.pth")
    with pytest.raises(InputError, match=message) as raised:
        load_torchvision_weights(trunk, tmp_path / "weights.pth")
    assert "torchvision or timm" in str(raised.value)
    assert str(tmp_path / "weights.pth") in str(raised.value)


@pytest.mark.parametrize("name", ["missing.pth", "broken.pth", "broken.safetensors"])
def test_missing_and_broken_files_are_refused(tmp_path, name):
    if name.startswith("broken"):
        (tmp_path / name).write_bytes(b"not weights")
    with pytest.raises(InputError, match=name):
        load_torchvision_weights(resnet18(width=8), tmp_path / name)


def test_residual_block_against_plain_arithmetic():
    block = resnet18(width=4, norm=lambda _: nn.Identity()).layer2[0]
    x = torch.randn(1, 4, 9, 7, generator=torch.Generator().manual_seed(0))
    convolve = torch.nn.functional.conv2d
    y = convolve(convolve(x, block.conv1.weight, stride=2, padding=1).clamp(min=0), block.conv2.weight, padding=1)
    expected = (y + convolve(x, block.downsample[0].weight, stride=2)).clamp(min=0)
    torch.testing.assert_close(block(x), expected)
