"""Dr.Occ: depth- and region-guided refinement of a coarse volume (Zhu et al., CVPR 2026). See docs/models/drocc.md.

Depth prior -> geometry-aware occupancy mask (Eq. 1-3); coarse volume and mask -> D2-VFormer, stages 2 and 3 (Eq. 4-6)
-> R-EFormer (Eq. 7-10) or R2-EFormer (Eq. 11, 12). What makes the coarse volume stands elsewhere: these parts go with
any model that has a volume and image features. No code was ever released: the equations are the specification, and
docs/models/drocc.md lists what they leave open.

Suffixes: B batch, N cameras, C channels, h w feature pixels, Q queries, one a coarse voxel in C order, R reference
points of a query, M regions.
"""

from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from occloom.errors import InputError
from occloom.geometry.precision import full_precision
from occloom.grid import VoxelGrid
from occloom.interfaces import Needs
from occloom.lifting.cross_attention import DeformableCrossAttention, ReferencePoints, project_references
from occloom.lifting.prior_features import StandInFeatures
from occloom.lifting.proposals import depth_proposals
from occloom.ops.post_norm import PostNormLayer
from occloom.scene import DepthPrior, Scene
from occloom.voxel.positions import AxisPositions

REFERENCES = 4
"""Reference points of a query (N_ref of section 4.1)."""


@dataclass(frozen=True)
class RegionExpertsConfig:
    """R-EFormer: an expert a region of height and distance. The defaults are the paper's regions."""

    heights: tuple[float, ...] = (0.2, 2.2)
    """Borders between regions, in metres above the ego frame's origin; a border belongs to the upper region."""
    distances: tuple[float, ...] = (10.0, 30.0)
    """Borders between regions, in metres from the ego frame's origin in the ground plane."""
    chosen: int = 6
    """K: regions whose experts work, of all (Eq. 8)."""

    def __post_init__(self) -> None:
        for name, borders in (("heights", self.heights), ("distances", self.distances)):
            if list(borders) != sorted(set(borders)):
                raise InputError(f"{name} is {borders}", rule="borders increase")
        if not 1 <= self.chosen <= self.count:
            raise InputError(f"chosen is {self.chosen}", rule=f"1 to {self.count}, the number of regions")

    @property
    def count(self) -> int:
        """M: regions."""
        return (len(self.heights) + 1) * (len(self.distances) + 1)


@dataclass(frozen=True)
class RecursiveExpertConfig:
    """R2-EFormer: one expert, again and again on fewer voxels. The default is the paper's."""

    shares: tuple[float, ...] = (1.0, 0.75, 0.5)
    """Of all voxels that each iteration refines."""

    def __post_init__(self) -> None:
        falling = all(a > b for a, b in zip(self.shares, self.shares[1:], strict=False))
        if not self.shares or self.shares[0] != 1 or not falling or self.shares[-1] <= 0:
            raise InputError(f"shares is {self.shares}", rule="they begin with 1 and fall, and none is 0")


@dataclass(frozen=True)
class ModelFeatures:
    """F^(D) of a depth model, read with the prior."""

    channels: int = 384
    """Of the features; MoGe-2 ViT-S has 384."""


@dataclass(frozen=True)
class StandIn:
    """F^(D) of a small network on the prior's depth, trained along: where no depth model is at hand."""

    channels: int = 64
    """Of the features."""


@dataclass(frozen=True)
class RefinementConfig:
    """D2-VFormer and what refines its voxels further. The defaults are the paper's, with R2-EFormer."""

    heads: int = 8
    """Of all attention."""
    feedforward: int = 512
    """Hidden channels behind each attention."""
    dropout: float = 0.1
    """In attention and behind it."""
    dilation: int = 0
    """Coarse voxels by which the occupancy mask grows in every direction."""
    unmasked: Literal["replace", "keep", "add"] = "replace"
    """What voxels outside the mask become: the empty embedding (Eq. 5), what they were, or the sum of both."""
    guide: Literal["depth", "image", "none"] = "depth"
    """What voxels in the mask look at in Eq. 5: the prior's features; the image's, as a control; nothing, which leaves
    the mask alone."""
    depth_features: ModelFeatures | StandIn = ModelFeatures()
    """Where the prior's features come from."""
    experts: RegionExpertsConfig | RecursiveExpertConfig | None = RecursiveExpertConfig()
    """What follows D2-VFormer; None for nothing."""

    def __post_init__(self) -> None:
        if min(self.heads, self.feedforward) < 1 or self.dilation < 0:
            raise InputError(
                f"heads is {self.heads}, feedforward {self.feedforward}, dilation {self.dilation}",
                rule="heads and feedforward are at least 1, dilation at least 0",
            )

    @property
    def needs(self) -> Needs:
        """What it looks at."""
        features = self.guide == "depth" and isinstance(self.depth_features, ModelFeatures)
        return Needs(images=True, prior_depth=True, prior_features=features)

    def build(self, *, volume_channels: int, image_channels: int, grid: VoxelGrid) -> "VolumeRefinement":
        """Make the refinement of a coarse volume, with random weights."""
        return VolumeRefinement(self, volume_channels=volume_channels, image_channels=image_channels, grid=grid)


