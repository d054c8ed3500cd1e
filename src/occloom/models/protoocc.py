"""ProtoOcc: prototypes of clustered pixels lead few voxel queries, decoded from several views (Oh et al., CVPR 2025).

"3D Occupancy Prediction with Low-Resolution Queries via Prototype-aware View Transformation", arXiv 2503.15185; another
ProtoOcc, of AAAI 2025, has the name alone in common. PanoOcc with three additions, each a part: queries look into the
pictures led by prototypes (`protoocc_mapping`, section 3.2.1), prototypes are told apart by pseudo masks
(`protoocc_optimisation`, 3.2.2), and the fused volume is decoded beside changed copies of itself (`protoocc_decoding`,
3.3). The last two are of training alone. See docs/models/protoocc.md.
"""

from dataclasses import dataclass, field, replace
from typing import Literal

from jaxtyping import Bool, Float
from torch import Tensor, nn

from occloom.errors import InputError
from occloom.grid import LabelSpace, VoxelGrid
from occloom.interfaces import Needs, Outputs
from occloom.lifting.cross_attention import AttentionMaps, DeformableCrossAttention, ReferencePoints
from occloom.models.panoocc import PanoOcc, PanoOccConfig, PanoOccOutputs
from occloom.models.protoocc_decoding import (
    Dropout,
    Flips,
    GaussianNoise,
    Perspective,
    Transposition,
    decode_all,
    scene_consistency,
)
from occloom.models.protoocc_mapping import (
    AffinityForm,
    ClusterConfig,
    LiteralForm,
    PrototypeGuide,
    PrototypeMapping,
    ScaledForm,
    cluster,
)
from occloom.models.protoocc_optimisation import (
    PixelFeatures,
    masks_of_cells,
    pixel_features,
    prototype_contrast,
)
from occloom.models.view_layers import Looked, Pictures
from occloom.scene import Scene, Target

FormName = Literal["scaled", "literal"]
PerspectiveName = Literal["dropout", "noise", "transpose", "flips"]


def affinity_form(name: FormName) -> AffinityForm:
    """The form of a name: the well-scaled one, or the equations as printed."""
    return ScaledForm() if name == "scaled" else LiteralForm()


@dataclass(frozen=True)
class PrototypeLooking:
    """How queries look into the pictures led by prototypes: `view_layers.Looking`, section 3.2.1."""

    stride: int = 8
    """Of the maps whose pixels are clustered, and whose cells get pixel features."""
    clusters: ClusterConfig = field(default_factory=ClusterConfig)
    """Of each picture."""
    form: FormName = "scaled"
    """How queries and prototypes are brought together in each layer: `ScaledForm`, or `LiteralForm`, as printed."""

    def build_summary(self, channels: int) -> nn.Module | None:  # noqa: ARG002
        """The prototypes of a frame, clustered once for all layers."""
        return FramePrototypes(self)

    def build_layer(self, channels: int, *, heads: int, points: int, levels: int, references: int) -> nn.Module:
        """Deformable attention with a mapping of its own."""
        form = affinity_form(self.form)
        return PrototypeLook(channels, heads=heads, points=points, levels=levels, references=references, form=form)


@dataclass(frozen=True)
class Prototypes:
    """What the layers are handed of a frame's pictures; M = B N."""

    features: Float[Tensor, "M P C"]
    level: int
    """Of the maps, the one that was clustered."""


class FramePrototypes(nn.Module):
    """Clusters one level of a frame's pictures, before the embeddings of camera and level."""

    def __init__(self, config: PrototypeLooking) -> None:
        super().__init__()
        self.config = config

    def forward(self, pictures: Pictures) -> Prototypes:
        """Their prototypes.

        Raises:
            InputError: If no level has the stride.
        """
        if self.config.stride not in pictures.strides:
            raise InputError(
                f"mapping.stride is {self.config.stride}",
                rule=f"it is one of the pictures' levels: {', '.join(map(str, pictures.strides))}",
            )
        level = pictures.strides.index(self.config.stride)
        return Prototypes(cluster(pictures.levels[level].flatten(0, 1), self.config.clusters), level)


