"""`occloom render`: draw a prediction beside the truth, as shaded voxels."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import tyro
from jaxtyping import Bool, UInt8

from occloom.cli.arguments import ready_to_write
from occloom.cli.frame_title import frame_title
from occloom.cli.render_occ3d import draw_occ3d_frame, read_occ3d_frame
from occloom.cli.score import count_frame
from occloom.data.kitti360 import Kitti360Config
from occloom.data.kitti360_files import Kitti360Frame
from occloom.data.kitti_files import KittiFrame, read_image
from occloom.data.label_files import KITTI_360_FILES, SEMANTIC_KITTI_FILES, LabelFiles
from occloom.data.label_spaces import SEMANTIC_KITTI_GRID
from occloom.data.occ3d_files import Mask as OccupancyMask
from occloom.data.semantickitti import SemanticKittiConfig
from occloom.errors import InputError
from occloom.interfaces import Needs
from occloom.metrics.naive import ROAD_HEIGHT
from occloom.metrics.protocols import SEMANTICKITTI, SSCBENCH
from occloom.viewer.images import EgoMarker, comparison_picture


@dataclass(frozen=True)
class FrameContents:
    """What is known of a frame besides a prediction."""

    name: str
    truth: UInt8[np.ndarray, "X Y Z"] | None
    """Training ids, empty where unobserved."""
    observed: Bool[np.ndarray, "X Y Z"]
    image: UInt8[np.ndarray, "H W 3"] | None
    ego: EgoMarker


def render(
    prediction: Annotated[Path | None, tyro.conf.Positional] = None,
    *,
    out: Path,
    truth: Path | None = None,
    image: Path | None = None,
    root: Path | None = None,
    token: str | None = None,
    layout: Literal["semantickitti", "kitti360", "occ3d"] = "semantickitti",
    version: str = "v1.0-trainval",
    mask: OccupancyMask = "camera",
    errors: bool = False,
    panel_size: tuple[int, int] = (400, 640),
) -> None:
    """Draw a prediction beside the truth, as shaded voxels, with camera image and legend.

    Give the truth as a file (`--truth`), or a folder in the layout and a frame of it (`--root`, `--token`):
    then truth, camera image and calibration come from there, also where labels lie in voxels_derived. Of Occ3D the six
    pictures are drawn around the voxels.

    Args:
        prediction: Voxel label file of raw ids, or an Occ3D .npz; left out, the truth is drawn alone.
        out: PNG to write.
        truth: Voxel label file of raw ids; the .invalid beside it, if any, says which voxels are drawn; or an
            Occ3D labels.npz.
        image: Camera picture to put on top.
        root: Folder that holds `sequences` (kitti360: `data_2d_raw`; occ3d: the tables' folder).
        token: Frame of `root`, such as 08/000005 (kitti360: 2013_05_28_drive_0006_sync/000005; occ3d: SCENE/SAMPLE).
        layout: Whose folders and classes: `kitti360` for SSCBench-KITTI-360, `occ3d` for Occ3D-nuScenes.
        version: Occ3D: name of the tables' folder.
        mask: Occ3D: which voxels of the truth are drawn, and scored in the title; `none` draws all.
        errors: Add a panel that shows what is wrong, missed and invented.
        panel_size: Height and width of each voxel picture, in pixels.
    """
    if (root is None) != (token is None):
        raise InputError("a frame of a data set needs --root and --token", remedy="give both, or neither")
    if out.suffix.lower() != ".png":
        raise InputError(
            "not a name of a PNG", where=out, rule="--out names the picture to write", remedy="end it in .png"
        )
    ready_to_write(out)
    if min(panel_size) < 1:
        raise InputError(f"--panel-size is {panel_size}", rule="height and width are at least 1")
    if layout == "occ3d":
        frame = read_occ3d_frame(prediction, truth, root, token, version=version, mask=mask)
        draw_occ3d_frame(frame, mask=mask, errors=errors, panel_size=panel_size).save(out)
        print(out)
        return
    files = KITTI_360_FILES if layout == "kitti360" else SEMANTIC_KITTI_FILES
    if root is not None and token is not None:
        frame = _from_layout(root, token, layout)
    else:
        frame = _from_files(truth, prediction, files)
    if image is not None:
        frame = FrameContents(frame.name, frame.truth, frame.observed, read_image(image), frame.ego)
    volume = None if prediction is None else files.read_prediction(prediction, frame.observed)
    if volume is None and frame.truth is None:
        raise InputError("nothing to draw", remedy="name a prediction, or a truth by --truth or by --root and --token")
    if errors and (volume is None or frame.truth is None):
        raise InputError("--errors needs a prediction and a truth", remedy="name both")
    title = frame.name
    if volume is not None and frame.truth is not None:
        counts = count_frame(volume, frame.truth, frame.observed, files.label_space.num_classes)
        title = frame_title(frame.name, counts, SSCBENCH if layout == "kitti360" else SEMANTICKITTI)
    picture = comparison_picture(
        frame.image,
        volume,
        frame.truth,
        SEMANTIC_KITTI_GRID,
        files.label_space,
        observed=frame.observed,
        title=title,
        show_errors=errors,
        panel_size=panel_size,
        ego=frame.ego,
    )
    picture.save(out)
    print(out)


def _from_files(truth: Path | None, prediction: Path | None, files: LabelFiles) -> FrameContents:
    """A frame of single files; without a truth every voxel is drawn."""
    ego = EgoMarker(ROAD_HEIGHT)
    if truth is None:
        everything = np.ones(SEMANTIC_KITTI_GRID.shape, bool)
        return FrameContents(prediction.stem if prediction else "", None, everything, None, ego)
    invalid = truth.with_suffix(".invalid")
    labels, observed = files.read_truth(truth, invalid if invalid.is_file() else None)
    return FrameContents(truth.stem, labels, observed, None, ego)


def _from_layout(root: Path, token: str, layout: Literal["semantickitti", "kitti360"]) -> FrameContents:
    """A frame of a folder in the layout."""
    sequence, _, name = token.partition("/")
    if layout == "kitti360":
        frame, config = Kitti360Frame(root, sequence, name), Kitti360Config(root=root, val=(sequence,))
    else:
        frame, config = KittiFrame(root, sequence, name), SemanticKittiConfig(root=root, val=(sequence,))
    dataset = config.build("val", Needs(images=False))
    if token not in dataset.tokens:
        raise InputError(
            f"no usable frame {token}",
            where=root,
            rule=dataset.skipped.get(
                token, f"the {len(dataset)} frames there begin with {', '.join(dataset.tokens[:3])}"
            ),
            remedy="name a frame as SEQUENCE/FRAME, such as 08/000005",
        )
    image, ego = None, EgoMarker(ROAD_HEIGHT)
    if frame.left.is_file():
        image, calibration = read_image(frame.left), frame.calibration()
        height, width = image.shape[:2]
        ego = EgoMarker(ROAD_HEIGHT, calibration.camera_from_velodyne(2), calibration.intrinsics(2), (height, width))
    target = dataset.target(dataset.tokens.index(token))
    if target is None:
        return FrameContents(token, None, np.ones(SEMANTIC_KITTI_GRID.shape, bool), image, ego)
    return FrameContents(token, target.labels[0].numpy().astype(np.uint8), target.observed[0].numpy(), image, ego)
