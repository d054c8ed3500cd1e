"""VoxFormer: voxels that a query network found occupied ask the pictures, then all voxels ask one another.

Images -> trunk and one-level neck -> proposed voxels look into the pictures of one frame (S) or of several (T), the
mean over those that see them -> a learned token stands in all other voxels -> self-attention over the volume ->
enlarged, normalised, classified (Li et al., "VoxFormer", CVPR 2023). Released structure (reference monoocc 3), without
what it builds and never uses. MonoOcc and ProtoOcc stand on its parts. See docs/models/voxformer.md.

Suffixes: B batch, T frames, N cameras, W = T * N views, C channels, h w feature pixels, V voxels, Q queries.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from occloom.backbones.fpn import TopDownNeck
from occloom.backbones.frozen import FrozenBatchNorm2d
from occloom.backbones.internimage import InternImageTrunk
from occloom.backbones.pretrained import RESNET50_IMAGENET, HubFile, load_trunk
from occloom.backbones.resnet import ResNet, resnet50
from occloom.errors import InputError
from occloom.grid import LabelSpace, Shape, VoxelGrid
from occloom.heads.normalised import NormalisedHead, NormalisedScores
from occloom.interfaces import FeaturePyramid, Needs, OccupancyModel, Outputs
from occloom.lifting.cross_attention import (
    AttentionMaps,
    DeformableCrossAttention,
    PairGuide,
    ReferencePoints,
    project_references,
)
from occloom.lifting.proposals import coarser_proposals, put_rows, ragged_to_padded, take_rows
from occloom.losses.affinity import class_sums, geometric_affinity, semantic_affinity
from occloom.losses.cross_entropy import cross_entropy_by_voxels
from occloom.models.voxdet_camera import SmallTrunk
from occloom.ops.post_norm import PostNormLayer
from occloom.scene import Scene, Target
from occloom.voxel.positions import AxisPositions
from occloom.voxel.self_attention import (
    FlattenedPositions,
    FlattenedSelfAttention,
    SelfAttention,
    SelfAttentionLayer,
    VolumeSelfAttention,
)

CLASS_WEIGHT = 10.0
"""Released weights of classes are 10 / ln(voxels of the class)."""
RELEASED_LEVELS = 4
"""Rows of the released level embeddings, of which one is read."""


@dataclass(frozen=True)
class FrozenResNet50:
    """ResNet-50 as released: batch normalisation as its weights bring it; stem and first stage are not trained."""

    imagenet: ClassVar[HubFile | None] = RESNET50_IMAGENET

    def build(self, *, coarsest_stride: int) -> ResNet:
        """The stages up to a stride."""
        trunk = resnet50(coarsest_stride=coarsest_stride, norm=FrozenBatchNorm2d)
        for part in (trunk.conv1, trunk.layer1):
            part.requires_grad_(False)
        return trunk

    @property
    def left_out(self) -> dict[str, int]:
        """The released model builds and runs the last stage, and uses nothing of it."""
        with torch.device("meta"):
            return {"images.trunk.layer4": sum(p.numel() for p in resnet50().get_submodule("layer4").parameters())}


@runtime_checkable
class QueryEmbedding(Protocol):
    """What proposed voxels are told apart by: a frozen dataclass."""

    def build(self, channels: int, shape: Shape) -> nn.Module:
        """Make the module that gives the rows "B Q C" of flat voxel indices "B Q"."""
        ...


@dataclass(frozen=True)
class TableQueries:
    """A row a voxel, as released: 33.6 M numbers at full size, of which a frame reads the proposed ones."""

    deviation: float = 1.0
    """Of the numbers at first: the smaller, the sooner what is seen outweighs what chance put there."""

    def build(self, channels: int, shape: Shape) -> "QueryTable":
        """Make the table."""
        return QueryTable(channels, shape, deviation=self.deviation)


@dataclass(frozen=True)
class AxisQueries:
    """A row a place along each axis, side by side: a thousandth of the numbers."""

    def build(self, channels: int, shape: Shape) -> "AxisTables":
        """Make the tables.

        Raises:
            InputError: If 8 does not divide the channels.
        """
        return AxisTables(channels, shape)


class QueryTable(nn.Module):
    """An embedding of each voxel."""

    def __init__(self, channels: int, shape: Shape, *, deviation: float) -> None:
        super().__init__()
        voxels = shape[0] * shape[1] * shape[2]
        self.rows = nn.Parameter(torch.empty(voxels, channels).normal_(std=deviation))

    def forward(self, index: Int64[Tensor, "B Q"]) -> Float[Tensor, "B Q C"]:
        """Of flat voxel indices."""
        return self.rows.index_select(0, index.flatten()).view(*index.shape, -1)


class AxisTables(nn.Module):
    """An embedding of each place along each axis."""

    def __init__(self, channels: int, shape: Shape) -> None:
        super().__init__()
        self.positions = AxisPositions(channels, shape)

    def forward(self, index: Int64[Tensor, "B Q"]) -> Float[Tensor, "B Q C"]:
        """Of flat voxel indices."""
        return self.positions.of(index.flatten()).view(*index.shape, -1)


@runtime_checkable
class ViewPlaces(Protocol):
    """Where points of the ego frame lie in the pictures."""

    def references(
        self, scene: Scene, points: Float[Tensor, "B Q 3"], size: tuple[int, int], stride: int
    ) -> ReferencePoints:
        """One reference point a query in each of the T * N views; pictures that are missing see nothing.

        Args:
            scene: Its cameras.
            points: In metres.
            size: h and w of the image features.
            stride: Image pixels a feature pixel.
        """
        ...


@dataclass(frozen=True)
class CoveredPixels:
    """This library's conventions (docs/conventions.md): fractions of what the feature map covers."""

    def references(
        self, scene: Scene, points: Float[Tensor, "B Q 3"], size: tuple[int, int], stride: int
    ) -> ReferencePoints:
        """The last cells of the map may reach beyond the picture."""
        found = project_references(
            points[:, :, None],
            scene.cameras.intrinsics.flatten(1, 2),
            scene.cameras.camera_from_ego.flatten(1, 2),
            (size[0] * stride, size[1] * stride),
            near=0.0,
            far=1.0,
        )
        return replace(found, visible=found.visible & present_views(scene)[:, :, None, None])