# --- the occupancy mask ----------------------------------------------------------------------------------------------


def occupancy_mask(
    prior: DepthPrior, camera_from_ego: Float[Tensor, "B N 4 4"], valid: Bool[Tensor, "B N"], grid: VoxelGrid
) -> Bool[Tensor, "B X Y Z"]:
    """Voxels in which a pixel of the prior lies (Eq. 1-3).

    A coarse voxel holds a pixel where one of its fine voxels does: for a coarse grid this is M_down, the maximum of M
    over blocks.

    Args:
        prior: Pixels of unknown depth mark nothing.
        camera_from_ego: From the present ego frame, mirrored or not.
        valid: False for cameras whose picture is missing.
        grid: Of the labels for M, of the coarse volume for M_down.
    """
    depth = torch.where(valid[..., None, None], prior.depth, 0)
    return depth_proposals(depth, prior.intrinsics, camera_from_ego, grid)


def grown(mask: Bool[Tensor, "B X Y Z"], voxels: int) -> Bool[Tensor, "B X Y Z"]:
    """The mask and what lies at most some voxels from it, along all axes at once."""
    if not voxels:
        return mask
    return F.max_pool3d(mask[:, None].float(), 2 * voxels + 1, stride=1, padding=voxels)[:, 0] > 0


# --- where queries look ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class View:
    """Feature maps of all cameras, and where the queries lie in them."""

    references: ReferencePoints
    """R = 4 a query."""
    features: Float[Tensor, "B N C h w"]


def quarter_centres(grid: VoxelGrid, *, device: torch.device | str = "cpu") -> Float[Tensor, "Q 4 3"]:
    """Centres of the four quarters of each voxel seen from above, in the ego frame: -x -y, -x +y, +x -y, +x +y."""
    quarter = [[sx * grid.voxel_size[0] / 4, sy * grid.voxel_size[1] / 4, 0.0] for sx in (-1, 1) for sy in (-1, 1)]
    return grid.centres(device=device).view(-1, 1, 3) + torch.tensor(quarter, device=device)


def image_view(scene: Scene, points: Float[Tensor, "Q R 3"], features: Float[Tensor, "B N C h w"], stride: int) -> View:
    """The present pictures.

    Args:
        scene: Its cameras at t = 0; those whose picture is missing see nothing.
        points: Reference points of each query in the ego frame.
        features: Of the pictures.
        stride: Image pixels a feature pixel.
    """
    # What the feature map covers: its last cells may reach beyond the picture.
    size = (features.shape[-2] * stride, features.shape[-1] * stride)
    return _view(scene, points, features, scene.cameras.intrinsics[:, 0], size)


def prior_view(scene: Scene, points: Float[Tensor, "Q R 3"], features: Float[Tensor, "B N F h w"]) -> View:
    """What the depth model saw: the whole pictures, which were only resized; its features cover all of them."""
    assert scene.prior is not None, "needs asks for the prior"
    size = (scene.prior.depth.shape[-2], scene.prior.depth.shape[-1])
    return _view(scene, points, features, scene.prior.intrinsics, size)


def _view(scene: Scene, points: Tensor, features: Tensor, intrinsics: Tensor, size: tuple[int, int]) -> View:
    points = points.to(intrinsics.dtype).expand(scene.batch_size, -1, -1, -1)
    # Attention in the plane does not use the depth, so its borders are of no matter.
    seen = project_references(points, intrinsics, scene.cameras.camera_from_ego[:, 0], size, near=0.0, far=1.0)
    return View(replace(seen, visible=seen.visible & scene.camera_present[:, :, None, None]), features)


# --- attention -------------------------------------------------------------------------------------------------------


