"""SSCBench-KITTI-360: semantic scene completion, read from the layout of its download.

Also reads the same layout written by `occloom town --layout kitti360`. Documentation: docs/datasets/kitti360.md.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from occloom.cache import Cache
from occloom.data.kitti360_files import FULL_SIZE, Kitti360Frame, drive_folder, fixed_calibration
from occloom.data.kitti360_labels import KITTI_360
from occloom.data.kitti_files import read_image_size
from occloom.data.label_files import KITTI_360_FILES
from occloom.data.label_spaces import IGNORED, SEMANTIC_KITTI_GRID
from occloom.data.packed_volumes import refuse_volumes
from occloom.data.pictures import ImageFit, PictureFit
from occloom.data.sample_parts import (
    LabelReduction,
    TimedScan,
    augment,
    load_depth,
    load_pictures,
    load_points,
    require_depth,
    target_of,
    usable_frames,
)
from occloom.errors import InputError
from occloom.grid import LabelSpace, VoxelGrid
from occloom.interfaces import Needs, Split
from occloom.scene import Cameras, Sample, Scene, Target

CameraName = Literal["image_00", "image_01"]


@dataclass(frozen=True)
class Kitti360Config:
    """SSCBench-KITTI-360 on disk, and how to read it."""

    root: Path
    """Folder that holds `data_2d_raw`."""
    image_size: tuple[int, int] = (384, 1408)
    """Height and width of the pictures a model sees."""
    image_fit: ImageFit = "width"
    """"resize" scales each axis to image_size; "crop" keeps the upper left part; "width" scales to the width, then
    keeps the lowest rows or adds black ones on top (VoxDet: 384 1408); "released-width" does so bicubically, for
    VoxDet's published weights."""
    cameras: tuple[CameraName, ...] = ("image_00",)
    """Left (image_00) and right (image_01) camera, in the order the sample holds them."""
    train: tuple[str, ...] = ("0000", "0002", "0003", "0004", "0005", "0007", "0010")
    """Drives of the training split: four digits, or the folder's name."""
    val: tuple[str, ...] = ("0006",)
    """Drives of the validation split."""
    test: tuple[str, ...] = ("0009",)
    """Drives of the test split, which papers report; never choose a model on it."""
    depth: Path | None = None
    """Prepared depth of image_00: a name under <root>/depth (stereo-sgbm), or a folder that holds `sequences`."""
    label_scale: Literal[1, 2, 4, 8] = 1
    """Edge of a label voxel in voxels of 0.2 m."""
    label_reduction: LabelReduction = "majority"
    """Rule for label_scale above 1: LMSCNet's or MonoScene's."""
    flip_probability: float = 0.5
    """Share of training samples that are mirrored left to right."""
    colour_jitter: float = 0.4
    """Largest relative change of brightness, contrast and saturation in training samples."""

    def __post_init__(self) -> None:
        if min(self.image_size) < 1:
            raise InputError(f"image_size is {self.image_size}", rule="height and width are at least 1")
        if not self.cameras:
            raise InputError("cameras is empty", rule="it names image_00, image_01 or both")

    def build(self, split: Split, needs: Needs) -> "Kitti360":
        """Open a split, loading of each sample only what is needed.

        Raises:
            InputError: If files are missing or damaged.
        """
        return Kitti360(self, split, needs)

    @property
    def grid(self) -> VoxelGrid:
        """Of the labels, at their scale; SemanticKITTI's."""
        return SEMANTIC_KITTI_GRID.coarsen((self.label_scale, self.label_scale, self.label_scale))

    @property
    def label_space(self) -> LabelSpace:
        """Of the labels."""
        return KITTI_360

    @property
    def num_frames(self) -> int:
        """T: only the present is read."""
        return 1

    @property
    def num_cameras(self) -> int:
        """N."""
        return len(self.cameras)

    @property
    def depth_folder(self) -> Path | None:
        """Where the prepared depth lies."""
        if self.depth is None:
            return None
        return self.root / "depth" / self.depth if len(self.depth.parts) == 1 else self.depth


