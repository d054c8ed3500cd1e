import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from occloom.errors import InputError
from occloom.stereo import mobile_stereonet
from occloom.stereo.mobile_stereonet import (
    MAX_DISPARITY,
    Hourglass,
    InvertedResidual2d,
    InvertedResidual3d,
    MobileStereoNet3d,
    StereoTrunk,
    expected_disparity,
    group_correlation,
    load_mobile_stereonet,
)

PUBLISHED_PARAMETERS = 1_855_608


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def naive_correlation(left: Tensor, right: Tensor, disparities: int, groups: int) -> Tensor:
    batch, channels, height, width = left.shape
    members = channels // groups
    planes = []
    for b in range(batch):
        for g in range(groups):
            for d in range(disparities):
                for y in range(height):
                    for x in range(width):
                        value = left.new_zeros(())
                        for c in range(g * members, (g + 1) * members):
                            if x >= d:
                                value = value + left[b, c, y, x] * right[b, c, y, x - d] / members
                        planes.append(value)
    return torch.stack(planes).reshape(batch, groups, disparities, height, width)


@pytest.mark.parametrize(("width", "disparities"), [(6, 4), (3, 5), (1, 1)])
def test_the_volume_and_its_gradients_equal_loops(width: int, disparities: int):
    random = generator()
    left, right = (torch.randn(2, 6, 2, width, generator=random, dtype=torch.float64) for _ in range(2))
    left.requires_grad_()
    right.requires_grad_()
    expected = naive_correlation(left, right, disparities, 3)
    volume = group_correlation(left, right, disparities=disparities, groups=3)
    torch.testing.assert_close(volume, expected)
    weights = torch.randn(volume.shape, generator=random, dtype=torch.float64)
    for answer, truth in zip(
        torch.autograd.grad((volume * weights).sum(), (left, right)),
        torch.autograd.grad((expected * weights).sum(), (left, right)),
        strict=True,
    ):
        torch.testing.assert_close(answer, truth)


@pytest.mark.parametrize("shift", [0, 1, 5])
def test_the_volume_of_a_shifted_picture_peaks_at_the_shift(shift: int):
    texture = torch.randn(2, 40, 3, 40, generator=generator())
    left, right = texture[..., : 40 - shift], texture[..., shift:]
    volume = group_correlation(left, right, disparities=8, groups=5).mean(1)
    best = volume.argmax(1)[..., 8:]
    assert (best == shift).float().mean() > 0.95


def test_the_trunk_s_features_of_a_shifted_picture_match_at_the_shift():
    """Features of an untrained trunk tell places apart too; a quarter of the pictures' shift is theirs."""
    random = generator()
    trunk = initialised(StereoTrunk(), random).eval()
    texture = torch.randn(1, 3, 32, 160, generator=random)
    with torch.no_grad():
        left, right = (trunk(texture[..., start : start + 128]) for start in (0, 12))
        left, right = (features - features.mean((0, 2, 3), keepdim=True) for features in (left, right))
        left, right = (features / features.norm(dim=1, keepdim=True) for features in (left, right))
        best = group_correlation(left, right, disparities=8, groups=1)[:, 0].argmax(1)
    assert (best[..., 8:] == 3).float().mean() > 0.8


def initialised(module: nn.Module, random: torch.Generator) -> nn.Module:
    """Weights that keep the variance, and statistics of normalisation that are not those of a new layer."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.Conv3d | nn.ConvTranspose3d):
            inputs = layer.weight[0].numel()
            layer.weight.data.normal_(0, (2 / inputs) ** 0.5, generator=random)
        elif isinstance(layer, nn.BatchNorm2d | nn.BatchNorm3d):
            for tensor, low, high in (
                (layer.weight.data, 0.5, 1.5),
                (layer.bias.data, -0.5, 0.5),
                (layer.running_mean, -0.2, 0.2),
                (layer.running_var, 0.5, 2.0),
            ):
                assert tensor is not None
                tensor.uniform_(low, high, generator=random)
    return module


def test_a_certain_disparity_is_answered_as_it_is():
    """Scores that peak at one coarse disparity: linear enlargement keeps the peak's centre."""
    for peak in (2, 5, 9):
        scores = torch.full((2, 12, 2, 3), -1000.0)
        scores[:, peak] = 1000.0
        disparity = expected_disparity(scores, 48, (8, 12))
        # The centre of coarse cell p is 4 (p + 0.5) - 0.5 in fine cells.
        torch.testing.assert_close(disparity, torch.full((2, 8, 12), 4 * peak + 1.5))
    scores = torch.full((1, 6, 2, 2), -1000.0)
    scores[:, 4] = 1000.0
    torch.testing.assert_close(expected_disparity(scores, 6, (2, 2)), torch.full((1, 2, 2), 4.0))


