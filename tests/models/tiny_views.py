"""What tests of PanoOcc, BEVFormer and their descendants share: small sizes, and a car that moves."""

import math
from dataclasses import replace

import torch
from tiny_surround import random_scene

from occloom.geometry.rigid import rigid
from occloom.models.view_layers import ImageBranchConfig, ViewConfig
from occloom.models.voxdet_camera import SmallTrunk

IMAGES = ImageBranchConfig(trunk=SmallTrunk(width=8), channels=16, finest_stride=8, cameras=3)
VIEW = ViewConfig(layers=2, heads=2, slice_points=2, image_points=2, feedforward=12)


def moving_scene(batch=2, cameras=2, frames=3, size=(32, 64), seed=0):
    """`random_scene` of a car that drives and turns: its cameras sit on it, frame t a step before frame t - 1."""
    scene = random_scene(batch=batch, cameras=cameras, frames=frames, size=size, seed=seed)
    steps = torch.stack([torch.stack([motion(b, t) for t in range(frames)]) for b in range(batch)])
    cameras_now = scene.cameras.camera_from_ego[:, :1]
    then_from_now = torch.linalg.inv(steps)[:, :, None]
    return replace(
        scene,
        cameras=replace(scene.cameras, camera_from_ego=cameras_now @ then_from_now),
        now_from_then=steps,
        time=-0.5 * torch.arange(frames).repeat(batch, 1),
    )


def motion(b, t):
    """now_from_then of frame t of sample b."""
    yaw = -0.1 * t - 0.02 * b * t
    c, s = math.cos(yaw), math.sin(yaw)
    rotation = torch.tensor([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])
    return rigid(rotation, torch.tensor([-1.5 * t, 0.2 * t * b, 0.0]))


def shaken(model, seed=5):
    """The model with noise on every parameter, so that none is without effect."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return model
