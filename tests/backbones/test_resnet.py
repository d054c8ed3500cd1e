import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from occloom.backbones.resnet import (
    load_torchvision_weights,
    pooled_projection,
    resnet18,
    resnet34,
    resnet50,
    resnet50d,
)
from occloom.errors import InputError


def count(trunk):
    return sum(p.numel() for p in trunk.parameters())


@pytest.mark.parametrize(
    ("build", "published", "classifier"),
    [
        (resnet18, 11_689_512, 512 * 1000),
        (resnet34, 21_797_672, 512 * 1000),
        (resnet50, 25_557_032, 2048 * 1000),
        (resnet50d, 25_576_264, 2048 * 1000),
    ],
)
def test_parameters_are_the_published_count_less_the_classifier(build, published, classifier):
    with torch.device("meta"):
        trunk = build()
    assert count(trunk) == published - classifier - 1000


def test_the_trunk_of_resnet50d_has_the_released_count():
    with torch.device("meta"):
        assert count(resnet50d()) == 23_527_264


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


def timm_names_of_resnet50d():
    """Those of ResNet-50, with a stem of three convolutions, and shortcuts that begin with a pooling."""
    names = [n.replace("downsample.1", "downsample.2") for n in published_names((3, 4, 6, 3), 3)]
    names = [n.replace("downsample.0", "downsample.1") for n in names if not n.startswith("conv1")]
    stem = [n.replace("bn1", f"conv1.{i}") for n in names if n.startswith("bn1") for i in (1, 4)]
    return [*(f"conv1.{i}.weight" for i in (0, 3, 6)), *stem, *names]


@pytest.mark.parametrize("classifier", [True, False])
def test_weights_of_timm_s_resnet50d_load(tmp_path, classifier):
    trunk, generator = resnet50d(width=8), torch.Generator().manual_seed(0)
    own = trunk.state_dict()
    assert set(timm_names_of_resnet50d()) == set(own)
    state = {name: torch.randn(x.shape, generator=generator) if x.shape else x + 7 for name, x in own.items()}
    classes = {"fc.weight": torch.zeros(10, 256), "fc.bias": torch.zeros(10)} if classifier else {}
    save_file({**state, **classes}, tmp_path / "model.safetensors")
    load_torchvision_weights(trunk, tmp_path / "model.safetensors")
    assert all(torch.equal(trunk.state_dict()[name], value) for name, value in state.items())


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


@pytest.mark.parametrize("size", [(64, 96), (37, 53), (1, 5)])
def test_levels_of_resnet50d_have_the_stated_strides_and_channels(size):
    trunk = resnet50d(width=8, finest_stride=4).eval()
    pyramid = trunk(torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0)))
    assert pyramid.strides == trunk.strides == (4, 8, 16, 32)
    assert trunk.channels == (32, 64, 128, 256)
    for level, stride, channels in zip(pyramid.levels, pyramid.strides, trunk.channels, strict=True):
        assert level.shape == (2, channels, -(-size[0] // stride), -(-size[1] // stride))


def test_pooled_shortcut_is_a_mean_of_the_pixels_there_are():
    shortcut = pooled_projection(1, 1, stride=2, norm=lambda _: nn.Identity())
    nn.init.ones_(shortcut[1].weight)
    x = torch.arange(15.0).view(1, 1, 3, 5)
    expected = torch.tensor([[(0 + 1 + 5 + 6) / 4, (2 + 3 + 7 + 8) / 4, (4 + 9) / 2], [10.5, 12.5, 14.0]])
    torch.testing.assert_close(shortcut(x)[0, 0], expected)
    assert pooled_projection(4, 4, stride=1, norm=nn.BatchNorm2d) is None


def test_the_deep_stem_against_plain_arithmetic():
    trunk = resnet50d(width=4, norm=lambda _: nn.Identity())
    convolve, x = torch.nn.functional.conv2d, torch.randn(1, 3, 9, 7, generator=torch.Generator().manual_seed(0))
    y = convolve(x, trunk.conv1[0].weight, stride=2, padding=1).clamp(min=0)
    y = convolve(convolve(y, trunk.conv1[3].weight, padding=1).clamp(min=0), trunk.conv1[6].weight, padding=1)
    torch.testing.assert_close(trunk.conv1(x), y)


class TestStochasticDepth:
    def test_rates_rise_linearly_over_the_sixteen_blocks(self):
        trunk = resnet50d(width=8, drop_path=0.5)
        rates = [block.drop_rate for i in (1, 2, 3, 4) for block in getattr(trunk, f"layer{i}")]
        assert rates == pytest.approx([0.5 * i / 15 for i in range(16)])

    @pytest.mark.parametrize("build", [resnet18, resnet50d])
    def test_a_sample_without_the_branch_keeps_the_shortcut_and_the_mean_stays(self, build):
        block = build(width=4, norm=lambda _: nn.Identity()).layer1[1]
        block.relu = nn.Identity()
        x = torch.rand(1, 4 * block.expansion, 5, 6, generator=torch.Generator().manual_seed(0)).repeat(400, 1, 1, 1)
        branch = block.eval()(x[:1]) - x[:1]
        block.drop_rate = 0.25
        torch.testing.assert_close(block(x[:1]) - x[:1], branch)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            change = block.train()(x) - x
        dropped = (change == 0).flatten(1).all(dim=1)
        assert 60 < dropped.sum() < 140
        torch.testing.assert_close(change[~dropped], (branch / 0.75).expand_as(change[~dropped]))


def test_the_first_stage_alone_is_the_finest_level():
    torch.manual_seed(0)
    trunk = resnet18(width=8).eval()
    images = torch.rand(2, 3, 33, 50)
    assert torch.equal(trunk.first_stage(images), trunk(images).levels[0])


@pytest.mark.parametrize(("coarsest", "strides"), [(8, (4, 8)), (16, (4, 8, 16))])
def test_stages_that_nobody_asks_for_are_not_built(tmp_path, coarsest, strides):
    torch.manual_seed(0)
    whole, part = resnet18(width=8).eval(), resnet18(width=8, coarsest_stride=coarsest).eval()
    assert "layer4.0.conv1.weight" not in part.state_dict()
    torch.save(whole.state_dict(), tmp_path / "weights.pth")
    load_torchvision_weights(part, tmp_path / "weights.pth")
    images = torch.rand(2, 3, 33, 50)
    assert part.strides == strides
    for ours, theirs in zip(part(images).levels, whole(images).levels, strict=False):
        assert torch.equal(ours, theirs)
    assert part.channels == whole.channels[: len(strides)]
