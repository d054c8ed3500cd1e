"""Weights that others published, fetched once from the Hugging Face hub and kept in its cache."""

from pathlib import Path
from typing import Literal

from occloom.backbones.internimage import InternImage, load_internimage_weights
from occloom.backbones.resnet import ResNet, load_torchvision_weights
from occloom.backbones.weight_files import HubFile
from occloom.errors import InputError

RESNET50D_IMAGENET = HubFile(repository="timm/resnet50d.a1_in1k", name="model.safetensors")
"""ResNet-50-D trained on ImageNet-1k by timm (Wightman et al., "ResNet strikes back", 2021, recipe A1); Apache-2.0."""
RESNET50_IMAGENET = HubFile(repository="timm/resnet50.tv_in1k", name="model.safetensors")
"""ResNet-50 trained on ImageNet-1k by torchvision, the weights that BEVDet's detectors began with; BSD-3-Clause."""


def pretrained_trunk(source: HubFile) -> Path:
    """Path of the file in the hub's cache, downloaded where it is not there yet.

    Nothing is asked over the network where the cache has the file and HF_HUB_OFFLINE is set.

    Raises:
        InputError: If it is not in the cache and cannot be downloaded, or the package for it is not installed.
    """
    where = f"{source.repository}/{source.name}"
    try:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import HfHubHTTPError
    except ImportError as error:
        what = "these weights are fetched by huggingface_hub, which is not installed"
        raise InputError(what, where=where, remedy=f"pip install 'occloom[hub]', or {source.by_hand}") from error
    try:
        return Path(hf_hub_download(source.repository, source.name))
    except (OSError, HfHubHTTPError) as error:
        what = f"is not in the cache of the Hugging Face hub and cannot be downloaded ({type(error).__name__})"
        raise InputError(what, where=where, remedy=source.by_hand) from error


def load_trunk(trunk: ResNet | InternImage, source: Path | Literal["imagenet"], *, imagenet: HubFile | None) -> None:
    """Fill a trunk with weights of a file, or with those that are published for ImageNet.

    Args:
        trunk: Receives the weights.
        source: A file of torchvision's, timm's or InternImage's keys, or of a model with such a trunk; or "imagenet".
        imagenet: Where the published ones are; None where there are none for such a trunk.

    Raises:
        InputError: If they cannot be had, or are of another trunk.
    """
    if source == "imagenet":
        if imagenet is None:
            raise InputError(
                "no ImageNet weights are published for this trunk",
                rule="it starts from random weights",
                remedy="leave out --train.trunk-weights, or name a file",
            )
        source = pretrained_trunk(imagenet)
    if isinstance(trunk, InternImage):
        load_internimage_weights(trunk, source, published=imagenet)
    else:
        load_torchvision_weights(trunk, source)
