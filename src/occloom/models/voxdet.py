"""VoxDet: occupancy as dense detection (Li, Yu and Alahi, NeurIPS 2025). See docs/models/voxdet.md.

A lifted volume V -> spatially-decoupled voxel encoder (SVE, 4.2) -> task-decoupled dense predictor (TDP, 4.3). What
lifts the volume stands elsewhere: `voxdet_camera` (4.1) and `voxdet_lidar` (5.1.2). Layer by layer this is the released
structure (reference voxdet 5 and 6); where paper and released code mean different things, the paper's is built here and
the other is a part in `voxdet_released`.

Suffixes: B batch, C channels, X Y Z voxels of the lifted volume, x y z voxels of the offset field, K classes.
"""

import math
from dataclasses import dataclass
from functools import partial
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from occloom.errors import InputError
from occloom.grid import LabelSpace, Shape, VoxelGrid
from occloom.heads.factorised import FactorisedHead, FactorisedScores
from occloom.heads.trilinear import TrilinearHead, TrilinearScores
from occloom.losses.affinity import ClassSums, class_sums, geometric_affinity, semantic_affinity
from occloom.losses.cross_entropy import cross_entropy
from occloom.losses.factorised import factorised_losses
from occloom.losses.voxnt import Refinement, boundary_offsets, refine, run_lengths
from occloom.ops.deformable_conv2d import DeformableConv2d
from occloom.ops.in_place import add_enlarged, by_slabs, may_overwrite, normalise, slabs
from occloom.ops.thin_conv3d import pointwise
from occloom.ops.winograd_conv3d import Conv3x3x3
from occloom.scene import Target
from occloom.voxel.encoder3d import VolumeEncoder3d, VolumeNeck

Scores = TrilinearScores | FactorisedScores
"""Class scores on the full grid, in one of two forms that give logits, argmax and losses."""


@runtime_checkable
class Places(Protocol):
    """Where each voxel of the offset field reads its instance, in the order x+, x-, y+, y-, z+, z-."""

    def read(self, volume: Float[Tensor, "B C x y z"], direction: int) -> Float[Tensor, "B C x y z"]:
        """What a volume holds at the place of each voxel in one of the six directions."""
        ...


@runtime_checkable
class OffsetSampling(Protocol):
    """How offsets become places to read."""

    def places(self, offsets: Float[Tensor, "B 6 x y z"]) -> Places:
        """Of a batch; read by every aggregation layer."""
        ...


@dataclass(frozen=True)
class AxisPlaces:
    """Places on the axes through each voxel: linear interpolation along a line, written as one matrix a line.

    A line has 64 voxels at most, so the dense matrices are small, and products of matrices are fast in both passes.
    """

    matrices: tuple[Tensor, ...]
    """Six of "B u v n n": for the lines along x, y or z, what each of the n voxels reads from which."""

    def read(self, volume: Float[Tensor, "B C x y z"], direction: int) -> Float[Tensor, "B C x y z"]:
        """Interpolate along the direction's axis."""
        axis = 1 + direction // 2
        lines = volume.movedim(1, -1).movedim(axis, -2)
        read = self.matrices[direction].to(lines.dtype) @ lines
        return read.movedim(-2, axis).contiguous().movedim(-1, 1)


@dataclass(frozen=True)
class AlongAxes:
    """The paper's reading of Eq. 6: the voxel itself moved along one axis by its offset, kept within the volume.

    An offset is a share of the axis (4.3), so it moves by that share of the axis's voxels; between two voxels their
    features are interpolated linearly.
    """

    def places(self, offsets: Float[Tensor, "B 6 x y z"]) -> Places:
        """The weight of voxel j at place p is the hat function 1 - |p - j|, where positive."""
        matrices = []
        for direction in range(6):
            axis, sign = 1 + direction // 2, 1 - 2 * (direction % 2)
            moves = offsets[:, direction].movedim(axis, -1)
            length = moves.shape[-1]
            voxel = torch.arange(length, dtype=moves.dtype, device=moves.device)
            place = (voxel + sign * length * moves).clamp(0, length - 1)
            matrices.append(F.relu(1 - (place[..., None] - voxel).abs()))
        return AxisPlaces(tuple(matrices))