def present_views(scene: Scene) -> Bool[Tensor, "B W"]:
    """Views whose picture is there; the others are not looked at."""
    return (scene.camera_valid & scene.frame_valid[:, :, None]).flatten(1)


@dataclass(frozen=True)
class AttentionConfig:
    """Layers of deformable attention, each with a small network behind."""

    layers: int = 3
    """One behind the other."""
    heads: int = 8
    """They share the channels."""
    points: int = 8
    """That a head samples; in self-attention twice."""
    feedforward: int = 256
    """Hidden channels of the small network; the released configuration says 1024, which its code overrides."""
    dropout: float = 0.1
    """Behind each attention and in the network."""

    def __post_init__(self) -> None:
        if min(self.layers, self.heads, self.points, self.feedforward) < 1:
            raise InputError(f"attention is {self}", rule="layers, heads, points and feedforward are at least 1")


@dataclass(frozen=True)
class SceneLossWeights:
    """How the three terms of the loss are weighed."""

    cross_entropy: float = 1.0
    """Of the class of each voxel, rare ones weighted higher."""
    semantic_affinity: float = 1.0
    """Of precision, recall and specificity by class, empty included."""
    geometric_affinity: float = 1.0
    """Of those of occupied against empty."""


@dataclass(frozen=True)
class VoxFormerConfig:
    """Sizes of VoxFormer. The defaults are VoxFormer-S on 370x1220 pictures."""

    trunk: FrozenResNet50 | InternImageTrunk | SmallTrunk = FrozenResNet50()
    """Image trunk."""
    strides: tuple[int, ...] = (16,)
    """Of the trunk's levels that the neck joins, finest first; image features have the first one."""
    channels: int = 128
    """C: of image features and volume."""
    views: int = 1
    """Pictures of a sample, frames times cameras: each has an embedding; 5 for VoxFormer-T."""
    places: ViewPlaces = CoveredPixels()
    """Where voxels lie in the pictures."""
    volume_coarsening: Shape = (2, 2, 2)
    """Voxels of the grid in a voxel of the volume, along x, y, z."""
    queries: QueryEmbedding = TableQueries()
    """What proposed voxels are told apart by."""
    lifting: AttentionConfig = AttentionConfig()
    """Of proposed voxels into the pictures."""
    refinement: AttentionConfig = AttentionConfig(layers=2)
    """Of all voxels among themselves."""
    sampling: Literal["flattened", "volume"] = "flattened"
    """Whether self-attention samples in a picture of the voxels (as released) or in the volume ("deform3D")."""
    weights: SceneLossWeights = SceneLossWeights()
    """Of the loss."""
    loss_stride: int = 1
    """A step's loss looks at each so many voxels along each axis, from a random one on; 1 for all voxels."""

    def __post_init__(self) -> None:
        if list(self.strides) != sorted(set(self.strides)) or not set(self.strides) <= {4, 8, 16, 32}:
            raise InputError(f"strides is {self.strides}", rule="they are some of 4, 8, 16 and 32, finest first")
        if not self.strides:
            raise InputError("strides is empty", rule="the neck joins one level at least")
        if min(self.views, self.loss_stride) < 1:
            raise InputError(f"views is {self.views} and loss_stride {self.loss_stride}", rule="both are at least 1")

    def build(self, grid: VoxelGrid, label_space: LabelSpace) -> "VoxFormer":
        """Make the model, with random weights."""
        return VoxFormer(self, grid, label_space)


