"""COTR: a compact volume refined by a transformer, then decoded to voxels and to objects (Ma et al., CVPR 2024).

The lifting and 3D encoder of BEVDet4D -> compact volume -> transformer encoder (the volume looks at itself and into the
pictures) -> U-Net decoder with skips from the 3D encoder -> a dense branch that classifies voxels, and a branch of
object queries with masks (`cotr_groups`). What refines the compact volume is a part, `CotrConfig.encoder`, so that
Dr.Occ's can stand there. Structure as released (reference drocc 3) but for its reference points, which miss their
voxels. See docs/models/cotr.md.

Suffixes: B batch, N cameras, C channels, X Y Z voxels, x y z compact voxels, V rows of voxels, K classes.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from occloom.backbones.pretrained import load_trunk
from occloom.errors import InputError
from occloom.grid import LabelSpace, Shape, VoxelGrid
from occloom.interfaces import Needs, OccupancyModel, Outputs
from occloom.lifting.cross_attention import DeformableCrossAttention, ReferencePoints, project_references
from occloom.models.bevdet4d import LiftedFrames, LiftingConfig, TemporalLifting, depth_loss
from occloom.models.cotr_groups import GroupConfig, GroupDecoder, ObjectQueries
from occloom.ops.post_norm import feedforward
from occloom.scene import Scene, Target
from occloom.voxel.positions import AxisPositions
from occloom.voxel.three_level import LevelSum, ThreeLevelEncoder, enlarged
from occloom.voxel.volume_attention import DeformableVolumeAttention, voxel_fractions

CHUNK_VOXELS = 1 << 16
"""Voxels that are classified at a time where no gradient is asked for."""
TABLE_ROWS = (200, 200, 16)
"""Of the released position embedding along x, y and z, of which a compact volume of 50x50x16 uses the first ones."""


@runtime_checkable
class CompactEncoder(Protocol):
    """What refines the compact volume: a frozen dataclass of sizes."""

    @property
    def needs(self) -> Needs:
        """What it looks at."""
        ...

    def build(self, *, volume_channels: int, image_channels: int, grid: VoxelGrid) -> nn.Module:
        """Make the module, called with (scene, compact volume "B C x y z", image features "B N F h w", their stride).

        It returns what is set beside the volume, of the same shape.

        Args:
            volume_channels: C.
            image_channels: F.
            grid: Of the compact volume.
        """
        ...


@dataclass(frozen=True)
class CompactTransformer:
    """COTR's own: each compact voxel looks at the volume around it, then into the cameras that see it."""

    layers: int = 1
    """One behind the other."""
    heads: int = 8
    """Of both attentions."""
    volume_points: int = 4
    """That a head samples in the volume."""
    image_points: int = 8
    """That a head samples in a picture."""
    feedforward: int = 512
    """Hidden channels of the network behind them."""
    dropout: float = 0.1
    """Behind each attention and in the network."""
    cameras: int = 6
    """Most cameras of a sample; each has an embedding."""

    @property
    def needs(self) -> Needs:
        """Pictures alone."""
        return Needs()

    def build(self, *, volume_channels: int, image_channels: int, grid: VoxelGrid) -> nn.Module:
        """Make it, as wide as the image features.

        Raises:
            InputError: If heads or 8 do not divide the width.
        """
        return CompactTransformerEncoder(self, volume_channels=volume_channels, channels=image_channels, grid=grid)