@runtime_checkable
class OffsetLoss(Protocol):
    """How predicted offsets are compared with true ones."""

    def loss(
        self,
        offsets: Float[Tensor, "B 6 x y z"],
        truth: Float[Tensor, "B 6 x y z"],
        observed: Bool[Tensor, "B x y z"],
    ) -> Float[Tensor, ""]:
        """A scalar of the batch."""
        ...


@dataclass(frozen=True)
class ObservedL1:
    """Eq. 5 over the observed voxels, divided by twice their number as released: a weight of 1 then means the same."""

    def loss(
        self,
        offsets: Float[Tensor, "B 6 x y z"],
        truth: Float[Tensor, "B 6 x y z"],
        observed: Bool[Tensor, "B x y z"],
    ) -> Float[Tensor, ""]:
        """Sum of |offset - truth| over observed voxels and directions; 0 where nothing is observed."""
        difference = (offsets - truth).abs() * observed[:, None]
        return difference.sum() / (2 * observed.sum()).clamp(min=1)


@dataclass(frozen=True)
class TrilinearClasses:
    """The paper's (appendix C.2): two convolutions, then trilinear interpolation to the full grid."""

    hidden: int = 64
    """Channels between the two convolutions."""

    def head(self, channels: int, label_space: LabelSpace, factors: Shape, groups: int) -> nn.Module:
        """Two convolutions with a group normalisation between."""
        norm = partial(nn.GroupNorm, groups)
        return TrilinearHead(channels, label_space.num_classes, hidden=self.hidden, factors=factors, norm=norm)

    def losses(
        self, scores: Scores, target: Target, weights: Float[Tensor, " K"]
    ) -> tuple[Float[Tensor, ""], ClassSums]:
        """From logits on the full grid."""
        logits = scores.logits
        return (
            cross_entropy(logits, target.labels, target.observed, weights),
            class_sums(logits, target.labels, target.observed),
        )


@dataclass(frozen=True)
class FactorisedClasses:
    """For coarse volumes on a CPU: sub-voxels unfolded from channels, p(class) = p(occupied) p(class | occupied)."""

    class_factors: Shape = (2, 2, 2)
    """Voxels of the class scores in a voxel of the volume, along x, y, z."""

    def head(self, channels: int, label_space: LabelSpace, factors: Shape, groups: int) -> nn.Module:  # noqa: ARG002
        """The baseline's head."""
        return FactorisedHead(
            channels=channels,
            num_classes=label_space.num_classes,
            empty=label_space.empty,
            factors=factors,
            class_factors=self.class_factors,
        )

    def losses(
        self, scores: Scores, target: Target, weights: Float[Tensor, " K"]
    ) -> tuple[Float[Tensor, ""], ClassSums]:
        """Equal to those of the composed logits."""
        assert isinstance(scores, FactorisedScores), "scores must be of this part's own head"
        return factorised_losses(scores, target, weights)


@dataclass(frozen=True)
class LossWeights:
    """Of the terms of Eq. 7 and 8."""

    cross_entropy: float = 1.0
    """Of the class-weighted cross-entropy."""
    semantic_affinity: float = 1.0
    """Of the affinity of each class."""
    geometric_affinity: float = 1.0
    """Of the affinity of occupied and empty."""
    regression: float = 1.0
    """Of the offsets (Eq. 5)."""
    auxiliary: float = 0.2
    """lambda: of all three terms of the auxiliary head on the lifted volume; 0 builds none."""


