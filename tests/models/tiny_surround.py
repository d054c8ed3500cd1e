"""What tests of the surround models share: a small grid, small sizes, rigs of several cameras over several frames."""

import math
from dataclasses import replace

import torch

from occloom.geometry.rigid import invert, rigid
from occloom.grid import LabelSpace, VoxelGrid
from occloom.lifting.depth import DepthPlanes
from occloom.models.bevdet4d import BevDet4dConfig, LiftingConfig
from occloom.models.voxdet_camera import SmallTrunk
from occloom.scene import Augmentation, Cameras, Scene, Target

GRID = VoxelGrid(lower=(-8.0, -8.0, -1.0), voxel_size=(1.0, 1.0, 0.8), shape=(16, 16, 8))
PLANES = DepthPlanes(near=1.5, step=1.0, count=8)
LIFTING = LiftingConfig(
    trunk=SmallTrunk(width=8),
    image_channels=12,
    feature_stride=8,
    depth_channels=8,
    pyramid_channels=4,
    planes=PLANES,
    channels=8,
)
TINY = BevDet4dConfig(lifting=LIFTING, volume_channels=(8, 8, 12), volume_blocks=(1, 1, 1), channels=8, hidden=8)
LABELS = LabelSpace(("a", "b", "c", "free"), 3, ((0, 0, 0),) * 4, (1e3, 2e4, 3e3, 1e6))


def built(config, grid=GRID, seed=0):
    """A model with weights that depend on the seed alone."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return config.build(grid, LABELS)


def random_scene(batch=2, cameras=2, frames=3, size=(32, 64), seed=0):
    """Cameras that look all around, half a metre and a degree further on in every frame."""
    generator = torch.Generator().manual_seed(seed)
    lead, (height, width) = (batch, frames, cameras), size
    intrinsics = torch.tensor([[width * 0.6, 0, width / 2 - 0.5], [0, width * 0.6, height / 2 - 0.5], [0, 0, 1]])
    poses = torch.stack(
        [
            torch.stack([torch.stack([pose(b, t, n, cameras) for n in range(cameras)]) for t in range(frames)])
            for b in range(batch)
        ]
    )
    return Scene(
        cameras=Cameras(intrinsics=intrinsics.repeat(*lead, 1, 1), camera_from_ego=poses, time=torch.zeros(lead)),
        now_from_then=torch.eye(4).repeat(batch, frames, 1, 1),
        time=torch.zeros(batch, frames),
        frame_valid=torch.ones(batch, frames, dtype=torch.bool),
        camera_valid=torch.ones(lead, dtype=torch.bool),
        images=torch.rand(*lead, 3, height, width, generator=generator),
    )


def pose(b, t, n, cameras):
    """camera_from_ego of one camera of one frame of one sample."""
    yaw = 2 * math.pi * n / cameras + 0.02 * t + 0.1 * b
    c, s = math.cos(yaw), math.sin(yaw)
    # Right, down and forward of a camera that looks along the yaw.
    axes = torch.tensor([[s, -c, 0.0], [0.0, 0.0, -1.0], [c, s, 0.0]])
    place = torch.tensor([0.3 - 0.5 * t, 0.1 * b, 0.6])
    return rigid(axes, -(axes @ place))


def augmented(scene, sample, *, flip_x=False, flip_y=False, turn=0.0, scale=1.0, shift=(0.0, 0.0)):
    """The scene with one of its samples scaled, turned, shifted and mirrored; its pictures stay, as noise may."""
    c, s = math.cos(turn), math.sin(turn)
    picture = torch.tensor([[scale * c, scale * s, shift[0]], [-scale * s, scale * c, shift[1]], [0.0, 0.0, 1.0]])
    ego = torch.diag(torch.tensor([-1.0 if flip_x else 1.0, -1.0 if flip_y else 1.0, 1.0, 1.0]))
    done = scene.augmentation
    if done is None:
        lead = scene.cameras.intrinsics.shape[:3]
        done = Augmentation(torch.eye(3).repeat(*lead, 1, 1), torch.eye(4).repeat(lead[0], 1, 1))
    pictures, egos = done.picture_from_source.clone(), done.ego_from_source.clone()
    intrinsics, poses = scene.cameras.intrinsics.clone(), scene.cameras.camera_from_ego.clone()
    pictures[sample], egos[sample] = picture @ pictures[sample], ego @ egos[sample]
    intrinsics[sample], poses[sample] = picture @ intrinsics[sample], poses[sample] @ invert(ego)
    return replace(
        scene,
        cameras=replace(scene.cameras, intrinsics=intrinsics, camera_from_ego=poses),
        augmentation=Augmentation(pictures, egos),
    )


def sample_of(scene, b):
    """One sample of a batch."""
    return scene.map(lambda tensor: tensor[b : b + 1])


def random_target(scene, grid=GRID, seed=0):
    """Slabs of the classes, most of them observed, and a few pixels whose depth is known."""
    generator = torch.Generator().manual_seed(seed)
    batch, _, cameras, _, height, width = scene.images.shape
    x, y, z = grid.shape
    labels = torch.randint(0, 4, (batch, 1, y, z), generator=generator).expand(-1, x, -1, -1)
    observed = torch.rand(labels.shape, generator=generator) < 0.8
    depth = torch.rand(batch, cameras, height, width, generator=generator) * 10
    hit = torch.rand(depth.shape, generator=generator) < 0.1
    return Target(torch.where(observed, labels, 3), observed, depth=torch.where(hit, depth, 0.0))
