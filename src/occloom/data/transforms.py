"""Augmentations: pure functions from sample to sample that keep cameras, pictures, points and labels consistent."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from occloom.geometry.augment import flipped_intrinsics
from occloom.grid import VoxelGrid
from occloom.scene import Points, Sample, Target

LUMA = (0.299, 0.587, 0.114)
"""ITU-R BT.601 weights of red, green and blue."""


def mirror(sample: Sample, grid: VoxelGrid, *, width: int) -> Sample:
    """The mirrored world: left and right exchanged in everything the sample holds.

    The ego's y, the camera's x and the pictures' columns change their direction together, so fx stays positive and a
    voxel that fell on a pixel falls on the mirrored one.

    Args:
        sample: Any sample on `grid`.
        grid: Must lie symmetric about y = 0.
        width: Of the pictures that the intrinsics belong to.

    Raises:
        ValueError: If the grid is not symmetric about y = 0: labels could not follow.
    """
    if grid.lower[1] != -grid.upper[1]:
        raise ValueError(f"Mirroring needs a grid symmetric about y = 0, got {grid.lower[1]} to {grid.upper[1]}.")
    scene = sample.scene
    flip_x = torch.diag(torch.tensor([-1.0, 1.0, 1.0, 1.0], dtype=scene.cameras.camera_from_ego.dtype))
    flip_y = torch.diag(torch.tensor([1.0, -1.0, 1.0, 1.0], dtype=scene.cameras.camera_from_ego.dtype))
    cameras = replace(
        scene.cameras,
        intrinsics=flipped_intrinsics(scene.cameras.intrinsics, width=width) @ flip_x[:3, :3],
        camera_from_ego=flip_x @ scene.cameras.camera_from_ego @ flip_y,
    )
    mirrored = replace(
        scene,
        cameras=cameras,
        now_from_then=flip_y @ scene.now_from_then @ flip_y,
        images=_flip_columns(scene.images),
        depth=_flip_columns(scene.depth),
        points=_mirror_points(scene.points),
        pseudo_voxels=_flip_rows(scene.pseudo_voxels),
        proposals=_flip_rows(scene.proposals),
    )
    return replace(sample, scene=mirrored, target=_mirror_target(sample.target))


def _flip_columns(picture: Tensor | None) -> Tensor | None:
    """A picture with its last axis reversed."""
    return None if picture is None else picture.flip(-1)


def _flip_rows(volume: Tensor | None) -> Tensor | None:
    """A volume "B X Y Z" with Y reversed."""
    return None if volume is None else volume.flip(2)


def _mirror_points(points: Points | None) -> Points | None:
    """Points with y negated."""
    if points is None:
        return None
    return replace(points, positions=points.positions * points.positions.new_tensor([1.0, -1.0, 1.0]))


def _mirror_target(target: Target | None) -> Target | None:
    """Labels with Y reversed."""
    if target is None:
        return None
    return Target(
        labels=target.labels.flip(2),
        observed=target.observed.flip(2),
        image_labels=_flip_columns(target.image_labels),
        depth=_flip_columns(target.depth),
        pseudo_masks=_flip_columns(target.pseudo_masks),
        teacher_volume=None if target.teacher_volume is None else target.teacher_volume.flip(3),
    )


@dataclass(frozen=True)
class ColourShift:
    """How a picture's colours are changed; 1 leaves them."""

    brightness: float
    contrast: float
    saturation: float


def draw_colour_shift(rng: np.random.Generator, strength: float) -> ColourShift:
    """Three factors, each uniform in [1 - strength, 1 + strength]."""
    brightness, contrast, saturation = rng.uniform(1 - strength, 1 + strength, size=3)
    return ColourShift(brightness=float(brightness), contrast=float(contrast), saturation=float(saturation))


def shift_colours(sample: Sample, shift: ColourShift) -> Sample:
    """The sample with all its pictures changed alike, so that frames stay comparable; values stay in [0, 1]."""
    images = sample.scene.images
    if images is None:
        return sample
    images = images * shift.brightness
    mean = _grey(images).mean(dim=(-3, -2, -1), keepdim=True)
    images = mean + (images - mean) * shift.contrast
    grey = _grey(images)
    images = grey + (images - grey) * shift.saturation
    return replace(sample, scene=replace(sample.scene, images=images.clamp(0.0, 1.0)))


def _grey(images: Float[Tensor, "B T N 3 H W"]) -> Float[Tensor, "B T N 1 H W"]:
    """Luma of RGB pictures."""
    weights = images.new_tensor(LUMA)[:, None, None]
    return (images * weights).sum(dim=-3, keepdim=True)