@dataclass(frozen=True)
class DetectorConfig:
    """SVE and TDP. The defaults are the paper's full size."""

    blocks: tuple[int, ...] = (2, 2, 2)
    """Residual blocks of each stage of the shared encoder; each stage but the first halves the volume."""
    drop_path: float = 0.3
    """Stochastic depth of the encoder's last block."""
    groups: int = 32
    """Of the group normalisations."""
    offset_hidden: int = 64
    """Channels between the two convolutions of the regression head."""
    offset_stride: Shape = (2, 2, 2)
    """Voxels of the volume in a voxel of the offset field, along x, y, z; also the resolution of the aggregation. Each
    is 1 or 2."""
    regress: bool = True
    """Whether offsets are regressed (Table 4, TDP REG)."""
    aggregation_layers: int = 4
    """N of Eq. 6; 0 for none (Table 4, TDP CLS)."""
    decouple_regression: bool = True
    """Whether the regression branch has its own spatial decoupling (Table 4, SVE REG)."""
    decouple_classification: bool = True
    """Whether the classification branch has its own spatial decoupling (Table 4, SVE CLS)."""
    sampling: OffsetSampling = AlongAxes()
    """How offsets become places to read."""
    offset_loss: OffsetLoss = ObservedL1()
    """How offsets are compared."""
    scoring: TrilinearClasses | FactorisedClasses = TrilinearClasses()
    """Class head and auxiliary head."""
    refinement: Refinement | None = None
    """Which labels are taken out of training for the scale of their instance (Eq. 10-12); None for none."""
    weights: LossWeights = LossWeights()
    """Of the losses."""

    def __post_init__(self) -> None:
        if self.aggregation_layers and not self.regress:
            raise InputError(
                f"aggregation_layers is {self.aggregation_layers} without regress",
                rule="instances are aggregated along regressed offsets",
                remedy="set aggregation_layers to 0, or regress",
            )
        if len(self.blocks) < 2 or min(self.blocks) < 1:
            raise InputError(f"blocks is {self.blocks}", rule="two or more stages of at least one block")
        if not set(self.offset_stride) <= {1, 2}:
            raise InputError(
                f"offset_stride is {self.offset_stride}",
                rule="each is 1 or 2: only there are averages of blocks what trilinear interpolation gives",
            )


def volume_grid(grid: VoxelGrid, coarsening: Shape, detector: DetectorConfig) -> VoxelGrid:
    """The grid of the lifted volume.

    Args:
        grid: Of the labels.
        coarsening: Voxels of the grid in a voxel of the volume, along x, y, z.
        detector: That will answer the volume.

    Raises:
        ValueError: If the coarsening does not divide the grid, or the stride of the offset field the volume.
    """
    volume = grid.coarsen(coarsening)
    if detector.regress and any(n % s for n, s in zip(volume.shape, detector.offset_stride, strict=True)):
        raise InputError(
            f"offset_stride is {detector.offset_stride} and the volume has {volume.shape} voxels",
            rule="the stride divides the volume",
        )
    return volume


class TriPlaneDecoupler(nn.Module):
    """Dense projection onto three planes, a deformable convolution in each, and back (Eq. 1-3), for one task and level.

    As released: the fused planes are normalised and added to the volume, which Eq. 3 does not write.
    """

    def __init__(self, channels: int, *, groups: int) -> None:
        super().__init__()
        self.project = nn.Conv3d(channels, 3, 1, bias=False)
        # Planes XY, YZ, XZ: what is left when z, x, y are summed over, in the order of the three weights.
        self.refine = nn.ModuleList(nn.Conv2d(channels, channels, 1) for _ in range(3))
        self.deform = nn.ModuleList(DeformableConv2d(channels, channels) for _ in range(3))
        self.norm = nn.ModuleList(nn.GroupNorm(groups, channels) for _ in range(3))
        self.fuse = nn.Conv2d(channels, channels, 1, bias=False)
        self.fuse_norm = nn.GroupNorm(groups, channels)

    def forward(self, volume: Float[Tensor, "B C X Y Z"]) -> Float[Tensor, "B C X Y Z"]:
        """The volume with what the planes say added."""
        eta_B3XYZ = self.project(volume)
        planes: Tensor | None = None
        for plane, axis in enumerate((4, 2, 3)):
            weight_BXYZ = eta_B3XYZ[:, plane].softmax(dim=axis - 1)
            projected = _weighted_sum(volume, weight_BXYZ, axis)  # Eq. 1
            decoupled = F.relu(self.norm[plane](self.deform[plane](F.relu(self.refine[plane](projected)))))  # Eq. 2, 3
            # The fusing 1x1x1 convolution of the sum is the sum of 1x1 convolutions: done on planes, not on voxels.
            fused = self.fuse(decoupled).unsqueeze(axis)
            planes = fused if planes is None else planes + fused
        assert planes is not None
        planes = normalise(self.fuse_norm, planes, relu=True)
        return planes.add_(volume) if may_overwrite(planes) else volume + planes


