"""LMSCNet as VoxFormer's query network: which voxels are occupied, given where several frames' depth lies.

A 2D U-Net whose channels are the layers of height, and a small 3D head (Roldao et al., "LMSCNet: Lightweight
Multiscale 3D Semantic Completion", 3DV 2020), cut off at half resolution and with two classes (Li et al., "VoxFormer",
CVPR 2023, stage 1). Structure, loss and names of published weights: reference monoocc 2 and 6. See
docs/models/voxformer.md.

Volumes within are ordered Z X Y, so that published kernels fit as they are. Suffixes: B batch, C channels, Z layers of
height, X Y voxels from above; small letters at a coarser scale.
"""

from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from occloom.errors import InputError
from occloom.grid import LabelSpace, VoxelGrid
from occloom.interfaces import Needs, OccupancyModel, Outputs
from occloom.losses.cross_entropy import cross_entropy_by_voxels
from occloom.ops.thin_conv3d import few_to_many
from occloom.scene import Scene, Target

INPUT_FACTOR = 2
"""Pseudo voxels along the edge of a voxel that is answered."""
DILATIONS = (1, 2, 3)
"""Of the head's branches."""


@dataclass(frozen=True)
class LmscNetConfig:
    """Sizes and loss of the query network. The defaults are VoxFormer's, for pseudo voxels of 256x256x32."""

    widths: tuple[int, int, int, int] = (32, 48, 64, 80)
    """Channels of the encoder at 1:1, 1:2, 1:4 and 1:8."""
    head_width: int = 8
    """Channels of the 3D head."""
    class_weights: tuple[float, float] = (0.46, 0.54)
    """Of empty and occupied voxels in the loss."""

    def __post_init__(self) -> None:
        if min(*self.widths, self.head_width) < 1:
            raise InputError(f"widths is {self.widths} and head_width is {self.head_width}", rule="all are at least 1")
        if min(self.class_weights) <= 0:
            raise InputError(f"class_weights is {self.class_weights}", rule="both are above 0")

    def build(self, grid: VoxelGrid, label_space: LabelSpace) -> "LmscNet":
        """Make the model, with random weights."""
        return LmscNet(self, grid, label_space)


@dataclass(frozen=True)
class QueryOutputs:
    """What the network answers."""

    logits: Float[Tensor, "B 2 X Y Z"]
    """Scores of empty and of occupied, on the grid of the proposals."""


class LayerConv(nn.Conv3d):
    """A 3x3x3 convolution of few channels, done as 2D ones of the layers: five times faster on a CPU."""

    def __init__(self, in_channels: int, channels: int, *, dilation: int = 1, bias: bool = True) -> None:
        """Make the convolution, which keeps the size."""
        super().__init__(in_channels, channels, 3, padding=dilation, dilation=dilation, bias=bias)

    def forward(self, input: Float[Tensor, "B C Z X Y"]) -> Float[Tensor, "B Co Z X Y"]:
        """Equal to the 3D convolution up to rounding."""
        return few_to_many(input, self.weight, self.bias, self.dilation[0])


class LayerHead(nn.Module):
    """From layers of height to classes: 3D convolutions over them, in three dilations side by side."""

    def __init__(self, width: int, num_classes: int) -> None:
        """Make the head.

        Args:
            width: Channels.
            num_classes: K.
        """
        super().__init__()
        self.stem = LayerConv(1, width)
        self.branches = nn.ModuleList(_branch(width, dilation) for dilation in DILATIONS)
        self.classify = LayerConv(width, num_classes)

    def forward(self, layers: Float[Tensor, "B Z X Y"]) -> Float[Tensor, "B K Z X Y"]:
        """Logits, in float32 also within mixed precision: the loss averages over all voxels."""
        x = F.relu(self.stem(layers[:, None]), inplace=True)
        total = x
        for branch in self.branches:
            total = total + branch(x)
        logits = self.classify(F.relu(total))
        return logits.to(torch.promote_types(logits.dtype, torch.float32))


def _branch(width: int, dilation: int) -> nn.Sequential:
    """Two dilated convolutions with batch norms, a ReLU between them."""
    first, second = (LayerConv(width, width, dilation=dilation, bias=False) for _ in range(2))
    return nn.Sequential(first, nn.BatchNorm3d(width), nn.ReLU(inplace=True), second, nn.BatchNorm3d(width))


