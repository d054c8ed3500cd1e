"""COTR's coarse-to-fine group decoding (Ma et al., CVPR 2024, section 3.3): objects as masks with a class.

A few object queries look into the compact volume. Each answers with an embedding, whose product with the features of a
voxel says whether the voxel is its object's, and with a label. In training there are six groups of queries that share
all weights but the label heads, and see only their own group; each group is asked for another split of the classes,
from three coarse labels to all, so that rare classes are matched as often as common ones. At test only the first group
answers, which is asked for the classes themselves. See docs/models/cotr.md.

Suffixes: B batch, Q queries, C channels, V voxels, K classes, L labels of a group.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from occloom.errors import InputError
from occloom.grid import LabelSpace
from occloom.losses.masks import MaskSums, dice_loss, focal_loss, mask_sums
from occloom.ops.assignment import assign
from occloom.ops.post_norm import feedforward
from occloom.voxel.volume_attention import DeformableVolumeAttention

OCC3D_GROUPS = (
    (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17),  # the classes themselves
    (0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 2),  # foreground, background
    (0, 0, 1, 2, 0, 3, 4, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, 6),  # the rarer half of the foreground, one by one
    (0, 1, 0, 0, 2, 0, 0, 3, 4, 0, 5, 0, 0, 0, 0, 0, 0, 6),  # the commoner half of the foreground
    (0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 0, 0, 4),  # one half of the background
    (0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 2, 3, 4),  # the other half
)
"""Label of each class of Occ3D in each group; the last label of a group is that of free space and of no object."""


@dataclass(frozen=True)
class GroupConfig:
    """Sizes of the group decoder, its losses, and how its masks are painted."""

    labels: tuple[tuple[int, ...], ...] = OCC3D_GROUPS
    """Label of each class in each group; free space has a group's last label, and alone. The first group's labels are
    the classes other than free space in the order of their ids."""
    queries: int = 100
    """Of each group."""
    heads: int = 8
    """Of both attentions."""
    points: int = 4
    """That a head samples in the volume."""
    hidden: int = 512
    """Channels of the networks behind the attentions, of mask embeddings and of voxel features."""
    dropout: float = 0.1
    """In the attentions and behind them."""
    focal_weight: float = 20.0
    """Of the focal loss, in matching too."""
    dice_weight: float = 1.0
    """Of the dice loss, in matching too."""
    label_weight: float = 1.0
    """Of the cross-entropy of labels; of the label's probability in matching."""
    no_object_weight: float = 0.1
    """Of queries without an object in the cross-entropy of labels."""
    painted: tuple[int, ...] = tuple(range(11))
    """Classes that masks add where the dense branch sees free space: Occ3D's foreground."""
    score_threshold: float = 0.7
    """Least probability of a label that is painted."""
    mask_threshold: float = 0.3
    """Least probability of a mask where it is painted."""
    overlap_threshold: float = 0.8
    """Least share of a mask's area that no other mask claims."""

    def __post_init__(self) -> None:
        if min(len(self.labels), self.queries, self.heads, self.points, self.hidden) < 1:
            raise InputError("groups, queries, heads, points or hidden are none", rule="all are at least 1")


@dataclass(frozen=True)
class LabelGroups:
    """What the groups call the classes, checked against a label space."""

    tables: tuple[tuple[int, ...], ...]
    """Label of each class in each group."""
    classes: tuple[int, ...]
    """Class of each label of the first group but the last."""

    @property
    def counts(self) -> tuple[int, ...]:
        """Labels of each group but the last, which means free space and no object."""
        return tuple(max(table) for table in self.tables)

    def members(self, group: int, *, device: torch.device | str = "cpu") -> Bool[Tensor, "K L"]:
        """Which classes a label of a group stands for."""
        table = torch.tensor(self.tables[group], device=device)
        return table[:, None] == torch.arange(self.counts[group] + 1, device=device)


def label_groups(config: GroupConfig, label_space: LabelSpace) -> LabelGroups:
    """The groups of a label space.

    Raises:
        InputError: If a group does not name each class, or its last label is not that of free space alone.
    """
    for number, table in enumerate(config.labels):
        shape = f"group {number} has the labels {table}"
        if len(table) != label_space.num_classes:
            raise InputError(shape, rule=f"one for each of the {label_space.num_classes} classes")
        others = {table[c] for c in label_space.occupied}
        if others != set(range(table[label_space.empty])):
            raise InputError(
                shape,
                rule=f"labels count up from 0, and class {label_space.empty} ({label_space.names[label_space.empty]}) "
                "alone has the last",
            )
    expected = tuple(range(len(label_space.occupied)))
    if tuple(config.labels[0][c] for c in label_space.occupied) != expected:
        raise InputError(f"group 0 has the labels {config.labels[0]}", rule="it calls each class by its own label")
    return LabelGroups(config.labels, label_space.occupied)


@dataclass(frozen=True)
class ObjectQueries:
    """What the decoder answers: all groups in training, the first at test."""

    embeddings: Float[Tensor, "B Q C"]
    """Products with voxel features are logits of masks; the queries of one group after those of another."""
    scores: tuple[Tensor, ...]
    """Logits of the labels, a group each: "B q L", free space and no object last."""


