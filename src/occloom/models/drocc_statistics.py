"""What Dr.Occ's mask and lifting cover of the truth: shares that its table of evidence is read with."""

from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Int64
from torch import Tensor

from occloom.grid import LabelSpace, Shape, VoxelGrid
from occloom.lifting.depth import DepthPlanes
from occloom.lifting.lift_splat import frustum_voxels
from occloom.models.drocc import grown, occupancy_mask
from occloom.scene import Sample, Scene


@dataclass(frozen=True)
class CoverageCounts:
    """Voxels over some samples. Fine ones are those of the labels, coarse ones those that Dr.Occ refines."""

    voxels: Int64[Tensor, ""]
    """Fine."""
    observed: Int64[Tensor, ""]
    """Of these, those that count."""
    empty: Int64[Tensor, ""]
    """Of the observed ones, those that are empty."""
    lifted_now: Int64[Tensor, ""]
    """Fine voxels in which a point of the present frame's frustums lies."""
    lifted: Int64[Tensor, ""]
    """The same of all frames that are lifted."""
    masked: Int64[Tensor, ""]
    """Fine voxels of M."""
    coarse: Int64[Tensor, ""]
    """Coarse voxels."""
    coarse_masked: Int64[Tensor, ""]
    """Of these, those of M_down."""
    coarse_right: Int64[Tensor, ""]
    """Of these, those that hold an observed occupied fine voxel."""
    coarse_occupied: Int64[Tensor, ""]
    """Coarse voxels that hold an observed occupied fine voxel."""
    occupied: Int64[Tensor, " K"]
    """Observed fine voxels of each class; 0 for the empty one."""
    missed: Int64[Tensor, " K"]
    """Of these, those that are not in M."""
    erased: Int64[Tensor, " K"]
    """Of these, those whose coarse voxel is not in M_down: Eq. 5 replaces its features."""

    def __add__(self, other: "CoverageCounts") -> "CoverageCounts":
        """Counts of both."""
        return CoverageCounts(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))


def count_coverage(
    sample: Sample,
    grid: VoxelGrid,
    label_space: LabelSpace,
    *,
    coarsening: Shape,
    dilation: int,
    lifted: tuple[Bool[Tensor, "B X Y Z"], Bool[Tensor, "B X Y Z"]],
) -> CoverageCounts:
    """Count what the mask of a sample's prior covers of its labels.

    Args:
        sample: With a prior and labels.
        grid: Of the labels.
        label_space: Its empty class is what the mask should leave out.
        coarsening: Fine voxels in a coarse one.
        dilation: Coarse voxels by which M_down grows.
        lifted: Voxels that lifting fills, of the present frame and of all (`lifted_voxels`).
    """
    scene, target = sample.scene, sample.target
    assert scene.prior is not None, "needs asks for the prior"
    assert target is not None, "coverage is measured on labels"
    poses, valid = scene.cameras.camera_from_ego[:, 0], scene.camera_present
    fine = occupancy_mask(scene.prior, poses, valid, grid)
    coarse = grown(occupancy_mask(scene.prior, poses, valid, grid.coarsen(coarsening)), dilation)
    spread = coarse
    for axis, factor in enumerate(coarsening, start=1):
        spread = spread.repeat_interleave(factor, dim=axis)
    occupied = target.observed & (target.labels != label_space.empty)
    blocks = F.max_pool3d(occupied[:, None].float(), coarsening)[:, 0] > 0

    def by_class(voxels: Tensor) -> Tensor:
        return torch.bincount(target.labels[voxels], minlength=label_space.num_classes)

    return CoverageCounts(
        voxels=torch.tensor(fine.numel()),
        observed=target.observed.sum(),
        empty=(target.observed & ~occupied).sum(),
        lifted_now=lifted[0].sum(),
        lifted=lifted[1].sum(),
        masked=fine.sum(),
        coarse=torch.tensor(coarse.numel()),
        coarse_masked=coarse.sum(),
        coarse_right=(coarse & blocks).sum(),
        coarse_occupied=blocks.sum(),
        occupied=by_class(occupied),
        missed=by_class(occupied & ~fine),
        erased=by_class(occupied & ~spread),
    )


def lifted_voxels(
    scene: Scene, grid: VoxelGrid, planes: DepthPlanes, size: tuple[int, int], stride: int, *, frames: int
) -> tuple[Bool[Tensor, "B X Y Z"], Bool[Tensor, "B X Y Z"]]:
    """Voxels that lift-splat puts features into: from the present frame, and from all of `frames`.

    Args:
        scene: Its cameras.
        grid: Of the lifted volume.
        planes: Of the depth distribution.
        size: h and w of the features.
        stride: Image pixels a feature pixel.
        frames: That are lifted.
    """
    found = torch.zeros(scene.batch_size, grid.num_voxels + 1, dtype=torch.bool, device=scene.time.device)
    now = found
    for t in range(frames):
        cameras = scene.cameras
        voxels = frustum_voxels(cameras.intrinsics[:, t], cameras.camera_from_ego[:, t], grid, planes, size, stride)
        usable = (voxels >= 0) & scene.camera_valid[:, t, :, None, None, None]
        # One place more than there are voxels takes the points that lie in none.
        found = found.scatter(1, torch.where(usable, voxels, grid.num_voxels).flatten(1), True)
        now = found if t == 0 else now
    present_, all_ = (filled[:, :-1].unflatten(1, grid.shape) for filled in (now, found))
    return present_, all_
