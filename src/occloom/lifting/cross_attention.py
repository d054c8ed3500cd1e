"""Queries look into the cameras that see them: deformable cross-attention, in the plane or with depth.

Each query brings reference points: its places in each camera. It looks around them, averages over the cameras that see
it, and projects (spatial cross-attention of Li et al., "BEVFormer", ECCV 2022, section 3.3; with depth as Li et al.,
"DFA3D", ICCV 2023, and VoxDet). `forward` computes only the (camera, query) pairs where there is something to see;
`dense` computes all of them to the same answer, in shapes that no input changes, which is what export needs.
"""

import math
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from occloom.errors import InputError
from occloom.geometry.precision import full_precision
from occloom.geometry.projection import project
from occloom.geometry.rigid import transform_points
from occloom.ops.deformable_attention import (
    deformable_attention,
    deformable_attention_3d,
    dense_deformable_attention,
    dense_deformable_attention_3d,
)

NEAREST = 1e-5
"""Metres in front of a camera from which on a point can be seen."""


@dataclass(frozen=True)
class ReferencePoints:
    """Where queries lie in the cameras: R points a query."""

    locations: Float[Tensor, "B N Q R 3"]
    """Fractions (u, v, depth): 0 and 1 are the outer borders of the picture and of the depth planes."""
    visible: Bool[Tensor, "B N Q R"]
    """Whether a camera sees a point; places of points that it does not see mean nothing."""


@dataclass(frozen=True)
class AttentionMaps:
    """Where the queries of each (camera, query) pair looked, and with which weight."""

    sample: Int64[Tensor, " P"]
    camera: Int64[Tensor, " P"]
    query: Int64[Tensor, " P"]
    locations: Float[Tensor, "P heads levels points axes"]
    """Fractions (u, v) or (u, v, depth)."""
    weights: Float[Tensor, "P heads levels points"]
    """They sum to 1 over levels and points, less those of points whose reference the camera does not see."""


@runtime_checkable
class PairGuide(Protocol):
    """What refines the queries of each image before they choose where to look; not what they carry on."""

    def __call__(self, queries: Float[Tensor, "M K C"], seen: Bool[Tensor, "M K"]) -> Float[Tensor, "M K C"]:
        """The queries that the offsets and weights of each image are made from.

        Args:
            queries: Those that each of the M = B N images sees, in their order, padded to one number K.
            seen: False for padding and, in the dense form, for queries that the image does not see: such rows must not
                count for others, and their answers are not used.
        """
        ...


def project_references(
    points_ego: Float[Tensor, "B Q R 3"],
    intrinsics: Float[Tensor, "B N 3 3"],
    camera_from_ego: Float[Tensor, "B N 4 4"],
    image_size: tuple[int, int],
    near: float,
    far: float,
) -> ReferencePoints:
    """Reference points of points in the ego frame.

    Args:
        points_ego: In metres, R a query, such as its voxel's centre.
        intrinsics: For pixels of images of `image_size`.
        camera_from_ego: From the ego frame to each camera's.
        image_size: H and W.
        near: Near border of the first depth plane, z-depth in metres: depth fraction 0.
        far: Far border of the last depth plane: depth fraction 1. Depth outside does not make a point invisible.
    """
    height, width = image_size
    with full_precision(points_ego.device.type):
        points = points_ego.flatten(1, 2)[:, None].expand(-1, intrinsics.shape[1], -1, -1)
        points_camera = transform_points(camera_from_ego, points)
        pixels, depth = project(points_camera, intrinsics)
        picture = (pixels + 0.5) / pixels.new_tensor((width, height))
        locations = torch.cat([picture, ((depth - near) / (far - near))[..., None]], dim=-1)
        inside = ((picture >= 0) & (picture < 1)).all(dim=-1)
    count = points_ego.shape[1:3]
    return ReferencePoints(locations.unflatten(2, count), (inside & (depth > NEAREST)).unflatten(2, count))