class Kitti360:
    """One split: every frame that has voxels or preprocessed labels (each fifth one), in order.

    Frames without a picture (where images are needed), without a scan (where points are needed) or, in a labelled
    split, without labels are left out and named in `skipped`. A split in which no frame has labels is unlabelled: its
    targets are None.
    """

    def __init__(self, config: Kitti360Config, split: Split, needs: Needs) -> None:
        """Use `Kitti360Config.build`."""
        if split == "train" and (needs.true_depth or needs.image_labels):
            raise InputError(
                "the model learns from labelled scans and KITTI-360's layout has none",
                where=config.root,
                remedy="pre-train on SemanticKITTI and continue here with --train.start-from",
            )
        refuse_volumes(needs, config.root)
        if split == "train" and needs.pseudo_masks:
            raise InputError(
                "the model learns from pseudo masks, which this reader does not read",
                where=config.root,
                remedy="train on SemanticKITTI, or leave the model's optimisation out",
            )
        self.config, self.needs = config, needs
        self.grid: VoxelGrid = config.grid
        self.label_space: LabelSpace = config.label_space
        names = {"train": config.train, "val": config.val, "test": config.test}[split]
        frames = [frame for name in names for frame in _frames(config.root, name)]
        self.labelled = any(_label_file(frame) is not None for frame in frames)
        self.skipped: Mapping[str, str]
        self._frames, self.skipped = usable_frames(frames, self._reason_to_skip, split=split, root=config.root)
        self.tokens: tuple[str, ...] = tuple(frame.token for frame in self._frames)
        self._picture_sizes = {drive: self._picture_size(drive) for drive in {f.sequence for f in self._frames}}
        self._depth_cache: Cache | None = None
        if needs.depth:
            folder, cameras = config.depth_folder, config.cameras
            self._depth_cache = require_depth(folder, self._frames, self._frames, cameras=cameras, left="image_00")

    def __len__(self) -> int:
        """Number of samples."""
        return len(self._frames)

    def sample(self, index: int, rng: np.random.Generator | None = None) -> Sample:
        """One sample as a batch of one; augmented with `rng`, exact without. Calibration is float64.

        Raises:
            InputError: If a file is missing or damaged.
        """
        frame = self._frames[index]
        sample = Sample(scene=self._scene(frame), target=self.target(index), tokens=(frame.token,))
        if rng is None:
            return sample
        return augment(
            sample,
            rng,
            self.grid,
            width=self.config.image_size[1],
            flip_probability=self.config.flip_probability,
            colour_jitter=self.config.colour_jitter,
        )

    def target(self, index: int) -> Target | None:
        """What is true of a sample; None in an unlabelled split.

        Raises:
            InputError: If a file is missing or damaged.
        """
        if not self.labelled:
            return None
        return target_of(
            _train_labels(self._frames[index]),
            self.label_space,
            scale=self.config.label_scale,
            reduction=self.config.label_reduction,
        )

    def _reason_to_skip(self, frame: Kitti360Frame) -> str:
        """Why a frame cannot be used; empty where it can."""
        if self.labelled and _label_file(frame) is None:
            return "no voxel labels"
        if self.needs.images and not any(frame.picture(camera).is_file() for camera in self.config.cameras):
            return "no picture"
        if self.needs.points and not frame.scan.is_file():
            return "no scan"
        return ""

    def _picture_size(self, drive: str) -> tuple[int, int]:
        """Height and width of a drive's pictures on disk; the official size where there is none."""
        pictures = (self.config.root / "data_2d_raw" / drive).glob("image_0[01]/data_rect/*.png")
        first = min(pictures, default=None)
        return FULL_SIZE if first is None else read_image_size(first)

    def _scene(self, frame: Kitti360Frame) -> Scene:
        """What the model may see of a frame."""
        fit = PictureFit(self._picture_sizes[frame.sequence], self.config.image_size, self.config.image_fit)
        paths = [[frame.picture(camera) for camera in self.config.cameras]]
        images, valid = None, torch.ones(1, 1, len(self.config.cameras), dtype=torch.bool)
        if self.needs.images:
            images, valid = load_pictures(paths, fit)
        return Scene(
            cameras=self._cameras(fit),
            now_from_then=torch.eye(4, dtype=torch.float64)[None, None],
            time=torch.zeros(1, 1, dtype=torch.float64),
            frame_valid=torch.ones(1, 1, dtype=torch.bool),
            camera_valid=valid,
            images=images,
            depth=self._depth(frame, fit) if self.needs.depth else None,
            points=load_points([TimedScan(frame.scan, np.eye(4), 0.0)]) if self.needs.points else None,
        )

    def _cameras(self, fit: PictureFit) -> Cameras:
        """The fixed rig, for the pictures as fitted."""
        rig = fixed_calibration(fit.source)
        numbers = [2 + int(camera[-1]) for camera in self.config.cameras]
        return Cameras(
            intrinsics=torch.stack([fit.intrinsics(torch.from_numpy(rig.intrinsics(n))) for n in numbers])[None, None],
            camera_from_ego=torch.from_numpy(np.stack([rig.camera_from_velodyne(n) for n in numbers]))[None, None],
            time=torch.zeros(1, 1, len(numbers), dtype=torch.float64),
        )

    def _depth(self, frame: Kitti360Frame, fit: PictureFit) -> Tensor:
        """Depth of image_00; unknown (0) for the other camera."""
        folder, cameras = self.config.depth_folder, self.config.cameras
        return load_depth(folder, self._depth_cache, [frame], fit, cameras=cameras, left="image_00")


