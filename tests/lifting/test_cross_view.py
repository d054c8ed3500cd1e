"""Both cross-view transformers against transcriptions of the reference, on maps of any size."""

import math

import naive_monoocc as naive
import pytest
import torch
from torch import nn

from occloom.errors import InputError
from occloom.lifting.cross_view import (
    JointViews,
    JointViewTransformer,
    WindowedPairs,
    WindowedPairTransformer,
    enrich_neighbours,
    sine_positions,
)

BOTH = (JointViews(heads=2), WindowedPairs())

JOINT = {
    "norm1": "attention_norm",
    "attn.q_linear": "query",
    "attn.k_linear": "key",
    "attn.v_linear": "value",
    "attn.proj": "project",
    "norm2": "feedforward_norm",
    "mlp.fc1": "feedforward.0",
    "mlp.fc2": "feedforward.2",
}
PAIR = {
    "q_proj": "query",
    "k_proj": "key",
    "v_proj": "value",
    "merge": "merge",
    "norm1": "norm",
    "mlp.0": "feedforward.0",
    "mlp.2": "feedforward.2",
    "norm2": "feedforward_norm",
}


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def shaken(module: nn.Module, seed: int) -> dict[str, torch.Tensor]:
    """The module's parameters, made so that every one matters."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        parameter.data += 0.2 * torch.randn(parameter.shape, generator=generator)
    return module.state_dict()


def renamed(state, ours: str, theirs: str, names: dict[str, str]) -> dict[str, torch.Tensor]:
    return {
        f"{theirs}.{released}.{kind}": state[f"{ours}.{own}.{kind}"]
        for released, own in names.items()
        for kind in ("weight", "bias")
        if f"{ours}.{own}.{kind}" in state
    }


def test_the_published_numbers_of_parameters():
    counts = [sum(p.numel() for p in kind.build(128).parameters()) for kind in (JointViews(), WindowedPairs())]
    assert counts == [626_816, 3_150_336]


@pytest.mark.parametrize(("size", "views"), [((4, 6), 2), ((5, 3), 2), ((3, 4), 3), ((1, 1), 1)])
def test_joint_views_equal_the_transcription(size, views):
    model = JointViewTransformer(8)
    state = shaken(model, 1)
    released = {
        "sep_conv.conv1.weight": state["shrink.0.weight"],
        "sep_conv.pointwise.weight": state["shrink.1.weight"],
        "sep_deconv.conv1.weight": state["enlarge.0.weight"],
        "sep_deconv.conv1.bias": state["enlarge.0.bias"],
        "sep_deconv.pointwise.weight": state["enlarge.1.weight"],
    }
    for block in range(3):
        released |= renamed(state, f"blocks.{block}", f"decoder.{block}", JOINT)
    features = random(2, views, 8, *size)
    with torch.no_grad():
        expected = torch.stack([naive.joint_views(released, sample) for sample in features])
        torch.testing.assert_close(model(features), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("size", [(4, 6), (6, 10), (2, 2), (5, 7), (1, 3)])
def test_windowed_pairs_equal_the_transcription(size):
    model = WindowedPairTransformer(8).double()
    state = shaken(model, 2)
    released = {}
    for block in range(6):
        for ours, theirs in (("own", "self_attn"), ("other", "cross_attn_ffn")):
            released |= renamed(state, f"blocks.{block}.{ours}", f"layers.{block}.{theirs}", PAIR)
    features = random(2, 2, 8, *size).double()
    with torch.no_grad():
        expected = torch.stack([torch.stack(naive.windowed_pair(released, *sample)) for sample in features])
        torch.testing.assert_close(model(features), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("kind", BOTH, ids=lambda kind: type(kind).__name__)
@pytest.mark.parametrize("size", [(3, 5), (4, 4), (1, 1)])
def test_any_size_and_batch_gives_what_each_sample_gives(kind, size):
    model, features = kind.build(8), random(3, 2, 8, *size)
    shaken(model, 4)
    with torch.no_grad():
        together = model(features)
        alone = torch.cat([model(sample[None]) for sample in features])
    assert together.shape == features.shape
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", BOTH, ids=lambda kind: type(kind).__name__)
def test_each_view_sees_the_other_and_every_parameter_learns(kind):
    model, features = kind.build(8), random(1, 2, 8, 4, 4).requires_grad_()
    shaken(model, 5)
    model(features)[:, 0].square().sum().backward()
    assert features.grad is not None
    assert features.grad[:, 1].abs().sum() > 0
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


@pytest.mark.parametrize("kind", BOTH, ids=lambda kind: type(kind).__name__)
def test_neighbours_are_enriched_one_pair_after_the_other(kind):
    model, frames = kind.build(8), random(2, 4, 8, 3, 4)
    shaken(model, 6)
    expected = [frames[:, t] for t in range(4)]
    with torch.no_grad():
        for t in range(3):
            pair = model(torch.stack([expected[t], expected[t + 1]], 1))
            expected[t], expected[t + 1] = pair[:, 0], pair[:, 1]
        torch.testing.assert_close(enrich_neighbours(model, frames), torch.stack(expected, 1))
    assert torch.equal(enrich_neighbours(model, frames[:, :1]), frames[:, :1])


@pytest.mark.parametrize(("normalised", "size"), [(False, (3, 5)), (True, (2, 4))])
def test_sine_positions_equal_a_loop(normalised, size):
    step = tuple(2 * math.pi / (n + 1e-6) if normalised else 1.0 for n in size)
    positions = sine_positions(size, 12, normalised=normalised)
    for i in range(size[0]):
        for j in range(size[1]):
            torch.testing.assert_close(positions[:, i, j], naive.sine(i, j, 12, step), rtol=1e-4, atol=1e-5)


def test_sizes_that_do_not_fit_are_refused():
    for make in (
        lambda: JointViewTransformer(10, heads=2),
        lambda: JointViewTransformer(12, heads=8),
        lambda: WindowedPairTransformer(6),
        lambda: WindowedPairTransformer(8, windows=0),
        lambda: sine_positions((2, 2), 6, normalised=False),
    ):
        with pytest.raises(InputError, match="4 divide"):
            make()
