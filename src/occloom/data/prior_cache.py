"""Depth priors on disk: an entry a picture, written once and read with every sample.

A cache is `<root>/prior/<name>`; the entry of a picture is `<scene>/<sample token>/<CAMERA>.npz` with `depth` (float16,
H W, metres, 0 = unknown), `intrinsics` (float64, of that depth's pixels) and, where the source has some, `features`
(float16, F h w, which cover the whole picture). docs/depth.md has the sizes.
"""

import hashlib
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch
from jaxtyping import Float16, Float32, Float64
from torch import Tensor

from occloom.cache import MANIFEST, Cache, CacheOrigin, digests, read_cache, write_atomically
from occloom.data.kitti_files import read_image_size
from occloom.data.pictures import resize_depth
from occloom.data.prior_sources import PriorPicture, PriorSource
from occloom.errors import InputError
from occloom.geometry.augment import resized_intrinsics
from occloom.scene import DepthPrior

LARGEST_HEIGHT = 225
"""Rows of depth kept unless chosen: a quarter of nuScenes' 900, fine enough for voxels of 0.4 m."""
FARTHEST = 60000.0
"""In metres: what float16 can hold; beyond, depth is unknown."""
CALIBRATION = "intrinsics"
"""Name under which an entry's inputs list the digest of the picture's intrinsics, which have no file of their own."""
_REMEDY = "run `occloom prepare depth-prior`, and give prior the folder's name"


@dataclass(frozen=True)
class _Entry:
    """The arrays of one picture."""

    depth: Float16[np.ndarray, "H W"]
    intrinsics: Float64[np.ndarray, "3 3"]
    features: Float16[np.ndarray, "F h w"] | None


def prior_folder(root: Path, prior: Path) -> Path:
    """Where a prepared prior lies: a name under <root>/prior, or any folder."""
    return root / "prior" / prior if len(prior.parts) == 1 else prior


def prior_entry(picture: PriorPicture) -> str:
    """The name of a picture's entry in its cache."""
    return f"{picture.token}/{picture.camera}.npz"


def prior_origin(source: PriorSource, size: tuple[int, int]) -> CacheOrigin:
    """What a cache of a source's answers is keyed by: its own settings, and height and width of the depth kept."""
    origin = source.origin
    settings = {**origin.settings, "height": size[0], "width": size[1]}
    return CacheOrigin(source=origin.source, settings=settings, code_version=origin.code_version)


