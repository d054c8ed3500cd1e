import itertools
from dataclasses import fields

import pytest
import torch
from tiny_drocc import COARSE, GRID, surround_scene
from tiny_surround import LABELS

from occloom.lifting.depth import DepthPlanes
from occloom.lifting.lift_splat import frustum_voxels, lift_splat
from occloom.models.drocc import grown, occupancy_mask
from occloom.models.drocc_statistics import count_coverage, lifted_voxels
from occloom.scene import Sample, Target

PLANES = DepthPlanes(near=1.0, step=0.5, count=8)
FREE = LABELS.empty


def sample_with_labels(batch=2):
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 4, (batch, *GRID.shape), generator=generator)
    labels = torch.where(torch.rand(labels.shape, generator=generator) < 0.8, FREE, labels)
    observed = torch.rand(labels.shape, generator=generator) < 0.6
    target = Target(torch.where(observed, labels, FREE), observed)
    return Sample(surround_scene(batch=batch, known=0.01), target, tuple("ab"[:batch]))


def counted(sample, dilation=0):
    lifted = lifted_voxels(sample.scene, GRID, PLANES, (4, 8), 8, frames=2)
    return lifted, count_coverage(sample, GRID, LABELS, coarsening=(4, 4, 1), dilation=dilation, lifted=lifted)


@pytest.mark.parametrize("dilation", [0, 1])
def test_counts_are_those_of_a_loop(dilation):
    sample = sample_with_labels()
    scene, target = sample.scene, sample.target
    lifted, counts = counted(sample, dilation)
    poses, valid = scene.cameras.camera_from_ego[:, 0], scene.camera_present
    fine = occupancy_mask(scene.prior, poses, valid, GRID)
    coarse = grown(occupancy_mask(scene.prior, poses, valid, COARSE), dilation)
    occupied, missed, erased, empty, hold = [0] * 4, [0] * 4, [0] * 4, 0, set()
    for b, x, y, z in itertools.product(*map(range, fine.shape)):
        label = int(target.labels[b, x, y, z])
        if not target.observed[b, x, y, z]:
            continue
        if label == FREE:
            empty += 1
            continue
        hold.add((b, x // 4, y // 4, z))
        occupied[label] += 1
        missed[label] += not fine[b, x, y, z]
        erased[label] += not coarse[b, x // 4, y // 4, z]
    assert counts.occupied.tolist() == occupied
    assert counts.missed.tolist() == missed
    assert counts.erased.tolist() == erased
    assert counts.empty == empty
    assert counts.observed == empty + sum(occupied) == target.observed.sum()
    assert (counts.voxels, counts.coarse) == (2 * GRID.num_voxels, 2 * COARSE.num_voxels)
    assert (counts.masked, counts.coarse_masked) == (fine.sum(), coarse.sum())
    assert counts.coarse_occupied == len(hold)
    assert counts.coarse_right == sum(bool(coarse[place]) for place in hold)
    assert (counts.lifted_now, counts.lifted) == (lifted[0].sum(), lifted[1].sum())
    assert 0 < sum(erased) < sum(missed) < sum(occupied)


def test_lifted_voxels_are_those_that_lift_splat_fills():
    scene = surround_scene()
    scene.camera_valid[0, 1, 2] = False
    now, both = lifted_voxels(scene, GRID, PLANES, (4, 8), 8, frames=2)
    filled = []
    for t in range(2):
        voxels = frustum_voxels(
            scene.cameras.intrinsics[:, t], scene.cameras.camera_from_ego[:, t], GRID, PLANES, (4, 8), 8
        )
        ones = torch.ones(2, 3, 1, 4, 8), torch.ones(2, 3, PLANES.count, 4, 8)
        filled.append(lift_splat(*ones, voxels, scene.camera_valid[:, t], GRID.shape)[:, 0] > 0)
    assert torch.equal(now, filled[0])
    assert torch.equal(both, filled[0] | filled[1])
    assert both.sum() > now.sum()


def test_counts_add_up():
    sample = sample_with_labels()
    assert sample.target is not None
    _, both = counted(sample)
    alone = [
        Sample(
            *(record.map(lambda tensor, b=b: tensor[b : b + 1]) for record in (sample.scene, sample.target)), (name,)
        )
        for b, name in enumerate(sample.tokens)
    ]
    total = counted(alone[0])[1] + counted(alone[1])[1]
    assert all(torch.equal(getattr(total, field.name), getattr(both, field.name)) for field in fields(both))