@dataclass(frozen=True)
class PrototypeRecord:
    """Of a layer's look into the pictures: what prototype optimisation is made from."""

    maps: AttentionMaps
    guide: PrototypeGuide
    """It knows what each pair of the maps was handed."""
    level: int
    """Of the maps, the one that was clustered."""
    size: tuple[int, int]
    """h and w of the level."""
    stride: int
    """Image pixels a cell of it."""
    images: tuple[int, int]
    """B and N."""


class PrototypeLook(DeformableCrossAttention):
    """`DeformableCrossAttention` whose queries are refined by prototypes before they choose where to look."""

    def __init__(
        self,
        channels: int,
        *,
        heads: int,
        points: int,
        levels: int,
        references: int,
        form: AffinityForm,
    ) -> None:
        super().__init__(channels, heads=heads, points=points, levels=levels, references=references)
        self.mapping = PrototypeMapping(channels, form)

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, queries: Float[Tensor, "B Q C"], references: ReferencePoints, pictures: Pictures, prototypes: Prototypes
    ) -> Looked:
        """Look; what is added to the queries is added to them as they were."""
        guide = PrototypeGuide(self.mapping, prototypes.features)
        update, maps = self.with_maps(queries, references, pictures.values, guide=guide)
        level = pictures.levels[prototypes.level]
        record = PrototypeRecord(
            maps=maps,
            guide=guide,
            level=prototypes.level,
            size=(level.shape[3], level.shape[4]),
            stride=pictures.strides[prototypes.level],
            images=(level.shape[0], level.shape[1]),
        )
        return Looked(update, record)


@dataclass(frozen=True)
class PrototypeOptimisation:
    """How prototypes are told apart in training, section 3.2.2."""

    temperature: float = 0.1
    """Of the contrastive loss, tau_cls."""
    weight: float = 0.1
    """Of the contrastive loss, lambda_3; the loss is a mean over cells, not the paper's sum."""


@dataclass(frozen=True)
class MultiPerspectiveDecoding:
    """How the volume is decoded in training, section 3.3."""

    perspectives: tuple[PerspectiveName, ...] = ("dropout", "noise")
    """P views beside the volume itself; those of the paper's best row. Without any, the volume is decoded alone."""
    dropout: float = 0.1
    """Share of numbers that "dropout" drops."""
    noise: float = 0.1
    """Of "noise", in standard deviations of a channel."""
    temperature: float = 0.5
    """That the mean of the views is sharpened by, tau_cons."""
    weight: float = 1.0
    """Of the consistency loss, lambda_4."""

    def build(self) -> tuple[Perspective, ...]:
        """The views."""
        views = {
            "dropout": Dropout(self.dropout),
            "noise": GaussianNoise(self.noise),
            "transpose": Transposition(),
            "flips": Flips(),
        }
        return tuple(views[name] for name in self.perspectives)


@dataclass(frozen=True)
class ProtoOccConfig:
    """ProtoOcc on PanoOcc. The defaults are the paper's "Small"."""

    baseline: PanoOccConfig = field(default_factory=lambda: PanoOccConfig(coarsening=(4, 4, 1)))
    """Everything that is PanoOcc's; how its queries look into the pictures is named here."""
    prototypes: Literal["none", "mapped", "optimised"] = "optimised"
    """"none" leaves the queries to themselves; "mapped" leads them by prototypes (section 3.2.1); "optimised" tells the
    prototypes apart by pseudo masks too (3.2.2)."""
    mapping: PrototypeLooking = field(default_factory=PrototypeLooking)
    """How prototypes lead the queries."""
    optimisation: PrototypeOptimisation = field(default_factory=PrototypeOptimisation)
    """How prototypes are told apart."""
    decoding: MultiPerspectiveDecoding = field(default_factory=MultiPerspectiveDecoding)
    """How the volume is decoded in training."""

    def build(self, grid: VoxelGrid, label_space: LabelSpace) -> "ProtoOcc":
        """Make the model, with random weights."""
        return ProtoOcc(self, grid, label_space)