def unused_positions(channels: int, shape: Shape) -> int:
    """Numbers of the released position tables that a compact volume of some shape never reads."""
    widths = (3 * channels // 8, 3 * channels // 8, channels // 4)
    return sum(max(0, rows - n) * width for rows, n, width in zip(TABLE_ROWS, shape, widths, strict=True))


class CompactTransformerLayer(nn.Module):
    """Self-attention in the volume, cross-attention into the pictures, a small network; each normalised behind."""

    def __init__(self, channels: int, config: CompactTransformer) -> None:
        super().__init__()
        heads = config.heads
        self.self_attention = DeformableVolumeAttention(channels, heads=heads, points=config.volume_points)
        self.cross_attention = DeformableCrossAttention(channels, heads=heads, points=config.image_points)
        self.feedforward = feedforward(channels, config.feedforward, config.dropout)
        self.norms = nn.ModuleList(nn.LayerNorm(channels) for _ in range(3))
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self,
        queries: Float[Tensor, "B V C"],
        position: Float[Tensor, "V C"],
        shape: Shape,
        references: ReferencePoints,
        values: Float[Tensor, "B N C h w"],
    ) -> Float[Tensor, "B V C"]:
        """The queries after they have looked around.

        Args:
            queries: One a compact voxel, in C order.
            position: Added where the queries look at their own volume.
            shape: Of the compact volume.
            references: Where the voxels' centres lie in the pictures.
            values: Image features.
        """
        centres = voxel_fractions(shape, device=queries.device).expand(len(queries), -1, -1)
        volume = queries.transpose(1, 2).unflatten(2, shape)
        looked = self.self_attention(queries + position, centres, volume)
        queries = self.norms[0](queries + self.dropout(looked))
        looked = self.cross_attention(queries, references, (values,))
        queries = self.norms[1](queries + self.dropout(looked))
        return self.norms[2](queries + self.feedforward(queries))


class CompactTransformerEncoder(nn.Module):
    """COTR's encoder of the compact volume."""

    def __init__(self, config: CompactTransformer, *, volume_channels: int, channels: int, grid: VoxelGrid) -> None:
        super().__init__()
        self.grid = grid
        self.project_in = nn.Conv3d(volume_channels, channels, 1)
        self.project_out = nn.Conv3d(channels, volume_channels, 1)
        self.positions = AxisPositions(channels, grid.shape)
        self.camera_embedding = nn.Parameter(torch.randn(config.cameras, channels))
        self.level_embedding = nn.Parameter(torch.randn(1, channels))
        self.layers = nn.ModuleList(CompactTransformerLayer(channels, config) for _ in range(config.layers))

    def forward(
        self, scene: Scene, volume: Float[Tensor, "B C x y z"], features: Float[Tensor, "B N F h w"], stride: int
    ) -> Float[Tensor, "B C x y z"]:
        """What is set beside the compact volume.

        Args:
            scene: Its present cameras.
            volume: Compact.
            features: Of the present pictures.
            stride: Image pixels a feature pixel.

        Raises:
            InputError: If there are more cameras than embeddings.
        """
        cameras, shape = features.shape[1], self.grid.shape
        if cameras > len(self.camera_embedding):
            raise InputError(
                f"the samples have {cameras} cameras, the encoder knows {len(self.camera_embedding)}",
                rule="each camera has an embedding",
                remedy="name fewer --data.cameras, or set encoder.cameras",
            )
        queries = self.project_in(volume).flatten(2).transpose(1, 2)
        embedding = self.camera_embedding[:cameras] + self.level_embedding
        values, references = features + embedding[:, :, None, None], self.references(scene, features, stride)
        for layer in self.layers:
            queries = layer(queries, self.positions(), shape, references, values)
        return self.project_out(queries.transpose(1, 2).unflatten(2, shape))

    def references(self, scene: Scene, features: Float[Tensor, "B N F h w"], stride: int) -> ReferencePoints:
        """Query i lies at the centre of compact voxel i; pictures that are missing see nothing."""
        height, width = features.shape[-2:]
        centres = self.grid.centres(device=features.device).view(1, -1, 1, 3).expand(len(features), -1, -1, -1)
        # Fractions are of what the feature map covers; its last cells may reach beyond the picture.
        found = project_references(
            centres,
            scene.cameras.intrinsics[:, 0],
            scene.cameras.camera_from_ego[:, 0],
            (height * stride, width * stride),
            near=0.0,
            far=1.0,
        )
        present = scene.camera_present
        return replace(found, visible=found.visible & present[:, :, None, None])


