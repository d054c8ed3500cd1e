"""What VoxDet's released code does otherwise than paper and library: parts for the recipe that loads its weights.

The default parts stand in `voxdet` and `voxdet_camera`; these have the same methods. Weights that were trained with the
ones mean little with the others. Facts: reference voxdet 0, 3, 4 and 6; docs/models/voxdet.md.

Suffixes: B batch, N cameras, M = B * N images, h w feature pixels, D depth planes, x y z voxels of the offset field.
"""

import math
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from occloom.errors import InputError
from occloom.geometry.precision import full_precision
from occloom.geometry.projection import project, unproject
from occloom.geometry.rigid import invert, rigid, transform_points
from occloom.geometry.sampling import sample_volume_fractions
from occloom.geometry.voxelize import flat_index, voxel_coordinates, voxel_index
from occloom.grid import VoxelGrid
from occloom.lifting.cross_attention import ReferencePoints
from occloom.lifting.depth import DepthPlanes
from occloom.models.voxdet import Places
from occloom.models.voxdet_camera import nearest_depth, planes_one_hot
from occloom.scene import Scene


@dataclass(frozen=True)
class ReleasedPlaces:
    """Places anywhere in the volume."""

    shares: Float[Tensor, "B 6 x y z 3"]
    """For six directions the place of each voxel as shares of the axes z, y, x, in this order; 0 and 1 are borders."""

    def read(self, volume: Float[Tensor, "B C x y z"], direction: int) -> Float[Tensor, "B C x y z"]:
        """Interpolate trilinearly, zero outside."""
        return sample_volume_fractions(volume, self.shares[:, direction]).view(volume.shape)


@dataclass(frozen=True)
class ReleasedSampling:
    """Sampling with two slips (reference voxdet 0.1): x and z change places, and places are stretched about the middle.

    The place along x, as a share of its axis, is used along z and the other way round; shares are made as if 0 and 1
    were the centres of the first and last voxel, and read as if they were the outer borders.
    """

    def places(self, offsets: Float[Tensor, "B 6 x y z"]) -> Places:
        """Each direction moves one coordinate, kept within the volume."""
        shape = offsets.shape[2:]
        # From 0 at the first to 1 at the last voxel of each axis.
        axes = [torch.linspace(0, 1, n, dtype=offsets.dtype, device=offsets.device) for n in shape]
        own = torch.stack(torch.meshgrid(*axes, indexing="ij")).expand(len(offsets), 3, *shape)
        shares = []
        for direction in range(6):
            axis, sign = direction // 2, 1 - 2 * (direction % 2)
            share = list(own.unbind(1))
            share[axis] = (share[axis] + sign * offsets[:, direction]).clamp(0, 1)
            shares.append(torch.stack(share, dim=-1))  # x, y, z where z, y, x are read
        return ReleasedPlaces(torch.stack(shares, dim=1))


@dataclass(frozen=True)
class ReleasedOffsetLoss:
    """L1 over all voxels, ignored ones too, over twice the number of those that are not (reference voxdet 0.2)."""

    def loss(
        self,
        offsets: Float[Tensor, "B 6 x y z"],
        truth: Float[Tensor, "B 6 x y z"],
        observed: Bool[Tensor, "B x y z"],
    ) -> Float[Tensor, ""]:
        """The mask enters the divisor alone."""
        return (offsets - truth).abs().sum() / (2 * observed.sum()).clamp(min=1)


@dataclass(frozen=True)
class RawCamera:
    """A camera as its data set publishes it, for pictures as they lie on disk."""

    size: tuple[int, int]
    """Height and width of the pictures."""
    focal: float
    """In pixels, along both axes."""
    centre: tuple[float, float]
    """Principal point, along the width and along the height."""
    column: tuple[float, float, float]
    """Fourth column of the projection matrix."""


RAW_CAMERAS = (
    # KITTI odometry, image_2, sequences 00-02 and 13-21; 03; 04-12.
    RawCamera((376, 1241), 718.856, (607.1928, 185.2157), (45.38225, -0.1130887, 0.003779761)),
    RawCamera((375, 1242), 721.5377, (609.5593, 172.854), (44.85728, 0.2163791, 0.002745884)),
    RawCamera((370, 1226), 707.0912, (601.8873, 183.1104), (46.88783, 0.1178601, 0.006203223)),
    # KITTI-360, image_00.
    RawCamera((376, 1408), 552.554261, (682.049453, 238.769549), (0.0, 0.0, 0.0)),
)
"""The cameras that the released weights know."""