@dataclass(frozen=True)
class ViewFeatures:
    """Image features of all views."""

    values: Float[Tensor, "B W C h w"]
    """View t * N + n is camera n of frame t."""
    stride: int
    """Image pixels a feature pixel."""

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the map."""
        return self.values.shape[-2], self.values.shape[-1]


class ImageBranch(nn.Module):
    """Trunk and neck."""

    def __init__(
        self, trunk: FrozenResNet50 | InternImageTrunk | SmallTrunk, *, strides: tuple[int, ...], channels: int
    ) -> None:
        """Make both; the arguments are the fields of `VoxFormerConfig`."""
        super().__init__()
        self.trunk = trunk.build(coarsest_stride=strides[-1])
        self.used = tuple(self.trunk.strides.index(stride) for stride in strides)
        self.neck = TopDownNeck(in_channels=tuple(self.trunk.channels[i] for i in self.used), channels=channels)

    def forward(self, images: Float[Tensor, "B T N 3 H W"]) -> ViewFeatures:
        """Encode pictures of any size."""
        pyramid = self.trunk(images.flatten(0, 2))
        levels, strides = zip(*((pyramid.levels[i], pyramid.strides[i]) for i in self.used), strict=True)
        features = self.neck(FeaturePyramid(levels, strides))
        return ViewFeatures(features.levels[0].unflatten(0, (len(images), -1)), features.strides[0])


class ViewLayer(PostNormLayer):
    """Deformable cross-attention, then a small network; each added and normalised afterwards."""

    def __init__(self, channels: int, config: AttentionConfig) -> None:
        super().__init__(channels, hidden=config.feedforward, dropout=config.dropout)
        self.attention = DeformableCrossAttention(channels, heads=config.heads, points=config.points)

    def forward(
        self,
        queries: Float[Tensor, "B Q C"],
        references: ReferencePoints,
        values: Float[Tensor, "B W C h w"],
        where: Bool[Tensor, "B Q"] | None = None,
    ) -> Float[Tensor, "B Q C"]:
        """The queries after they have seen the pictures; those that none sees get the same update without a sample."""
        return self.with_maps(queries, references, values, where)[0]

    def with_maps(
        self,
        queries: Float[Tensor, "B Q C"],
        references: ReferencePoints,
        values: Float[Tensor, "B W C h w"],
        where: Bool[Tensor, "B Q"] | None = None,
        guide: PairGuide | None = None,
    ) -> tuple[Float[Tensor, "B Q C"], AttentionMaps]:
        """`forward` of queries that `guide` refines before they choose where to look, and where they looked."""
        update, maps = self.attention.with_maps(queries, references, (values,), where, guide)
        return self.settled(queries, update), maps


class ViewAttention(nn.Module):
    """Layers in which queries look into the pictures, which an embedding of each view tells apart."""

    def __init__(self, channels: int, *, views: int, config: AttentionConfig) -> None:
        """Make the layers.

        Args:
            channels: C, of queries and image features.
            views: Most pictures of a sample.
            config: Sizes.
        """
        super().__init__()
        # Uninitialised memory in the released code.
        self.view_embedding = nn.Parameter(torch.randn(views, channels))
        self.level_embedding = nn.Parameter(torch.randn(1, channels))
        self.layers = nn.ModuleList(ViewLayer(channels, config) for _ in range(config.layers))

    def values(self, features: Float[Tensor, "B W C h w"]) -> Float[Tensor, "B W C h w"]:
        """Image features with the embeddings of their views: what the layers read.

        Raises:
            InputError: If there are more views than embeddings.
        """
        views, known = features.shape[1], len(self.view_embedding)
        if views > known:
            raise InputError(
                f"the samples have {views} pictures, the model knows {known}",
                rule="each camera of each frame has an embedding",
                remedy="name fewer --data.frames or --data.cameras, or set --model.views",
            )
        return features + (self.view_embedding[:views] + self.level_embedding)[:, :, None, None]

    def forward(
        self,
        queries: Float[Tensor, "B Q C"],
        references: ReferencePoints,
        features: Float[Tensor, "B W C h w"],
        where: Bool[Tensor, "B Q"] | None = None,
    ) -> Float[Tensor, "B Q C"]:
        """The queries after all layers; those outside `where` mean nothing.

        Raises:
            InputError: If there are more views than embeddings.
        """
        values = self.values(features)
        for layer in self.layers:
            queries = layer(queries, references, values, where)
        return queries


class MaskToken(nn.Module):
    """What stands in voxels that were not proposed."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.randn(1, channels))

    def forward(
        self, rows: Float[Tensor, "B Q C"], index: Int64[Tensor, "B Q"], real: Bool[Tensor, "B Q"], voxels: int
    ) -> Float[Tensor, "B V C"]:
        """Rows of all voxels: the given ones at their indices where they are real, the token elsewhere."""
        return put_rows(self.token.repeat(len(rows), voxels, 1), index, real, rows)