class Enlargement(nn.Module):
    """A 3x3 convolution in the plane, then twice the size in the plane; batch normalisation and ReLU behind each."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv3d(in_channels, channels, (3, 3, 1), padding=(1, 1, 0))
        self.conv_norm = nn.BatchNorm3d(channels)
        self.raise_ = nn.ConvTranspose3d(channels, channels, (2, 2, 1), stride=(2, 2, 1))
        self.raise_norm = nn.BatchNorm3d(channels)

    def forward(self, volume: Float[Tensor, "B Ci x y z"], size: Shape) -> Float[Tensor, "B Co X Y Z"]:
        """Enlarge; `size` differs from twice the size only where an odd size was halved."""
        volume = F.relu(self.conv_norm(self.conv(volume)), inplace=True)
        return enlarged(F.relu(self.raise_norm(self.raise_(volume)), inplace=True), size)


class VolumeDecoder(nn.Module):
    """From the compact volume back to the grid, with the 3D encoder's levels beside it: the U-Net of COTR."""

    def __init__(self, channels: int, level_channels: tuple[int, int, int]) -> None:
        """Make the decoder.

        Args:
            channels: Of the compact volume.
            level_channels: Of the encoder's levels, finest first.
        """
        super().__init__()
        fine, middle, coarse = level_channels
        self.to_middle = Enlargement(channels + coarse, middle)
        self.to_fine = Enlargement(2 * middle, middle)
        self.channels = middle + fine

    def forward(self, compact: Float[Tensor, "B C x y z"], levels: list[Tensor]) -> Float[Tensor, "B Co X Y Z"]:
        """The finest level with what the coarser ones and the compact volume say beside it.

        Args:
            compact: As high as the grid, and as wide as the coarsest level.
            levels: "B C x y z" of the 3D encoder, finest first.
        """
        fine, middle, coarse = levels
        (x, y), height = middle.shape[2:4], compact.shape[4]
        # The encoder halves the height too; skips are as high as the grid.
        volume = torch.cat([compact, enlarged(coarse, _size(compact))], dim=1)
        volume = self.to_middle(volume, (x, y, height))
        volume = torch.cat([volume, enlarged(middle, _size(volume))], dim=1)
        return torch.cat([fine, self.to_fine(volume, _size(fine))], dim=1)


def _size(volume: Float[Tensor, "B C X Y Z"]) -> Shape:
    return (volume.shape[2], volume.shape[3], volume.shape[4])


class VoxelHead(nn.Module):
    """What single voxels answer: their class, and the features whose products with queries are masks."""

    def __init__(self, in_channels: int, channels: int, num_classes: int, *, hidden: int, mask_hidden: int) -> None:
        super().__init__()
        self.embed = nn.Sequential(nn.Linear(in_channels, channels), nn.ReLU(inplace=True))
        self.classes = nn.Sequential(nn.Linear(channels, hidden), nn.Softplus(), nn.Linear(hidden, num_classes))
        self.mask_features = nn.Sequential(
            nn.Linear(channels, mask_hidden), nn.Softplus(), nn.Linear(mask_hidden, channels)
        )


@dataclass(frozen=True)
class CotrConfig:
    """COTR on BEVDet4D's lifting. The defaults are its full size."""

    lifting: LiftingConfig = field(default_factory=LiftingConfig)
    """From pictures to a volume."""
    volume_channels: tuple[int, int, int] = (32, 64, 128)
    """Of the 3D encoder at full, half and quarter resolution."""
    volume_blocks: tuple[int, int, int] = (1, 2, 4)
    """Its residual blocks."""
    channels: int = 32
    """Of the compact volume."""
    encoder: CompactEncoder = field(default_factory=CompactTransformer)
    """What refines the compact volume."""
    voxel_channels: int = 256
    """Of a voxel's features, of object queries and masks."""
    hidden: int = 64
    """Features of a voxel before its class."""
    groups: GroupConfig = field(default_factory=GroupConfig)
    """Object queries, their groups and losses."""
    class_weight: float = 10.0
    """Of the cross-entropy of voxels, in which rare classes weigh more."""
    depth_weight: float = 0.05
    """Of the loss of depth."""

    def build(self, grid: VoxelGrid, label_space: LabelSpace) -> "Cotr":
        """Make the model, with random weights."""
        return Cotr(self, grid, label_space)


