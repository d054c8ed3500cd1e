"""What a model costs: parameters, operations, time and memory, as a whole and by module."""

import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from occloom.engine.config import Recipe
from occloom.interfaces import OccupancyModel
from occloom.scene import Cameras, DepthPrior, Points, Scene

EXAMPLE_SHARE = 20_000 / (128 * 128 * 16)
"""Of the voxels that are proposed: the number for which reference monoocc 10 measured VoxFormer and MonoOcc."""


@dataclass(frozen=True)
class Cost:
    """Of one prediction, batch of one."""

    flops: int
    """Two for each multiply-add of convolutions, matrix products and attention (docs/conventions.md)."""
    latency_seconds: float
    """Median over the repetitions."""
    peak_memory_bytes: int
    """On a GPU what PyTorch allocated at most; on a CPU the largest resident size of the process so far: that of the
    model where the process did nothing else before, as `occloom benchmark` does."""
    modules: Mapping[str, "ModuleCost"]
    """Of each submodule that takes part, down to some level, by its dotted name; what is done between them stands in
    none. One that is never called itself, whose owner calls its submodules, has the sum of those."""


@dataclass(frozen=True)
class ModuleCost:
    """The share of a module, its own submodules included."""

    flops: int
    seconds: float
    """Median over the repetitions, within the same runs as the whole's latency."""


def count_parameters(model: nn.Module) -> dict[str, int]:
    """Trainable parameters of each top-level module; those of the model itself stand under "own"."""
    return _counts(model, trained=True)


def count_frozen(model: nn.Module) -> dict[str, int]:
    """Parameters of each top-level module that training leaves as they are."""
    return {name: count for name, count in _counts(model, trained=False).items() if count}


def _counts(model: nn.Module, *, trained: bool) -> dict[str, int]:
    """Of the parameters that ask for a gradient, or of the others."""
    counts = {
        name: sum(p.numel() for p in child.parameters() if p.requires_grad == trained)
        for name, child in model.named_children()
    }
    own = sum(p.numel() for p in model.parameters(recurse=False) if p.requires_grad == trained)
    return {**counts, "own": own} if own else counts


