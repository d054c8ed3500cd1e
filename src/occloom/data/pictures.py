"""Pictures and depth maps brought to the size a model wants, and their intrinsics with them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float32, Float64
from PIL import Image
from torch import Tensor

from occloom.data.kitti_files import open_image
from occloom.errors import InputError
from occloom.geometry.augment import cropped_intrinsics, resized_intrinsics

ImageFit = Literal["resize", "crop", "width", "released-width"]
"""How a picture gets its size; see `PictureFit.how`."""


@dataclass(frozen=True)
class PictureFit:
    """How pictures of one size become pictures of another: scaled, then rows and columns cut off or added."""

    source: tuple[int, int]
    """Height and width on disk."""
    target: tuple[int, int]
    """Height and width wanted."""
    how: ImageFit
    """"resize" scales each axis; "crop" keeps the upper left part at its scale; "width" scales to the target's width,
    then keeps the lowest rows, or adds black ones on top (VoxDet, CGFormer); "released-width" does so with the very
    pixels that VoxDet's published weights saw (reference voxdet 1)."""

    def __post_init__(self) -> None:
        if self.how == "crop" and any(s < t for s, t in zip(self.source, self.target, strict=True)):
            raise InputError(
                f"pictures of {self.source[0]}x{self.source[1]} cannot be cropped to {self.target[0]}x{self.target[1]}",
                rule="cropping only cuts off",
                remedy='ask for a smaller image_size, or image_fit="resize"',
            )

    @property
    def scaled(self) -> tuple[int, int]:
        """Height and width before rows and columns are cut off or added.

        "width" rounds the height down, as VoxDet does (1241x376 to 1280x387); the width is the target's in full.
        "released-width" rounds that one down too: 1241 times 1280/1241 falls short of 1280 by a rounding error, and
        becomes 1279.
        """
        if self.how == "resize":
            return self.target
        if self.how == "crop":
            return self.source
        if self.how == "released-width":
            scale = self.target[1] / self.source[1]
            return max(1, int(self.source[0] * scale)), int(self.source[1] * scale)
        return max(1, self.source[0] * self.target[1] // self.source[1]), self.target[1]

    @property
    def top(self) -> int:
        """Rows cut off at the top of the scaled picture; a negative number counts the black ones added there."""
        return self.scaled[0] - self.target[0] if self.how in ("width", "released-width") else 0

    def intrinsics(self, intrinsics: Float64[Tensor, "3 3"]) -> Float64[Tensor, "3 3"]:
        """Intrinsics of the fitted picture, exact for its whole pixels; cuts to the right and below change none."""
        resized = resized_intrinsics(intrinsics, from_size=self.source, to_size=self.scaled)
        return cropped_intrinsics(resized, left=0, top=self.top)

    def image(self, path: Path) -> Float32[Tensor, "3 H W"]:
        """The picture of a file, fitted, as RGB in [0, 1]; shrinking averages over what a pixel covers.

        "released-width" interpolates bicubically, the others bilinearly.

        Raises:
            InputError: If the file is missing, damaged or not of the source size.
        """
        picture = open_image(path)
        self._check(path, (picture.height, picture.width))
        resampling = Image.Resampling.BICUBIC if self.how == "released-width" else Image.Resampling.BILINEAR
        fitted = np.asarray(self._fitted(picture.convert("RGB"), resampling))
        return torch.from_numpy(fitted.copy()).permute(2, 0, 1).contiguous().float().div_(255.0)

    def depth(self, path: Path) -> Float32[Tensor, "H W"]:
        """The depth map of a `.npy` file, fitted by `resize_depth`, in metres; unknown (0) in added rows.

        "released-width" interpolates metres bicubically instead, also between surfaces; where that swings below zero
        the depth is unknown.

        Raises:
            InputError: If the file is missing, damaged, not of the source size, or has negative or non-finite depth.
        """
        depth = read_depth(path)
        self._check(path, depth.shape)
        if self.how == "released-width":
            fitted = np.asarray(self._fitted(Image.fromarray(depth), Image.Resampling.BICUBIC))
            return torch.from_numpy(fitted.clip(min=0))
        scaled = depth if self.scaled == self.source else resize_depth(depth, self.scaled)
        height, width = self.target
        kept = scaled[max(0, self.top) : max(0, self.top + height), :width]
        return torch.from_numpy(np.pad(kept, ((height - len(kept), 0), (0, 0))))

    def _fitted(self, picture: Image.Image, resampling: Image.Resampling) -> Image.Image:
        """A picture of the target's size; what is added is 0."""
        (scaled_height, scaled_width), (height, width) = self.scaled, self.target
        scaled = picture.resize((scaled_width, scaled_height), resampling)
        return scaled.crop((0, self.top, width, self.top + height))

    def _check(self, path: Path, found: tuple[int, ...]) -> None:
        """Refuse a picture that is not of the source size."""
        if tuple(found) != self.source:
            raise InputError(
                f"the size is {'x'.join(map(str, found))}, expected {self.source[0]}x{self.source[1]}",
                where=path,
                rule="pictures and depth maps of a sequence have one size, height x width",
                remedy="fetch or prepare the file again at the size of the sequence's pictures",
            )


def read_depth(path: Path) -> Float32[np.ndarray, "H W"]:
    """A depth map: `.npy`, two axes, z-depth in metres, 0 = unknown.

    Raises:
        InputError: If the file is missing or damaged, or has other axes, or negative, NaN or infinite depth.
    """
    if not path.is_file():
        raise InputError(
            "no such depth map", where=path, rule="every frame needs one", remedy="run `occloom prepare depth`"
        )
    try:
        depth = np.load(path, allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        # NumPy takes foreign bytes for pickled objects, and advises to load them unsafely.
        reason = "it is no NumPy array of numbers" if "allow_pickle" in str(error) else error
        raise InputError(
            f"the depth map cannot be read ({reason})", where=path, remedy="delete the file and prepare it again"
        ) from error
    if not isinstance(depth, np.ndarray) or depth.ndim != 2 or depth.dtype.kind != "f":
        found = f"{depth.dtype} with shape {depth.shape}" if isinstance(depth, np.ndarray) else "an archive"
        raise InputError(
            f"the depth map is {found}",
            where=path,
            rule="a depth map is one floating-point array with two axes, height and width",
            remedy="delete the file and prepare it again",
        )
    wrong = ~(np.isfinite(depth) & (depth >= 0))
    if wrong.any():
        row, column = np.argwhere(wrong)[0]
        raise InputError(
            f"{int(wrong.sum())} pixels have negative, NaN or infinite depth, the first at row {row}, column {column}",
            where=path,
            rule="depth is in metres, 0 where unknown",
            remedy="write 0 there, or prepare the depth again",
        )
    return depth.astype(np.float32, copy=False)


def resize_depth(depth: Float32[np.ndarray, "h w"], size: tuple[int, int]) -> Float32[np.ndarray, "H W"]:
    """A depth map of another size, without mixing depths across edges.

    A new pixel takes the old pixel under its centre; where that one is unknown, the nearest surface (the smallest
    known depth) among the old pixels whose centres it covers; else it is unknown. Dense maps keep their depths that
    way, and sparse ones keep their points.
    """
    (height, width), (new_height, new_width) = depth.shape, size
    rows = np.minimum(((np.arange(new_height) + 0.5) * height / new_height).astype(np.int64), height - 1)
    columns = np.minimum(((np.arange(new_width) + 0.5) * width / new_width).astype(np.int64), width - 1)
    under_centre = depth[rows[:, None], columns]
    v, u = np.nonzero(depth)
    cell_v = ((v + 0.5) * new_height / height).astype(np.int64)
    cell_u = ((u + 0.5) * new_width / width).astype(np.int64)
    nearest = np.full(size, np.inf, dtype=np.float32)
    np.minimum.at(nearest.reshape(-1), cell_v * new_width + cell_u, depth[v, u])
    return np.where(under_centre > 0, under_centre, np.where(np.isfinite(nearest), nearest, 0)).astype(np.float32)