@dataclass(frozen=True)
class ProtoOccOutputs(PanoOccOutputs):
    """What ProtoOcc answers; all but the logits in training alone."""

    views: tuple[Float[Tensor, "B K X Y Z"], ...] = ()
    """Logits of the volume's other views, at the same places."""
    pixels: PixelFeatures | None = None
    """The prototypes as the pixels of a map see them."""
    stride: int = 1
    """Image pixels a cell of that map."""


class ProtoOcc(PanoOcc):
    """ProtoOcc on PanoOcc; what it shares with the baseline has the baseline's names, so weights go over."""

    def __init__(self, config: ProtoOccConfig, grid: VoxelGrid, label_space: LabelSpace) -> None:
        """Make the model.

        Raises:
            InputError: If sizes do not fit together.
        """
        baseline = config.baseline
        if config.prototypes != "none":
            baseline = replace(baseline, view=replace(baseline.view, looking=config.mapping))
        super().__init__(baseline, grid, label_space)
        self.optimisation, self.decoding = config.optimisation, config.decoding
        self.perspectives = config.decoding.build()
        self.needs = Needs(images=True, pseudo_masks=config.prototypes == "optimised")

    def forward(self, scene: Scene) -> ProtoOccOutputs:
        """Answer the present frame; cameras whose picture is missing do not contribute."""
        encoded = self.encode(scene, 0)
        volume = self.fuse(scene, encoded.volume)
        if not self.training:
            return ProtoOccOutputs(self.decode(volume))
        logits, *views = decode_all(volume, self.perspectives, self.decode)
        outputs = ProtoOccOutputs(logits, tuple(views))
        if not self.needs.pseudo_masks:
            return outputs
        record = encoded.record
        assert isinstance(record, PrototypeRecord), "a mapping records what it dispatched"
        return replace(outputs, pixels=pixels_of(record), stride=record.stride)

    def loss(self, outputs: Outputs, target: Target) -> dict[str, Float[Tensor, ""]]:
        """The weighted terms of Eq. 6: the baseline's, summed over the views, contrast and consistency.

        Where nothing was trained when the outputs were made, only the baseline's.
        """
        assert isinstance(outputs, ProtoOccOutputs), "outputs must be this model's own"
        terms = super().loss(outputs, target)
        for view in outputs.views:
            of_view = super().loss(PanoOccOutputs(view), target)
            terms = {name: term + of_view[name] for name, term in terms.items()}
        if outputs.pixels is not None:
            terms["contrast"] = contrast_loss(self.optimisation, outputs.pixels, outputs.stride, target)
        if outputs.views:
            terms["consistency"] = consistency_loss(self.decoding, (outputs.logits, *outputs.views), target.observed)
        return terms


def pixels_of(record: PrototypeRecord) -> PixelFeatures:
    """Prototype-aware pixel features of a layer's look (Eq. 2)."""
    batch, cameras = record.images
    return pixel_features(
        record.maps,
        record.guide.dispatched,
        level=record.level,
        cameras=cameras,
        images=batch * cameras,
        size=record.size,
    )


def contrast_loss(
    config: PrototypeOptimisation, pixels: PixelFeatures, stride: int, target: Target
) -> Float[Tensor, ""]:
    """The weighted contrastive loss (Eq. 3) of the cells that some query looks at."""
    assert target.pseudo_masks is not None, "needs asks for pseudo masks"
    size = (pixels.saliency.shape[1], pixels.saliency.shape[2])
    masks = masks_of_cells(target.pseudo_masks.flatten(0, 1), stride, size)
    loss = prototype_contrast(pixels.features, masks, pixels.saliency > 0, temperature=config.temperature)
    return config.weight * loss


def consistency_loss(
    config: MultiPerspectiveDecoding, logits: tuple[Tensor, ...], observed: Bool[Tensor, "B X Y Z"]
) -> Float[Tensor, ""]:
    """The weighted scene consistency (Eq. 5) of the views."""
    return config.weight * scene_consistency(logits, observed, temperature=config.temperature)
