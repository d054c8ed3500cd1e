"""Depth and features of MoGe-2 (Wang et al., 2025), a monocular metric depth model, as a prior.

The package `moge` and its weights are no part of occloom: docs/depth.md says how to install the one and where to find
the other. Facts: reference drocc 5.
"""

import importlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Protocol, cast, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from occloom.cache import CacheOrigin, file_digest
from occloom.data.kitti_files import read_image
from occloom.data.prior_sources import PriorMaps, PriorPicture
from occloom.errors import InputError

WEIGHTS_REMEDY = (
    "download https://huggingface.co/Ruicheng/moge-2-vits-normal/resolve/main/model.pt and name it by --weights"
)
PACKAGE_REMEDY = (
    "run `pip install --no-deps dlr-moge==2.0.0 dlr-utils3d==1.3` and "
    "`pip install opencv-contrib-python-headless scipy huggingface_hub`"
)


@runtime_checkable
class MogeModel(Protocol):
    """What is used of the package's `MoGeModel`; anything that answers like it serves."""

    @property
    def encoder(self) -> nn.Module:
        """Gives features (1 F h w) and a class token within `infer`."""
        ...

    def infer(
        self, image: Float[Tensor, "3 H W"], *, num_tokens: int, fov_x: float, use_fp16: bool
    ) -> Mapping[str, Tensor]:
        """`depth` (H W) among others: z-depth in metres of RGB in [0, 1], infinite where there is no surface."""
        ...


@dataclass(frozen=True)
class MogeConfig:
    """How MoGe-2 is run."""

    weights: Path
    """The published model.pt."""
    tokens: int = 1200
    """Patches that it sees of a picture: 1200 to 3600; time grows a little faster than they do."""
    features: bool = False
    """Whether the encoder's features are kept beside the depth."""

    def __post_init__(self) -> None:
        if not 1200 <= self.tokens <= 3600:
            raise InputError(f"tokens is {self.tokens}", rule="MoGe-2 was trained on 1200 to 3600 tokens")


class MogePrior:
    """MoGe-2 with weights from a file, loaded when the first picture asks for it.

    The model sees the whole picture as it lies on disk, and its horizontal field of view is given when the shift of its
    depth is solved for. The principal point is then taken to be the middle (nuScenes' lies up to 40 pixels off it).
    """

    def __init__(self, config: MogeConfig) -> None:
        """Check the weights' file.

        Raises:
            InputError: If there is no such file.
        """
        if not config.weights.is_file():
            raise InputError(
                "no such file", where=config.weights, rule="it holds MoGe-2's weights", remedy=WEIGHTS_REMEDY
            )
        self._config, self._digest = config, file_digest(config.weights)

    @property
    def origin(self) -> CacheOrigin:
        """Keyed by the contents of the weights."""
        settings = {"weights": self._digest, "tokens": self._config.tokens, "features": self._config.features}
        return CacheOrigin(source="moge", settings=settings, code_version=1)

    def inputs(self, picture: PriorPicture) -> tuple[Path, ...]:
        """The picture."""
        return (picture.path,)

    def prior(self, picture: PriorPicture) -> PriorMaps:
        """Depth at the picture's size, and the features if they are asked for."""
        image = read_image(picture.path)
        fx = float(picture.intrinsics[0, 0])
        return estimate(self._model, image, fx, tokens=self._config.tokens, features=self._config.features)

    @cached_property
    def _model(self) -> MogeModel:
        """On the GPU where there is one."""
        model = load_moge(self._config.weights)
        return cast(MogeModel, model.cuda() if torch.cuda.is_available() else model)


def estimate(
    model: MogeModel, image: UInt8[np.ndarray, "H W 3"], fx: float, *, tokens: int, features: bool
) -> PriorMaps:
    """What a model says of a picture.

    Args:
        model: MoGe-2, or anything of its interface.
        image: RGB.
        fx: Focal length along the width in the picture's pixels.
        tokens: Patches that the model sees of the picture.
        features: Whether to take the sum of the encoder's projected layers (1/14 of the size it sees) as features.
    """
    taken: list[Tensor] = []
    hook = model.encoder.register_forward_hook(lambda _module, _inputs, output: taken.append(output[0]))
    try:
        with torch.inference_mode():
            answer = model.infer(
                torch.from_numpy(image.astype(np.float32) / 255).permute(2, 0, 1),
                num_tokens=tokens,
                fov_x=math.degrees(2 * math.atan(image.shape[1] / (2 * fx))),
                use_fp16=torch.cuda.is_available(),
            )
    finally:
        hook.remove()
    depth = answer["depth"].float().cpu().numpy()
    kept = taken[0][0].float().cpu().numpy() if features else None
    return PriorMaps(depth=np.where(np.isfinite(depth), depth, np.float32(0)), features=kept)


def load_moge(path: Path) -> nn.Module:
    """The model that a published checkpoint describes, with its weights, in evaluation mode.

    Args:
        path: A file with `model_config` and `model`, as the authors publish it; only tensors and plain values are read.

    Raises:
        InputError: If the package is missing, or the file is not such a checkpoint.
    """
    try:
        package: Any = importlib.import_module("moge.model.v2")
    except ImportError as error:
        raise InputError(
            f"MoGe-2 needs a package that cannot be imported ({error})",
            rule="it is installed by hand, without the packages that only its demonstrations need",
            remedy=PACKAGE_REMEDY,
        ) from error
    try:
        checkpoint = torch.load(path, "cpu", weights_only=True)
        model: nn.Module = package.MoGeModel(**checkpoint["model_config"])
        # Its own loader forgives surplus keys too; missing ones would leave random weights.
        missing = model.load_state_dict(checkpoint["model"], strict=False).missing_keys
    except (OSError, RuntimeError, UnpicklingError, EOFError, KeyError, TypeError) as error:
        raise InputError(
            f"cannot be read as MoGe-2's checkpoint ({type(error).__name__})", where=path, remedy=WEIGHTS_REMEDY
        ) from error
    if missing:
        raise InputError(f"lacks {missing[0]}", where=path, rule="weights are MoGe-2's", remedy=WEIGHTS_REMEDY)
    return model.eval().requires_grad_(False)