class ProposalLifting(nn.Module):
    """Proposed voxels look into the pictures; the mask token stands in the others."""

    def __init__(self, config: VoxFormerConfig, grid: VoxelGrid) -> None:
        """Make the lifting.

        Args:
            config: Sizes.
            grid: Of the volume.
        """
        super().__init__()
        self.grid, self.places = grid, config.places
        self.queries = config.queries.build(config.channels, grid.shape)
        self.attention = ViewAttention(config.channels, views=config.views, config=config.lifting)
        self.unproposed = MaskToken(config.channels)

    def forward(
        self, scene: Scene, features: ViewFeatures, proposed: Bool[Tensor, "B X Y Z"]
    ) -> Float[Tensor, "B V C"]:
        """Rows of all voxels in C order.

        Args:
            scene: Its cameras.
            features: Of its pictures.
            proposed: Voxels of the volume to look for; their number differs from sample to sample, and may be 0.

        Raises:
            InputError: If there are more views than embeddings.
        """
        index, real = ragged_to_padded(proposed.flatten(1))
        references = self.references(scene, features, index)
        queries = self.attention(self.queries(index), references, features.values, real)
        return self.unproposed(queries, index, real, self.grid.num_voxels)

    def references(self, scene: Scene, features: ViewFeatures, index: Int64[Tensor, "B Q"]) -> ReferencePoints:
        """Where the centres of voxels lie in the pictures."""
        centres = self.grid.centres(device=index.device).view(1, -1, 3).expand(len(index), -1, -1)
        return self.places.references(scene, take_rows(centres, index), features.size, features.stride)