@pytest.mark.parametrize("elements", [1, 2000, 2**24])
def test_the_expectation_equals_trilinear_enlargement_at_once(monkeypatch: pytest.MonkeyPatch, elements: int):
    monkeypatch.setattr(mobile_stereonet, "SLAB_ELEMENTS", elements)
    scores = torch.randn(2, 5, 3, 7, generator=generator(), dtype=torch.float64).requires_grad_()
    whole = nn.functional.interpolate(scores[:, None], (20, 12, 28), mode="trilinear")[:, 0].softmax(1)
    expected = sum((d * whole[:, d] for d in range(20)), whole.new_zeros(2, 12, 28))
    disparity = expected_disparity(scores, 20, (12, 28))
    torch.testing.assert_close(disparity, expected)
    (answer,), (truth,) = (torch.autograd.grad(d.square().sum(), scores) for d in (disparity, expected))
    torch.testing.assert_close(answer, truth)


@pytest.mark.parametrize("elements", [1, 4000, 2**24])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("depth", [4, 7, 1])
def test_slabs_give_what_the_whole_volume_gives(
    monkeypatch: pytest.MonkeyPatch, elements: int, stride: int, depth: int
):
    monkeypatch.setattr(mobile_stereonet, "SLAB_ELEMENTS", elements)
    block = initialised(InvertedResidual3d(4, 6, stride=stride, expansion=3), generator()).eval()
    volume = torch.randn(2, 4, depth, 6, 5, generator=generator(1))
    whole = block(volume)
    with torch.no_grad():
        torch.testing.assert_close(block(volume), whole)


def test_only_the_block_over_pictures_has_a_shortcut():
    for block, size, inputs in (
        (InvertedResidual2d(4, 4, stride=1, expansion=2), (4, 5), 1.0),
        (InvertedResidual2d(4, 5, stride=1, expansion=2), (4, 5), 0.0),
        (InvertedResidual2d(4, 4, stride=2, expansion=2), (4, 4), 0.0),
        (InvertedResidual3d(4, 4, stride=1, expansion=2), (4, 5, 2), 0.0),
    ):
        x = torch.randn(1, 4, *size, generator=generator())
        block.eval()
        nn.init.zeros_(block.conv[7].weight)
        answer = block(x)
        assert bool(answer.abs().max() > 0) == bool(inputs)
        if inputs:
            assert torch.equal(answer, x)


@pytest.mark.parametrize("size", [(4, 4, 4), (8, 4, 12)])
def test_an_hourglass_keeps_the_size(size: tuple[int, int, int]):
    volume = torch.randn(2, 4, *size, generator=generator())
    answer = initialised(Hourglass(4), generator()).eval()(volume)
    assert answer.shape == volume.shape
    assert answer.min() == 0


def test_the_count_of_parameters_is_the_published_one():
    with torch.device("meta"):
        network = MobileStereoNet3d()
    assert sum(parameter.numel() for parameter in network.parameters()) == PUBLISHED_PARAMETERS


@pytest.fixture(scope="module")
def published(real_data: Path) -> dict[str, Tensor]:
    """Random tensors of the published names, shapes and types."""
    table = real_data.parent / "reference" / "state_dicts" / "msnet3d.tsv"
    random = generator()
    state = {}
    for line in table.read_text().splitlines():
        name, shape, kind = line.split("\t")
        sizes = [int(size) for size in shape.strip("[]").split(",") if size]
        state[name] = torch.rand(sizes, generator=random) if kind == "float32" else torch.tensor(7)
    return state


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("suffix", "wrapped"),
    [
        (".safetensors", lambda state: state),
        (".ckpt", lambda state: {"epoch": 3, "model": {f"module.{key}": value for key, value in state.items()}}),
        (".pth", lambda state: {"state_dict": {f"model.{key}": value for key, value in state.items()}}),
    ],
)
def test_every_published_tensor_is_loaded(
    published: dict[str, Tensor], tmp_path: Path, suffix: str, wrapped: Callable[[dict[str, Tensor]], dict]
):
    path = tmp_path / f"weights{suffix}"
    if suffix == ".safetensors":
        save_file(published, path)
    else:
        torch.save(wrapped(published), path)
    network = MobileStereoNet3d()
    mobile_stereonet.read_weights(network, path)
    loaded = network.state_dict()
    assert set(loaded) == set(published)
    for name, tensor in published.items():
        assert torch.equal(loaded[name], tensor)
        assert loaded[name].dtype == tensor.dtype


