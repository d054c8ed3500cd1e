"""What a trained teacher holds in occupied voxels, computed once a frame and read back as a volume.

`occloom prepare teacher-features` writes one `.npz` a frame, `sequences/NN/FFFFFF.npz`: `voxel` (int32, flat indices in
C order, ascending), `features` (float16, a row of C numbers a voxel) and `shape` (int32, voxels along x, y and z). A
frame takes 4 + 2 C bytes a voxel: with 128 channels and 25,000 occupied voxels 6.5 MB, where all 262,144 in float32
take 134 MB.
"""

import io
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32
from torch import Tensor

from occloom.cache import (
    MANIFEST,
    Cache,
    CacheOrigin,
    digests,
    file_digest,
    read_cache,
    require_origin,
    write_atomically,
)
from occloom.data.kitti_files import KittiFrame
from occloom.errors import InputError

_REMEDY = "run `occloom prepare teacher-features`, and give teacher_features the folder's name"


def teacher_feature_origin(weights: Path) -> CacheOrigin:
    """What a cache is keyed by: the very weights of the teacher.

    Raises:
        InputError: If there is no such file.
    """
    if not weights.is_file():
        raise InputError("no such weights file", where=weights, rule="a cache is keyed by the teacher's weights")
    return CacheOrigin("teacher-features", {"weights": file_digest(weights)}, code_version=1)


def teacher_feature_entry(frame: KittiFrame) -> str:
    """The name of a frame's entry in its cache."""
    return f"sequences/{frame.token}.npz"


def teacher_feature_inputs(frame: KittiFrame) -> dict[str, str]:
    """Digests of the frame's own files that an entry depends on; past frames and queries are not compared.

    Raises:
        InputError: If the sequence has no calibration.
    """
    own = (frame.left, frame.file("voxels", ".label"), frame.file("voxels", ".invalid"))
    return digests([*(path for path in own if path.is_file()), *frame.calibration_files], frame.root)


def open_teacher_features(folder: Path | None, weights: Path | None) -> Cache:
    """The cache of prepared features, to read from.

    Args:
        folder: Of the cache; None where the data names none, which is refused.
        weights: Those of the teacher whose features they must be; None for any.

    Raises:
        InputError: If there is no such cache, or it was made by another teacher or by other code.
    """
    if folder is None:
        raise InputError(
            "the model needs a teacher's features and the data has none",
            rule="teacher_features names prepared ones",
            remedy=_REMEDY,
        )
    if not (folder / MANIFEST).is_file():
        raise InputError("no prepared features", where=folder, rule=f"it has a {MANIFEST}", remedy=_REMEDY)
    cache = read_cache(folder)
    known = CacheOrigin("teacher-features", cache.origin.settings, code_version=1)
    require_origin(cache, known if weights is None else teacher_feature_origin(weights))
    return cache


def save_teacher_features(
    cache: Cache, frame: KittiFrame, volume: Float[Tensor, "C x y z"], where: Bool[Tensor, "x y z"]
) -> None:
    """Write and record a frame's entry.

    Args:
        cache: Of the origin `teacher_feature_origin`.
        frame: Whose volume it is.
        volume: Of the teacher.
        where: Voxels to keep.
    """
    voxels = where.flatten().nonzero()[:, 0]
    rows = volume.flatten(1).T.index_select(0, voxels)
    buffer = io.BytesIO()
    np.savez(
        buffer,
        allow_pickle=False,
        voxel=voxels.int().cpu().numpy(),
        features=rows.half().cpu().numpy(),
        shape=np.array(where.shape, dtype=np.int32),
    )
    name = teacher_feature_entry(frame)
    write_atomically(cache.path(name), buffer.getvalue())
    cache.record(name, teacher_feature_inputs(frame))


def load_teacher_volume(cache: Cache, frame: KittiFrame) -> Float32[Tensor, "1 C x y z"]:
    """A frame's volume, zero where nothing was kept.

    Raises:
        InputError: If the entry is missing, damaged, or was made of other files than there are now.
    """
    name = teacher_feature_entry(frame)
    cache.check(name, frame.root)
    path = cache.path(name)
    try:
        with np.load(path, allow_pickle=False) as archive:
            voxel, features, shape = archive["voxel"], archive["features"], archive["shape"]
    except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
        raise InputError(
            f"the features cannot be read ({error})", where=path, remedy="delete the file and prepare it again"
        ) from error
    x, y, z = (int(n) for n in shape)
    volume = torch.zeros(features.shape[1], x * y * z)
    volume[:, torch.from_numpy(voxel).long()] = torch.from_numpy(features).float().T
    return volume.view(1, -1, x, y, z)
