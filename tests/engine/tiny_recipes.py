"""A recipe that trains in a second, importable as `tiny_recipes:tiny` also by further processes."""

import errno
import os
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int64, Shaped
from torch import Tensor, nn

from occloom.data.label_spaces import SEMANTIC_KITTI
from occloom.data.semantickitti import SEMANTIC_KITTI_GRID
from occloom.engine.config import Recipe, TrainConfig
from occloom.errors import InputError
from occloom.grid import LabelSpace, VoxelGrid
from occloom.interfaces import Needs, OccupancyModel, Split
from occloom.scene import Cameras, Sample, Scene, Target

GRID = VoxelGrid(lower=(0.0, -2.0, -1.0), voxel_size=(1.0, 1.0, 1.0), shape=(4, 4, 2))
LABELS = LabelSpace(
    names=("empty", "car", "road"),
    empty=0,
    colours=((0, 0, 0), (255, 0, 0), (0, 255, 0)),
    frequencies=(100.0, 10.0, 30.0),
)
SIZES = {"train": 7, "val": 5, "test": 2}


@dataclass(frozen=True)
class TinyData:
    """Random images whose mean colour says which voxels are occupied."""

    root: Path = Path("nowhere")
    image_size: tuple[int, int] = (4, 6)
    broken: int = -1
    """A sample that cannot be read."""
    forbidden: int = -1
    """A sample that the operating system refuses to read."""
    all_observed: bool = False

    kitti_classes: bool = False
    kitti_grid: bool = False
    """Each voxel of the small grid becomes a block of the benchmark's."""

    num_frames = 1
    num_cameras = 1

    @property
    def grid(self) -> VoxelGrid:
        return SEMANTIC_KITTI_GRID if self.kitti_grid else GRID

    @property
    def label_space(self) -> LabelSpace:
        return SEMANTIC_KITTI if self.kitti_classes else LABELS

    def build(self, split: Split, needs: Needs) -> "TinySamples":
        return TinySamples(self, split)


class TinySamples:
    def __init__(self, config: TinyData, split: Split) -> None:
        self.config, self.split = config, split
        self.grid, self.label_space = config.grid, config.label_space
        self.tokens = tuple(f"{i % 2:02d}/{i:06d}" for i in range(SIZES[split]))

    def __len__(self) -> int:
        return len(self.tokens)

    def sample(self, index: int, rng: np.random.Generator | None = None) -> Sample:
        if index == self.config.broken:
            raise InputError("truncated", where=f"{self.tokens[index]}.bin")
        if index == self.config.forbidden:
            raise PermissionError(errno.EACCES, "Permission denied", f"{self.tokens[index]}.bin")
        time.sleep(float(os.environ.get("TINY_SECONDS", "0")))
        fixed = np.random.default_rng([index, len(self.split)])
        labels = fixed.integers(0, 3, GRID.shape)
        colour = np.array([(labels == k).mean() for k in range(3)])[:, None, None]
        image = colour + 0.05 * fixed.random((3, *self.config.image_size))
        share = 1.0 if self.config.all_observed else 0.9
        if rng is not None:
            image = image + 0.01 * rng.random(image.shape)
        return Sample(
            scene=tiny_scene(torch.from_numpy(image)[None, None, None].double()),
            target=Target(
                in_blocks(torch.from_numpy(labels)[None], self.grid),
                in_blocks(torch.from_numpy(fixed.random(GRID.shape) < share)[None], self.grid),
            ),
            tokens=(self.tokens[index],),
        )


def in_blocks(volume: Shaped[Tensor, "*batch x y z"], grid: VoxelGrid) -> Shaped[Tensor, "*batch X Y Z"]:
    """A volume of the small grid on another one."""
    for axis in range(3):
        volume = volume.repeat_interleave(grid.shape[axis] // GRID.shape[axis], dim=axis - 3)
    return volume


def tiny_scene(images: Float[Tensor, "B 1 1 3 H W"]) -> Scene:
    batch = len(images)
    return Scene(
        cameras=Cameras(
            intrinsics=torch.eye(3, dtype=torch.float64).expand(batch, 1, 1, 3, 3),
            camera_from_ego=torch.eye(4, dtype=torch.float64).expand(batch, 1, 1, 4, 4),
            time=torch.zeros(batch, 1, 1),
        ),
        now_from_then=torch.eye(4).expand(batch, 1, 4, 4),
        time=torch.zeros(batch, 1),
        frame_valid=torch.ones(batch, 1, dtype=torch.bool),
        camera_valid=torch.ones(batch, 1, 1, dtype=torch.bool),
        images=images,
    )


@dataclass(frozen=True)
class TinyOutputs:
    logits: Float[Tensor, "B K X Y Z"]


@dataclass(frozen=True)
class TinyModelConfig:
    channels: int = 8
    dropout: float = 0.2
    norm: bool = True

    def build(self, grid: VoxelGrid, label_space: LabelSpace) -> "TinyModel":
        return TinyModel(self, grid, label_space)


class TinyModel(OccupancyModel):
    """Dropout, a batch norm with running statistics and a parameter inside the loss: what makes resuming hard."""

    def __init__(self, config: TinyModelConfig, grid: VoxelGrid, label_space: LabelSpace) -> None:
        super().__init__()
        self.config = config
        self.grid, self.label_space, self.needs = grid, label_space, Needs()
        norm = nn.BatchNorm2d(config.channels) if config.norm else nn.Identity()
        self.stem = nn.Sequential(nn.Conv2d(3, config.channels, 3, padding=1), norm)
        self.head = nn.Sequential(
            nn.Dropout(config.dropout), nn.Linear(config.channels, label_space.num_classes * GRID.num_voxels)
        )
        self.temperature = nn.Parameter(torch.ones(()))

    def forward(self, scene: Scene) -> TinyOutputs:
        assert scene.images is not None
        features = self.stem(scene.images[:, 0, 0]).relu().mean((2, 3))
        logits = self.head(features).reshape(-1, self.label_space.num_classes, *GRID.shape)
        return TinyOutputs(logits)

    def loss(self, outputs: TinyOutputs, target: Target) -> dict[str, Tensor]:
        x, y, z = (slice(None, None, large // small) for large, small in zip(self.grid.shape, GRID.shape, strict=True))
        labels = target.labels.masked_fill(~target.observed, -1)[:, x, y, z]
        entropy = nn.functional.cross_entropy(outputs.logits * self.temperature, labels, ignore_index=-1)
        return {"cross_entropy": entropy, "size": 1e-3 * outputs.logits.square().mean()}

    def predict(self, scene: Scene) -> Int64[Tensor, "B X Y Z"]:
        return in_blocks(super().predict(scene), self.grid)


def tiny() -> Recipe:
    """A few voxels from the mean colour of an image."""
    train = TrainConfig(
        steps=20,
        batch_size=2,
        learning_rate=0.05,
        validate_every=5,
        save_every=5,
        log_every=1,
        workers=0,
        ema_decay=0.5,
    )
    return Recipe(name="tiny_recipes:tiny", model=TinyModelConfig(), data=TinyData(), train=train)


def not_a_recipe() -> int:
    """Something importable that is no recipe."""
    return 3


def tiny_wide() -> Recipe:
    """More channels."""
    return replace(tiny(), name="tiny_recipes:tiny_wide", model=TinyModelConfig(channels=16))


def tiny_kitti() -> Recipe:
    """The classes and the grid of SemanticKITTI."""
    return replace(tiny(), name="tiny_recipes:tiny_kitti", data=TinyData(kitti_classes=True, kitti_grid=True))
