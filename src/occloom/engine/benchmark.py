"""What a model costs: parameters, operations, time and memory."""

import resource
import statistics
import sys
import time
from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from occloom.engine.config import Recipe
from occloom.interfaces import OccupancyModel
from occloom.scene import Cameras, Points, Scene


@dataclass(frozen=True)
class Cost:
    """Of one prediction, batch of one."""

    flops: int
    """Two for each multiply-add of convolutions, matrix products and attention (docs/conventions.md)."""
    latency_seconds: float
    """Median over the repetitions."""
    peak_memory_bytes: int
    """On a GPU what PyTorch allocated at most; on a CPU the largest resident size of the whole process."""


def count_parameters(model: nn.Module) -> dict[str, int]:
    """Trainable parameters of each top-level module; those of the model itself stand under "own"."""
    counts = {
        name: sum(p.numel() for p in child.parameters() if p.requires_grad) for name, child in model.named_children()
    }
    own = sum(p.numel() for p in model.parameters(recurse=False) if p.requires_grad)
    return {**counts, "own": own} if own else counts


def example_scene(recipe: Recipe, device: torch.device | str = "cpu") -> Scene:
    """Noise of the sizes that a recipe's data has, seen by cameras that look ahead and, if many, all around."""
    frames, cameras = recipe.data.num_frames, recipe.data.num_cameras
    height, width = recipe.data.image_size
    generator = torch.Generator().manual_seed(0)
    intrinsics = torch.tensor([[0.6 * width, 0, (width - 1) / 2], [0, 0.6 * width, (height - 1) / 2], [0, 0, 1]])
    camera_from_ego = torch.stack([_looking(2 * torch.pi * n / cameras) for n in range(cameras)])
    ago = -0.5 * torch.arange(frames)[None]
    grid = recipe.data.grid
    lower, upper = torch.tensor(grid.lower), torch.tensor(grid.upper)
    positions = lower + (upper - lower) * torch.rand(20_000, 3, generator=generator)
    scene = Scene(
        cameras=Cameras(
            intrinsics=intrinsics.expand(1, frames, cameras, 3, 3),
            camera_from_ego=camera_from_ego.expand(1, frames, cameras, 4, 4),
            time=ago[..., None].expand(1, frames, cameras),
        ),
        now_from_then=torch.eye(4).expand(1, frames, 4, 4),
        time=ago,
        frame_valid=torch.ones(1, frames, dtype=torch.bool),
        camera_valid=torch.ones(1, frames, cameras, dtype=torch.bool),
        images=torch.rand(1, frames, cameras, 3, height, width, generator=generator),
        depth=2 + 48 * torch.rand(1, frames, cameras, height, width, generator=generator),
        points=Points(
            positions=positions,
            features=torch.rand(len(positions), 1, generator=generator),
            batch_index=torch.zeros(len(positions), dtype=torch.int64),
            time=torch.zeros(len(positions)),
        ),
    )
    return scene.to(device)


def measure(model: OccupancyModel, scene: Scene, *, repeats: int) -> Cost:
    """Run a model on a scene of its device: once to count and warm up, then `repeats` times by the clock."""
    cuda = scene.time.device.type == "cuda"
    model.eval()
    seconds = []
    with torch.no_grad():
        with FlopCounterMode(display=False) as counter:
            model.predict(scene)
        if cuda:
            torch.cuda.reset_peak_memory_stats()
        for _ in range(repeats):
            started = time.perf_counter()
            model.predict(scene)
            if cuda:
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - started)
    return Cost(
        flops=counter.get_total_flops(),
        latency_seconds=statistics.median(seconds),
        peak_memory_bytes=torch.cuda.max_memory_allocated() if cuda else _peak_resident_bytes(),
    )


def _looking(yaw: float) -> torch.Tensor:
    """Camera from ego, of a camera at the ego origin that looks along `yaw`, in radians to the left."""
    cosine, sine = torch.cos(torch.tensor(yaw)), torch.sin(torch.tensor(yaw))
    right, forward = torch.stack([sine, -cosine]), torch.stack([cosine, sine])
    matrix = torch.eye(4)
    matrix[0, :3] = torch.cat([right, torch.zeros(1)])
    matrix[1, :3] = torch.tensor([0.0, 0.0, -1.0])
    matrix[2, :3] = torch.cat([forward, torch.zeros(1)])
    return matrix


def _peak_resident_bytes() -> int:
    """The largest resident size of this process so far; kilobytes on Linux, bytes on macOS."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