@dataclass(frozen=True)
class CotrOutputs:
    """What COTR answers. Voxels are classified when they are asked for: the loss asks only for the observed ones."""

    voxels: Float[Tensor, "B C X Y Z"]
    """What the heads look at, voxel by voxel."""
    objects: ObjectQueries
    """Masks and their labels."""
    head: VoxelHead
    """Makes classes and mask features of voxels."""
    decoder: GroupDecoder
    """Knows what the labels mean, and how masks are painted."""
    depth: Float[Tensor, "B N D h w"]
    """Probability of each depth plane of the present pictures."""
    stride: int
    """Image pixels a pixel of `depth`."""
    valid: Bool[Tensor, "B N"]
    """Cameras whose present picture is there."""

    @property
    def logits(self) -> Float[Tensor, "B K X Y Z"]:
        """Scores of the dense branch; where a mask is painted over it, the two classes have exchanged theirs."""
        answers = []
        for sample in range(len(self.voxels)):
            scores = self._scores(sample)
            best, label = scores.argmax(dim=1, keepdim=True), self._merged(sample, scores)[:, None]
            highest, other = scores.gather(1, best), scores.gather(1, label)
            answers.append(scores.scatter(1, best, other).scatter(1, label, highest).T)
        return torch.stack(answers).unflatten(2, _size(self.voxels))

    def argmax(self) -> Int64[Tensor, "B X Y Z"]:
        """The class of every voxel: the dense branch's, and objects where it sees free space."""
        labels = [self._merged(sample, self._scores(sample)) for sample in range(len(self.voxels))]
        return torch.stack(labels).unflatten(1, _size(self.voxels))

    def _embedded(self, sample: int) -> Iterator[Tensor]:
        """Features "V C" of all voxels of a sample, some at a time."""
        for columns in self.voxels[sample].flatten(1).split(CHUNK_VOXELS, dim=1):
            yield self.head.embed(columns.T)

    def _scores(self, sample: int) -> Float[Tensor, "V K"]:
        """Of the dense branch."""
        scores = torch.cat([self.head.classes(rows) for rows in self._embedded(sample)])
        return scores.to(torch.promote_types(scores.dtype, torch.float32))

    def _merged(self, sample: int, scores: Float[Tensor, "V K"]) -> Int64[Tensor, " V"]:
        """The dense branch's classes with the masks painted."""
        features = (self.head.mask_features(rows) for rows in self._embedded(sample))
        return self.decoder.paint(self.objects, sample, features, scores.argmax(dim=1))


def compact_grid(grid: VoxelGrid) -> VoxelGrid:
    """The grid of the same bounds with a quarter of the voxels along x and y, rounded up, and all along z."""
    return grid.with_fewer_voxels((4, 4, 1))