class LmscNet(OccupancyModel):
    """The query network: pseudo voxels in, occupied or not out, on the grid of the labels, which is half as fine."""

    needs = Needs(images=False, pseudo_voxels=True)

    def __init__(self, config: LmscNetConfig, grid: VoxelGrid, label_space: LabelSpace) -> None:
        """Make the network.

        Args:
            config: Sizes and loss.
            grid: Of the answers: 128x128x16 voxels on SemanticKITTI.
            label_space: Empty and occupied.

        Raises:
            InputError: If there are other classes, or so few voxels that nothing is left at 1:8.
        """
        super().__init__()
        if label_space.num_classes != 2 or label_space.empty != 0:
            raise InputError(
                f"the labels have {label_space.num_classes} classes",
                rule="a query network tells occupied voxels (1) from empty ones (0)",
                remedy="give the data --classes occupancy",
            )
        if min(grid.shape) < 4:
            raise InputError(f"the grid has {grid.shape} voxels", rule="4 or more along each axis")
        self.grid, self.label_space = grid, label_space
        first, half, quarter, eighth = config.widths
        layers = [grid.shape[2] // 2**scale for scale in range(3)]  # of height, in what is said at 1:2, 1:4 and 1:8
        self.encoder = nn.ModuleList([_convolutions(INPUT_FACTOR * grid.shape[2], first)])
        self.encoder.extend(
            nn.Sequential(nn.MaxPool2d(2), *_convolutions(before, after)) for before, after in pairwise(config.widths)
        )
        self.say_eighth = nn.Conv2d(eighth, layers[2], 3, padding=1)
        self.eighth_to_quarter = nn.ConvTranspose2d(layers[2], layers[2], 6, stride=2, padding=2)
        self.merge_quarter = nn.Conv2d(layers[2] + quarter, quarter, 3, padding=1)
        self.say_quarter = nn.Conv2d(quarter, layers[1], 3, padding=1)
        self.quarter_to_half = nn.ConvTranspose2d(layers[1], layers[1], 6, stride=2, padding=2)
        self.eighth_to_half = nn.ConvTranspose2d(layers[2], layers[2], 4, stride=4)
        self.merge_half = nn.Conv2d(layers[1] + half + layers[2], half, 3, padding=1)
        self.say_half = nn.Conv2d(half, layers[0], 3, padding=1)
        self.head = LayerHead(config.head_width, label_space.num_classes)
        self.register_buffer("class_weights", torch.tensor(config.class_weights), persistent=False)
        self.class_weights: Tensor
        self.left_out = {
            "deconvolution of 1:8 to 1:1": layers[2] ** 2 * 8**2 + layers[2],
            "deconvolution of 1:4 to 1:1": layers[1] ** 2 * 4**2 + layers[1],
        }

    def forward(self, scene: Scene) -> QueryOutputs:
        """Answer where the scene's pseudo voxels lie.

        Raises:
            ValueError: If the scene has none, or some of another grid.
        """
        if scene.pseudo_voxels is None:
            raise ValueError("A query network needs pseudo voxels.")
        return QueryOutputs(self.correct(scene.pseudo_voxels))

    def correct(self, pseudo_voxels: Bool[Tensor, "B X Y Z"]) -> Float[Tensor, "B 2 x y z"]:
        """Logits of empty and occupied.

        Args:
            pseudo_voxels: Twice as many along each axis as there are in the answer.

        Raises:
            ValueError: If their number is another.
        """
        expected = tuple(INPUT_FACTOR * n for n in self.grid.shape)
        if tuple(pseudo_voxels.shape[1:]) != expected:
            raise ValueError(f"Expected pseudo voxels of shape {expected}, got {tuple(pseudo_voxels.shape[1:])}.")
        x = pseudo_voxels.permute(0, 3, 1, 2).to(self.class_weights)
        scales = []
        for stage in self.encoder:
            x = stage(x)
            scales.append(x)
        _, half, quarter, eighth = scales
        said_eighth = self.say_eighth(eighth)
        raised = _raised(self.eighth_to_quarter, said_eighth, quarter)
        said_quarter = self.say_quarter(F.relu(self.merge_quarter(torch.cat([raised, quarter], 1)), inplace=True))
        raised = _raised(self.quarter_to_half, said_quarter, half)
        raised_far = _raised(self.eighth_to_half, said_eighth, half)
        merged = F.relu(self.merge_half(torch.cat([raised, half, raised_far], 1)), inplace=True)
        return self.head(self.say_half(merged)).permute(0, 1, 3, 4, 2)

    def loss(self, outputs: Outputs, target: Target) -> dict[str, Float[Tensor, ""]]:
        """Cross-entropy, averaged over all observed voxels."""
        loss = cross_entropy_by_voxels(outputs.logits, target.labels, target.observed, self.class_weights)
        return {"cross_entropy": loss}


def _convolutions(in_channels: int, channels: int) -> nn.Sequential:
    """Two 3x3 convolutions, each followed by a ReLU."""
    return nn.Sequential(
        nn.Conv2d(in_channels, channels, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(channels, channels, 3, padding=1),
        nn.ReLU(),
    )


def _raised(
    deconvolution: nn.ConvTranspose2d, x: Float[Tensor, "B C x y"], to: Float[Tensor, "B _ X Y"]
) -> Float[Tensor, "B C X Y"]:
    """Enlarged to the size of another map, also where that one's was odd before it was halved."""
    return deconvolution(x, output_size=to.shape[-2:])