def _weighted_sum(
    volume: Float[Tensor, "B C X Y Z"], weight: Float[Tensor, "B X Y Z"], axis: int
) -> Float[Tensor, "B C u v"]:
    """The volume summed over one axis with weights, never making the weighted volume."""
    letters = "bcxyz".replace("bcxyz"[axis], "")
    if not may_overwrite(volume):
        return torch.einsum(f"bcxyz,bxyz->{letters}", volume, weight)
    # Slab by slab along x, as the product makes a copy of what it is given.
    parts = slabs(volume, 2)
    shares = weight.split(parts[0].shape[2], dim=1)
    sums = [torch.einsum(f"bcxyz,bxyz->{letters}", *pair) for pair in zip(parts, shares, strict=True)]
    return torch.stack(sums).sum(dim=0) if axis == 2 else torch.cat(sums, dim=2)


class TaskBranch(nn.Module):
    """Decoupled levels of one task, merged top-down to the resolution of the volume (4.2).

    As released, the coarsest level goes in as it is; the paper decouples all L.
    """

    def __init__(self, channels: int, levels: int, *, groups: int, decouple: bool) -> None:
        super().__init__()
        count = levels - 1 if decouple else 0
        self.decouplers = nn.ModuleList(TriPlaneDecoupler(channels, groups=groups) for _ in range(count))
        self.neck = VolumeNeck(channels, levels, norm=partial(nn.GroupNorm, groups))

    def forward(self, levels: list[Tensor]) -> Float[Tensor, "B C X Y Z"]:
        """From the shared encoder's levels, finest first."""
        x = levels[-1]
        for i in reversed(range(len(levels) - 1)):
            x = self.neck.merge(i, self.decouplers[i](levels[i]) if len(self.decouplers) else levels[i], x)
        return x


class OffsetHead(nn.Module):
    """The regression branch (Eq. 4): offsets in six directions as shares of the axes, x+, x-, y+, y-, z+, z-."""

    def __init__(self, channels: int, *, hidden: int, groups: int, stride: Shape) -> None:
        super().__init__()
        self.stride = stride
        self.hidden = Conv3x3x3(channels, hidden)
        self.norm = nn.GroupNorm(groups, hidden)
        self.offsets = nn.Conv3d(hidden, 6, 1, bias=False)

    def forward(self, volume: Float[Tensor, "B C X Y Z"]) -> Float[Tensor, "B 6 x y z"]:
        """Offsets in (0, 1) at a coarser resolution."""
        # Halving the logits trilinearly is averaging blocks, and that may be done before the linear last layer.
        hidden = _coarsen(normalise(self.norm, self.hidden(volume), relu=True), self.stride)
        logits = self.offsets(hidden)
        # Half precision would tell apart but quarters of a voxel: mixed precision ends here.
        return logits.to(torch.promote_types(logits.dtype, torch.float32)).sigmoid()