class VolumeRefinement(nn.Module):
    """Layers in which all voxels look at the volume."""

    def __init__(self, config: VoxFormerConfig, shape: Shape) -> None:
        """Make the layers.

        Args:
            config: Sizes.
            shape: Of the volume.
        """
        super().__init__()
        channels, sizes = config.channels, config.refinement

        def attention() -> SelfAttention:
            kind = VolumeSelfAttention if config.sampling == "volume" else FlattenedSelfAttention
            return kind(channels, shape, heads=sizes.heads, points=sizes.points)

        self.positions = FlattenedPositions(channels, shape)
        self.layers = nn.ModuleList(
            SelfAttentionLayer(attention(), channels, feedforward=sizes.feedforward, dropout=sizes.dropout)
            for _ in range(sizes.layers)
        )

    def forward(self, rows: Float[Tensor, "B V C"]) -> Float[Tensor, "B V C"]:
        """Rows of all voxels in C order after all layers."""
        for layer in self.layers:
            rows = layer(rows, self.positions)
        return rows


@dataclass(frozen=True)
class VoxFormerOutputs:
    """What VoxFormer answers."""

    scores: NormalisedScores

    @property
    def logits(self) -> Float[Tensor, "B K X Y Z"]:
        """Class scores on the full grid; large, made anew at each call."""
        return self.scores.logits


def voxformer_loss(
    logits: Float[Tensor, "B K X Y Z"],
    target: Target,
    class_weights: Float[Tensor, " K"],
    weights: SceneLossWeights,
    empty: int,
) -> dict[str, Float[Tensor, ""]]:
    """The three weighted terms over the observed voxels.

    Args:
        logits: Unnormalised class scores of the target's voxels.
        target: Their classes.
        class_weights: Of the cross-entropy, whose sum is divided by the number of voxels.
        weights: Of the terms.
        empty: Id of the empty class.
    """
    labels, observed = target.labels, target.observed
    sums = class_sums(logits, labels, observed)
    return {
        "cross_entropy": weights.cross_entropy * cross_entropy_by_voxels(logits, labels, observed, class_weights),
        "semantic_affinity": weights.semantic_affinity * semantic_affinity(sums),
        "geometric_affinity": weights.geometric_affinity * geometric_affinity(sums, empty),
    }


