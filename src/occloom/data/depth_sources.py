"""Where input depth comes from: other programs' files, stereo matching, or projected LiDAR.

Every source answers one frame with the z-depth of the left picture (SemanticKITTI: image_2, KITTI-360: image_00) in
metres, float32, 0 where unknown, at the picture's size on disk. `occloom prepare depth` writes the answers to a cache;
docs/depth.md has the figures.
"""

import importlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32, Float64, Int64, UInt8
from PIL import Image
from torch import Tensor

from occloom.cache import CacheOrigin, file_digest
from occloom.data.kitti_files import StereoFrame, read_image, read_image_size, read_points
from occloom.data.pictures import read_depth
from occloom.errors import InputError
from occloom.stereo.mobile_stereonet import (
    SIZE_MULTIPLE,
    MobileStereoNet3d,
    load_mobile_stereonet,
    require_weights,
)

MATCHED_WIDTH = 640
"""Smaller pictures are enlarged by a whole factor to about this width before they are matched (docs/depth.md)."""
DISPARITIES = 128
"""At KITTI's focal length and baseline: depth from 3 m."""
LEAST_DISPARITY = 1 / 16
"""In pixels, as far as a network is believed: less is no depth but infinity (at KITTI, beyond 6 km)."""
IMAGE_MEAN = (0.485, 0.456, 0.406)
"""Of RGB in [0, 1] over ImageNet."""
IMAGE_STD = (0.229, 0.224, 0.225)
PADDING_MULTIPLE = 2 * SIZE_MULTIPLE
"""Every size of KITTI's odometry pictures becomes 1248x384, as those of the published depth maps did."""


@runtime_checkable
class DepthSource(Protocol):
    """One way to know the depth of a frame."""

    @property
    def origin(self) -> CacheOrigin:
        """Name, settings and code version: what a cache of its answers is keyed by."""
        ...

    def inputs(self, frame: StereoFrame) -> tuple[Path, ...]:
        """The files that the answer depends on."""
        ...

    def depth(self, frame: StereoFrame) -> Float32[np.ndarray, "H W"]:
        """Z-depth of the left picture in metres, 0 = unknown.

        Raises:
            InputError: If a file it needs is missing or damaged.
        """
        ...


@dataclass(frozen=True)
class FileDepth:
    """Depth that another program wrote: `<folder>/sequences/NN/FFFFFF.npy`, as VoxFormer and VoxDet keep it."""

    folder: Path
    """Holds `sequences`."""

    @property
    def origin(self) -> CacheOrigin:
        """No settings: the files' contents are compared entry by entry."""
        return CacheOrigin(source="file", settings={}, code_version=1)

    def inputs(self, frame: StereoFrame) -> tuple[Path, ...]:
        """The file itself."""
        return (self._path(frame),)

    def depth(self, frame: StereoFrame) -> Float32[np.ndarray, "H W"]:
        """The file's depth, checked: finite, not negative, of the picture's size."""
        path = self._path(frame)
        depth, size = read_depth(path), picture_size(frame)
        if depth.shape != size:
            raise InputError(
                f"the depth map is {depth.shape[0]}x{depth.shape[1]}",
                where=path,
                rule=f"it has the size of the left picture, {size[0]}x{size[1]}",
                remedy="write the depth at the picture's full size, without crop or padding",
            )
        return depth

    def _path(self, frame: StereoFrame) -> Path:
        """Where the frame's file lies."""
        return self.folder / "sequences" / f"{frame.token}.npy"


