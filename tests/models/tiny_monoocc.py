"""What tests of MonoOcc's models share: small sizes, scenes with proposals, targets with classes of pixels."""

from dataclasses import replace

import torch
from tiny_surround import random_scene, random_target

from occloom.models.monoocc import EQUATION_10, MonoOccConfig
from occloom.models.voxdet_camera import SmallTrunk
from occloom.models.voxformer import AttentionConfig, VoxFormerConfig

SIZES = AttentionConfig(layers=2, heads=2, points=2, feedforward=16)
TINY = MonoOccConfig(
    base=VoxFormerConfig(
        trunk=SmallTrunk(width=8),
        strides=(8,),
        channels=16,
        views=6,
        lifting=SIZES,
        refinement=replace(SIZES, layers=1),
        weights=EQUATION_10,
    ),
    conditioning=SIZES,
)


def proposed_scene(share=0.2, **sizes):
    """A rig with random proposals at the volume's 8x8x4 voxels."""
    scene = random_scene(**sizes)
    generator = torch.Generator().manual_seed(1)
    return replace(scene, proposals=torch.rand(scene.batch_size, 8, 8, 4, generator=generator) < share)


def labelled(scene, share=0.1):
    """Its target, with classes of a few pixels: -1 for none, the empty id for points without one."""
    target, generator = random_target(scene), torch.Generator().manual_seed(2)
    batch, _, cameras, _, height, width = scene.images.shape
    labels = torch.randint(0, 4, (batch, cameras, height, width), generator=generator)
    hit = torch.rand(labels.shape, generator=generator) < share
    return replace(target, image_labels=torch.where(hit, labels, -1))


def count(part):
    return sum(parameter.numel() for parameter in part.parameters())