class Cotr(OccupancyModel):
    """COTR on BEVDet4D's lifting."""

    class_weights: Tensor

    def __init__(self, config: CotrConfig, grid: VoxelGrid, label_space: LabelSpace) -> None:
        """Make the model.

        Raises:
            InputError: If the groups are not of the label space, or sizes do not fit together.
        """
        super().__init__()
        self.config, self.grid, self.label_space = config, grid, label_space
        self.needs = replace(config.encoder.needs, images=True, true_depth=True)
        compact, channels = compact_grid(grid), config.channels
        if isinstance(config.encoder, CompactTransformer):
            self.left_out = {
                "encoder.positions, rows not used": unused_positions(config.lifting.image_channels, compact.shape)
            }
        self.lifting = TemporalLifting(config.lifting, grid)
        self.volume_encoder = ThreeLevelEncoder(
            self.lifting.channels, channels=config.volume_channels, blocks=config.volume_blocks
        )
        self.neck = LevelSum(config.volume_channels, channels)
        self.encoder = config.encoder.build(
            volume_channels=channels, image_channels=config.lifting.image_channels, grid=compact
        )
        self.combine = nn.Conv3d(2 * channels, channels, 3, padding=1)
        self.volume_decoder = VolumeDecoder(channels, config.volume_channels)
        self.head = VoxelHead(
            self.volume_decoder.channels,
            config.voxel_channels,
            label_space.num_classes,
            hidden=config.hidden,
            mask_hidden=config.groups.hidden,
        )
        self.decoder = GroupDecoder(
            config.groups, channels=config.voxel_channels, volume_channels=channels, label_space=label_space
        )
        self.compact_shape = compact.shape
        # Fixed by the label space, so neither trained nor saved.
        self.register_buffer(
            "class_weights", label_space.class_weights(device=torch.get_default_device()), persistent=False
        )

    def forward(self, scene: Scene) -> CotrOutputs:
        """Answer the present frame; cameras whose picture is missing do not contribute."""
        lifted = self.lifting(scene)
        levels = self.volume_encoder(lifted.volume)
        compact = self.refine(scene, lifted, self.neck(levels, self.compact_shape))
        return CotrOutputs(
            voxels=self.volume_decoder(compact, levels),
            objects=self.decoder(compact),
            head=self.head,
            decoder=self.decoder,
            depth=lifted.depth,
            stride=lifted.stride,
            valid=lifted.valid,
        )

    def refine(self, scene: Scene, lifted: LiftedFrames, compact: Float[Tensor, "B C x y z"]) -> Tensor:
        """The compact volume after its encoder, "B C x y z"."""
        beside = self.encoder(scene, compact, lifted.features, lifted.stride)
        return F.relu(self.combine(torch.cat([compact, beside], dim=1)), inplace=True)

    def loss(self, outputs: Outputs, target: Target) -> dict[str, Float[Tensor, ""]]:
        """The weighted terms: class of every observed voxel, masks and labels of objects, depth of LiDAR's pixels."""
        assert isinstance(outputs, CotrOutputs), "outputs must be this model's own"
        total, features, labels = 0.0, [], []
        for voxels, of_voxels, observed in zip(outputs.voxels, target.labels, target.observed, strict=True):
            seen = observed.flatten().nonzero()[:, 0]
            embedded = self.head.embed(voxels.flatten(1).index_select(1, seen).T)
            labels.append(of_voxels.flatten().index_select(0, seen))
            features.append(self.head.mask_features(embedded))
            scores = self.head.classes(embedded)
            scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
            # Summed with its weights but divided by the number of voxels, as released: a weight of 10 belongs to that.
            total = total + F.cross_entropy(scores, labels[-1], weight=self.class_weights, reduction="sum")
        count = target.observed.sum().clamp(min=1)
        return {
            "cross_entropy": self.config.class_weight * total / count,
            **{
                f"objects_{name}": term for name, term in self.decoder.losses(outputs.objects, features, labels).items()
            },
            "depth": self.config.depth_weight * depth_loss(outputs, target, self.config.lifting.planes),
        }

    def predict(self, scene: Scene) -> Int64[Tensor, "B X Y Z"]:
        """The class of every voxel: the argmax of `logits`, without making them."""
        return self.forward(scene).argmax()

    def load_trunk_weights(self, source: Path | Literal["imagenet"]) -> None:
        """Fill the trunk with weights of a file, or with those published for ImageNet.

        Raises:
            InputError: If they cannot be had, or are of another trunk.
        """
        load_trunk(self.lifting.trunk, source, imagenet=self.config.lifting.trunk.imagenet)