@pytest.fixture(scope="module")
def random_network() -> MobileStereoNet3d:
    network = initialised(MobileStereoNet3d(), generator()).eval()
    assert isinstance(network, MobileStereoNet3d)
    return network


class NaiveNetwork:
    """The network once more as formulas over the published names, without slabs, folding or modules."""

    def __init__(self, state: dict[str, Tensor]) -> None:
        self.state = state

    def norm(self, x: Tensor, name: str) -> Tensor:
        shape = (1, -1, *[1] * (x.dim() - 2))
        weight, bias, mean, variance = (
            self.state[f"{name}.{part}"].reshape(shape) for part in ("weight", "bias", "running_mean", "running_var")
        )
        return (x - mean) / torch.sqrt(variance + 1e-5) * weight + bias

    def convolve(self, x: Tensor, name: str, index: int, *, stride: int = 1, dilation: int = 1) -> Tensor:
        """Convolution `index` of a sequence and its normalisation."""
        weight = self.state[f"{name}.{index}.weight"]
        function = nn.functional.conv2d if x.dim() == 4 else nn.functional.conv3d
        padding = dilation * (weight.shape[-1] // 2)
        groups = x.shape[1] // weight.shape[1]
        x = function(x, weight, None, stride, padding, dilation, groups)
        return self.norm(x, f"{name}.{index + 1}")

    def inverted(self, x: Tensor, name: str, stride: int = 1) -> Tensor:
        y = self.convolve(x, f"{name}.conv", 0).clamp(0, 6)
        y = self.convolve(y, f"{name}.conv", 3, stride=stride).clamp(0, 6)
        return self.convolve(y, f"{name}.conv", 6)

    def separable(self, x: Tensor, name: str, stride: int, dilation: int) -> Tensor:
        y = self.convolve(x, f"{name}.conv1", 0, stride=stride, dilation=dilation).clamp(0, 6)
        y = self.convolve(y, f"{name}.conv1", 3).clamp(0, 6)
        y = self.convolve(y, f"{name}.conv2", 0, dilation=dilation).clamp(0, 6)
        y = self.convolve(y, f"{name}.conv2", 3)
        has_projection = f"{name}.downsample.0.weight" in self.state
        return y + (self.convolve(x, f"{name}.downsample", 0, stride=stride) if has_projection else x)

    def features(self, x: Tensor) -> Tensor:
        trunk = "feature_extraction"
        x = self.inverted(x, f"{trunk}.firstconv.0", 2)
        for block in (1, 2):
            x = x + self.inverted(x, f"{trunk}.firstconv.{block}")
        kept = []
        for stage, blocks, stride, dilation in ((1, 3, 1, 1), (2, 16, 2, 1), (3, 3, 1, 1), (4, 3, 1, 2)):
            for block in range(blocks):
                x = self.separable(x, f"{trunk}.layer{stage}.{block}", stride if block == 0 else 1, dilation)
            kept.append(x)
        return torch.cat(kept[1:], 1)

    def enlarge(self, x: Tensor, name: str) -> Tensor:
        weight = self.state[f"{name}.0.weight"]
        x = nn.functional.conv_transpose3d(x, weight, stride=2, padding=1, output_padding=1)
        return self.norm(x, f"{name}.1")

    def hourglass(self, x: Tensor, name: str) -> Tensor:
        half = self.inverted(self.inverted(x, f"{name}.conv1", 2), f"{name}.conv2")
        quarter = self.inverted(self.inverted(half, f"{name}.conv3", 2), f"{name}.conv4")
        half = (self.enlarge(quarter, f"{name}.conv5") + self.inverted(half, f"{name}.redir2")).clamp(min=0)
        return (self.enlarge(half, f"{name}.conv6") + self.inverted(x, f"{name}.redir1")).clamp(min=0)

    def disparity(self, left: Tensor, right: Tensor) -> Tensor:
        f, g = self.features(left), self.features(right)
        shifted = [nn.functional.pad(g, (d, 0))[..., : g.shape[-1]] for d in range(48)]
        x = torch.stack([(f * h).unflatten(1, (40, 8)).mean(2) for h in shifted], 2)
        x = self.inverted(self.inverted(x, "dres0.0"), "dres0.1")
        x = x + self.inverted(self.inverted(x, "dres1.0"), "dres1.1")
        for number in (1, 2, 3):
            x = self.hourglass(x, f"encoder_decoder{number}")
        x = self.convolve(x, "classif3.0", 0).clamp(min=0)
        x = nn.functional.conv3d(x, self.state["classif3.2.weight"], padding=1)
        x = nn.functional.interpolate(x, (192, *left.shape[-2:]), mode="trilinear")[:, 0].softmax(1)
        return (x * torch.arange(192.0, dtype=x.dtype)[:, None, None]).sum(1)


def test_the_network_equals_its_formulas(random_network: MobileStereoNet3d):
    network = copy.deepcopy(random_network).double()
    left, right = (picture.double() for picture in pair(2, 32, 48))
    expected = NaiveNetwork(network.state_dict()).disparity(left, right)
    with torch.no_grad():
        answer = network(left, right)
    assert expected.std() > 1
    torch.testing.assert_close(answer, expected, atol=1e-6, rtol=1e-6)


def pair(batch: int, height: int, width: int) -> tuple[Tensor, Tensor]:
    texture = torch.randn(batch, 3, height, width + 8, generator=generator(3))
    return texture[..., :width], texture[..., 8:]


def test_loaded_weights_answer_as_the_network_that_was_saved(random_network: MobileStereoNet3d, tmp_path: Path):
    save_file(random_network.state_dict(), tmp_path / "weights.safetensors")
    loaded = load_mobile_stereonet(tmp_path / "weights.safetensors")
    assert not any(isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d) for module in loaded.modules())
    left, right = pair(1, 32, 48)
    with torch.no_grad():
        torch.testing.assert_close(loaded(left, right), random_network(left, right), atol=2e-3, rtol=1e-4)


