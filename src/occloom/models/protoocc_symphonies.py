"""ProtoOcc on Symphonies: the same parts where the queries are the voxels in view (section 4.2, Table 2).

In each round, before the voxels in view attend to the instance queries, prototypes of the picture refine them; the
volume of the last round is decoded beside changed copies of itself. Symphonies' voxels do not sample the picture by
themselves, so Eq. 2 splats each where its centre falls (reference protoocc 3.1).
"""

from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from occloom.grid import LabelSpace, VoxelGrid
from occloom.heads.trilinear import TrilinearScores
from occloom.interfaces import FeaturePyramid, Needs, Outputs
from occloom.lifting.cross_attention import AttentionMaps, ReferencePoints
from occloom.models.protoocc import (
    FormName,
    MultiPerspectiveDecoding,
    PrototypeOptimisation,
    affinity_form,
    consistency_loss,
    contrast_loss,
)
from occloom.models.protoocc_decoding import decode_all
from occloom.models.protoocc_mapping import ClusterConfig, PrototypeGuide, PrototypeMapping, cluster
from occloom.models.protoocc_optimisation import PixelFeatures, pixel_features
from occloom.models.symphonies import Symphonies, SymphoniesConfig, SymphoniesOutputs
from occloom.scene import Scene, Target

LEVEL = 1
"""Of the picture's features, the one that is clustered: stride 8."""


@dataclass(frozen=True)
class ProtoSymphoniesConfig:
    """ProtoOcc on Symphonies. The defaults are the paper's "Base"."""

    baseline: SymphoniesConfig = field(default_factory=SymphoniesConfig)
    """Everything that is Symphonies'."""
    prototypes: Literal["none", "mapped", "optimised"] = "optimised"
    """"none" leaves the voxels to themselves; "mapped" refines them by prototypes (section 3.2.1); "optimised" tells
    the prototypes apart by pseudo masks too (3.2.2)."""
    clusters: ClusterConfig = field(default_factory=lambda: ClusterConfig(grid=(11, 38)))
    """Of the picture: r = 4 on 47x153."""
    form: FormName = "scaled"
    """How voxels and prototypes are brought together in each round."""
    optimisation: PrototypeOptimisation = field(default_factory=PrototypeOptimisation)
    """How prototypes are told apart."""
    decoding: MultiPerspectiveDecoding = field(default_factory=MultiPerspectiveDecoding)
    """How the volume is decoded in training."""

    def build(self, grid: VoxelGrid, label_space: LabelSpace) -> "ProtoSymphonies":
        """Make the model, with random weights."""
        return ProtoSymphonies(self, grid, label_space)


@dataclass(frozen=True)
class ProtoSymphoniesOutputs(SymphoniesOutputs):
    """What ProtoOcc on Symphonies answers; all but Symphonies' own in training alone."""

    views: tuple[TrilinearScores, ...] = ()
    """Of the last volume's other views."""
    pixels: PixelFeatures | None = None
    """The prototypes as the pixels of a map see them."""
    stride: int = 1
    """Image pixels a cell of that map."""