@dataclass(frozen=True)
class _Pairs:
    """The (camera, query) pairs to compute, ordered by sample, camera, query; K queries have at least one."""

    sample: Tensor
    camera: Tensor
    query: Tensor
    seen: Tensor
    """Flat index (sample * Q + query) of each of the K queries."""
    number: Tensor
    """Which of the K queries a pair belongs to."""
    image: Tensor
    """Flat index (sample * N + camera) of a pair's image."""


def _visible_pairs(references: ReferencePoints, where: Tensor) -> _Pairs:
    visible_BNQ = references.visible.any(dim=-1) & where[:, None]
    cameras, queries = visible_BNQ.shape[1:]
    sample, camera, query = visible_BNQ.nonzero().unbind(-1)
    seen = visible_BNQ.any(dim=1).flatten()
    number = (seen.cumsum(0) - 1).index_select(0, sample * queries + query)
    return _Pairs(sample, camera, query, seen.nonzero()[:, 0], number, sample * cameras + camera)


class _CrossAttention(nn.Module):
    """What both kinds share: projections, choice of pairs, and the mean over cameras."""

    def __init__(self, channels: int, heads: int, points: int, levels: int, references: int) -> None:
        super().__init__()
        if min(heads, points, levels, references) < 1 or channels % heads or points % references:
            raise InputError(
                f"{channels} channels for {heads} heads, {points} points for {references} references, {levels} levels",
                rule="all are at least 1, heads divide the channels, references divide the points",
                remedy="choose numbers that divide",
            )
        self.layout = (heads, levels, points)
        self.references = references
        self.sampling_offsets = nn.Linear(channels, heads * levels * points * 2)
        self.attention_weights = nn.Linear(channels, heads * levels * points)
        self.value_proj = nn.Linear(channels, channels)
        self.output_proj = nn.Linear(channels, channels)
        directions = _directions(heads)
        # On the border of a square, not of a circle.
        square = directions / directions.abs().amax(dim=1, keepdim=True)
        _look_around(self.sampling_offsets, square, levels, points, references)
        nn.init.zeros_(self.attention_weights.weight)
        nn.init.zeros_(self.attention_weights.bias)
        for projection in (self.value_proj, self.output_proj):
            nn.init.xavier_uniform_(projection.weight)
            nn.init.zeros_(projection.bias)

    def _offsets(self, queries_KC: Tensor, values: tuple[Tensor, ...]) -> Tensor:
        """Of the samples, as fractions of the image: "K heads levels points 2"."""
        sizes = queries_KC.new_tensor([(value.shape[-1], value.shape[-2]) for value in values])
        return self.sampling_offsets(queries_KC).view(-1, *self.layout, 2) / sizes[:, None]

    def _maps(
        self, queries_KC: Tensor, offsets_KHLPA: Tensor, number_P: Tensor, references: ReferencePoints, pairs: _Pairs
    ) -> AttentionMaps:
        """Where each pair looks; `number_P` says which of the queries is its own."""
        place = pairs.image * references.visible.shape[2] + pairs.query
        locations, weights = self._samples(
            references.locations.flatten(0, 2).index_select(0, place),
            references.visible.flatten(0, 2).index_select(0, place),
            offsets_KHLPA.index_select(0, number_P),
            self._weights(queries_KC).index_select(0, number_P),
        )
        return AttentionMaps(pairs.sample, pairs.camera, pairs.query, locations, weights)

    def _weights(self, queries_KC: Tensor) -> Tensor:
        """Of the samples: "K heads levels points"."""
        weights = self.attention_weights(queries_KC).view(-1, self.layout[0], self.layout[1] * self.layout[2])
        return weights.softmax(dim=-1).view(-1, *self.layout)

    def _samples(
        self, centres_R3: Tensor, visible_R: Tensor, offsets_HLPA: Tensor, weights_HLP: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Locations and weights of the samples of queries in cameras, whatever axes lead.

        Point p belongs to reference p % R. Those of unseen references weigh nothing, wherever they are.
        """
        centres = torch.where(visible_R[..., None], centres_R3[..., : offsets_HLPA.shape[-1]], 0)
        offsets = offsets_HLPA.unflatten(-2, (-1, self.references))
        weights = weights_HLP.unflatten(-1, (-1, self.references)) * visible_R[..., None, None, None, :]
        return (centres[..., None, None, None, :, :] + offsets).flatten(-3, -2), weights.flatten(-2)

    def _all_samples(
        self, queries_BnQC: Tensor, offsets_HLPA: Tensor, references: ReferencePoints
    ) -> tuple[Tensor, Tensor]:
        """Locations "M Q heads levels points axes" and weights of every query in every image; n is N, or 1 for all."""
        shape = queries_BnQC.shape[:3]
        offsets, weights = (
            part.unflatten(0, shape) for part in (offsets_HLPA, self._weights(queries_BnQC.flatten(0, 2)))
        )
        locations, weights = self._samples(references.locations, references.visible, offsets, weights)
        return locations.flatten(0, 1), weights.flatten(0, 1)

    def _project_values(self, values: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return tuple(self.value_proj(value.flatten(0, 1).permute(0, 2, 3, 1)).permute(0, 3, 1, 2) for value in values)

    def _update(self, looked_PC: Tensor, pairs: _Pairs, where: Tensor) -> Tensor:
        """Mean over the cameras of each query, projected; the bias alone where no camera sees a query of `where`."""
        total = looked_PC.new_zeros(len(pairs.seen), looked_PC.shape[1]).index_add(0, pairs.number, looked_PC)
        cameras = torch.bincount(pairs.number, minlength=len(pairs.seen))
        projected = self.output_proj(total / cameras[:, None])
        unseen = where.flatten()[:, None] * self.output_proj.bias.to(projected.dtype)
        return unseen.index_copy(0, pairs.seen, projected).view(*where.shape, projected.shape[1])

    def _update_all(self, looked_MQC: Tensor, references: ReferencePoints, where: Tensor) -> Tensor:
        """`_update` of what every query found in every image: zeros where the camera does not see it."""
        batch, cameras = references.visible.shape[:2]
        total = looked_MQC.unflatten(0, (batch, cameras)).sum(dim=1)
        seeing = references.visible.any(dim=-1).sum(dim=1)
        return self.output_proj(total / seeing.clamp(min=1)[..., None]) * where[..., None]


class DeformableCrossAttention(_CrossAttention):
    """Deformable cross-attention into the cameras that see a query, in the plane."""

    def __init__(self, channels: int, *, heads: int = 8, points: int = 8, levels: int = 1, references: int = 1) -> None:
        """Make the attention; at first each head looks in its own direction, point i of a reference at i + 1 cells.

        Args:
            channels: C, of queries and values.
            heads: They share the channels.
            points: Of each head in each level, shared out over the references.
            levels: Maps of each image.
            references: Reference points a query, R.

        Raises:
            InputError: Heads or points cannot be shared out.
        """
        super().__init__(channels, heads, points, levels, references)

    def forward(
        self,
        queries: Float[Tensor, "B Q C"],
        references: ReferencePoints,
        values: tuple[Float[Tensor, "B N C _ _"], ...],
        where: Bool[Tensor, "B Q"] | None = None,
        guide: PairGuide | None = None,
    ) -> Float[Tensor, "B Q C"]:
        """What is to be added to the queries.

        Args:
            queries: With whatever tells them apart added already.
            references: Where they are in the images; the depth fraction is not used.
            values: Maps of the images, one a level, with the embeddings of camera and level added already.
            where: Queries to compute, None for all; the cost falls with their number.
            guide: Refines the queries of each image before they choose where to look there; None leaves them.

        Returns:
            0 outside `where`. Queries in it that no camera sees get the bias of the projection.
        """
        return self.with_maps(queries, references, values, where, guide)[0]

    def with_maps(
        self,
        queries: Float[Tensor, "B Q C"],
        references: ReferencePoints,
        values: tuple[Float[Tensor, "B N C _ _"], ...],
        where: Bool[Tensor, "B Q"] | None = None,
        guide: PairGuide | None = None,
    ) -> tuple[Float[Tensor, "B Q C"], AttentionMaps]:
        """`forward`, and where the queries looked."""
        where = _everywhere(queries) if where is None else where
        pairs = _visible_pairs(references, where)
        with full_precision(queries.device.type):
            if guide is None:
                chosen, number = _chosen(queries, pairs), pairs.number
            else:
                chosen = _guided(guide, queries, pairs, images=math.prod(references.visible.shape[:2]))
                number = torch.arange(len(chosen), device=chosen.device)
            maps = self._maps(chosen, self._offsets(chosen, values), number, references, pairs)
        looked = deformable_attention(self._project_values(values), pairs.image, maps.locations, maps.weights)
        return self._update(looked, pairs, where), maps

    def dense(
        self,
        queries: Float[Tensor, "B Q C"],
        references: ReferencePoints,
        values: tuple[Float[Tensor, "B N C _ _"], ...],
        where: Bool[Tensor, "B Q"] | None = None,
        guide: PairGuide | None = None,
    ) -> Float[Tensor, "B Q C"]:
        """`forward` with static shapes: every query looks into every camera, seen or not, and all samples are held."""
        where = _everywhere(queries) if where is None else where
        with full_precision(queries.device.type):
            each = _precise(queries)[:, None]
            if guide is not None:
                seen = references.visible.any(dim=-1) & where[:, None]
                alone = each.expand(-1, seen.shape[1], -1, -1).flatten(0, 1)
                each = guide(alone, seen.flatten(0, 1)).unflatten(0, seen.shape[:2])
            offsets = self._offsets(each.flatten(0, 2), values)
            locations, weights = self._all_samples(each, offsets, references)
        projected = tuple(_precise(value) for value in self._project_values(values))
        looked = dense_deformable_attention(projected, locations, weights)
        return self._update_all(looked, references, where)


class DepthAwareCrossAttention(_CrossAttention):
    """Deformable cross-attention that also looks along depth: features count where their depth is probable."""

    def __init__(self, channels: int, *, heads: int = 8, points: int = 8, levels: int = 1, references: int = 1) -> None:
        """Make the attention; its arguments, and how it starts, are those of `DeformableCrossAttention`."""
        super().__init__(channels, heads, points, levels, references)
        self.sampling_offsets_depth = nn.Linear(channels, heads * levels * points)
        along = _directions(heads).mean(dim=1, keepdim=True)
        _look_around(self.sampling_offsets_depth, along, levels, points, references)

    def forward(
        self,
        queries: Float[Tensor, "B Q C"],
        references: ReferencePoints,
        values: tuple[Float[Tensor, "B N C _ _"], ...],
        depths: tuple[Float[Tensor, "B N _ _ _"], ...],
        where: Bool[Tensor, "B Q"] | None = None,
    ) -> Float[Tensor, "B Q C"]:
        """What is to be added to the queries.

        Args:
            queries: With whatever tells them apart added already.
            references: Where they are in the images and among the depth planes.
            values: Maps of the images, one a level, with the embeddings of camera and level added already.
            depths: Probability of each depth plane "B N D h w", one map a level.
            where: Queries to compute, None for all; the cost falls with their number.

        Returns:
            0 outside `where`. Queries in it that no camera sees get the bias of the projection.
        """
        return self.with_maps(queries, references, values, depths, where)[0]

    def with_maps(
        self,
        queries: Float[Tensor, "B Q C"],
        references: ReferencePoints,
        values: tuple[Float[Tensor, "B N C _ _"], ...],
        depths: tuple[Float[Tensor, "B N _ _ _"], ...],
        where: Bool[Tensor, "B Q"] | None = None,
    ) -> tuple[Float[Tensor, "B Q C"], AttentionMaps]:
        """`forward`, and where the queries looked."""
        where = _everywhere(queries) if where is None else where
        pairs = _visible_pairs(references, where)
        with full_precision(queries.device.type):
            chosen = _chosen(queries, pairs)
            maps = self._maps(chosen, self._offsets_3d(chosen, values, depths), pairs.number, references, pairs)
        projected, flat_depths = self._project_values(values), tuple(depth.flatten(0, 1) for depth in depths)
        looked = deformable_attention_3d(projected, flat_depths, pairs.image, maps.locations, maps.weights)
        return self._update(looked, pairs, where), maps

    def dense(
        self,
        queries: Float[Tensor, "B Q C"],
        references: ReferencePoints,
        values: tuple[Float[Tensor, "B N C _ _"], ...],
        depths: tuple[Float[Tensor, "B N _ _ _"], ...],
        where: Bool[Tensor, "B Q"] | None = None,
    ) -> Float[Tensor, "B Q C"]:
        """`forward` with static shapes: every query looks into every camera, and features times depths are held."""
        where = _everywhere(queries) if where is None else where
        with full_precision(queries.device.type):
            queries = _precise(queries)
            offsets = self._offsets_3d(queries.flatten(0, 1), values, depths)
            locations, weights = self._all_samples(queries[:, None], offsets, references)
        projected = tuple(_precise(value) for value in self._project_values(values))
        flat_depths = tuple(_precise(depth.flatten(0, 1)) for depth in depths)
        looked = dense_deformable_attention_3d(projected, flat_depths, locations, weights)
        return self._update_all(looked, references, where)

    def _offsets_3d(self, queries_KC: Tensor, values: tuple[Tensor, ...], depths: tuple[Tensor, ...]) -> Tensor:
        """`_offsets` with those along the depth planes: "K heads levels points 3"."""
        planes = queries_KC.new_tensor([depth.shape[2] for depth in depths])
        along = self.sampling_offsets_depth(queries_KC).view(-1, *self.layout) / planes[:, None]
        return torch.cat([self._offsets(queries_KC, values), along[..., None]], dim=-1)


def _everywhere(queries: Tensor) -> Tensor:
    return torch.ones(queries.shape[:2], dtype=torch.bool, device=queries.device)


def _chosen(queries: Tensor, pairs: _Pairs) -> Tensor:
    """The K queries that have something to see, in full precision."""
    return _precise(queries.flatten(0, 1).index_select(0, pairs.seen))


def _guided(guide: PairGuide, queries: Tensor, pairs: _Pairs, *, images: int) -> Tensor:
    """The query of each pair, refined among those that its image sees: "P C"."""
    counts = torch.bincount(pairs.image, minlength=images)
    most = int(counts.max()) if images else 0
    # Pairs are ordered by image, so a pair's place in its image is how many came after the image's first.
    slot = torch.arange(len(pairs.image), device=counts.device) - (counts.cumsum(0) - counts)[pairs.image]
    place = pairs.image * most + slot
    gathered = _precise(queries.flatten(0, 1).index_select(0, pairs.sample * queries.shape[1] + pairs.query))
    padded = gathered.new_zeros(images * most, gathered.shape[1]).index_copy(0, place, gathered)
    seen = torch.zeros(images * most, dtype=torch.bool, device=place.device).index_fill(0, place, True)
    refined = guide(padded.unflatten(0, (images, most)), seen.unflatten(0, (images, most)))
    return refined.flatten(0, 1).index_select(0, place)


def _precise(tensor: Tensor) -> Tensor:
    """In float32 or finer."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _directions(heads: int) -> Float[Tensor, "heads 2"]:
    """Cosine and sine of one direction a head."""
    angles = torch.arange(heads) * (2 * math.pi / heads)
    return torch.stack([angles.cos(), angles.sin()], dim=-1)


def _look_around(
    offsets: nn.Linear, directions: Float[Tensor, "heads axes"], levels: int, points: int, references: int
) -> None:
    """Start each head in its direction, whatever the query: point i of a reference at i + 1 cells."""
    steps = (torch.arange(points) // references + 1)[:, None]
    nn.init.zeros_(offsets.weight)
    with torch.no_grad():
        offsets.bias.copy_((directions[:, None, None] * steps).expand(-1, levels, -1, -1).flatten())