@dataclass(frozen=True)
class _Rig:
    """What the released code is told of the cameras of a scene."""

    numbers: Float[Tensor, "B N 7"]
    """fx, fy, cx, cy and the fourth column of the raw projection."""
    scale: Float[Tensor, "B N"]
    """Pixels of the fitted picture in a pixel of the raw one, along both axes."""
    shift: Float[Tensor, "B N"]
    """Added to the scaled picture's rows: minus the rows cut off at the top."""
    camera_from_ego: Float[Tensor, "B N 4 4"]
    """The fourth column is in it."""

    def fitted(self) -> Float[Tensor, "B N 3 3"]:
        """Intrinsics of the fitted picture as the released code scales them: pixel (0, 0) stays where it is."""
        fx, fy, cx, cy = self.numbers[..., :4].unbind(-1)
        zero, one = torch.zeros_like(fx), torch.ones_like(fx)
        rows = [fx * self.scale, zero, cx * self.scale, zero, fy * self.scale, cy * self.scale + self.shift]
        return torch.stack([*rows, zero, zero, one], dim=-1).unflatten(-1, (3, 3))

    def ego_from_camera0(self) -> Float[Tensor, "B N 4 4"]:
        """The rig without the fourth column, which moves the camera by the inverse of its intrinsics times itself."""
        fx, fy, cx, cy, px, py, pz = self.numbers.unbind(-1)
        offset = torch.stack([(px - cx * pz) / fx, (py - cy * pz) / fy, pz], dim=-1)
        return invert(rigid(self.camera_from_ego[..., :3, :3], self.camera_from_ego[..., :3, 3] - offset))

    def to_ego(self, pixels: Float[Tensor, "*b P 2"], depth: Float[Tensor, "*d P"]) -> Float[Tensor, "B N P 3"]:
        """Points of the ego frame that the fitted pictures show at pixels and depths."""
        lead = self.scale.shape
        pixels, depth = pixels.expand(*lead, -1, 2), depth.expand(*lead, -1)
        return transform_points(invert(self.camera_from_ego), unproject(pixels, depth, self.fitted()))


def _rig(scene: Scene) -> _Rig:
    """The raw numbers behind a scene's fitted cameras: those of the raw camera whose field of view is the nearest."""
    table, off = _raw_cameras(scene)
    chosen = table[off.argmin(-1)]
    return _Rig(chosen[..., :7], chosen[..., 7], chosen[..., 8], scene.cameras.camera_from_ego[:, 0])


def _raw_cameras(scene: Scene) -> tuple[Float[Tensor, "R 9"], Float[Tensor, "B N R"]]:
    """The raw cameras fitted to the size of a scene's pictures, and by which share its focal lengths differ."""
    assert scene.images is not None, "needs asks for images"
    height, width = scene.images.shape[-2:]
    focal = scene.cameras.intrinsics[:, 0, :, 0, 0]
    raw = [(c.focal, c.focal, *c.centre, *c.column, *_fit(c, height, width)) for c in RAW_CAMERAS]
    table = torch.tensor(raw, dtype=focal.dtype, device=focal.device)
    return table, (focal[..., None] / (table[:, 0] * table[:, 7]) - 1).abs()


def _refuse_unknown_cameras(scene: Scene) -> None:
    """Look once a forward, for it makes the host wait for the device.

    Raises:
        InputError: If no raw camera is near one of the scene's.
    """
    table, off = _raw_cameras(scene)
    # A tenth: fitted pictures are off by some rounding, other data sets' cameras by a quarter.
    unknown = off.amin(-1) > 0.1
    if off.is_meta or not bool(unknown.any()):
        return
    assert scene.images is not None, "needs asks for images"
    focal, known = scene.cameras.intrinsics[:, 0, :, 0, 0][unknown][0], (table[:, 0] * table[:, 7]).tolist()
    raise InputError(
        f"a camera has a focal length of {float(focal):.1f} pixels at a width of {scene.images.shape[-1]}",
        rule=f"the released weights know KITTI's and KITTI-360's: {', '.join(f'{f:.1f}' for f in known)}",
        remedy="use a recipe without `released` in its name",
    )


def _fit(camera: RawCamera, height: int, width: int) -> tuple[float, float]:
    """Scale and shift that bring raw pictures to a width and keep the lowest rows (reference voxdet 1)."""
    scale = width / camera.size[1]
    return scale, float(height - math.floor(camera.size[0] * scale))


