"""What several tests of Dr.Occ share: a small surround rig with a depth prior."""

import math
from dataclasses import replace
from pathlib import Path

import torch
from tiny_surround import LIFTING, TINY

from occloom.data.occ3d import Occ3dConfig
from occloom.engine.config import Recipe, TrainConfig
from occloom.grid import VoxelGrid
from occloom.lifting.depth import DepthPlanes
from occloom.metrics.protocols import OCC3D
from occloom.models.drocc import ModelFeatures, RefinementConfig, StandIn
from occloom.models.drocc_bevdet4d import DrOccConfig
from occloom.scene import Cameras, DepthPrior, Scene

GRID = VoxelGrid(lower=(-4.0, -4.0, -1.0), voxel_size=(0.4, 0.4, 0.8), shape=(20, 20, 4))
COARSE = GRID.coarsen((4, 4, 1))
STRIDE = 8
STEADY = RefinementConfig(heads=2, feedforward=12, dropout=0.0, depth_features=ModelFeatures(6))
"""Without dropout."""


def rig(batch, frames, cameras):
    """camera_from_ego of cameras that look around from a little above, displaced from frame to frame."""
    forward = torch.tensor([[0.0, -1, 0, 0], [0, 0, -1, 0], [1, 0, 0, 0], [0, 0, 0, 1]])
    poses = []
    for b in range(batch):
        for t in range(frames):
            for n in range(cameras):
                angle = 2 * math.pi * n / cameras + 0.1 * b + 0.3
                c, s = math.cos(angle), math.sin(angle)
                turn = torch.tensor([[c, s, 0, 0.2 * t], [-s, c, 0, 0.05], [0, 0, 1, -0.4], [0, 0, 0, 1]])
                poses.append(forward @ turn)
    return torch.stack(poses).view(batch, frames, cameras, 4, 4)


def surround_scene(batch=2, cameras=3, frames=3, size=(32, 64), features=6, seed=0, known=0.7):
    """Random pictures, and a random prior of another size and aspect."""
    generator = torch.Generator().manual_seed(seed)
    lead, (height, width) = (batch, frames, cameras), size
    intrinsics = torch.tensor([[width * 0.5, 0, width / 2 - 0.7], [0, width * 0.5, height / 2 - 1], [0, 0, 1]])
    depth = torch.rand(batch, cameras, 18, 30, generator=generator) * 6
    prior = DepthPrior(
        depth=torch.where(torch.rand(depth.shape, generator=generator) < known, depth, 0.0),
        intrinsics=torch.tensor([[14.0, 0, 14.8], [0, 14, 8.1], [0, 0, 1]]).repeat(batch, cameras, 1, 1),
        features=torch.randn(batch, cameras, features, 4, 7, generator=generator),
    )
    return Scene(
        cameras=Cameras(
            intrinsics=intrinsics.repeat(*lead, 1, 1),
            camera_from_ego=rig(batch, frames, cameras),
            time=torch.zeros(lead),
        ),
        now_from_then=torch.eye(4).repeat(batch, frames, 1, 1),
        time=torch.zeros(batch, frames),
        frame_valid=torch.ones(batch, frames, dtype=torch.bool),
        camera_valid=torch.ones(lead, dtype=torch.bool),
        images=torch.rand(*lead, 3, height, width, generator=generator),
        prior=prior,
    )


def without_depth(scene):
    """The scene with a prior that knows no pixel."""
    assert scene.prior is not None
    return replace(scene, prior=replace(scene.prior, depth=torch.zeros_like(scene.prior.depth)))


def mirrored(scene, *, x=False, y=False):
    """The scene in an ego frame that is mirrored along x, along y, or both."""
    flip = torch.diag(torch.tensor([-1.0 if x else 1.0, -1.0 if y else 1.0, 1.0, 1.0]))
    poses = scene.cameras.camera_from_ego
    cameras = replace(scene.cameras, camera_from_ego=poses @ flip.to(poses.dtype))
    return replace(scene, cameras=cameras)


def recipe():
    """Dr.Occ on what `made_nuscenes` writes, too coarse to learn anything."""
    lifting = replace(LIFTING, image_channels=16, planes=DepthPlanes(near=2.0, step=4.0, count=10))
    return Recipe(
        name="tiny-drocc",
        model=DrOccConfig(
            baseline=replace(TINY, lifting=lifting),
            coarsening=(2, 2, 1),
            refinement=replace(STEADY, depth_features=StandIn(8)),
        ),
        data=Occ3dConfig(root=Path("none"), image_size=(32, 64), label_scale=4, prior=Path("wall")),
        train=TrainConfig(steps=2, batch_size=1, learning_rate=1e-3, validate_every=0),
        protocol=OCC3D,
    )