class ProtoSymphonies(Symphonies):
    """ProtoOcc on Symphonies; what it shares with the baseline has the baseline's names, so weights go over."""

    def __init__(self, config: ProtoSymphoniesConfig, grid: VoxelGrid, label_space: LabelSpace) -> None:
        """Make the model.

        Raises:
            ValueError: If the coarsening does not divide the grid.
            InputError: If sizes do not fit together.
        """
        super().__init__(config.baseline, grid, label_space)
        sizes, form = config.baseline.decoder, affinity_form(config.form)
        layers = 0 if config.prototypes == "none" else sizes.layers
        self.mappings = nn.ModuleList(PrototypeMapping(sizes.channels, form) for _ in range(layers))
        self.clusters, self.optimisation, self.decoding = config.clusters, config.optimisation, config.decoding
        self.perspectives = config.decoding.build()
        self.needs = Needs(images=True, depth=True, pseudo_masks=config.prototypes == "optimised")

    def forward(self, scene: Scene) -> ProtoSymphoniesOutputs:
        """Answer the present frame.

        Raises:
            InputError: If there is more than one camera.
        """
        features = self.features(scene)
        view, guides = self.view(scene, features), self.guides(features)
        *earlier, last = self.decoder.volumes(self.queries(scene), view, guides)
        if not self.training:
            return self._answer(scene, (self.decoder.head(self.decoder.context(last)),))
        before = tuple(self.decoder.head(volume) for volume in earlier)
        own, *views = (
            TrilinearScores(coarse, self.decoder.head.left)
            for coarse in decode_all(last, self.perspectives, self._decoded)
        )
        outputs = replace(self._answer(scene, (*before, own)), views=tuple(views))
        if not self.needs.pseudo_masks:
            return outputs
        pixels = splat_of_voxels(view.voxels, guides[-1].dispatched, features)
        return replace(outputs, pixels=pixels, stride=features.strides[LEVEL])

    def guides(self, features: FeaturePyramid) -> list[PrototypeGuide]:
        """One a round, with the picture's prototypes; none where nothing is mapped."""
        if not len(self.mappings):
            return []
        prototypes = cluster(features.levels[LEVEL], self.clusters)
        return [PrototypeGuide(part, prototypes) for part in self.mappings if isinstance(part, PrototypeMapping)]

    def loss(self, outputs: Outputs, target: Target) -> dict[str, Float[Tensor, ""]]:
        """The weighted terms: Symphonies' own, those of the other views of the last volume, contrast and consistency.

        Where nothing was trained when the outputs were made, only Symphonies'.
        """
        assert isinstance(outputs, ProtoSymphoniesOutputs), "outputs must be this model's own"
        chosen = self.chosen_voxels(outputs, target)
        terms = self.supervised(outputs.scores, chosen)
        views = tuple(scores.at(*chosen.places) for scores in outputs.views)
        for view in views:
            of_view = self.voxel_loss(view, chosen)
            terms = {name: term + of_view[name] for name, term in terms.items()}
        if outputs.pixels is not None:
            terms["contrast"] = contrast_loss(self.optimisation, outputs.pixels, outputs.stride, target)
        if views:
            own = outputs.scores[-1].at(*chosen.places)
            terms["consistency"] = consistency_loss(self.decoding, (own, *views), chosen.observed)
        return terms

    def _answer(self, scene: Scene, scores: tuple[TrilinearScores, ...]) -> ProtoSymphoniesOutputs:
        return ProtoSymphoniesOutputs(**vars(self.outputs(scene, scores)))

    def _decoded(self, volume: Float[Tensor, "B C X Y Z"]) -> Float[Tensor, "B K x y z"]:
        """Scores of the last round's volume, before they are interpolated."""
        return self.decoder.head(self.decoder.context(volume)).coarse


def splat_of_voxels(
    voxels: ReferencePoints, dispatched: Float[Tensor, "pairs C"], features: FeaturePyramid
) -> PixelFeatures:
    """Prototype-aware pixel features (Eq. 2) where each voxel in view looks at the place that its centre falls on.

    Args:
        voxels: Places of all voxels in the one picture of each sample.
        dispatched: What each voxel in view was handed, sample by sample, in their order.
        features: Of the picture.
    """
    sample, camera, query, reference = voxels.visible.nonzero().unbind(-1)
    places = voxels.locations[sample, camera, query, reference, :2]
    maps = AttentionMaps(sample, camera, query, places[:, None, None, None], torch.ones_like(places[:, :1, None, None]))
    level = features.levels[LEVEL]
    size = (level.shape[2], level.shape[3])
    return pixel_features(maps, dispatched, level=0, cameras=1, images=len(level), size=size)
