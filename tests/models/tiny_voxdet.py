"""What several tests of VoxDet share: small sizes, classes, scenes, and the variants of Table 4."""

import math
from dataclasses import replace

import torch

from occloom.grid import LabelSpace, VoxelGrid
from occloom.lifting.depth import DepthPlanes
from occloom.models.voxdet import DetectorConfig, TrilinearClasses
from occloom.models.voxdet_camera import PixelCentres, SmallTrunk, VoxDetConfig
from occloom.scene import Cameras, Scene

GRID = VoxelGrid(lower=(0.0, -3.2, -1.2), voxel_size=(0.4, 0.4, 0.4), shape=(16, 16, 8))
PLANES = DepthPlanes(near=0.7, step=0.6, count=12)
TINY = VoxDetConfig(
    trunk=SmallTrunk(width=8),
    neck_channels=4,
    feature_stride=4,
    depth_channels=8,
    fusion_channels=8,
    geometry=PixelCentres(PLANES),
    channels=8,
    attention_layers=2,
    heads=2,
    points=2,
    feedforward=6,
    detector=DetectorConfig(
        blocks=(1, 1), groups=2, offset_hidden=4, aggregation_layers=1, scoring=TrilinearClasses(hidden=4)
    ),
)
STEADY = replace(TINY, dropout=0.0, detector=replace(TINY.detector, drop_path=0.0))
# Table 4 of the paper.
VARIANTS = {
    "a": {
        "regress": False,
        "aggregation_layers": 0,
        "decouple_regression": False,
        "decouple_classification": False,
    },
    "b": {"aggregation_layers": 0, "decouple_regression": False, "decouple_classification": False},
    "c": {"decouple_regression": False, "decouple_classification": False},
    "d": {"decouple_classification": False},
    "e": {"decouple_regression": False},
    "f": {},
}


def label_space(classes=5, empty=0):
    frequencies = tuple(1e6 if c == empty else 1e3 * (c + 1) for c in range(classes))
    return LabelSpace(tuple(f"c{c}" for c in range(classes)), empty, ((0, 0, 0),) * classes, frequencies)


def poses(batch, frames, cameras):
    """camera_from_ego of cameras that look forward, turned a little one against the other."""
    forward = torch.tensor([[0.0, -1, 0, 0], [0, 0, -1, 0], [1, 0, 0, 0], [0, 0, 0, 1]])
    turned = []
    for k in range(batch * frames * cameras):
        c, s = math.cos(0.2 * k), math.sin(0.2 * k)
        turn = torch.tensor([[c, s, 0, 0.1 * k], [-s, c, 0, 0.05], [0, 0, 1, -0.1], [0, 0, 0, 1]])
        turned.append(forward @ turn)
    return torch.stack(turned).view(batch, frames, cameras, 4, 4)


def random_scene(batch=2, cameras=1, frames=1, size=(24, 40), seed=0, known=0.02):
    generator = torch.Generator().manual_seed(seed)
    lead, (height, width) = (batch, frames, cameras), size
    intrinsics = torch.tensor([[width * 0.6, 0, width / 2], [0, width * 0.55, height / 2 - 1], [0, 0, 1]])
    depth = torch.rand(*lead, height, width, generator=generator) * 7
    return Scene(
        cameras=Cameras(
            intrinsics=intrinsics.repeat(*lead, 1, 1),
            camera_from_ego=poses(*lead),
            time=torch.zeros(lead),
        ),
        now_from_then=torch.eye(4).repeat(batch, frames, 1, 1),
        time=torch.zeros(batch, frames),
        frame_valid=torch.ones(batch, frames, dtype=torch.bool),
        camera_valid=torch.ones(lead, dtype=torch.bool),
        images=torch.rand(*lead, 3, height, width, generator=generator),
        depth=torch.where(torch.rand(depth.shape, generator=generator) < known, depth, 0.0),
    )


def count(module):
    """Parameters."""
    return sum(p.numel() for p in module.parameters())
