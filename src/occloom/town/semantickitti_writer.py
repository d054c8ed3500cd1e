"""One sequence of the town, file by file as the official download has it, in the layout of SemanticKITTI or another.

Every scan of the drive is cast once. Labelled frames are every fifth scan; the voxel labels of frame f stand as soon as
scan f + following_scans is cast. Voxel files and, unless asked for more often, pictures and scans are written for the
labelled frames; poses.txt and times.txt have a row for every scan, those after the last labelled frame included.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float64, UInt8, UInt16

from occloom.data.kitti_files import (
    Calibration,
    KittiFrame,
    write_calibration,
    write_image,
    write_point_labels,
    write_points,
    write_poses,
    write_times,
    write_voxel_bits,
    write_voxel_labels,
)
from occloom.data.label_spaces import SEMANTIC_KITTI_GRID
from occloom.labels.voxelizer import FrameLabels, Returns, label_frame, select_returns
from occloom.town.camera import render_image
from occloom.town.exact_labels import exact_labels
from occloom.town.kitti_rig import stereo_calibration
from occloom.town.lidar import Scan, cast_scan, hdl64
from occloom.town.mesh import World
from occloom.town.scene_rays import WorldRays

LabelRule = Literal["scans", "exact"]
SCANS_PER_SECOND = 10
SCANS_PER_FRAME = 5  # every fifth scan has voxel labels, as in SemanticKITTI


@dataclass(frozen=True)
class TownSettings:
    """All that decides the bytes of a sequence, its number aside."""

    seed: int
    """Of the whole town; each sequence has its own world."""
    frames: int
    """Labelled frames a sequence."""
    image_size: tuple[int, int]
    """Height and width of the pictures, pixels."""
    following_scans: int
    """Scans after a frame that add to its voxel labels; 70 in SemanticKITTI."""
    labels: LabelRule
    """`scans`: the official rule; `exact`: true surfaces at the moment of the frame."""
    image_every: int
    """Scans from one picture pair to the next, from the first to the last labelled frame."""
    scan_every: int
    """Scans from one velodyne file to the next, over the same stretch."""

    @property
    def num_scans(self) -> int:
        """Scans of a sequence, those after the last labelled frame included."""
        return self.last_frame + self.following_scans + 1

    @property
    def last_frame(self) -> int:
        """Scan number of the last labelled frame."""
        return SCANS_PER_FRAME * (self.frames - 1)

    @property
    def duration(self) -> float:
        """Seconds from the first scan to the last."""
        return (self.num_scans - 1) / SCANS_PER_SECOND


@runtime_checkable
class TownLayout(Protocol):
    """Where the files of a sequence lie, and in what form."""

    def folders(self, root: Path, sequence: str) -> tuple[Path, ...]:
        """The folders of a sequence; the sequence is complete once the last one is there."""
        ...

    def calibration(self, image_size: tuple[int, int]) -> Calibration:
        """The rig, for pictures of a height and width; cameras 2 and 3 take them."""
        ...

    def write_course(
        self,
        root: Path,
        sequence: str,
        calibration: Calibration,
        world_from_ego: Float64[np.ndarray, "S 4 4"],
    ) -> None:
        """What a sequence has once: the rig, and where the car is at each scan."""
        ...

    def picture(self, root: Path, sequence: str, scan: int, camera: int) -> Path:
        """The picture of camera 2 or 3 at a scan."""
        ...

    def write_scan(self, root: Path, sequence: str, scan: int, points: Scan) -> None:
        """The points of a scan."""
        ...

    def write_voxels(
        self, root: Path, sequence: str, scan: int, label: UInt16[np.ndarray, "X Y Z"], voxels: FrameLabels
    ) -> None:
        """The voxels of a labelled frame; `label` goes before the one in `voxels`."""
        ...


class SemanticKittiLayout:
    """SemanticKITTI's."""

    def folders(self, root: Path, sequence: str) -> tuple[Path, ...]:
        """One folder holds it all."""
        return (root / "sequences" / sequence,)

    def calibration(self, image_size: tuple[int, int]) -> Calibration:
        """KITTI's stereo rig."""
        return stereo_calibration(image_size)

    def write_course(
        self,
        root: Path,
        sequence: str,
        calibration: Calibration,
        world_from_ego: Float64[np.ndarray, "S 4 4"],
    ) -> None:
        """calib.txt, poses.txt (camera 0 in the frame of its first row) and times.txt."""
        (folder,) = self.folders(root, sequence)
        camera0_from_ego = calibration.camera0_from_velodyne
        first_from_each = np.linalg.inv(world_from_ego[0]) @ world_from_ego
        write_calibration(folder / "calib.txt", calibration)
        write_poses(folder / "poses.txt", camera0_from_ego @ first_from_each @ np.linalg.inv(camera0_from_ego))
        write_times(folder / "times.txt", np.arange(len(world_from_ego)) / SCANS_PER_SECOND)

    def picture(self, root: Path, sequence: str, scan: int, camera: int) -> Path:
        """In image_2 or image_3."""
        return KittiFrame(root, sequence, f"{scan:06d}").file(f"image_{camera}", ".png")

    def write_scan(self, root: Path, sequence: str, scan: int, points: Scan) -> None:
        """The points and their labels."""
        frame = KittiFrame(root, sequence, f"{scan:06d}")
        write_points(frame.scan, points.points)
        raw, instance = (points.label & 0xFFFF).astype(np.uint16), (points.label >> 16).astype(np.uint16)
        write_point_labels(frame.file("labels", ".label"), raw, instance)

    def write_voxels(
        self, root: Path, sequence: str, scan: int, label: UInt16[np.ndarray, "X Y Z"], voxels: FrameLabels
    ) -> None:
        """Labels, the filled voxels of the scan, and both masks."""
        frame = KittiFrame(root, sequence, f"{scan:06d}")
        write_voxel_labels(frame.file("voxels", ".label"), label)
        write_voxel_bits(frame.file("voxels", ".bin"), voxels.scan)
        write_voxel_bits(frame.file("voxels", ".occluded"), voxels.occluded)
        write_voxel_bits(frame.file("voxels", ".invalid"), voxels.invalid)