@pytest.mark.parametrize("size", [(16, 16), (32, 48)])
def test_pairs_of_a_batch_are_answered_one_by_one(random_network: MobileStereoNet3d, size: tuple[int, int]):
    left, right = pair(2, *size)
    with torch.no_grad():
        together = random_network(left, right)
        apart = [random_network(left[i : i + 1], right[i : i + 1]) for i in range(2)]
    assert together.shape == (2, *size)
    assert together.min() >= 0
    assert together.max() <= MAX_DISPARITY - 1
    torch.testing.assert_close(together, torch.cat(apart), atol=1e-3, rtol=1e-4)


def test_every_parameter_but_those_of_the_training_heads_matters():
    network = initialised(MobileStereoNet3d(), generator()).train()
    assert isinstance(network, MobileStereoNet3d)
    network(*pair(2, 32, 32)).mean().backward()
    untouched = {name.partition(".")[0] for name, p in network.named_parameters() if p.grad is None or not p.grad.any()}
    assert untouched == {"classif0", "classif1", "classif2"}


def test_weights_that_do_not_fit_are_refused(random_network: MobileStereoNet3d, tmp_path: Path):
    state = random_network.state_dict()
    mistakes = {
        "no such weights file": None,
        "cannot be read": b"nothing",
        "lacks classif3.2.weight": {key: value for key, value in state.items() if key != "classif3.2.weight"},
        "has the unknown key more": {**state, "more": torch.zeros(1)},
        "has another shape for dres0.0.conv.0.weight": {**state, "dres0.0.conv.0.weight": torch.zeros(1)},
    }
    for number, (named, content) in enumerate(mistakes.items()):
        path = tmp_path / f"{number}.ckpt"
        if isinstance(content, bytes):
            path.write_bytes(content)
        elif content is not None:
            torch.save(content, path)
        with pytest.raises(InputError, match=named) as caught:
            load_mobile_stereonet(path)
        assert caught.value.where == path
        assert "--weights" in str(caught.value)
