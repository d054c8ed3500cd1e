"""Against a naive transcription of reference monoocc 5 in float64; released names and counts on the meta device."""

import csv
import json
import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from occloom.backbones.internimage import (
    INTERNIMAGE_B,
    INTERNIMAGE_L,
    INTERNIMAGE_S,
    INTERNIMAGE_T,
    INTERNIMAGE_XL,
    InternImageTrunk,
    load_internimage_weights,
)
from occloom.backbones.pretrained import load_trunk
from occloom.errors import InputError

SIZES = {"t": INTERNIMAGE_T, "s": INTERNIMAGE_S, "b": INTERNIMAGE_B, "l": INTERNIMAGE_L, "xl": INTERNIMAGE_XL}
TINY = InternImageTrunk(width=32, depths=(1, 2, 1, 1), drop_path=0.0)


def parameters(module):
    return sum(p.numel() for p in module.parameters())


def random_state(trunk, *, seed=0):
    """Large enough offsets and unequal weights, so that every part tells in the answer."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for key, value in trunk.state_dict().items():
        spread = 1.0 if value.ndim == 1 else 2 / math.sqrt(value[0].numel())
        state[key] = torch.randn(value.shape, generator=generator) * spread
    return state


class Naive:
    """The released network, written down operation by operation from its state dict."""

    def __init__(self, state, config):
        self.state = {key: value.double() for key, value in state.items()}
        self.config = config

    def conv(self, x, name, *, groups=1, stride=2):
        return F.conv2d(x, self.state[f"{name}.weight"], self.state.get(f"{name}.bias"), stride, 1, groups=groups)

    def linear(self, x, name):
        return x @ self.state[f"{name}.weight"].T + self.state[f"{name}.bias"]

    def norm(self, x, name):
        centred = x - x.mean(dim=-1, keepdim=True)
        scaled = centred / (centred.square().mean(dim=-1, keepdim=True) + 1e-6).sqrt()
        return scaled * self.state[f"{name}.weight"] + self.state[f"{name}.bias"]

    def dcn(self, x, name):
        images, height, width, channels = x.shape
        groups = channels // 16
        told = self.conv(x.permute(0, 3, 1, 2), f"{name}.dw_conv.0", groups=channels, stride=1)
        told = F.gelu(self.norm(told.permute(0, 2, 3, 1), f"{name}.dw_conv.1.1"))
        offset = self.linear(told, f"{name}.offset").view(images, height, width, groups, 9, 2)
        mask = self.linear(told, f"{name}.mask").view(images, height, width, groups, 9).softmax(-1)
        # As the reference samples: the map within a ring of zeros, places as shares of its size.
        padded = F.pad(self.linear(x, f"{name}.input_proj"), (0, 0, 1, 1, 1, 1))
        answer = torch.zeros_like(x)
        for g in range(groups):
            own = slice(16 * g, 16 * g + 16)
            for k in range(9):
                shift = torch.tensor([k // 3 - 1, k % 3 - 1]) + offset[..., g, k, :]
                grid = torch.stack(torch.meshgrid(torch.arange(width), torch.arange(height), indexing="xy"), dim=-1)
                place = grid + 1 + self.config.offset_scale * shift
                share = 2 * (place + 0.5) / torch.tensor([width + 2, height + 2]) - 1
                read = F.grid_sample(padded[..., own].permute(0, 3, 1, 2), share, align_corners=False)
                answer[..., own] += read.permute(0, 2, 3, 1) * mask[..., g, k, None]
        return self.linear(answer, f"{name}.output_proj")

    def mlp(self, x, name):
        return self.linear(F.gelu(self.linear(x, f"{name}.fc1")), f"{name}.fc2")

    def block(self, x, name):
        for number, branch in ((1, lambda y: self.dcn(y, f"{name}.dcn")), (2, lambda y: self.mlp(y, f"{name}.mlp"))):
            norm = f"{name}.norm{number}.0"
            y = self.norm(branch(x), norm) if self.config.post_norm else branch(self.norm(x, norm))
            x = x + self.state[f"{name}.gamma{number}"] * y
        return x

    def levels(self, images):
        mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
        x = (images.double() - mean.view(3, 1, 1)) / std.view(3, 1, 1)
        x = self.conv(x, "patch_embed.conv1").permute(0, 2, 3, 1)
        x = F.gelu(self.norm(x, "patch_embed.norm1.1")).permute(0, 3, 1, 2)
        x = self.norm(self.conv(x, "patch_embed.conv2").permute(0, 2, 3, 1), "patch_embed.norm2.1")
        levels = []
        for i, depth in enumerate(self.config.depths):
            for j in range(depth):
                x = self.block(x, f"levels.{i}.blocks.{j}")
            if not self.config.post_norm:
                x = self.norm(x, f"levels.{i}.norm.0")
            levels.append(x.permute(0, 3, 1, 2))
            if i < 3:
                x = self.conv(x.permute(0, 3, 1, 2), f"levels.{i}.downsample.conv").permute(0, 2, 3, 1)
                x = self.norm(x, f"levels.{i}.downsample.norm.1")
        return levels


@pytest.mark.parametrize("post_norm", [True, False])
def test_a_random_state_gives_the_outputs_of_the_naive_transcription(post_norm):
    config = replace(TINY, post_norm=post_norm, offset_scale=2.0 if post_norm else 1.0)
    trunk = config.build().eval()
    state = random_state(trunk)
    trunk.load_state_dict(state)
    images = torch.rand(2, 3, 35, 50, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        pyramid = trunk(images)
    expected = Naive(state, config).levels(images)
    assert pyramid.strides == (4, 8, 16, 32)
    assert [tuple(level.shape[1:]) for level in pyramid.levels] == [(32, 9, 13), (64, 5, 7), (128, 3, 4), (256, 2, 2)]
    for ours, theirs in zip(pyramid.levels, expected, strict=True):
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-4, atol=1e-4 * float(theirs.abs().max()))


def test_gradients_reach_every_parameter_and_both_of_two_images():
    trunk = TINY.build()
    trunk.load_state_dict(random_state(trunk))
    images = torch.rand(2, 3, 32, 40, requires_grad=True)
    trunk(images).levels[-1].square().sum().backward()
    assert images.grad is not None
    assert images.grad.flatten(1).any(dim=1).all()
    assert [name for name, p in trunk.named_parameters() if p.grad is None or not p.grad.any()] == []


def stage_parameters(channels, depth):
    """Way into the stage, then blocks: norms, scales, DCNv3, feed-forward (reference monoocc 5, post-norm)."""
    groups, half = channels // 16, channels // 2
    entrance = 9 * half * channels + 2 * channels
    dcn = 10 * channels + 2 * channels + 27 * groups * (channels + 1) + 2 * channels * (channels + 1)
    feed_forward = 4 * channels * (channels + 1) + channels * (4 * channels + 1)
    return entrance + depth * (2 * channels + 4 * channels + dcn + feed_forward)


def test_xl_without_its_fourth_stage_is_the_published_number_less_that_stage():
    with torch.device("meta"):
        ours = INTERNIMAGE_XL.build(coarsest_stride=16)
    assert "levels.3" not in dict(ours.named_modules())
    fourth = stage_parameters(1536, 5)
    assert parameters(ours) + fourth == 328_971_228
    assert sum(INTERNIMAGE_XL.left_out.values()) == fourth


@pytest.mark.parametrize("size", SIZES)
def test_public_sizes_on_the_meta_device(size):
    config = SIZES[size]
    with torch.device("meta"):
        trunk = config.build()
    # Reference monoocc 5, and the tables of the paper (A, table 8): channels, groups of 16.
    widths = {"t": 64, "s": 80, "b": 112, "l": 160, "xl": 192}
    assert trunk.channels == tuple(widths[size] * 2**stage for stage in range(4))
    groups = [trunk.get_submodule(f"levels.{stage}.blocks.0.dcn").groups for stage in range(4)]
    first = {"t": 4, "s": 5, "b": 7, "l": 10, "xl": 12}[size]
    assert groups == [first, 2 * first, 4 * first, 8 * first]
    assert config.imagenet is not None
    assert f"internimage_{size}_" in config.imagenet.name


@pytest.mark.real_data
def test_xl_has_the_released_names_and_shapes(real_data):
    with (real_data.parent / "reference" / "state_dicts" / "monoocc_l_asreleased.tsv").open() as file:
        rows = [row for row in csv.reader(file, delimiter="\t") if row[0].startswith("img_backbone.")]
    released = {row[0].removeprefix("img_backbone."): tuple(json.loads(row[1])) for row in rows}
    with torch.device("meta"):
        whole = INTERNIMAGE_XL.build().state_dict()
        ours = INTERNIMAGE_XL.build(coarsest_stride=16).state_dict()
    assert {key: tuple(value.shape) for key, value in whole.items()} == released
    assert ours.keys() == {k for k in released if not k.startswith(("levels.3.", "levels.2.downsample."))}


def test_only_the_needed_stages_are_built():
    trunk = TINY.build(coarsest_stride=16)
    pyramid = trunk(torch.rand(1, 3, 20, 36))
    assert pyramid.strides == trunk.strides == (4, 8, 16)
    assert trunk.channels == (32, 64, 128)
    assert [tuple(level.shape) for level in pyramid.levels] == [(1, 32, 5, 9), (1, 64, 3, 5), (1, 128, 2, 3)]
    assert len(trunk.levels) == 3
    assert trunk.get_submodule("levels.2").downsample is None


def test_stochastic_depth_rises_over_all_four_stages_and_acts_in_training_only():
    trunk = replace(TINY, drop_path=0.4).build(coarsest_stride=16)
    rates = [block.drop for stage in trunk.levels for block in stage.blocks]
    assert rates == pytest.approx([0.0, 0.1, 0.2, 0.3])  # the last of five, in the stage that is not built, has 0.4
    trunk.load_state_dict(random_state(trunk))
    images = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        trunk.train()
        drawn = {float(trunk(images).levels[-1].sum()) for _ in range(12)}
        trunk.eval()
        still = {float(trunk(images).levels[-1].sum()) for _ in range(2)}
    assert len(drawn) > 1
    assert len(still) == 1


@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: {"model": {**s, "conv_head.0.weight": torch.ones(1), "head.weight": torch.ones(1)}},
        lambda s: {"state_dict": {**{f"backbone.{k}": v for k, v in s.items()}, "decode_head.x": torch.ones(1)}},
        lambda s: {f"img_backbone.{k}": v for k, v in s.items()},
        lambda s: {**{f"images.trunk.{k}": v for k, v in s.items()}, "images.neck.x": torch.ones(1)},
    ],
    ids=["classifier", "segmenter", "detector", "our own"],
)
def test_released_files_load_also_where_stages_are_left_out(wrap, tmp_path):
    whole = TINY.build()
    state = random_state(whole)
    torch.save(wrap(state), tmp_path / "weights.pth")
    for stride in (32, 8):
        trunk = TINY.build(coarsest_stride=stride)
        load_trunk(trunk, tmp_path / "weights.pth", imagenet=TINY.imagenet)
        assert all(torch.equal(value, state[key]) for key, value in trunk.state_dict().items())


def test_a_missing_file_and_one_of_another_size_say_what_to_download_and_which_option(tmp_path):
    trunk, published = TINY.build(coarsest_stride=16), INTERNIMAGE_XL.imagenet
    save_file(replace(TINY, width=16).build().state_dict(), tmp_path / "other.safetensors")
    for name, what in (("none.pth", "no such weights file"), ("other.safetensors", "has another shape for")):
        with pytest.raises(InputError, match=what) as raised:
            load_internimage_weights(trunk, tmp_path / name, published=published)
        assert "internimage_xl_22k_192to384.pth" in str(raised.value)
        assert "--train.trunk-weights PATH" in str(raised.value)
    with pytest.raises(InputError, match="of this width and these depths"):
        load_internimage_weights(trunk, tmp_path / "none.pth", published=TINY.imagenet)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"width": 24}, "width is 24"),
        ({"depths": (1, 0, 1, 1)}, "depths is"),
        ({"drop_path": 1.0}, "drop_path is 1.0"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(changes, named):
    with pytest.raises(InputError, match=named):
        replace(TINY, **changes)