@dataclass(frozen=True)
class SgbmDepth:
    """Semi-global block matching of the left and the right picture (OpenCV): no weights, no training.

    Small pictures are enlarged before matching: at 96x320 the road 20 m ahead has a disparity of 5 pixels only.
    """

    mode: Literal["3way", "hh"] = "3way"
    """"3way" takes 0.15 s of one core a KITTI frame, "hh" (all directions) 0.4 s; equally accurate there."""
    block_size: int = 5
    """Edge of the matched block in pixels, odd."""
    uniqueness: int = 5
    """The best match must be better than the second best by this many percent."""
    speckle_window: int = 100
    """Patches of equal disparity smaller than this many pixels are dropped."""

    @property
    def origin(self) -> CacheOrigin:
        """Keyed by every parameter of the matching."""
        settings = {
            "mode": self.mode,
            "block_size": self.block_size,
            "uniqueness": self.uniqueness,
            "speckle_window": self.speckle_window,
        }
        return CacheOrigin(source="stereo-sgbm", settings=settings, code_version=1)

    def inputs(self, frame: StereoFrame) -> tuple[Path, ...]:
        """Both pictures and the calibration."""
        return (frame.left, frame.right, *frame.calibration_files)

    def depth(self, frame: StereoFrame) -> Float32[np.ndarray, "H W"]:
        """Depth = f * baseline / disparity, where left and right matching agree within a pixel."""
        left, right = _stereo_pair(frame)
        return _depth_from_disparity(self.disparity(left, right), frame)

    def disparity(
        self, left: UInt8[np.ndarray, "H W 3"], right: UInt8[np.ndarray, "H W 3"]
    ) -> Float32[np.ndarray, "H W"]:
        """Pixels of the given pictures by which a point stands further left in the right one; 0 = unknown."""
        cv2 = _opencv()

        enlarge = max(1, round(MATCHED_WIDTH / left.shape[1]))
        left, right = (_enlarged(picture, enlarge) for picture in (left, right))
        # Columns added at the left let pixels near the border be matched, which SGBM leaves out otherwise.
        padded = [cv2.copyMakeBorder(p, 0, 0, DISPARITIES, 0, cv2.BORDER_REPLICATE) for p in (left, right)]
        area = 3 * self.block_size**2
        matcher = cv2.StereoSGBM_create(
            minDisparity=0,
            numDisparities=DISPARITIES,
            blockSize=self.block_size,
            P1=8 * area,
            P2=32 * area,
            disp12MaxDiff=1,
            preFilterCap=31,
            uniquenessRatio=self.uniqueness,
            speckleWindowSize=self.speckle_window,
            speckleRange=2,
            mode=cv2.STEREO_SGBM_MODE_SGBM_3WAY if self.mode == "3way" else cv2.STEREO_SGBM_MODE_HH,
        )
        sixteenths = matcher.compute(*padded)[:, DISPARITIES:]
        centre = enlarge // 2
        return np.maximum(sixteenths[centre::enlarge, centre::enlarge], 0).astype(np.float32) / (16 * enlarge)


@dataclass(frozen=True)
class MobileStereoDepth:
    """MobileStereoNet-3D with weights from a file: what VoxDet and VoxFormer prepare.

    Their own maps differ in three ways (reference voxdet, 14): the baseline is 0.54 m whatever the calibration says, so
    that they lie 0.4 to 1.4 % too far on SemanticKITTI; vanishing disparities become up to 1e10 m; KITTI-360's pictures
    are padded further.
    """

    weights: Path
    """The published checkpoint, or its state dict."""

    def __post_init__(self) -> None:
        """Refuse missing weights.

        Raises:
            InputError: If there is no such file.
        """
        require_weights(self.weights)

    @property
    def origin(self) -> CacheOrigin:
        """Keyed by the contents of the weights."""
        return mobile_stereo_origin(file_digest(self.weights))

    def inputs(self, frame: StereoFrame) -> tuple[Path, ...]:
        """Both pictures and the calibration."""
        return (frame.left, frame.right, *frame.calibration_files)

    def depth(self, frame: StereoFrame) -> Float32[np.ndarray, "H W"]:
        """Depth = f * baseline / disparity at every pixel, also where the right picture does not see it."""
        left, right = _stereo_pair(frame)
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        network = _mobile_stereonet(self.weights, device)
        disparity = network_disparity(network, left, right, device)
        return _depth_from_disparity(np.where(disparity < LEAST_DISPARITY, np.float32(0), disparity), frame)


def mobile_stereo_origin(weights_digest: str) -> CacheOrigin:
    """The origin of depth by MobileStereoNet-3D with the weights of a digest."""
    return CacheOrigin(source="stereo-msnet3d", settings={"weights": weights_digest}, code_version=1)


@cache
def _mobile_stereonet(weights: Path, device: torch.device) -> MobileStereoNet3d:
    """The network, loaded once a process."""
    return load_mobile_stereonet(weights).to(device)


def network_disparity(
    network: MobileStereoNet3d,
    left: UInt8[np.ndarray, "H W 3"],
    right: UInt8[np.ndarray, "H W 3"],
    device: torch.device,
) -> Float32[np.ndarray, "H W"]:
    """Disparity of a picture of any size, padded at the top and the right with the mean colour."""
    height, width = left.shape[:2]
    with torch.inference_mode():
        disparity = network(*(_padded(_normalised(picture)).to(device) for picture in (left, right)))
    return disparity[0, -height:, :width].cpu().numpy()


def _normalised(picture: UInt8[np.ndarray, "H W 3"]) -> Float[Tensor, "1 3 H W"]:
    """As ImageNet's networks expect."""
    colours = ((picture / np.float32(255) - IMAGE_MEAN) / IMAGE_STD).astype(np.float32)
    return torch.from_numpy(colours).permute(2, 0, 1)[None]


