"""What `occloom render --layout occ3d` draws: the cameras' pictures around a prediction and the truth."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image

from occloom.cli.frame_title import frame_title
from occloom.cli.score import count_frame
from occloom.data.kitti_files import read_image
from occloom.data.label_spaces import IGNORED
from occloom.data.nuscenes_files import Keyframe, read_tables, scene_names
from occloom.data.occ3d import CAMERAS
from occloom.data.occ3d_files import Mask, label_path, read_labels, read_prediction
from occloom.data.occ3d_labels import OCC3D, OCC3D_GRID
from occloom.errors import InputError
from occloom.metrics.naive import EGO_ROAD_HEIGHT
from occloom.metrics.protocols import OCC3D_BY_MASK
from occloom.viewer.images import EgoMarker, comparison_picture
from occloom.viewer.surround import CameraView, surround_picture


@dataclass(frozen=True)
class Occ3dFrame:
    """What is known of a frame."""

    name: str
    prediction: UInt8[np.ndarray, "X Y Z"] | None
    truth: UInt8[np.ndarray, "X Y Z"] | None
    """Free where it does not count."""
    observed: Bool[np.ndarray, "X Y Z"]
    """All voxels where there is no truth."""
    views: tuple[CameraView, ...]
    """None where the frame is not one of a data set."""


def read_occ3d_frame(
    prediction: Path | None, truth: Path | None, root: Path | None, token: str | None, *, version: str, mask: Mask
) -> Occ3dFrame:
    """A frame of single files, or of a folder in nuScenes' layout, whose labels are used if there are any.

    Args:
        prediction: `.npz` as the challenge wants it.
        truth: `labels.npz`; goes before that of `root`.
        root: Holds the tables' folder.
        token: Such as scene-0061/ca9a282c9e77460f8360f564131a8af5.
        version: Name of the tables' folder.
        mask: Which voxels of the truth count.

    Raises:
        InputError: If a file is missing or damaged, the frame does not exist, or there is nothing to draw.
    """
    views: tuple[CameraView, ...] = ()
    if root is not None and token is not None:
        views = _views(_keyframe(root, version, token))
        labels = label_path(root, token)
        truth = labels if truth is None and labels.is_file() else truth
    if prediction is None and truth is None and not views:
        raise InputError("nothing to draw", remedy="name a prediction, or a truth by --truth or by --root and --token")
    observed, volume = np.ones(OCC3D_GRID.shape, bool), None
    if truth is not None:
        counted = read_labels(truth).counted(mask)
        observed = counted != IGNORED
        volume = np.where(observed, counted, np.uint8(OCC3D.empty))
    predicted = None if prediction is None else read_prediction(prediction, observed)
    name = token or (prediction.stem if prediction is not None else "")
    return Occ3dFrame(name=name, prediction=predicted, truth=volume, observed=observed, views=views)


def draw_occ3d_frame(frame: Occ3dFrame, *, mask: Mask, errors: bool, panel_size: tuple[int, int]) -> Image.Image:
    """The sheet of a frame; the prediction is drawn whole, the truth and the errors where voxels count.

    Args:
        frame: What to draw; without prediction and truth the voxels stay empty.
        mask: The one that the frame was read with; the title names it.
        errors: Add a panel that shows what is wrong, missed and invented.
        panel_size: Height and width of each voxel picture, in pixels.

    Raises:
        InputError: If errors are asked for without a prediction or a truth.
    """
    if errors and (frame.prediction is None or frame.truth is None):
        raise InputError("--errors needs a prediction and a truth", remedy="name both")
    title = frame.name
    if frame.prediction is not None and frame.truth is not None:
        counts = count_frame(frame.prediction, frame.truth, frame.observed, OCC3D.num_classes)
        title = frame_title(frame.name, counts, OCC3D_BY_MASK[mask])
    nothing = frame.prediction is None and frame.truth is None
    volumes = comparison_picture(
        None,
        frame.prediction,
        np.full(OCC3D_GRID.shape, OCC3D.empty, np.uint8) if nothing else frame.truth,
        OCC3D_GRID,
        OCC3D,
        observed=frame.observed if errors else None,
        show_errors=errors,
        panel_size=panel_size,
        ego=EgoMarker(EGO_ROAD_HEIGHT),
        title="" if frame.views else title,
    )
    return surround_picture(frame.views, volumes, title) if frame.views else volumes


def _keyframe(root: Path, version: str, token: str) -> Keyframe:
    """The keyframe of a token."""
    scene = token.partition("/")[0]
    tables = read_tables(root, version, scenes=[scene], channels=CAMERAS)
    found = {keyframe.token: keyframe for keyframe in tables.keyframes.values()}
    if token not in found:
        others = found or scene_names(root, version)
        raise InputError(
            f"no frame {token}",
            where=tables.folder,
            rule=f"there are {', '.join(list(others)[:3])}",
            remedy="name a frame as SCENE/SAMPLE_TOKEN",
        )
    return found[token]


def _views(keyframe: Keyframe) -> tuple[CameraView, ...]:
    """The cameras' pictures as they lie on disk."""
    views = []
    for channel in CAMERAS:
        recording = keyframe.recordings.get(channel)
        there = recording is not None and recording.path.is_file()
        views.append(CameraView(channel, read_image(recording.path) if recording is not None and there else None))
    return tuple(views)