def usual_size(picture_size: tuple[int, int]) -> tuple[int, int]:
    """Height and width of the depth kept of pictures of a size: theirs over the least whole number that is enough."""
    height, width = picture_size
    divisor = -(-height // LARGEST_HEIGHT)
    return height // divisor, width // divisor


def open_prior(folder: Path | None) -> Cache:
    """The cache of a prepared prior, to read from.

    Args:
        folder: Of the cache (`prior_folder`); None where the data names none, which is refused.

    Raises:
        InputError: If there is no such cache, or its manifest is damaged.
    """
    if folder is None:
        raise InputError(
            "the model needs a depth prior and the data has none", rule="prior names a prepared one", remedy=_REMEDY
        )
    if not (folder / MANIFEST).is_file():
        raise InputError("no prepared depth prior", where=folder, rule=f"it has a {MANIFEST}", remedy=_REMEDY)
    return read_cache(folder)


def require_priors(cache: Cache, pictures: Sequence[PriorPicture | None]) -> None:
    """Refuse a cache that lacks the entry of a picture; contents are compared when they are read.

    Args:
        cache: Of `open_prior`.
        pictures: Of `keyframe_pictures`: None for one that is not there.

    Raises:
        InputError: If so.
    """
    for picture in pictures:
        if picture is not None:
            cache.require_whole(prior_entry(picture))


def load_prior(cache: Cache, pictures: Sequence[PriorPicture | None], *, features: bool) -> DepthPrior:
    """What a prepared prior says of the pictures of one keyframe, as a batch of one; calibration is float64.

    Readers call `open_prior(prior_folder(config.root, config.prior))` and `require_priors` once a split, and this once
    a sample, all with `keyframe_pictures`, if `needs.prior_depth` or `needs.prior_features`. The prior is of the
    picture as it lies on disk, so what augmentation does to the pictures does not concern it; mirrored ego frames are
    in `Cameras.camera_from_ego`.

    Args:
        cache: Of `open_prior`.
        pictures: Of the N cameras, in the sample's order. One that is not there (None) gets unknown depth (0), zero
            features and the intrinsics of the first that is.
        features: Whether to read the features too (`needs.prior_features`).

    Raises:
        InputError: If an entry is missing, damaged, was made of another picture or other intrinsics, or lacks features
            that are asked for; or if no picture is there.
    """
    entries = [None if picture is None else _read(cache, picture, features=features) for picture in pictures]
    known = next((entry for entry in entries if entry is not None), None)
    if known is None:
        raise InputError("no camera has a picture", where=cache.folder, rule="a depth prior is one of pictures")
    absent = _Entry(
        np.zeros_like(known.depth),
        known.intrinsics,
        None if known.features is None else np.zeros_like(known.features),
    )
    found = [entry or absent for entry in entries]
    return DepthPrior(
        depth=_stacked([entry.depth for entry in found]),
        intrinsics=torch.from_numpy(np.stack([entry.intrinsics for entry in found]))[None],
        features=_stacked([entry.features for entry in found if entry.features is not None]) if features else None,
    )


def fill_prior_cache(
    cache: Cache, source: PriorSource, pictures: Sequence[PriorPicture], size: tuple[int, int]
) -> Iterator[PriorPicture]:
    """Prepare what is not finished yet, yielding each picture when it is.

    Args:
        cache: Of the origin `prior_origin(source, size)`.
        source: Answers each picture.
        pictures: In any order; each file is there.
        size: Height and width of the depth to keep.

    Raises:
        InputError: If a picture lacks an input, or the cache holds entries of other inputs.
    """
    for picture in pictures:
        inputs = {**digests(source.inputs(picture), picture.root), CALIBRATION: _calibration_digest(picture)}
        if not cache.done(prior_entry(picture), inputs):
            _write(cache.path(prior_entry(picture)), source, picture, size)
            cache.record(prior_entry(picture), inputs)
        yield picture


def _write(path: Path, source: PriorSource, picture: PriorPicture, size: tuple[int, int]) -> None:
    """Compute and write one entry."""
    maps = source.prior(picture)
    depth = maps.depth if maps.depth.shape == size else resize_depth(maps.depth, size)
    known = np.isfinite(depth) & (depth > 0) & (depth < FARTHEST)
    intrinsics = resized_intrinsics(
        torch.from_numpy(picture.intrinsics), from_size=read_image_size(picture.path), to_size=size
    )
    arrays = {"depth": np.where(known, depth, 0).astype(np.float16), "intrinsics": intrinsics.numpy()}
    if maps.features is not None:
        arrays["features"] = maps.features.astype(np.float16)
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    write_atomically(path, buffer.getvalue())


def _read(cache: Cache, picture: PriorPicture, *, features: bool) -> _Entry:
    """One picture's entry, if it stands for the picture and the intrinsics as they are now."""
    name = prior_entry(picture)
    cache.require_whole(name)
    cache.done(name, {**digests([picture.path], picture.root), CALIBRATION: _calibration_digest(picture)})
    path = cache.path(name)
    try:
        with np.load(path, allow_pickle=False) as archive:
            kept = archive["features"] if features and "features" in archive else None
            entry = _Entry(archive["depth"], archive["intrinsics"], kept)
    except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
        raise InputError(
            f"the depth prior cannot be read ({error})", where=path, remedy="delete the file and prepare it again"
        ) from error
    if features and entry.features is None:
        raise InputError(
            "the depth prior has no features",
            where=path,
            rule="the model reads features of a depth model",
            remedy="prepare it from a source that has some, or let the model make its own from the depth",
        )
    return entry


def _calibration_digest(picture: PriorPicture) -> str:
    """SHA-256 of the intrinsics of the picture on disk."""
    return hashlib.sha256(np.ascontiguousarray(picture.intrinsics).tobytes()).hexdigest()


def _stacked(arrays: Sequence[Float16[np.ndarray, "*shape"]]) -> Float32[Tensor, "1 N *shape"]:
    """Maps of several cameras as one float32 tensor."""
    return torch.from_numpy(np.stack(arrays).astype(np.float32))[None]