class CrossAttentionBlock(PostNormLayer):
    """DCA of all equations: attention into the cameras, then a small network; each added and normalised.

    Queries that it does not concern, or that no camera sees, stay exactly what they are; only the others cost time.
    """

    def __init__(self, channels: int, *, heads: int, feedforward: int, dropout: float) -> None:
        """Make the block; each reference point has one sample a head.

        Raises:
            InputError: If the heads do not divide the channels.
        """
        super().__init__(channels, hidden=feedforward, dropout=dropout)
        self.attention = DeformableCrossAttention(channels, heads=heads, points=REFERENCES, references=REFERENCES)

    def forward(
        self, queries: Float[Tensor, "B Q C"], view: View, where: Bool[Tensor, "B Q"] | None = None
    ) -> Float[Tensor, "B Q C"]:
        """The queries, with those of `where` (all unless given) that a camera sees refined."""
        rows, refined = self.refine(queries, view, where)
        return put_rows(queries, rows, refined)

    def refine(
        self, queries: Float[Tensor, "B Q C"], view: View, where: Bool[Tensor, "B Q"] | None = None
    ) -> tuple[Int64[Tensor, " K"], Float[Tensor, "K C"]]:
        """The refined queries alone, and their flat indices sample * Q + query."""
        seen = view.references.visible.any(dim=-1).any(dim=1)
        active = seen if where is None else seen & where
        rows = active.flatten().nonzero()[:, 0]
        update = self.attention(queries, view.references, (view.features,), active)
        chosen, update = take_rows(queries, rows), take_rows(update, rows)
        return rows, self.settled(chosen, update)


def take_rows(queries: Float[Tensor, "B Q C"], rows: Int64[Tensor, " K"]) -> Float[Tensor, "K C"]:
    """Rows by flat index (index_select: its backward is deterministic on CPU)."""
    return queries.flatten(0, 1).index_select(0, rows)


def put_rows(
    queries: Float[Tensor, "B Q C"], rows: Int64[Tensor, " K"], new: Float[Tensor, "K C"]
) -> Float[Tensor, "B Q C"]:
    """The queries with the rows of some flat indices replaced."""
    # Normalisation leaves mixed precision on a GPU, linear layers do not.
    return queries.flatten(0, 1).index_copy(0, rows, new.to(queries.dtype)).view_as(queries)


class DualProjection(nn.Module):
    """D2-VFormer behind the forward projection: densify everywhere (Eq. 4), refine in the mask (Eq. 5, 6)."""

    def __init__(self, channels: int, *, depth_channels: int | None, config: RefinementConfig) -> None:
        """Make the stages.

        Args:
            channels: C, of queries and image features.
            depth_channels: Of the features that Eq. 5 looks at; None to leave that look out (the mask alone).
            config: Attention, and what becomes of voxels outside the mask.
        """
        super().__init__()
        self.unmasked = config.unmasked
        self.densify = _block(channels, config)
        self.depth_projection = self.refine_geometry = None
        if depth_channels is not None:
            self.depth_projection = nn.Sequential(nn.Linear(depth_channels, channels), nn.LayerNorm(channels))
            self.refine_geometry = _block(channels, config)
        self.empty = None if config.unmasked == "keep" else nn.Parameter(torch.empty(channels).normal_(std=0.02))
        self.refine_semantics = _block(channels, config)

    def forward(
        self, queries: Float[Tensor, "B Q C"], mask: Bool[Tensor, "B Q"], image: View, depth: View | None
    ) -> Float[Tensor, "B Q C"]:
        """F_out.

        Args:
            queries: Of the coarse volume, with their positions added.
            mask: M_down.
            image: F^(I) of the present pictures.
            depth: F^(D); None if and only if there are no `depth_channels`.
        """
        dense = self.densify(queries, image)  # Eq. 4
        geometry = dense
        if self.refine_geometry is not None and self.depth_projection is not None:
            assert depth is not None, "depth_channels promise a view"
            projected = self.depth_projection(depth.features.movedim(2, -1)).movedim(-1, 2)
            geometry = self.refine_geometry(dense, View(depth.references, projected), mask)
        return self.refine_semantics(self._outside(geometry, dense, mask), image, mask)  # Eq. 6

    def _outside(self, geometry: Tensor, dense: Tensor, mask: Tensor) -> Tensor:
        """The second line of Eq. 5."""
        if self.empty is None:
            return geometry
        empty = self.empty.to(dense.dtype)
        return torch.where(mask[..., None], geometry, empty if self.unmasked == "replace" else dense + empty)


# --- experts ---------------------------------------------------------------------------------------------------------