def write_sequence(
    root: Path,
    sequence: str,
    world: World,
    settings: TownSettings,
    *,
    after_frame: Callable[[], None],
    layout: TownLayout,
) -> None:
    """Drives through the world once and writes what the sensors see.

    Args:
        root: the data set's folder.
        sequence: number of the sequence, two digits.
        world: the world; it must last for `settings.duration`.
        settings: what to write.
        after_frame: called after each labelled frame.
        layout: where and in what form.

    Raises:
        InputError: If embreex is not installed.
    """
    rays, lidar, calibration = WorldRays(world), hdl64(), layout.calibration(settings.image_size)
    times = np.arange(settings.num_scans) / SCANS_PER_SECOND
    poses = np.stack([world.world_from_ego(float(time)) for time in times])
    layout.write_course(root, sequence, calibration, poses)
    window: deque[Returns] = deque(maxlen=settings.following_scans + 1)
    for number, time in enumerate(times):
        scan = cast_scan(rays, lidar=lidar, time=float(time), rng=_generator(settings.seed, sequence, number, 0))
        window.append(select_returns(scan.points, scan.label))
        if number % settings.scan_every == 0 and number <= settings.last_frame:
            layout.write_scan(root, sequence, number, scan)
        if number % settings.image_every == 0 and number <= settings.last_frame:
            for camera in (2, 3):
                picture = _picture(camera, rays, calibration, poses[number], settings, sequence, number)
                write_image(layout.picture(root, sequence, number, camera), picture)
        frame = number - settings.following_scans
        if frame >= 0 and frame % SCANS_PER_FRAME == 0:
            ego_from_world = np.linalg.inv(poses[frame])
            voxels = label_frame(list(window), ego_from_world @ poses[frame : number + 1], SEMANTIC_KITTI_GRID)
            label = voxels.label
            if settings.labels == "exact":  # the masks follow the scans under either rule
                label = exact_labels(rays.mesh(frame / SCANS_PER_SECOND), ego_from_world, SEMANTIC_KITTI_GRID)
            layout.write_voxels(root, sequence, frame, label, voxels)
            after_frame()


def _picture(
    camera: int,
    rays: WorldRays,
    calibration: Calibration,
    world_from_ego: Float64[np.ndarray, "4 4"],
    settings: TownSettings,
    sequence: str,
    number: int,
) -> UInt8[np.ndarray, "H W 3"]:
    """What camera 2 or 3 sees at the moment of the scan."""
    return render_image(
        rays,
        time=number / SCANS_PER_SECOND,
        intrinsics=calibration.intrinsics(camera),
        world_from_camera=world_from_ego @ np.linalg.inv(calibration.camera_from_velodyne(camera)),
        image_size=settings.image_size,
        rng=_generator(settings.seed, sequence, number, camera),
    )


def _generator(seed: int, sequence: str, scan: int, sensor: int) -> np.random.Generator:
    """The randomness of one sensor at one scan: LiDAR 0, cameras 2 and 3."""
    return np.random.default_rng((seed, int(sequence), scan, sensor))
