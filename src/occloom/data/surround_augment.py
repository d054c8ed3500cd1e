"""Augmentation of surround samples, as BEVDet does it: each camera's picture by itself, and the world mirrored.

All of it is carried through the cameras; what was done stands in `Scene.augmentation` too. Reference: drocc 2.1.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32, Float64
from PIL import Image
from torch import Tensor

from occloom.data.colour_distortion import PhotometricDistortion
from occloom.data.kitti_files import open_image
from occloom.errors import InputError
from occloom.geometry.augment import cropped_intrinsics, flipped_intrinsics, resized_intrinsics, turned_intrinsics
from occloom.grid import VoxelGrid
from occloom.scene import Sample


@dataclass(frozen=True)
class SurroundAugmentation:
    """How far training samples are changed; the defaults are BEVDet's."""

    scale: tuple[float, float] = (-0.06, 0.11)
    """Least and largest change of a picture's scale, added to wanted width / width on disk (0.44 for 704 of 1600)."""
    picture_flip: float = 0.5
    """Share of pictures that are mirrored left to right."""
    degrees: float = 5.4
    """Largest turn of a picture about its middle, to either side."""
    flip_x: float = 0.5
    """Share of samples whose world is mirrored front to back."""
    flip_y: float = 0.5
    """Share of samples whose world is mirrored left to right."""
    colours: PhotometricDistortion | None = None
    """How far colours are changed; BEVDet leaves them."""

    def __post_init__(self) -> None:
        shares = {"picture_flip": self.picture_flip, "flip_x": self.flip_x, "flip_y": self.flip_y}
        for name, share in shares.items():
            if not 0 <= share <= 1:
                raise InputError(f"augmentation.{name} is {share}", rule="it is a share, from 0 to 1")
        if self.scale[0] > self.scale[1] or self.degrees < 0:
            raise InputError(
                f"augmentation.scale is {self.scale} and augmentation.degrees is {self.degrees}",
                rule="scale names the least change, then the largest; degrees are 0 or more",
            )


@dataclass(frozen=True)
class PictureChange:
    """How a picture on disk becomes the one a model sees: scaled, cut out, mirrored, then turned about its middle."""

    source: tuple[int, int]
    """Height and width on disk."""
    target: tuple[int, int]
    """Height and width wanted."""
    scaled: tuple[int, int]
    """Height and width after scaling."""
    left: int
    """Columns of the scaled picture that are cut off on the left."""
    top: int
    """Rows of the scaled picture that are cut off at the top; a negative number counts the black ones added there."""
    flip: bool = False
    degrees: float = 0.0
    """Counter-clockwise as one looks at the picture."""

    @property
    def target_from_scaled(self) -> Float64[Tensor, "3 3"]:
        """Homogeneous pixels of the final picture from those of the scaled one."""
        matrix = cropped_intrinsics(torch.eye(3, dtype=torch.float64), left=self.left, top=self.top)
        if self.flip:
            matrix = flipped_intrinsics(matrix, width=self.target[1])
        return turned_intrinsics(matrix, degrees=self.degrees, size=self.target) if self.degrees else matrix

    @property
    def picture_from_source(self) -> Float64[Tensor, "3 3"]:
        """Homogeneous pixels of the final picture from those of the picture on disk."""
        eye = torch.eye(3, dtype=torch.float64)
        return self.target_from_scaled @ resized_intrinsics(eye, from_size=self.source, to_size=self.scaled)

    def image(self, path: Path) -> Float32[Tensor, "3 H W"]:
        """The picture of a file, changed, as RGB in [0, 1]; black where the file's picture does not reach.

        Scaled bicubically, as BEVDet does; then all else at once and bilinearly, where BEVDet takes the nearest pixel.

        Raises:
            InputError: If the file is missing, damaged or not of the source size.
        """
        picture = open_image(path)
        if (picture.height, picture.width) != self.source:
            raise InputError(
                f"the size is {picture.height}x{picture.width}, expected {self.source[0]}x{self.source[1]}",
                where=path,
                rule="sample_data.json names height and width of every picture",
                remedy="fetch the picture again, or write its size and its intrinsics into the tables",
            )
        height, width = self.scaled
        scaled = picture.convert("RGB").resize((width, height), Image.Resampling.BICUBIC)
        # Pillow wants the way back, between places whose whole numbers are corners of pixels, not centres.
        corners = torch.tensor([[1.0, 0.0, 0.5], [0.0, 1.0, 0.5], [0.0, 0.0, 1.0]], dtype=torch.float64)
        back = corners @ torch.linalg.inv(self.target_from_scaled) @ torch.linalg.inv(corners)
        changed = scaled.transform(
            (self.target[1], self.target[0]),
            Image.Transform.AFFINE,
            tuple(back[:2].flatten().tolist()),
            Image.Resampling.BILINEAR,
        )
        return torch.from_numpy(np.array(changed)).permute(2, 0, 1).contiguous().float().div_(255.0)


