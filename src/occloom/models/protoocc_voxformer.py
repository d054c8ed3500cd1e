"""ProtoOcc on VoxFormer: the same parts where queries are proposed voxels (section 4.2, Table 2).

Prototypes of the one map of each picture lead the proposed voxels in every layer of cross-attention; the volume behind
self-attention is decoded beside changed copies of itself (reference protoocc 3.1). VoxFormer's head enlarges
trilinearly, which flips and transposes commute with, so only views that change features differ from the volume's own.
"""

from dataclasses import dataclass, field
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from occloom.errors import InputError
from occloom.grid import LabelSpace, VoxelGrid
from occloom.heads.normalised import NormalisedScores
from occloom.interfaces import Needs, Outputs
from occloom.lifting.cross_attention import AttentionMaps, ReferencePoints
from occloom.lifting.proposals import ragged_to_padded
from occloom.models.protoocc import (
    FormName,
    MultiPerspectiveDecoding,
    PrototypeOptimisation,
    affinity_form,
    consistency_loss,
    contrast_loss,
)
from occloom.models.protoocc_mapping import ClusterConfig, PrototypeGuide, PrototypeMapping, cluster
from occloom.models.protoocc_optimisation import PixelFeatures, pixel_features
from occloom.models.voxformer import (
    ProposalLifting,
    ViewAttention,
    ViewFeatures,
    ViewLayer,
    VoxFormer,
    VoxFormerConfig,
    VoxFormerOutputs,
)
from occloom.scene import Scene, Target


@dataclass(frozen=True)
class ProtoVoxFormerConfig:
    """ProtoOcc on VoxFormer. The defaults are the paper's "Base": VoxFormer-S, 128x128x16."""

    baseline: VoxFormerConfig = field(default_factory=VoxFormerConfig)
    """Everything that is VoxFormer's."""
    prototypes: Literal["none", "mapped", "optimised"] = "optimised"
    """"none" leaves the queries to themselves; "mapped" leads them by prototypes (section 3.2.1); "optimised" tells the
    prototypes apart by pseudo masks too (3.2.2)."""
    clusters: ClusterConfig = field(default_factory=lambda: ClusterConfig(grid=(6, 19)))
    """Of the map of each picture: r = 4 on 24x77."""
    form: FormName = "scaled"
    """How queries and prototypes are brought together in each layer."""
    optimisation: PrototypeOptimisation = field(default_factory=PrototypeOptimisation)
    """How prototypes are told apart."""
    decoding: MultiPerspectiveDecoding = field(default_factory=MultiPerspectiveDecoding)
    """How the volume is decoded in training: by "dropout" and "noise"."""

    def __post_init__(self) -> None:
        spatial = {"transpose", "flips"} & set(self.decoding.perspectives)
        if spatial:
            raise InputError(
                f"decoding.perspectives has {', '.join(sorted(spatial))}",
                rule="VoxFormer's head answers a flipped or transposed volume as the volume itself",
                remedy="name dropout, noise or both",
            )

    def build(self, grid: VoxelGrid, label_space: LabelSpace) -> "ProtoVoxFormer":
        """Make the model, with random weights."""
        return ProtoVoxFormer(self, grid, label_space)


@dataclass(frozen=True)
class Lifted:
    """Proposed voxels after they have looked into the pictures, led by prototypes."""

    queries: Float[Tensor, "B Q C"]
    maps: AttentionMaps
    """Of the last layer."""
    guide: PrototypeGuide
    """It knows what each pair of the maps was handed."""


class GuidedViewAttention(ViewAttention):
    """`ViewAttention` whose queries are refined by prototypes in every layer before they choose where to look."""

    def __init__(self, config: ProtoVoxFormerConfig) -> None:
        """Make the layers; the argument is the whole model's."""
        baseline = config.baseline
        super().__init__(baseline.channels, views=baseline.views, config=baseline.lifting)
        self.clusters = config.clusters
        form = affinity_form(config.form)
        self.mappings = nn.ModuleList(PrototypeMapping(baseline.channels, form) for _ in self.layers)

    def forward(
        self,
        queries: Float[Tensor, "B Q C"],
        references: ReferencePoints,
        features: Float[Tensor, "B W C h w"],
        where: Bool[Tensor, "B Q"] | None = None,
    ) -> Float[Tensor, "B Q C"]:
        """The queries after all layers; those outside `where` mean nothing."""
        return self.lift(queries, references, features, where).queries

    def lift(
        self,
        queries: Float[Tensor, "B Q C"],
        references: ReferencePoints,
        features: Float[Tensor, "B W C h w"],
        where: Bool[Tensor, "B Q"] | None = None,
    ) -> Lifted:
        """`forward`, and how the last layer looked.

        Raises:
            InputError: If there are more views than embeddings.
        """
        prototypes, values = cluster(features.flatten(0, 1), self.clusters), self.values(features)
        maps = guide = None
        for layer, mapping in zip(self.layers, self.mappings, strict=True):
            assert isinstance(layer, ViewLayer)
            assert isinstance(mapping, PrototypeMapping)
            guide = PrototypeGuide(mapping, prototypes)
            queries, maps = layer.with_maps(queries, references, values, where, guide)
        assert maps is not None, "there is a layer at least"
        assert guide is not None
        return Lifted(queries, maps, guide)