def _frames(root: Path, drive: str) -> list[Kitti360Frame]:
    """The frames of a drive that have voxels, or preprocessed labels."""
    sequence = drive_folder(drive) if drive.isdigit() else drive
    example = Kitti360Frame(root, sequence, "000000")
    folder = example.folder / "voxels"
    names = {path.stem for path in folder.glob("*") if path.suffix in (".bin", ".label") and path.stem.isdigit()}
    for preprocessed in example.preprocessed:
        names |= {path.name.removesuffix("_1_1.npy") for path in preprocessed.parent.glob("*_1_1.npy")}
    if not names:
        there = ", ".join(sorted(path.parent.name for path in root.glob("data_2d_raw/*/voxels"))) or "none"
        raise InputError(
            "no voxel files" if example.folder.is_dir() else "no such drive",
            where=example.folder,
            rule=f"a split's drives lie in {root / 'data_2d_raw'} (with voxels there: {there})",
            remedy="check root, or name the drives that are there in train, val or test",
        )
    return [Kitti360Frame(root, sequence, name) for name in sorted(names)]


def _label_file(frame: Kitti360Frame) -> Path | None:
    """The frame's labels: raw ones first, if their mask is there too, then preprocessed ones."""
    if frame.voxels(".label").is_file() and frame.voxels(".invalid").is_file():
        return frame.voxels(".label")
    return next((path for path in frame.preprocessed if path.is_file()), None)


def _train_labels(frame: Kitti360Frame) -> UInt8[np.ndarray, "X Y Z"]:
    """Dense ids at full resolution, `IGNORED` where a voxel does not count."""
    path = _label_file(frame)
    assert path is not None
    if path.suffix == ".label":
        return KITTI_360_FILES.read_train_ids(path, frame.voxels(".invalid"))
    return _preprocessed_labels(path)


def _preprocessed_labels(path: Path) -> UInt8[np.ndarray, "X Y Z"]:
    """Dense ids that SSCBench's own preprocessing wrote, the mask already in them."""
    try:
        labels = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(
            "the labels cannot be read", where=path, rule="a .npy array", remedy="the file is damaged: fetch it again"
        ) from error
    shape = SEMANTIC_KITTI_GRID.shape
    if not isinstance(labels, np.ndarray) or labels.shape != shape or labels.dtype.kind not in "fiu":
        raise InputError(
            "the labels are of another grid or kind",
            where=path,
            rule=f"numbers of shape {shape}",
            remedy="fetch the file again",
        )
    with np.errstate(invalid="ignore"):  # NaN has no uint8; it is refused below
        train = labels.astype(np.uint8)
    known = (train == labels) & ((train < KITTI_360.num_classes) | (train == IGNORED))
    if not known.all():
        raise InputError(
            f"the labels hold {labels[~known][0]:g}, which is no class",
            where=path,
            rule=f"train ids are 0..{KITTI_360.num_classes - 1}, and {IGNORED} where ignored",
            remedy="use `preprocess/labels`, not `unified/labels`, which has other classes",
        )
    return train
