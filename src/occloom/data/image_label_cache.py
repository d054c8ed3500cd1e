"""Classes of pictures' pixels from one or several labelled scans, computed once and read back for any size.

`occloom prepare image-labels` writes one compressed `.npz` a picture, `sequences/NN/image_2/FFFFFF.npz`: of the pixels
that any point falls on, at the size on disk, `pixel` (int32, row times width plus column, ascending), `depth` (float32,
metres) and `label` (uint8), and `size` (int32, height and width). Sizes: docs/datasets/semantickitti.md.
"""

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch
from jaxtyping import Float64, Int64, UInt8
from torch import Tensor

from occloom.cache import MANIFEST, Cache, CacheOrigin, digests, read_cache, require_origin, write_atomically
from occloom.data.depth_sources import nearest_points
from occloom.data.image_truth import NO_LABEL, point_labels
from occloom.data.kitti_files import (
    KittiFrame,
    read_calibration,
    read_image_size,
    read_points,
    read_poses,
    velodyne_poses,
)
from occloom.data.label_spaces import IGNORED, to_point_ids
from occloom.data.pictures import PictureFit
from occloom.errors import InputError

FIRST_MOVING = 252
"""Raw ids from here on are of things that moved while they were scanned: other sweeps show them elsewhere."""
_REMEDY = "run `occloom prepare image-labels`, and give image_labels the folder's name"


@dataclass(frozen=True)
class _Points:
    """Labelled points as a picture sees them."""

    camera: Float64[np.ndarray, "P 3"]
    """Positions in the camera's frame, metres."""
    labels: UInt8[np.ndarray, " P"]
    """Dense ids; 0 where a point has no class."""


def image_label_origin(sweeps: Sequence[int]) -> CacheOrigin:
    """What a cache is keyed by.

    Args:
        sweeps: Scans relative to now, 0 first.

    Raises:
        InputError: If they do not begin with 0, or one is named twice.
    """
    if not sweeps or sweeps[0] != 0 or len(set(sweeps)) < len(sweeps):
        raise InputError(f"sweeps are {tuple(sweeps)}", rule="0 comes first, then others, as in 0 -1 -2 -3 -4")
    return CacheOrigin("image-labels", {"sweeps": " ".join(map(str, sweeps))}, code_version=1)


def image_label_entry(frame: KittiFrame, camera: str) -> str:
    """The name of a picture's entry in its cache."""
    return f"sequences/{frame.sequence}/{camera}/{frame.name}.npz"


def open_image_labels(folder: Path, sweeps: Sequence[int]) -> Cache:
    """The cache of prepared labels in a folder, to read from.

    Raises:
        InputError: If there is none, or it was made of other sweeps or by other code.
    """
    if not (folder / MANIFEST).is_file():
        raise InputError("no prepared image labels", where=folder, rule=f"it has a {MANIFEST}", remedy=_REMEDY)
    cache = read_cache(folder)
    require_origin(cache, image_label_origin(sweeps))
    return cache


def load_image_labels(cache: Cache, frame: KittiFrame, camera: str, fit: PictureFit) -> Int64[Tensor, "H W"]:
    """Sparse classes of a fitted picture, `NO_LABEL` = none, 0 = a point without a class.

    Each labelled pixel of the picture on disk goes to the pixel that its centre then falls on; of several the nearest
    to the camera counts.

    Raises:
        InputError: If the entry is missing, damaged, of another size, or was made of other files than there are now.
    """
    name = image_label_entry(frame, camera)
    cache.check(name, frame.root)
    pixel, depth, label, size = _read(cache.path(name))
    if size != fit.source:
        raise InputError(
            f"the labels are of a picture of {size[0]}x{size[1]}",
            where=cache.path(name),
            rule=f"the sequence's pictures are {fit.source[0]}x{fit.source[1]}",
            remedy="prepare the image labels again",
        )
    row, column = np.divmod(pixel.astype(np.int64), size[1])
    target_from_source = fit.intrinsics(torch.eye(3, dtype=torch.float64)).numpy()
    centres = np.stack([column, row, np.ones_like(row)], axis=1) * depth[:, None].astype(np.float64)
    winners = nearest_points(centres, target_from_source, fit.target)
    classes = label[winners].astype(np.int64) if len(label) else np.zeros(fit.target, dtype=np.int64)
    return torch.from_numpy(np.where((winners >= 0) & (classes != IGNORED), classes, NO_LABEL))