class GroupDecoder(nn.Module):
    """Object queries that look into the compact volume, then at the others of their group."""

    def __init__(self, config: GroupConfig, *, channels: int, volume_channels: int, label_space: LabelSpace) -> None:
        """Make the decoder.

        Args:
            config: Groups and sizes.
            channels: C, of queries and embeddings.
            volume_channels: Of the compact volume.
            label_space: Whose classes the groups are made of.

        Raises:
            InputError: If the groups are not of the label space, or heads do not divide the channels.
        """
        super().__init__()
        self.config, self.groups, self.empty = config, label_groups(config, label_space), label_space.empty
        queries = len(config.labels) * config.queries
        self.project = nn.Conv3d(volume_channels, channels, 1)
        self.query_embedding = nn.Parameter(torch.randn(queries, channels))
        self.query_position = nn.Parameter(torch.randn(queries, channels))
        self.reference = nn.Linear(channels, 3)
        self.cross_attention = DeformableVolumeAttention(channels, heads=config.heads, points=config.points)
        self.self_attention = nn.MultiheadAttention(
            channels, config.heads, dropout=config.dropout, batch_first=True, bias=True
        )
        self.norms = nn.ModuleList(nn.LayerNorm(channels) for _ in range(3))
        self.feedforward = feedforward(channels, config.hidden, config.dropout)
        self.dropout = nn.Dropout(config.dropout)
        self.label_heads = nn.ModuleList(nn.Linear(channels, count + 1) for count in self.groups.counts)
        self.mask_head = nn.Sequential(
            nn.Linear(channels, config.hidden),
            nn.ReLU(inplace=True),
            nn.Linear(config.hidden, config.hidden),
            nn.ReLU(inplace=True),
            nn.Linear(config.hidden, channels),
        )

    def forward(self, compact: Float[Tensor, "B c x y z"]) -> ObjectQueries:
        """Answer for a compact volume; all groups in training, the first one otherwise."""
        batch, groups = len(compact), len(self.label_heads) if self.training else 1
        count = groups * self.config.queries
        queries, position = (part[:count].expand(batch, -1, -1) for part in (self.query_embedding, self.query_position))
        references = self.reference(position).sigmoid()
        looked = self.cross_attention(queries + position, references, self.project(compact))
        queries = self.norms[0](queries + self.dropout(looked))
        queries = self.norms[1](queries + self.dropout(self._attend(queries, position, groups)))
        queries = self.norms[2](queries + self.feedforward(queries))
        scores = tuple(head(part) for head, part in zip(self.label_heads, queries.chunk(groups, dim=1), strict=False))
        return ObjectQueries(self.mask_head(queries), scores)

    def _attend(self, queries_BQC: Tensor, position_BQC: Tensor, groups: int) -> Tensor:
        """Self-attention within each group, as if the groups were samples."""
        batch = len(queries_BQC)
        queries, position = (part.unflatten(1, (groups, -1)).flatten(0, 1) for part in (queries_BQC, position_BQC))
        placed = queries + position
        attended = self.self_attention(placed, placed, queries, need_weights=False)[0]
        return attended.unflatten(0, (batch, groups)).flatten(1, 2)

    def losses(
        self, objects: ObjectQueries, features: list[Tensor], labels: list[Tensor]
    ) -> dict[str, Float[Tensor, ""]]:
        """The weighted terms, means over the batch: the first group's, and the mean of the other groups' beside it.

        The objects of a sample are the labels that its observed voxels have, free space too; each is matched with one
        query. Queries without an object, and the one of free space, are taught the last label.

        Args:
            objects: What `forward` answered.
            features: "V C" of the observed voxels, one a sample.
            labels: Dense class ids "V" of the same voxels.
        """
        config, groups, zero = self.config, len(objects.scores), objects.embeddings.new_zeros((), dtype=torch.float32)
        totals = {"labels": zero, "focal": zero, "dice": zero}
        for sample, (of_voxels, classes) in enumerate(zip(features, labels, strict=True)):
            embeddings = _precise(objects.embeddings[sample])
            of_voxels = _precise(of_voxels)
            sums = mask_sums(embeddings, of_voxels, classes, len(self.groups.tables[0]))
            for group, part in enumerate(embeddings.chunk(groups)):
                share = 1 / len(features) / (1 if group == 0 else groups - 1)
                scores = _precise(objects.scores[group][sample])
                terms = self._sample_losses(group, part, scores, sums, of_voxels, classes)
                for name, term in zip(totals, terms, strict=True):
                    totals[name] = totals[name] + share * term
        weights = (config.label_weight, config.focal_weight, config.dice_weight)
        return {name: weight * total for (name, total), weight in zip(totals.items(), weights, strict=True)}

    def _sample_losses(
        self,
        group: int,
        embeddings_QC: Tensor,
        scores_QL: Tensor,
        sums: MaskSums,
        features_VC: Tensor,
        classes_V: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Of labels, focal and dice of one sample's queries of one group."""
        members = self.groups.members(group, device=classes_V.device)
        chosen = slice(group * self.config.queries, (group + 1) * self.config.queries)
        own = MaskSums(sums.inside[chosen], sums.outside[chosen], sums.probability[chosen], sums.voxels)
        queries, objects = self.match(scores_QL, own, members)
        truth = torch.full((len(scores_QL),), members.shape[1] - 1, device=classes_V.device)
        truth[queries] = objects
        weights = scores_QL.new_ones(members.shape[1])
        weights[-1] = self.config.no_object_weight
        logits = embeddings_QC.index_select(0, queries) @ features_VC.T
        masks = members.T.index_select(0, objects).index_select(1, classes_V)
        return F.cross_entropy(scores_QL, truth, weight=weights), focal_loss(logits, masks), dice_loss(logits, masks)

    def paint(
        self, objects: ObjectQueries, sample: int, features: Iterator[Tensor], dense: Int64[Tensor, " V"]
    ) -> Int64[Tensor, " V"]:
        """The dense branch's classes; where it sees free space, those of masks that may be painted.

        Args:
            objects: What `forward` answered.
            sample: Index in the batch.
            features: "V C" of all voxels in their order, some at a time; not touched if no mask is sure of its label.
            dense: Classes of the dense branch.
        """
        claimed = claims(objects, sample, features, self.config)
        if claimed is None:
            return dense
        painted = paint(claimed, self.groups, self.empty, self.config)
        may = torch.isin(painted, torch.tensor(self.config.painted, device=painted.device))
        return torch.where((dense == self.empty) & may, painted, dense)

    @torch.no_grad()
    def match(
        self, scores: Float[Tensor, "Q L"], sums: MaskSums, members: Bool[Tensor, "K L"]
    ) -> tuple[Int64[Tensor, " P"], Int64[Tensor, " P"]]:
        """Pair each label that some voxel has with the query that fits it best, all pairs together at the least cost.

        Args:
            scores: Logits of the labels.
            sums: Of the masks of the same queries.
            members: Which classes the labels stand for.

        Returns:
            Queries in rising order, and the label of each.
        """
        config = self.config
        present = (sums.voxels @ members.to(sums.voxels)).nonzero()[:, 0]
        cost = config.focal_weight * sums.focal(members) + config.dice_weight * sums.dice(members)
        cost = (cost - config.label_weight * scores.softmax(dim=1)).index_select(1, present)
        # What is no number is left to the losses, which the training loop looks at.
        queries, labels = assign(cost.nan_to_num(0, 0, 0).double().cpu().numpy())
        return torch.from_numpy(queries).to(present), present[torch.from_numpy(labels).to(present)]


@dataclass(frozen=True)
class Claims:
    """The masks that are sure enough of a label, and what they claim of a sample's voxels."""

    labels: tuple[int, ...]
    """Label of each mask, in the order of the queries."""
    occupied: Bool[Tensor, "N V"]
    """Where a mask is probable enough."""
    winner: Int64[Tensor, " V"]
    """The mask whose probability times its label's is the highest."""


def claims(objects: ObjectQueries, sample: int, features: Iterator[Tensor], config: GroupConfig) -> Claims | None:
    """What the first group's queries claim; None where no query is sure of a label.

    Args:
        objects: What the decoder answered.
        sample: Index in the batch.
        features: "V C", a few voxels at a time; not touched if there is nothing to claim.
        config: The thresholds.
    """
    score, label = _precise(objects.scores[0][sample]).softmax(dim=-1).max(dim=-1)
    kept = ((label < objects.scores[0].shape[-1] - 1) & (score > config.score_threshold)).nonzero()[:, 0]
    if not len(kept):
        return None
    embeddings = _precise(objects.embeddings[sample].index_select(0, kept))
    score, occupied, winner = score.index_select(0, kept)[:, None], [], []
    for chunk in features:
        probability = (embeddings @ _precise(chunk).T).sigmoid()
        occupied.append(probability >= config.mask_threshold)
        winner.append((score * probability).argmax(dim=0))
    labels = tuple(label.index_select(0, kept).tolist())
    return Claims(labels, torch.cat(occupied, dim=1), torch.cat(winner))


def paint(claimed: Claims, groups: LabelGroups, empty: int, config: GroupConfig) -> Int64[Tensor, " V"]:
    """The class that masks give each voxel, the empty one where they give none; later masks paint over earlier ones.

    A mask is left out if others win too much of it. Where it wins more than it is sure of, it paints what it is sure
    of; a class that is not among `painted`, such as ground, paints what it wins, unless that is more than three times
    as much. These are the rules of the released code.
    """
    painted = torch.full_like(claimed.winner, empty)
    for number, label in enumerate(claimed.labels):
        kind = groups.classes[label]
        won, sure = claimed.winner == number, claimed.occupied[number]
        wins, area = int(won.sum()), int(sure.sum())
        if not wins or not area or wins < config.overlap_threshold * area:
            continue
        if wins <= area:
            painted[won | sure] = kind
        elif kind in config.painted or wins > 3 * area:
            painted[sure] = kind
        else:
            painted[won] = kind
    return painted


def _precise(tensor: Tensor) -> Tensor:
    """In float32 or finer: losses sum over many voxels."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