class InstanceAggregation(nn.Module):
    """Eq. 6: each voxel asks the six voxels its offsets point at.

    As released: at the resolution of the offset field, with normalised queries, keys and values, and a linear layer
    before the normalisation.
    """

    def __init__(self, channels: int, *, groups: int, stride: Shape) -> None:
        super().__init__()
        self.stride = stride
        self.query, self.key, self.value, self.out = (nn.Conv3d(channels, channels, 1, bias=False) for _ in range(4))
        self.query_norm, self.key_norm, self.value_norm, self.norm = (nn.GroupNorm(groups, channels) for _ in range(4))

    def forward(self, volume: Float[Tensor, "B C X Y Z"], places: Places) -> Float[Tensor, "B C X Y Z"]:
        """The volume with the semantics of each voxel's instance in it, in its memory where no gradient follows."""
        coarse = _coarsen(volume, self.stride)
        query = self.query_norm(self.query(coarse))
        # Linear layers and interpolation commute: six times fewer rows go through the linear ones.
        keys, values = self.key(coarse), self.value(coarse)
        scores, read = [], []
        for direction in range(6):
            key = self.key_norm(places.read(keys, direction))
            scores.append((query * key).sum(dim=1, keepdim=True) / math.sqrt(query.shape[1]))
            read.append(self.value_norm(places.read(values, direction)))
        share = torch.stack(scores).softmax(dim=0)
        gathered = share[0] * read[0]
        for direction in range(1, 6):
            gathered = gathered + share[direction] * read[direction]
        return normalise(
            self.norm, by_slabs(partial(pointwise, weight=self.out.weight), add_enlarged(volume, gathered))
        )


def _coarsen(volume: Float[Tensor, "B C X Y Z"], stride: Shape) -> Float[Tensor, "B C x y z"]:
    """Averages of blocks: what trilinear interpolation gives half way between an even number of voxels.

    Channels last, which `avg_pool3d` would undo.
    """
    if max(stride) == 1:
        return volume.contiguous(memory_format=torch.channels_last_3d)
    sx, sy, sz = stride
    parts = [volume[:, :, i::sx, j::sy, k::sz] for i in range(sx) for j in range(sy) for k in range(sz)]
    total = parts[0].contiguous(memory_format=torch.channels_last_3d)
    for part in parts[1:]:
        total = total + part
    return total / len(parts)


@dataclass(frozen=True)
class DetectionOutputs:
    """What VoxDet answers."""

    scores: Scores
    offsets: Float[Tensor, "B 6 x y z"] | None
    """Distance to the border of the voxel's instance as a share of the axis: x+, x-, y+, y-, z+, z-."""
    auxiliary: Scores | None
    """Classes straight from the lifted volume; in training only."""

    @property
    def logits(self) -> Float[Tensor, "B K X Y Z"]:
        """Class scores on the full grid."""
        return self.scores.logits


@dataclass(frozen=True)
class EncodedVolume:
    """What the shared encoder makes of the lifted volume."""

    levels: list[Tensor]
    """One "B C x y z" a stage, finest first."""
    auxiliary: Scores | None
    """Of the auxiliary head, in training."""