def fill_image_labels(
    cache: Cache, frames: Sequence[KittiFrame], cameras: Sequence[str], sweeps: Sequence[int]
) -> Iterator[KittiFrame]:
    """Prepare what is not finished yet, yielding each frame when its pictures are.

    Args:
        cache: Of the origin `image_label_origin(sweeps)`.
        frames: Each has its own scan, labelled; of its other sweeps those count that are there.
        cameras: Such as image_2.
        sweeps: Relative to each frame, 0 first.

    Raises:
        InputError: If a file is missing or damaged, or the cache holds entries of other inputs.
    """
    for frame in frames:
        chosen = [_sweep(frame, offset) for offset in sweeps if offset == 0 or _is_labelled(_sweep(frame, offset))]
        poses = (frame.folder / "poses.txt",) if len(chosen) > 1 else ()
        scans = [path for sweep in chosen for path in (sweep.scan, sweep.file("labels", ".label"))]
        for camera in cameras:
            name, picture = image_label_entry(frame, camera), frame.file(camera, ".png")
            inputs = digests([*scans, *poses, *frame.calibration_files, picture], frame.root)
            if not cache.done(name, inputs):
                size = read_image_size(picture)
                arrays = _visible(_points(frame, chosen, int(camera[-1])), frame, int(camera[-1]), size)
                buffer = io.BytesIO()
                np.savez_compressed(buffer, allow_pickle=False, **arrays)
                write_atomically(cache.path(name), buffer.getvalue())
                cache.record(name, inputs)
        yield frame


def _sweep(frame: KittiFrame, offset: int) -> KittiFrame:
    """The scan so many frames away; the name of one before the first exists nowhere."""
    return KittiFrame(frame.root, frame.sequence, f"{int(frame.name) + offset:06d}")


def _is_labelled(sweep: KittiFrame) -> bool:
    return sweep.scan.is_file() and sweep.file("labels", ".label").is_file()


def _points(frame: KittiFrame, sweeps: Sequence[KittiFrame], camera: int) -> _Points:
    """All points of some sweeps before a camera of the present; what moved comes from the present scan alone."""
    calibration = read_calibration(frame.folder / "calib.txt")
    path = frame.folder / "poses.txt"
    poses = velodyne_poses(read_poses(path), calibration) if len(sweeps) > 1 else np.eye(4)[None]
    positions, labels = [], []
    for sweep in sweeps:
        points = read_points(sweep.scan)[:, :3].astype(np.float64)
        raw = point_labels(sweep, len(points))
        transform = calibration.camera_from_velodyne(camera)
        if sweep != frame:
            last = max(int(sweep.name), int(frame.name))
            if last >= len(poses):
                raise InputError(
                    f"no row for frame {last:06d}",
                    where=path,
                    rule="several sweeps are joined by the poses of their scans",
                    remedy="fetch the file again, or prepare with --sweeps 0",
                )
            still = raw < FIRST_MOVING
            points, raw = points[still], raw[still]
            transform = transform @ np.linalg.inv(poses[int(frame.name)]) @ poses[int(sweep.name)]
        positions.append(points @ transform[:3, :3].T + transform[:3, 3])
        labels.append(to_point_ids(raw))
    return _Points(np.concatenate(positions), np.concatenate(labels))


def _visible(points: _Points, frame: KittiFrame, camera: int, size: tuple[int, int]) -> Mapping[str, np.ndarray]:
    """The arrays of an entry: of the points on one pixel the nearest hides the others."""
    intrinsics = read_calibration(frame.folder / "calib.txt").intrinsics(camera)
    winners = nearest_points(points.camera, intrinsics, size).ravel()
    pixels = np.flatnonzero(winners >= 0)
    chosen = winners[pixels]
    return {
        "pixel": pixels.astype(np.int32),
        "depth": points.camera[chosen, 2].astype(np.float32),
        "label": points.labels[chosen],
        "size": np.array(size, dtype=np.int32),
    }


def _read(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray, tuple[int, int]]:
    """The arrays of an entry."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            height, width = archive["size"]
            return archive["pixel"], archive["depth"], archive["label"], (int(height), int(width))
    except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
        raise InputError(
            f"the image labels cannot be read ({error})", where=path, remedy="delete the file and prepare it again"
        ) from error