@dataclass(frozen=True)
class ReleasedGeometry:
    """Pixels, planes and voxels as the released VoxDet takes them (reference voxdet 0.3, 3 and 4).

    Frustum columns run evenly from the first to the last pixel, so they drift from their cells by up to half a cell;
    frustum points up to a voxel below the grid count in its first voxels; the given depth is told one plane too near,
    and nothing before 2.25 m; places in the image are half a pixel, those among the planes half a plane off.
    """

    planes: DepthPlanes = field(default_factory=DepthPlanes)
    """Of the depth distribution."""
    camera_eps: float = 1e-5
    """PyTorch's default."""

    def one_hot(self, depth: Float[Tensor, "M H W"], stride: int) -> Float[Tensor, "M D h w"]:
        """The plane before that of the smallest known depth of each cell; all zero where there is none."""
        nearest = nearest_depth(depth, stride)
        index = ((nearest - self.planes.nearest) / self.planes.step).floor() - 1
        return planes_one_hot(index, nearest > 0, self.planes.count)

    def voxels(self, scene: Scene, grid: VoxelGrid, size: tuple[int, int], stride: int) -> Int64[Tensor, "B N h w D"]:  # noqa: ARG002
        """Flat index of the voxel of each frustum point, cut off toward zero; -1 outside."""
        assert scene.images is not None, "needs asks for images"
        height, width = scene.images.shape[-2:]
        dtype, device = scene.cameras.intrinsics.dtype, scene.cameras.intrinsics.device
        with full_precision(device.type):
            u = torch.linspace(0, width - 1, size[1], dtype=dtype, device=device)
            v = torch.linspace(0, height - 1, size[0], dtype=dtype, device=device)
            d = self.planes.centres(dtype=dtype, device=device)
            v, u, d = (axis.flatten() for axis in torch.meshgrid(v, u, d, indexing="ij"))
            places = voxel_coordinates(_rig(scene).to_ego(torch.stack([u, v], dim=-1), d), grid)
        index = places.trunc().long()
        inside = ((index >= 0) & (index < index.new_tensor(grid.shape))).all(dim=-1)
        flat = torch.where(inside, flat_index(index, grid.shape), -1)
        return flat.unflatten(-1, (*size, self.planes.count))

    def references(
        self, scene: Scene, points: Float[Tensor, "B Q R 3"], image_size: tuple[int, int]
    ) -> ReferencePoints:
        """Shares of width, height and range of planes; seen if before the camera and strictly within the image."""
        rig = _rig(scene)
        with full_precision(points.device.type):
            seen = transform_points(rig.camera_from_ego, points.flatten(1, 2)[:, None])
            depth = seen[..., 2]
            pixels, _ = project(seen, rig.fitted())
            image = pixels / pixels.new_tensor([image_size[1], image_size[0]])
            planes = (depth - self.planes.near) / (self.planes.step * self.planes.count)
            visible = (depth > 1e-5) & (image > 0).all(-1) & (image < 1).all(-1)
            locations = torch.cat([image, planes[..., None]], dim=-1)
        # What is behind a camera has no place in its image.
        locations = torch.where(visible[..., None], locations, 0)
        shape = tuple(points.shape[1:3])
        return ReferencePoints(locations=locations.unflatten(2, shape), visible=visible.unflatten(2, shape))

    def proposals(self, scene: Scene, grid: VoxelGrid) -> Bool[Tensor, "B X Y Z"]:
        """Voxels with a pixel of the depth map in them; unknown depth (0) proposes the voxel the camera is in."""
        assert scene.depth is not None, "needs asks for depth"
        depth = scene.depth[:, 0]
        height, width = depth.shape[-2:]
        v, u = torch.meshgrid(*(torch.arange(n).to(depth) for n in (height, width)), indexing="ij")
        pixels = torch.stack([u, v], dim=-1).flatten(0, 1)
        with full_precision(depth.device.type):
            points = _rig(scene).to_ego(pixels, depth.flatten(2))
            index, inside = voxel_index(points, grid)
            # A tenth of a millimetre within the grid.
            away = points.new_tensor(grid.lower) + 1e-4, points.new_tensor(grid.upper) - 1e-4
            inside &= (points > away[0]).all(-1) & (points < away[1]).all(-1)
        inside &= scene.camera_present[..., None]
        voxels = math.prod(grid.shape)
        flat = torch.where(inside, flat_index(index, grid.shape), voxels).flatten(1)
        proposed = torch.zeros(len(depth), voxels + 1, dtype=torch.bool, device=depth.device).scatter_(1, flat, True)
        proposed = proposed[:, :voxels]
        # Fewer than two make every voxel a query.
        return (proposed | (proposed.sum(1, keepdim=True) < 2)).unflatten(1, grid.shape)

    def camera_vector(self, scene: Scene) -> Float[Tensor, "M 33"]:
        """Raw intrinsics and fourth column; scale and shift of the picture; no warp; velodyne from camera 0.

        Raises:
            InputError: If the released weights know none of a camera's focal length; other methods take the nearest.
        """
        _refuse_unknown_cameras(scene)
        rig = _rig(scene)
        zero, one = torch.zeros_like(rig.scale), torch.ones_like(rig.scale)
        picture = torch.stack([rig.scale, zero, zero, zero, rig.scale, rig.shift], dim=-1)
        warp = torch.stack([one, zero, zero, one, one, zero, zero, zero], dim=-1)
        pose = rig.ego_from_camera0()[..., :3, :].flatten(-2)
        return torch.cat([rig.numbers, picture, warp, pose], dim=-1).flatten(0, 1)