class VoxFormer(OccupancyModel):
    """VoxFormer-S and -T."""

    needs = Needs(images=True, proposals=True)
    class_weights: Tensor

    def __init__(self, config: VoxFormerConfig, grid: VoxelGrid, label_space: LabelSpace) -> None:
        """Make the model.

        Raises:
            ValueError: If the coarsening does not divide the grid.
            InputError: If sizes do not fit together.
        """
        super().__init__()
        self.config, self.grid, self.label_space = config, grid, label_space
        channels = config.channels
        self.left_out = {
            **({} if isinstance(config.trunk, SmallTrunk) else config.trunk.left_out),
            "lifting.attention.level_embedding, rows 1 to 3": (RELEASED_LEVELS - 1) * channels,
            "refinement, embeddings of level and views": (RELEASED_LEVELS + config.views) * channels,
        }
        self.volume_grid = grid.coarsen(config.volume_coarsening)
        self.images = ImageBranch(config.trunk, strides=config.strides, channels=channels)
        self.lifting = ProposalLifting(config, self.volume_grid)
        self.refinement = VolumeRefinement(config, self.volume_grid.shape)
        self.head = NormalisedHead(channels, label_space.num_classes, factors=config.volume_coarsening)
        # Fixed by the label space, so neither trained nor saved.
        weights = CLASS_WEIGHT * label_space.class_weights(device=torch.get_default_device())
        self.register_buffer("class_weights", weights, persistent=False)

    def forward(self, scene: Scene) -> VoxFormerOutputs:
        """Answer the present frame; pictures that are missing are not looked at."""
        return VoxFormerOutputs(self.head(self.volume(scene)))

    def image_features(self, scene: Scene) -> ViewFeatures:
        """Of all frames and cameras."""
        assert scene.images is not None, "needs asks for images"
        return self.images(scene.images)

    def proposed(self, scene: Scene) -> Bool[Tensor, "B X Y Z"]:
        """Voxels of the volume in which a proposed voxel lies.

        Raises:
            InputError: If the proposals' grid does not fit the volume.
        """
        assert scene.proposals is not None, "needs asks for proposals"
        return coarser_proposals(scene.proposals, self.volume_grid.shape)

    def volume(self, scene: Scene, features: ViewFeatures | None = None) -> Float[Tensor, "B C X Y Z"]:
        """The final volume, before the head.

        Args:
            scene: What is seen.
            features: Of its pictures, where they are at hand.
        """
        features = self.image_features(scene) if features is None else features
        rows = self.refinement(self.lifting(scene, features, self.proposed(scene)))
        return self.as_volume(rows)

    def as_volume(self, rows: Float[Tensor, "B V C"]) -> Float[Tensor, "B C X Y Z"]:
        """Rows in C order as a volume, in the same memory."""
        return rows.transpose(1, 2).unflatten(2, self.volume_grid.shape)

    def loss(self, outputs: Outputs, target: Target) -> dict[str, Float[Tensor, ""]]:
        """The weighted terms; in training over every `loss_stride`-th voxel along each axis, from a random one on."""
        assert isinstance(outputs, VoxFormerOutputs), "outputs must be this model's own"
        places, chosen = self.loss_voxels(target)
        return self.voxel_loss(outputs.scores.at(*places), chosen)

    def loss_voxels(self, target: Target) -> tuple[tuple[Tensor, Tensor, Tensor], Target]:
        """Indices along each axis of the voxels that a step's loss looks at, drawn anew each time, and their truth."""
        stride = self.config.loss_stride if self.training else 1
        x, y, z = (
            torch.arange(int(torch.randint(stride, ())), n, stride, device=target.labels.device)
            for n in self.grid.shape
        )
        chosen = Target(labels=target.labels[:, x][:, :, y][..., z], observed=target.observed[:, x][:, :, y][..., z])
        return (x, y, z), chosen

    def voxel_loss(self, logits: Float[Tensor, "B K X Y Z"], chosen: Target) -> dict[str, Float[Tensor, ""]]:
        """The weighted terms of some voxels."""
        return voxformer_loss(logits, chosen, self.class_weights, self.config.weights, self.label_space.empty)

    def predict(self, scene: Scene) -> Int64[Tensor, "B X Y Z"]:
        """The most likely class of every voxel: the argmax of `logits`, without making them."""
        return self.forward(scene).scores.argmax()

    def load_trunk_weights(self, source: Path | Literal["imagenet"]) -> None:
        """Fill the trunk with weights of a file, or with those published for ImageNet.

        Raises:
            InputError: If they cannot be had, or are of another trunk.
        """
        load_trunk(self.images.trunk, source, imagenet=self.config.trunk.imagenet)