class DenseDetector(nn.Module):
    """From the lifted volume to classes and offsets: SVE and TDP."""

    class_weights: Tensor

    def __init__(self, config: DetectorConfig, *, channels: int, label_space: LabelSpace, factors: Shape) -> None:
        """Make the detector.

        Args:
            config: Sizes and parts.
            channels: Of the lifted volume.
            label_space: Classes, and their weights in the cross-entropy.
            factors: Voxels of the label grid in a voxel of the volume, along x, y, z.
        """
        super().__init__()
        self.config, self.factors, self.empty = config, factors, label_space.empty
        groups, levels, stride = config.groups, len(config.blocks), config.offset_stride
        self.encoder = VolumeEncoder3d(
            channels, config.blocks, drop_path=config.drop_path, shortcut_norm=partial(nn.GroupNorm, groups)
        )
        branch = partial(TaskBranch, channels, levels, groups=groups)
        self.classification = branch(decouple=config.decouple_classification)
        # Without decoupling both tasks look at the same volume.
        shared = not (config.decouple_classification or config.decouple_regression)
        self.regression = None if shared or not config.regress else branch(decouple=config.decouple_regression)
        self.offset_head = None
        if config.regress:
            self.offset_head = OffsetHead(channels, hidden=config.offset_hidden, groups=groups, stride=stride)
        self.aggregation = nn.ModuleList(
            InstanceAggregation(channels, groups=groups, stride=stride) for _ in range(config.aggregation_layers)
        )
        self.class_head = config.scoring.head(channels, label_space, factors, groups)
        self.auxiliary_head = None
        if config.weights.auxiliary:
            self.auxiliary_head = config.scoring.head(channels, label_space, factors, groups)
        # Fixed by the label space, so neither trained nor saved.
        self.register_buffer(
            "class_weights", label_space.class_weights(device=torch.get_default_device()), persistent=False
        )

    def forward(self, volume: Float[Tensor, "B C X Y Z"]) -> DetectionOutputs:
        """Answer a lifted volume, whose sizes are multiples of the offset field's stride."""
        return self.predict_densely(self.encode(volume))

    def encode(self, volume: Float[Tensor, "B C X Y Z"]) -> EncodedVolume:
        """All that is made of the lifted volume itself; a caller that then drops it saves a tenth of the memory."""
        auxiliary = None
        if self.training and self.auxiliary_head is not None:
            auxiliary = self.auxiliary_head(volume)
        return EncodedVolume(levels=self.encoder(volume), auxiliary=auxiliary)

    def predict_densely(self, encoded: EncodedVolume) -> DetectionOutputs:
        """Both branches, then instance-level aggregation (4.2 and 4.3); empties the list of levels on the way."""
        levels = encoded.levels
        classes = offsets = None
        if self.offset_head is not None:
            branch = self.classification if self.regression is None else self.regression
            features = branch(levels)
            offsets = self.offset_head(features)
            classes = features if self.regression is None else None
            del features  # a hundred megabytes at full size
        if classes is None:
            classes = self.classification(levels)
        levels.clear()  # the finest has 134 MB at full size
        if offsets is not None and len(self.aggregation):
            places = self.config.sampling.places(offsets)
            for layer in self.aggregation:
                classes = layer(classes, places)
        return DetectionOutputs(scores=self.class_head(classes), offsets=offsets, auxiliary=encoded.auxiliary)

    def losses(self, outputs: DetectionOutputs, target: Target) -> dict[str, Float[Tensor, ""]]:
        """The weighted terms of Eq. 8; labels of abnormal scale are taken out first (appendix B.3)."""
        config, weights = self.config, self.config.weights
        lengths = run_lengths(target)
        if config.refinement is not None:
            target = refine(target, lengths, config.refinement, empty=self.empty)
        terms = self._class_terms(outputs.scores, target, weights)
        if outputs.offsets is not None:
            sx, sy, sz = (f * s for f, s in zip(self.factors, config.offset_stride, strict=True))
            truth = boundary_offsets(lengths, (sx, sy, sz))
            observed = target.observed[:, ::sx, ::sy, ::sz]
            terms["regression"] = weights.regression * config.offset_loss.loss(outputs.offsets, truth, observed)
        if outputs.auxiliary is not None:
            for name, term in self._class_terms(outputs.auxiliary, target, LossWeights()).items():
                terms[f"auxiliary_{name}"] = weights.auxiliary * term
        return terms

    def _class_terms(self, scores: Scores, target: Target, weights: LossWeights) -> dict[str, Float[Tensor, ""]]:
        """Eq. 7."""
        entropy, sums = self.config.scoring.losses(scores, target, self.class_weights)
        return {
            "cross_entropy": weights.cross_entropy * entropy,
            "semantic_affinity": weights.semantic_affinity * semantic_affinity(sums),
            "geometric_affinity": weights.geometric_affinity * geometric_affinity(sums, self.empty),
        }
