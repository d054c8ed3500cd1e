"""The adapter with a tiny stand-in of the package's interface, and with the package where it is installed."""

import math
import sys
import types
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from occloom.data.kitti_files import write_image
from occloom.data.moge_prior import MogeConfig, MogePrior, estimate, load_moge
from occloom.data.prior_sources import PriorPicture, PriorScan
from occloom.errors import InputError

INTRINSICS = np.array([[20.0, 0, 19.5], [0, 20.0, 11.5], [0, 0, 1]])


class TinyEncoder(nn.Module):
    """One convolution to rows and columns of tokens, and a token of the class."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.project = nn.Conv2d(3, dim, 1)

    def forward(self, image: Tensor, rows: int, columns: int) -> tuple[Tensor, Tensor]:
        features = self.project(nn.functional.interpolate(image, (rows, columns)))
        return features, features.mean(dim=(2, 3))


class TinyMoge(nn.Module):
    """Random weights, the call and the answers of moge.model.v2.MoGeModel; remembers what it was asked."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.encoder = TinyEncoder(dim)
        self.asked: dict[str, object] = {}

    def infer(self, image: Tensor, *, num_tokens: int, fov_x: float, use_fp16: bool) -> dict[str, Tensor]:
        self.asked = {"tokens": num_tokens, "fov": fov_x, "fp16": use_fp16, "image": image}
        aspect = image.shape[2] / image.shape[1]
        rows, columns = round((num_tokens / aspect) ** 0.5), round((num_tokens * aspect) ** 0.5)
        features, _ = self.encoder(image[None], rows, columns)
        depth = nn.functional.interpolate(features.abs().sum(1)[None], image.shape[1:])[0, 0] + 1
        depth[0] = torch.inf
        return {"depth": depth, "mask": depth.isfinite()}


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch) -> None:
    """The stand-in in the package's place."""
    module = types.ModuleType("moge.model.v2")
    module.MoGeModel = TinyMoge  # pyright: ignore[reportAttributeAccessIssue]
    monkeypatch.setitem(sys.modules, "moge", types.ModuleType("moge"))
    monkeypatch.setitem(sys.modules, "moge.model", types.ModuleType("moge.model"))
    monkeypatch.setitem(sys.modules, "moge.model.v2", module)


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "model.pt"
    torch.save({"model_config": {"dim": 6}, "model": TinyMoge(6).state_dict()}, path)
    return path


@pytest.fixture
def picture(tmp_path: Path) -> PriorPicture:
    path = tmp_path / "CAM_FRONT.png"
    write_image(path, np.random.default_rng(0).integers(0, 256, (24, 40, 3)).astype(np.uint8))
    return PriorPicture(tmp_path, "scene-1/abc", "CAM_FRONT", path, INTRINSICS, PriorScan(tmp_path / "scan", np.eye(4)))


def test_the_model_is_told_the_field_of_view_and_sees_colours_of_0_to_1():
    model, image = TinyMoge(4), np.full((24, 40, 3), (255, 0, 51), np.uint8)
    maps = estimate(model, image, 20.0, tokens=1200, features=False)
    # 40 pixels at a focal length of 20: 45 degrees to each side.
    assert model.asked["fov"] == pytest.approx(90.0)
    assert model.asked["tokens"] == 1200
    seen = model.asked["image"]
    assert isinstance(seen, Tensor)
    torch.testing.assert_close(seen[:, 3, 7], torch.tensor([1.0, 0.0, 0.2]))
    assert maps.depth.shape == (24, 40)
    assert (maps.depth[0] == 0).all()
    assert (maps.depth[1:] >= 1).all()
    assert maps.features is None


def test_features_are_those_of_the_encoder_and_the_tap_is_taken_out_again():
    model = TinyMoge(4)
    image = np.random.default_rng(0).integers(0, 256, (24, 40, 3)).astype(np.uint8)
    features = estimate(model, image, 20.0, tokens=1200, features=True).features
    assert features is not None
    rows, columns = features.shape[1:]
    assert (rows, columns) == (27, 45)
    with torch.no_grad():
        expected, _ = model.encoder(torch.from_numpy(image / 255).float().permute(2, 0, 1)[None], rows, columns)
    np.testing.assert_allclose(features, expected[0].numpy(), atol=1e-6)
    assert not model.encoder._forward_hooks


@pytest.mark.usefixtures("package")
def test_a_source_gives_what_the_checkpoint_says(weights: Path, picture: PriorPicture):
    source = MogePrior(MogeConfig(weights, features=True))
    maps = source.prior(picture)
    model = load_moge(weights)
    assert isinstance(model, TinyMoge)
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert maps.features is not None
    assert maps.features.shape[0] == 6
    assert source.inputs(picture) == (picture.path,)
    other = MogePrior(MogeConfig(weights, tokens=2500, features=True)).origin
    assert source.origin.key != other.key
    assert replace(MogeConfig(weights), features=True) == MogeConfig(weights, features=True)
    assert math.isfinite(maps.depth.max())


def test_without_the_package_the_error_says_what_to_install(weights: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "moge", None)
    with pytest.raises(InputError, match="pip install --no-deps dlr-moge"):
        load_moge(weights)


def test_without_weights_the_error_says_what_to_download(tmp_path: Path):
    with pytest.raises(InputError, match=r"huggingface.co/Ruicheng/moge-2-vits-normal"):
        MogePrior(MogeConfig(tmp_path / "no.pt"))
    with pytest.raises(InputError, match="1200 to 3600"):
        MogeConfig(tmp_path / "no.pt", tokens=100)


@pytest.mark.usefixtures("package")
def test_other_files_are_refused(tmp_path: Path):
    path = tmp_path / "model.pt"
    path.write_bytes(b"nothing")
    with pytest.raises(InputError, match="cannot be read as MoGe-2's checkpoint"):
        load_moge(path)
    torch.save({"model": {}}, path)
    with pytest.raises(InputError, match=r"checkpoint \(KeyError\)"):
        load_moge(path)
    state = TinyMoge(6).state_dict()
    del state["encoder.project.bias"]
    torch.save({"model_config": {"dim": 6}, "model": state}, path)
    with pytest.raises(InputError, match=r"lacks encoder.project.bias"):
        load_moge(path)
