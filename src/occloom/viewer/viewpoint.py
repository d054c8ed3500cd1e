"""Where a picture is taken from, and what is drawn over it: the lines of a camera's view."""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Float64, UInt8
from PIL import Image, ImageDraw

from occloom.grid import Triple, VoxelGrid

Size = tuple[int, int]
"""Height and width, in pixels."""


@dataclass(frozen=True)
class Viewpoint:
    """Where a picture is taken from; z is up."""

    position: Triple
    """Ego frame, metres."""
    target: Triple
    """The point in the middle of the picture, ego frame, metres."""
    field_of_view: float = 41.0
    """Vertical, degrees."""

    def axes(self) -> Float64[np.ndarray, "3 3"]:
        """Rows: right, down and forward (OpenCV axes) in the ego frame."""
        forward = np.subtract(self.target, self.position)
        forward = forward / np.linalg.norm(forward)
        right = np.cross(forward, (0.0, 0.0, 1.0))
        right = right / np.linalg.norm(right)
        return np.stack([right, np.cross(forward, right), forward])

    def focal_length(self, size: Size) -> float:
        """In pixels."""
        return size[0] / 2 / math.tan(math.radians(self.field_of_view) / 2)

    def project(self, points: Float64[np.ndarray, "P 3"], size: Size) -> Float64[np.ndarray, "P 2"]:
        """Pixels (u, v) of points in the ego frame; NaN for those not in front."""
        x, y, z = self.axes() @ (points - np.array(self.position)).T
        z = np.where(z > 1e-6, z, np.nan)
        focal = self.focal_length(size)
        return np.stack([focal * x / z + (size[1] - 1) / 2, focal * y / z + (size[0] - 1) / 2], axis=1)


@dataclass(frozen=True)
class EgoMarker:
    """The car that took the picture, and the view of its camera."""

    road_height: float
    """Of the road under the car, ego frame, metres."""
    camera_from_ego: Float64[np.ndarray, "4 4"] | None = None
    """With `intrinsics` and `image_size`: draws what the camera sees."""
    intrinsics: Float64[np.ndarray, "3 3"] | None = None
    image_size: Size = (0, 0)


def chase_view(grid: VoxelGrid) -> Viewpoint:
    """From behind and above the grid, looking along x."""
    length, middle = grid.upper[0] - grid.lower[0], (grid.lower[1] + grid.upper[1]) / 2
    return Viewpoint(
        position=(grid.lower[0] - 0.40 * length, middle, grid.lower[2] + 0.52 * length),
        target=(grid.lower[0] + 0.35 * length, middle, grid.lower[2]),
    )


def camera_lines(ego: EgoMarker, grid: VoxelGrid) -> list[Float64[np.ndarray, "_ 3"]]:
    """The camera's pyramid, and the edges of its view over the road: lines of points in the ego frame."""
    assert ego.camera_from_ego is not None
    assert ego.intrinsics is not None
    height, width = ego.image_size
    pixels = np.array([[-0.5, -0.5], [width - 0.5, -0.5], [width - 0.5, height - 0.5], [-0.5, height - 0.5]])
    rays = np.linalg.solve(ego.intrinsics, np.concatenate([pixels, np.ones((4, 1))], axis=1).T).T
    ego_from_camera = np.linalg.inv(ego.camera_from_ego)
    rays, centre = rays @ ego_from_camera[:3, :3].T, ego_from_camera[:3, 3]
    along = np.linspace(0, 1, 200)[:, None]
    corners = centre + 3.0 * rays
    lines = [centre + along * (corner - centre) for corner in corners]
    lines += [corner + along * (other - corner) for corner, other in zip(corners, np.roll(corners, 1, 0), strict=True)]
    for left_or_right in (rays[0] + rays[3], rays[1] + rays[2]):
        flat = np.array([left_or_right[0], left_or_right[1], 0.0]) / np.linalg.norm(left_or_right[:2])
        start = np.array([centre[0], centre[1], ego.road_height + 0.3])
        reach = along * 2 * (grid.upper[0] - grid.lower[0])
        line = start + reach * flat
        lines.append(line[((line >= np.array(grid.lower)) & (line <= np.array(grid.upper))).all(axis=1)])
    return lines


def draw_lines(
    picture: UInt8[np.ndarray, "H W 3"],
    lines: list[Float64[np.ndarray, "_ 3"]],
    viewpoint: Viewpoint,
    distance: Float32[np.ndarray, "H W"],
) -> UInt8[np.ndarray, "H W 3"]:
    """Draw lines where nothing nearer hides them, at twice the resolution for smooth edges."""
    height, width = distance.shape
    overlay = Image.new("L", (2 * width, 2 * height))
    draw = ImageDraw.Draw(overlay)
    for line in lines:
        pixels = viewpoint.project(line, (height, width))
        away = np.linalg.norm(line - np.array(viewpoint.position), axis=1)
        u, v = np.nan_to_num(np.rint(pixels), nan=-1).astype(int).T
        inside = (u >= 0) & (u < width) & (v >= 0) & (v < height)
        seen = inside & (away < distance[v.clip(0, height - 1), u.clip(0, width - 1)] + 0.3)
        for i in np.flatnonzero(seen[:-1] & seen[1:]):
            draw.line([tuple(2 * pixels[i] + 0.5), tuple(2 * pixels[i + 1] + 0.5)], fill=190, width=2)
    ink = Image.new("RGB", (width, height), (20, 24, 32))
    return np.asarray(
        Image.composite(ink, Image.fromarray(picture), overlay.resize((width, height), Image.Resampling.BOX))
    )