def region_masks(grid: VoxelGrid, config: RegionExpertsConfig) -> Bool[Tensor, "M Q"]:
    """Which voxels belong to each region, by their centres: the lowest regions first, of these the nearest first.

    Raises:
        InputError: If a region holds no voxel.
    """
    # Rounded, since borders may lie on centres: -1 + 1.5 * 0.8 is not 0.2 in floating point.
    centres = grid.centres(dtype=torch.float64, device="cpu").view(-1, 3).round(decimals=6)
    height = torch.bucketize(centres[:, 2].contiguous(), centres.new_tensor(config.heights), right=True)
    distance = torch.bucketize(centres[:, :2].norm(dim=1), centres.new_tensor(config.distances), right=True)
    region = height * (len(config.distances) + 1) + distance
    masks = region == torch.arange(config.count, device=region.device)[:, None]
    if not masks.any(dim=1).all():
        raise InputError(
            f"a region of heights {config.heights} and distances {config.distances} holds no voxel",
            rule=f"the grid reaches from {grid.lower} to {grid.upper} m",
            remedy="move the borders into the grid",
        )
    return masks


class RegionExperts(nn.Module):
    """R-EFormer: regions are scored, and the experts of the best ones refine their voxels (Eq. 7-10).

    Read so that a region which was not chosen keeps its features, and one of average weight has its expert's.
    """

    regions: Tensor

    def __init__(
        self, channels: int, *, grid: VoxelGrid, regions: RegionExpertsConfig, config: RefinementConfig
    ) -> None:
        """Make the experts.

        Args:
            channels: C.
            grid: Of the coarse volume.
            regions: Where they are, and how many are chosen.
            config: Attention.
        """
        super().__init__()
        self.chosen = regions.chosen
        masks = region_masks(grid, regions).to(torch.get_default_device())
        self.register_buffer("regions", masks, persistent=False)
        # Neither the choice nor the softmax sees a bias of all scores.
        self.router = nn.Sequential(
            nn.LayerNorm(channels),
            nn.Linear(channels, channels // 4),
            nn.ReLU(inplace=True),
            nn.Linear(channels // 4, 1, bias=False),
        )
        self.experts = nn.ModuleList(_block(channels, config) for _ in range(regions.count))

    def forward(self, queries: Float[Tensor, "B Q C"], image: View) -> Float[Tensor, "B Q C"]:
        """F_final."""
        weights_BM = self.weights(queries)
        chosen_BM = weights_BM > 0
        rows, updates = [], []
        for m, expert in enumerate(self.experts):
            assert isinstance(expert, CrossAttentionBlock), "as made above"
            where = self.regions[m] & chosen_BM[:, m : m + 1]
            index, refined = expert.refine(queries, image, where)
            weight = weights_BM[:, m].index_select(0, index // queries.shape[1])
            rows.append(index)
            updates.append(weight[:, None] * (refined - take_rows(queries, index)))
        # Regions are disjoint, so no row comes twice.
        total = queries.flatten(0, 1).index_add(0, torch.cat(rows), torch.cat(updates).to(queries.dtype))
        return total.view_as(queries)

    def weights(self, queries: Float[Tensor, "B Q C"]) -> Float[Tensor, "B M"]:
        """w: over the K chosen regions a softmax of their scores, times K; 0 for the others."""
        # Means over thousands of voxels, and a choice between them: not in half precision.
        with full_precision(queries.device.type):
            queries = queries.to(torch.promote_types(queries.dtype, torch.float32))
            regions = self.regions.to(queries.dtype)
            means = (regions @ queries) / regions.sum(dim=1)[:, None]
            scores = self.router(means)[..., 0]  # Eq. 7
            best = scores.topk(self.chosen, dim=1)  # Eq. 8
            weights = best.values.softmax(dim=1) * self.chosen
            return torch.zeros_like(scores).scatter(1, best.indices, weights)


class RecursiveExpert(nn.Module):
    """R2-EFormer: one expert refines all voxels, then those that a router chooses among the last ones (Eq. 11, 12).

    A router's choice has no gradient; its score, from 0 to 1, scales what the expert changes, and so learns.
    """

    def __init__(self, channels: int, *, recursion: RecursiveExpertConfig, config: RefinementConfig) -> None:
        """Make the expert and a router for each iteration but the first.

        Args:
            channels: C.
            recursion: Iterations.
            config: Attention.
        """
        super().__init__()
        self.shares = recursion.shares
        self.expert = _block(channels, config)
        self.routers = nn.ModuleList(nn.Linear(channels, 1) for _ in self.shares[1:])

    def forward(self, queries: Float[Tensor, "B Q C"], image: View) -> Float[Tensor, "B Q C"]:
        """F^(n)."""
        return self.with_masks(queries, image)[0]

    def with_masks(
        self, queries: Float[Tensor, "B Q C"], image: View
    ) -> tuple[Float[Tensor, "B Q C"], list[Bool[Tensor, "B Q"]]]:
        """`forward`, and the voxels of each iteration, each a part of the one before."""
        masks = [torch.ones(queries.shape[:2], dtype=torch.bool, device=queries.device)]
        queries = self.expert(queries, image)
        for router, share in zip(self.routers, self.shares[1:], strict=True):
            scores = router(queries)[..., 0]
            count = round(share * queries.shape[1])
            best = scores.masked_fill(~masks[-1], -torch.inf).topk(count, dim=1).indices
            masks.append(torch.zeros_like(masks[-1]).scatter(1, best, True))  # Eq. 11
            rows, refined = self.expert.refine(queries, image, masks[-1])  # Eq. 12
            old, gate = take_rows(queries, rows), scores.flatten().index_select(0, rows).sigmoid()[:, None]
            queries = put_rows(queries, rows, old + gate * (refined - old))
        return queries, masks


def _block(channels: int, config: RefinementConfig) -> CrossAttentionBlock:
    return CrossAttentionBlock(channels, heads=config.heads, feedforward=config.feedforward, dropout=config.dropout)


# --- a volume refined ------------------------------------------------------------------------------------------------


class VolumeRefinement(nn.Module):
    """A coarse volume to queries, D2-VFormer, experts, and back to a volume."""

    def __init__(self, config: RefinementConfig, *, volume_channels: int, image_channels: int, grid: VoxelGrid) -> None:
        """Make the refinement.

        Args:
            config: Parts.
            volume_channels: Of the volume, before and after.
            image_channels: Of the image features; also C, the width of all attention.
            grid: Of the coarse volume.

        Raises:
            InputError: If heads do not divide the width, or a region holds no voxel.
        """
        super().__init__()
        channels = image_channels
        self.config, self.grid = config, grid
        self.embed = nn.Linear(volume_channels, channels)
        self.positions = AxisPositions(channels, grid.shape)
        self.stand_in = None
        if config.guide == "depth" and isinstance(config.depth_features, StandIn):
            self.stand_in = StandInFeatures(config.depth_features.channels)
        looked_at = {"depth": config.depth_features.channels, "image": image_channels, "none": None}
        self.dual_projection = DualProjection(channels, depth_channels=looked_at[config.guide], config=config)
        self.experts = None
        if isinstance(config.experts, RegionExpertsConfig):
            self.experts = RegionExperts(channels, grid=grid, regions=config.experts, config=config)
        elif isinstance(config.experts, RecursiveExpertConfig):
            self.experts = RecursiveExpert(channels, recursion=config.experts, config=config)
        self.project = nn.Linear(channels, volume_channels)

    def forward(
        self,
        scene: Scene,
        volume: Float[Tensor, "B V x y z"],
        features: Float[Tensor, "B N C h w"],
        stride: int,
    ) -> Float[Tensor, "B V x y z"]:
        """F_final.

        Args:
            scene: Cameras and prior.
            volume: F_down.
            features: F^(I) of the present pictures.
            stride: Image pixels a feature pixel.
        """
        points = quarter_centres(self.grid, device=volume.device)
        image = image_view(scene, points, features, stride)
        queries = self.embed(volume.flatten(2).mT) + self.positions()
        queries = self.dual_projection(queries, self.mask(scene).flatten(1), image, self._depth(scene, points, image))
        if self.experts is not None:
            queries = self.experts(queries, image)
        return self.project(queries).mT.unflatten(2, self.grid.shape)

    def mask(self, scene: Scene) -> Bool[Tensor, "B x y z"]:
        """M_down, as grown as the configuration has it."""
        assert scene.prior is not None, "needs asks for the prior"
        coarse = occupancy_mask(scene.prior, scene.cameras.camera_from_ego[:, 0], scene.camera_present, self.grid)
        return grown(coarse, self.config.dilation)

    def _depth(self, scene: Scene, points: Tensor, image: View) -> View | None:
        """What Eq. 5 looks at."""
        assert scene.prior is not None, "needs asks for the prior"
        if self.config.guide == "image":
            return image
        if self.config.guide == "none":
            return None
        features = scene.prior.features if self.stand_in is None else self.stand_in(scene.prior.depth)
        assert features is not None, "needs asks for the prior's features"
        return prior_view(scene, points, features)
