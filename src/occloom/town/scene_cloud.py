"""All LiDAR returns of a drive as one labelled cloud, what moves kept apart, as Occ3D makes its labels.

Returns from what stands still stay where they were; those from a mover are kept in its own frame and put where the
mover is at the moment asked for, so that nothing leaves a tube.
"""

import numpy as np
from jaxtyping import Float64, UInt8

from occloom.grid import VoxelGrid
from occloom.labels.voxelizer import Returns, select_returns, voxelize
from occloom.town.lidar import Scan
from occloom.town.mesh import World
from occloom.town.occ3d_ids import to_occ3d_ids


class SceneCloud:
    """The returns of all scans added so far."""

    def __init__(self, world: World) -> None:
        self._movers = {int(mover.mesh.instance[0]): mover for mover in world.movers}
        self._still: list[tuple[Returns, Float64[np.ndarray, "4 4"]]] = []
        self._moving: list[tuple[Returns, int, Float64[np.ndarray, "4 4"]]] = []

    def add(self, scan: Scan, world_from_lidar: Float64[np.ndarray, "4 4"], time: float) -> None:
        """Adds a scan taken at a pose and a time in seconds."""
        raw, instance = (scan.label & 0xFFFF).astype(np.uint16), scan.label >> 16
        moves = np.isin(instance, list(self._movers))
        self._still.append((select_returns(scan.points[~moves], raw[~moves]), world_from_lidar))
        for number in np.unique(instance[moves]).tolist():
            own = instance == number
            object_from_lidar = np.linalg.inv(self._movers[number].world_from_object(time)) @ world_from_lidar
            self._moving.append((select_returns(scan.points[own], raw[own]), number, object_from_lidar))

    def labels(
        self, time: float, ego_from_world: Float64[np.ndarray, "4 4"], grid: VoxelGrid
    ) -> UInt8[np.ndarray, "X Y Z"]:
        """Occ3D's ids: the class most returns of each voxel have, free where there is none.

        Args:
            time: when, seconds: the movers are put where they are then.
            ego_from_world: the pose of the grid.
            grid: the voxels.
        """
        ego_from_object = {
            number: ego_from_world @ mover.world_from_object(time) for number, mover in self._movers.items()
        }
        parts = [(returns, ego_from_world @ pose) for returns, pose in self._still]
        parts += [(returns, ego_from_object[number] @ pose) for returns, number, pose in self._moving]
        raw = voxelize([returns for returns, _ in parts], np.stack([pose for _, pose in parts]), grid)
        return to_occ3d_ids(raw)