def _padded(images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 3 h w"]:
    """With zeros above and to the right, up to sides that the network takes."""
    height, width = images.shape[-2:]
    return F.pad(images, (0, -width % PADDING_MULTIPLE, -height % PADDING_MULTIPLE, 0))


@dataclass(frozen=True)
class LidarDepth:
    """The frame's own scan in the picture: exact, and sparse (about 4 % of KITTI's pixels)."""

    @property
    def origin(self) -> CacheOrigin:
        """No settings."""
        return CacheOrigin(source="lidar", settings={}, code_version=1)

    def inputs(self, frame: StereoFrame) -> tuple[Path, ...]:
        """The scan and the calibration; of the picture only the size counts."""
        return (frame.scan, *frame.calibration_files)

    def depth(self, frame: StereoFrame) -> Float32[np.ndarray, "H W"]:
        """Each pixel's nearest point."""
        calibration = frame.calibration()
        points = read_points(frame.scan)[:, :3].astype(np.float64)
        transform = calibration.camera_from_velodyne(2)
        return render_points(
            points @ transform[:3, :3].T + transform[:3, 3], calibration.intrinsics(2), picture_size(frame)
        )


def render_points(
    points_camera: Float64[np.ndarray, "P 3"], intrinsics: Float64[np.ndarray, "3 3"], size: tuple[int, int]
) -> Float32[np.ndarray, "H W"]:
    """Z-depth of the nearest point on each pixel, 0 where there is none."""
    depth_and_none = np.append(points_camera[:, 2], 0.0).astype(np.float32)
    return depth_and_none[nearest_points(points_camera, intrinsics, size)]


def nearest_points(
    points_camera: Float64[np.ndarray, "P 3"], intrinsics: Float64[np.ndarray, "3 3"], size: tuple[int, int]
) -> Int64[np.ndarray, "H W"]:
    """Index of the nearest point on each pixel, -1 where there is none; of equally near ones the first."""
    ahead = np.flatnonzero(points_camera[:, 2] > 0)
    homogeneous = points_camera[ahead] @ intrinsics.T
    # Points a hair before the camera plane lie beyond any integer; they fall outside all the same.
    pixels = np.rint(np.clip(homogeneous[:, :2] / homogeneous[:, 2:], -1e6, 1e6)).astype(np.int64)
    height, width = size
    inside = ((pixels >= 0) & (pixels < (width, height))).all(axis=1)
    points, flat = ahead[inside], pixels[inside, 1] * width + pixels[inside, 0]
    order = np.lexsort((points_camera[points, 2], flat))
    occupied, first = np.unique(flat[order], return_index=True)
    nearest = np.full(height * width, -1, dtype=np.int64)
    nearest[occupied] = points[order[first]]
    return nearest.reshape(size)


def picture_size(frame: StereoFrame) -> tuple[int, int]:
    """Height and width of the left picture, without decoding it.

    Raises:
        InputError: If there is no such picture, or it is damaged.
    """
    return read_image_size(frame.left)


def _stereo_pair(frame: StereoFrame) -> tuple[UInt8[np.ndarray, "H W 3"], UInt8[np.ndarray, "H W 3"]]:
    """The left and the right colour picture, of one size."""
    left, right = (read_image(path) for path in (frame.left, frame.right))
    if left.shape != right.shape:
        raise InputError(
            f"the right picture is {right.shape[0]}x{right.shape[1]}, the left {left.shape[0]}x{left.shape[1]}",
            where=frame.right,
            rule="a stereo pair has one size",
            remedy="fetch both pictures again",
        )
    return left, right


def _depth_from_disparity(disparity: Float32[np.ndarray, "H W"], frame: StereoFrame) -> Float32[np.ndarray, "H W"]:
    """Metres by the focal length and the baseline of the frame's own calibration; 0 where the disparity is 0."""
    projections = frame.calibration().projections
    # The fourth columns of P2 and P3 are -f times the camera's offset along x from camera 0.
    focal_baseline = np.float32(projections[2, 0, 3] - projections[3, 0, 3])
    known = disparity > 0
    depth = np.zeros_like(disparity)
    depth[known] = focal_baseline / disparity[known]
    return depth


def _opencv() -> Any:
    """OpenCV, which only the extra `stereo` installs."""
    try:
        return importlib.import_module("cv2")
    except ImportError as error:
        raise InputError(
            "stereo matching needs OpenCV", rule="it is an extra", remedy='run `pip install "occloom[stereo]"`'
        ) from error


def _enlarged(picture: UInt8[np.ndarray, "H W 3"], factor: int) -> UInt8[np.ndarray, "h w 3"]:
    """A picture `factor` times as large."""
    if factor == 1:
        return picture
    image = Image.fromarray(picture)
    return np.asarray(image.resize((image.width * factor, image.height * factor), Image.Resampling.BICUBIC))