def example_scene(recipe: Recipe, device: torch.device | str = "cpu") -> Scene:
    """A scene of the sizes that a recipe's data has: noise for pictures, points and voxels, the depth of a street.

    Cameras look ahead and, if there are many, all around. Pseudo voxels are half as large as the labels' voxels, as
    query networks answer on the coarser grid; proposals are twice as large.
    """
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
        depth=_street_depth(height, width, intrinsics).expand(1, frames, cameras, height, width),
        points=Points(
            positions=positions,
            features=torch.rand(len(positions), 1, generator=generator),
            batch_index=torch.zeros(len(positions), dtype=torch.int64),
            time=torch.zeros(len(positions)),
        ),
        prior=_example_prior(cameras, generator),
        pseudo_voxels=_example_voxels([2 * n for n in grid.shape], generator),
        proposals=_example_voxels([-(-n // 2) for n in grid.shape], generator),
    )
    return scene.to(device)


def _example_prior(cameras: int, generator: torch.Generator) -> DepthPrior:
    """The depth of a street, in the sizes of what is prepared from nuScenes' pictures with MoGe-2."""
    height, width = 225, 400
    intrinsics = torch.tensor([[0.8 * width, 0, (width - 1) / 2], [0, 0.8 * width, (height - 1) / 2], [0, 0, 1]])
    return DepthPrior(
        depth=_street_depth(height, width, intrinsics).expand(1, cameras, height, width),
        intrinsics=intrinsics.expand(1, cameras, 3, 3),
        features=torch.randn(1, cameras, 384, 26, 46, generator=generator),
    )


def _example_voxels(shape: Sequence[int], generator: torch.Generator) -> Bool[Tensor, "1 X Y Z"]:
    """A volume in which some voxels stand out."""
    return torch.zeros(1, *shape, dtype=torch.bool).bernoulli_(EXAMPLE_SHARE, generator=generator)


def measure(model: OccupancyModel, scene: Scene, *, repeats: int, levels: int = 1) -> Cost:
    """Run a model on a scene of its device: once to warm up, `repeats` times by the clock, once more to count.

    Args:
        model: Any; it is left in evaluation mode.
        scene: On the model's device.
        repeats: Timed predictions.
        levels: Of submodules that are told; 1 for the model's own parts.
    """
    cuda = scene.time.device.type == "cuda"

    def clock() -> float:
        if cuda:
            torch.cuda.synchronize()
        return time.perf_counter()

    model.eval()
    seconds, parts = [], []
    with torch.no_grad():
        with _gauged(model.modules(), lambda: 0) as called:
            model.predict(scene)
        makers = _makers(model, levels, set(called))
        gauged = {module for modules in makers.values() for module in modules}
        if cuda:
            torch.cuda.reset_peak_memory_stats()
        for _ in range(repeats):
            with _gauged(gauged, clock) as part:
                started = clock()
                model.predict(scene)
                seconds.append(clock() - started)
            parts.append(part)
        # Read before operations are counted: the counter takes some of them apart, and may need more memory.
        peak = torch.cuda.max_memory_allocated() if cuda else _peak_resident_bytes()
        counter = FlopCounterMode(display=False)
        with _frozen(model), counter, _gauged(gauged, counter.get_total_flops) as flops:
            model.predict(scene)
    return Cost(
        flops=counter.get_total_flops(),
        latency_seconds=statistics.median(seconds),
        peak_memory_bytes=peak,
        modules={
            name: ModuleCost(
                flops=int(sum(flops[module] for module in modules)),
                seconds=statistics.median(sum(part[module] for module in modules) for part in parts),
            )
            for name, modules in makers.items()
        },
    )


@contextmanager
def _frozen(model: nn.Module) -> Iterator[None]:
    """No parameter asks for a gradient: the counter's hooks fail on parameters that a module is handed."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)


def convolution_rate(device: torch.device | str = "cpu", *, channels: int = 128, repeats: int = 2) -> float:
    """Operations a second of a 3x3x3 convolution over 32x64x16 voxels: what this machine can do at best."""
    volume = torch.ones(1, channels, 32, 64, 16, device=device)
    weight, seconds = torch.ones(channels, channels, 3, 3, 3, device=device), []
    with torch.no_grad():
        for _ in range(repeats + 1):
            started = time.perf_counter()
            F.conv3d(volume, weight, padding=1)[0, 0, 0, 0, 0].item()  # waits for a GPU
            seconds.append(time.perf_counter() - started)
    return 2 * 27 * channels**2 * volume[0, 0].numel() / min(seconds[1:])


def _makers(model: nn.Module, levels: int, called: Set[nn.Module]) -> dict[str, list[nn.Module]]:
    """The called modules that make up each submodule down to a level: itself, or the nearest within it."""

    def within(module: nn.Module) -> list[nn.Module]:
        return [module] if module in called else [maker for child in module.children() for maker in within(child)]

    makers = {name: within(module) for name, module in model.named_modules() if name and name.count(".") < levels}
    return {name: modules for name, modules in makers.items() if modules}


@contextmanager
def _gauged(modules: Iterable[nn.Module], gauge: Callable[[], float]) -> Iterator[dict[nn.Module, float]]:
    """By how much a gauge moves within each module that is called, summed over its calls."""
    moved: dict[nn.Module, float] = {}
    hooks = []
    for module in modules:
        starts: list[float] = []

        def before(_module: nn.Module, _inputs: object, starts: list[float] = starts) -> None:
            starts.append(gauge())

        def after(module: nn.Module, _inputs: object, _output: object, starts: list[float] = starts) -> None:
            moved[module] = moved.get(module, 0) + gauge() - starts.pop()

        hooks += [module.register_forward_pre_hook(before), module.register_forward_hook(after)]
    try:
        yield moved
    finally:
        for hook in hooks:
            hook.remove()


def _street_depth(height: int, width: int, intrinsics: Float[Tensor, "3 3"]) -> Float[Tensor, "H W"]:
    """Depth of a street seen from 1.7 m above it: houses 8 m to both sides, nothing known beyond 50 m."""
    u, v = torch.arange(width) - intrinsics[0, 2], torch.arange(height) - intrinsics[1, 2]
    houses = intrinsics[0, 0] * 8 / u.abs().clamp(min=1e-3)
    road = torch.where(v > 0, intrinsics[1, 1] * 1.7 / v.clamp(min=1e-3), torch.inf)
    depth = torch.minimum(road[:, None], houses[None])
    return torch.where(depth <= 50, depth, 0)


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