def exact_change(source: tuple[int, int], target: tuple[int, int]) -> PictureChange:
    """Scaled to the target's width; the lowest rows are kept, or black ones added on top."""
    scaled = _scaled(source, target[1] / source[1])
    return PictureChange(source, target, scaled, left=max(0, scaled[1] - target[1]) // 2, top=scaled[0] - target[0])


def draw_change(
    rng: np.random.Generator, augmentation: SurroundAugmentation, source: tuple[int, int], target: tuple[int, int]
) -> PictureChange:
    """A random change: scale, then columns, mirroring and turn; the lowest rows are kept. Four draws every time."""
    scale = target[1] / source[1] + rng.uniform(*augmentation.scale)
    place, mirrored = rng.random(), rng.random() < augmentation.picture_flip
    degrees = rng.uniform(-augmentation.degrees, augmentation.degrees)
    scaled = _scaled(source, scale)
    left = int(place * max(0, scaled[1] - target[1]))
    return PictureChange(source, target, scaled, left=left, top=scaled[0] - target[0], flip=mirrored, degrees=degrees)


def mirror_world(sample: Sample, grid: VoxelGrid, *, along_x: bool, along_y: bool) -> Sample:
    """The sample with its ego axes reversed, in everything it holds; pictures stay as they are.

    Args:
        sample: Any sample on `grid`.
        grid: Must lie symmetric about 0 along the axes that are reversed.
        along_x: Whether front and back change places.
        along_y: Whether left and right change places.

    Raises:
        ValueError: If the grid is not symmetric: labels could not follow.
    """
    axes = [axis for axis, reverse in enumerate((along_x, along_y)) if reverse]
    if any(abs(grid.lower[axis] + grid.upper[axis]) > 1e-6 * grid.voxel_size[axis] for axis in axes):
        raise ValueError(f"Mirroring needs a grid symmetric about 0, got {grid.lower} to {grid.upper}.")
    if not axes:
        return sample
    scene, target = sample.scene, sample.target
    signs = torch.ones(4, dtype=scene.now_from_then.dtype)
    signs[axes] = -1.0
    flip = torch.diag(signs)
    augmentation, points = scene.augmentation, scene.points
    dimensions = [1 + axis for axis in axes]
    mirrored = replace(
        scene,
        cameras=replace(scene.cameras, camera_from_ego=scene.cameras.camera_from_ego @ flip),
        now_from_then=flip @ scene.now_from_then @ flip,
        points=None if points is None else replace(points, positions=points.positions * signs[:3].float()),
        pseudo_voxels=_flipped(scene.pseudo_voxels, dimensions),
        proposals=_flipped(scene.proposals, dimensions),
        augmentation=None
        if augmentation is None
        else replace(augmentation, ego_from_source=flip @ augmentation.ego_from_source),
    )
    if target is not None:
        target = replace(target, labels=target.labels.flip(dimensions), observed=target.observed.flip(dimensions))
    return replace(sample, scene=mirrored, target=target)


def _flipped(volume: Tensor | None, dimensions: list[int]) -> Tensor | None:
    """A volume "B X Y Z" reversed along some of its dimensions."""
    return None if volume is None else volume.flip(dimensions)


def _scaled(source: tuple[int, int], scale: float) -> tuple[int, int]:
    """Height and width times `scale`, rounded down; what is whole but for a rounding error counts as whole."""
    height, width = (max(1, int(length * scale + 1e-6)) for length in source)
    return height, width