class PrototypeLifting(ProposalLifting):
    """`ProposalLifting` led by prototypes."""

    attention: GuidedViewAttention

    def __init__(self, config: ProtoVoxFormerConfig, grid: VoxelGrid) -> None:
        """Make the lifting; the first argument is the whole model's, the second of the volume."""
        super().__init__(config.baseline, grid)
        self.attention = GuidedViewAttention(config)

    def with_pixels(
        self, scene: Scene, features: ViewFeatures, proposed: Bool[Tensor, "B X Y Z"]
    ) -> tuple[Float[Tensor, "B V C"], PixelFeatures]:
        """`forward`, and the prototype-aware features of the pictures' pixels (Eq. 2)."""
        index, real = ragged_to_padded(proposed.flatten(1))
        references = self.references(scene, features, index)
        lifted = self.attention.lift(self.queries(index), references, features.values, real)
        rows = self.unproposed(lifted.queries, index, real, self.grid.num_voxels)
        batch, views = features.values.shape[:2]
        pixels = pixel_features(
            lifted.maps, lifted.guide.dispatched, level=0, cameras=views, images=batch * views, size=features.size
        )
        return rows, pixels


@dataclass(frozen=True)
class ProtoVoxFormerOutputs(VoxFormerOutputs):
    """What ProtoOcc on VoxFormer answers; all but the scores in training alone."""

    views: tuple[NormalisedScores, ...] = ()
    """Of the volume's other views."""
    pixels: PixelFeatures | None = None
    """The prototypes as the pixels of all views' maps see them."""
    stride: int = 1
    """Image pixels a cell of these maps."""


class ProtoVoxFormer(VoxFormer):
    """ProtoOcc on VoxFormer; what it shares with the baseline has the baseline's names, so weights go over."""

    def __init__(self, config: ProtoVoxFormerConfig, grid: VoxelGrid, label_space: LabelSpace) -> None:
        """Make the model.

        Raises:
            ValueError: If the coarsening does not divide the grid.
            InputError: If sizes do not fit together.
        """
        super().__init__(config.baseline, grid, label_space)
        if config.prototypes != "none":
            self.lifting = PrototypeLifting(config, self.volume_grid)
        self.optimisation, self.decoding = config.optimisation, config.decoding
        self.perspectives = config.decoding.build()
        self.needs = Needs(images=True, proposals=True, pseudo_masks=config.prototypes == "optimised")

    def forward(self, scene: Scene) -> ProtoVoxFormerOutputs:
        """Answer the present frame; pictures that are missing are not looked at."""
        if not self.training:
            return ProtoVoxFormerOutputs(self.head(self.volume(scene)))
        features, pixels = self.image_features(scene), None
        if self.needs.pseudo_masks:
            assert isinstance(self.lifting, PrototypeLifting), "what is optimised is mapped"
            rows, pixels = self.lifting.with_pixels(scene, features, self.proposed(scene))
        else:
            rows = self.lifting(scene, features, self.proposed(scene))
        volume = self.as_volume(self.refinement(rows))
        views = tuple(self.head(perspective.view(volume).volume) for perspective in self.perspectives)
        return ProtoVoxFormerOutputs(self.head(volume), views, pixels, features.stride)

    def loss(self, outputs: Outputs, target: Target) -> dict[str, Float[Tensor, ""]]:
        """The weighted terms: VoxFormer's own, summed over the views, contrast and consistency (Eq. 6).

        Where nothing was trained when the outputs were made, only VoxFormer's.
        """
        assert isinstance(outputs, ProtoVoxFormerOutputs), "outputs must be this model's own"
        places, chosen = self.loss_voxels(target)
        logits = tuple(scores.at(*places) for scores in (outputs.scores, *outputs.views))
        of_views = [self.voxel_loss(view, chosen) for view in logits]
        terms = {name: torch.stack([terms[name] for terms in of_views]).sum() for name in of_views[0]}
        if outputs.pixels is not None:
            terms["contrast"] = self._contrast(outputs.pixels, outputs.stride, target)
        if outputs.views:
            terms["consistency"] = consistency_loss(self.decoding, logits, chosen.observed)
        return terms

    def _contrast(self, pixels: PixelFeatures, stride: int, target: Target) -> Float[Tensor, ""]:
        """Of the present frame's pictures, which come first; past ones have no masks."""
        assert target.pseudo_masks is not None, "needs asks for pseudo masks"
        batch, cameras = target.pseudo_masks.shape[:2]
        present = PixelFeatures(
            *(part.unflatten(0, (batch, -1))[:, :cameras].flatten(0, 1) for part in (pixels.features, pixels.saliency))
        )
        return contrast_loss(self.optimisation, present, stride, target)
