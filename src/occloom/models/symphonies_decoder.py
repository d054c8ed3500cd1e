"""Symphonies' decoder: rounds of questions between instance queries, a picture and all voxels of a scene.

In each round queries look into the picture, voxels in view attend to the queries, voxels look at the scene around them,
queries look at the scene and attend to one another (Jiang et al., CVPR 2024, section 3.3; reference monoocc 8). The
scene's own attention is two-dimensional: the volume is laid out as a plane.

Suffixes: B batch, C channels, V voxels, Q queries, R rows attended to, X Y Z voxels of the volume.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from occloom.errors import InputError
from occloom.grid import Shape, VoxelGrid
from occloom.heads.trilinear import TrilinearScores
from occloom.lifting.cross_attention import DeformableCrossAttention, PairGuide, ReferencePoints
from occloom.lifting.proposals import put_rows, ragged_to_padded, take_rows


@dataclass(frozen=True)
class SceneDecoderConfig:
    """Sizes of the decoder. The defaults are the released ones."""

    channels: int = 128
    """C: of scene and queries."""
    layers: int = 3
    """Rounds."""
    heads: int = 8
    """Of every attention."""
    image_points: int = 4
    """That a head samples in each level of the picture."""
    scene_points: int = 8
    """That a head samples in the scene."""
    enlargements: tuple[Shape, ...] = ((1, 1, 2), (2, 2, 2))
    """Transposed convolutions of the head, by how much each enlarges; scores are interpolated for the rest."""
    deviation: float = 1.0
    """Of the voxels' embeddings at first: the smaller, the sooner what is seen outweighs what chance put there."""

    def __post_init__(self) -> None:
        sizes = (self.layers, self.heads, self.image_points, self.scene_points)
        if min(sizes) < 1 or self.channels % (2 * self.heads):
            raise InputError(
                f"{self.channels} channels, layers, heads and points are {sizes}",
                rule="all are at least 1, and twice the heads divides the channels",
            )

    def left_factors(self, factors: Shape) -> Shape:
        """Voxels of the full grid in a voxel of the head's scores.

        Args:
            factors: Voxels of the full grid in a voxel of the volume.

        Raises:
            InputError: If the enlargements are not parts of the factors.
        """
        left = list(factors)
        for step in self.enlargements:
            for axis, factor in enumerate(step):
                if factor < 1 or left[axis] % factor:
                    raise InputError(
                        f"enlargements is {self.enlargements} and volume_coarsening {factors}",
                        rule="what all enlargements amount to divides the coarsening",
                    )
                left[axis] //= factor
        return (left[0], left[1], left[2])


def mlp(channels: int) -> nn.Sequential:
    """Four times as wide inside."""
    return nn.Sequential(nn.Linear(channels, 4 * channels), nn.GELU(), nn.Linear(4 * channels, channels))


class DeformableBlock(nn.Module):
    """Normalise, look at maps, add; with a small network the same again."""

    def __init__(self, channels: int, *, heads: int, points: int, levels: int = 1, network: bool = True) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.attention = DeformableCrossAttention(channels, heads=heads, points=points, levels=levels)
        self.network = nn.Sequential(nn.LayerNorm(channels), *mlp(channels)) if network else None

    def forward(
        self,
        queries: Float[Tensor, "B Q C"],
        references: ReferencePoints,
        values: tuple[Float[Tensor, "B N C _ _"], ...],
        positions: Float[Tensor, "*b Q C"] | None = None,
        where: Bool[Tensor, "B Q"] | None = None,
    ) -> Float[Tensor, "B Q C"]:
        """The queries after they have looked; their positions help them to choose where."""
        asking = self.norm(queries) if positions is None else self.norm(queries) + positions
        queries = queries + self.attention(asking, references, values, where)
        return queries if self.network is None else queries + self.network(queries)


class AttentionBlock(nn.Module):
    """Normalise, attend to rows, add; with a small network the same again."""

    def __init__(self, channels: int, *, heads: int, network: bool) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.attention = nn.MultiheadAttention(channels, heads, batch_first=True)
        self.network = nn.Sequential(nn.LayerNorm(channels), *mlp(channels)) if network else None

    def forward(
        self,
        queries: Float[Tensor, "B Q C"],
        rows: Float[Tensor, "B R C"] | None = None,
        positions: Float[Tensor, "B Q C"] | None = None,
    ) -> Float[Tensor, "B Q C"]:
        """The queries after they have attended to the rows, or to one another where there are none."""
        own = self.norm(queries)
        asking = own if positions is None else own + positions
        keys = own if rows is None else rows
        queries = queries + self.attention(asking, keys, keys, need_weights=False)[0]
        return queries if self.network is None else queries + self.network(queries)


class SqueezedPositions(nn.Module):
    """Learned positions of voxels by a table an axis, half of the height told by finer places along x and y."""

    def __init__(self, channels: int, shape: Shape) -> None:
        """Make the tables; 128x128x8 voxels have places 256, 256 and 2."""
        super().__init__()
        x, y, z = shape
        along_x = 2 if z % 2 == 0 else 1
        along_y = 2 if z // along_x % 2 == 0 else 1
        self.shape, self.parts = shape, (along_x, along_y, z // along_x // along_y)
        self.tables = nn.ParameterList(
            nn.Parameter(torch.randn(n, channels // 2)) for n in (x * along_x, y * along_y, self.parts[2])
        )
        self.project = nn.Linear(3 * (channels // 2), channels)

    def forward(self) -> Float[Tensor, "V C"]:
        """Of all voxels in C order."""
        x, y, z = self.shape
        along_x, along_y, rest = self.parts
        tables = [
            self.tables[0].view(x, 1, along_x, 1, 1, -1),
            self.tables[1].view(1, y, 1, along_y, 1, -1),
            self.tables[2].view(1, 1, 1, 1, rest, -1),
        ]
        spread = [table.expand(x, y, along_x, along_y, rest, -1) for table in tables]
        return self.project(torch.cat(spread, dim=-1).view(x * y * z, -1))


@dataclass(frozen=True)
class View:
    """What the decoder knows of the picture."""

    levels: tuple[Float[Tensor, "B 1 C _ _"], ...]
    """Features, finest first."""
    voxels: ReferencePoints
    """Where the centres of all voxels lie in it."""
    proposed: Bool[Tensor, "B V"]
    """Voxels in which a pixel of known depth lies."""
    queries_image: ReferencePoints
    """Places of the queries in the picture."""
    queries_scene: ReferencePoints
    """Places of the queries in the scene, laid out as a plane."""


class SymphonyLayer(nn.Module):
    """One round of questions; after the last one nobody asks for the queries any more."""

    def __init__(self, config: SceneDecoderConfig, *, levels: int, last: bool) -> None:
        super().__init__()
        channels, heads = config.channels, config.heads
        self.queries_from_image = DeformableBlock(channels, heads=heads, points=config.image_points, levels=levels)
        self.scene_from_queries = AttentionBlock(channels, heads=heads, network=False)
        self.scene_from_scene = DeformableBlock(channels, heads=heads, points=config.scene_points)
        self.queries_from_scene = (
            None if last else DeformableBlock(channels, heads=heads, points=config.scene_points, network=False)
        )
        self.queries_from_queries = None if last else AttentionBlock(channels, heads=heads, network=True)

    def forward(
        self,
        scene: Float[Tensor, "B V C"],
        queries: Float[Tensor, "B Q C"],
        view: View,
        positions: Float[Tensor, "V C"],
        plane: tuple[int, int],
        guide: PairGuide | None = None,
    ) -> tuple[Float[Tensor, "B V C"], Float[Tensor, "B Q C"]]:
        """Scene and queries after the round.

        Args:
            scene: Rows of the volume.
            queries: Of instances.
            view: The picture.
            positions: Of the voxels.
            plane: Rows and columns that the volume is laid out in.
            guide: Refines the voxels in view before they attend to the queries; None leaves them.
        """
        queries = self.queries_from_image(queries, view.queries_image, view.levels)
        index, real = ragged_to_padded(view.voxels.visible[:, 0, :, 0])
        seen, places = take_rows(scene, index), positions.index_select(0, index.flatten()).view(*index.shape, -1)
        seen = seen if guide is None else guide(seen, real)
        scene = put_rows(scene.clone(), index, real, self.scene_from_queries(seen, queries, places))
        own = self.scene_from_scene.norm(scene)
        scene = self.scene_from_scene(scene, plane_centres(plane, scene), (as_plane(own, plane),), positions)
        if self.queries_from_scene is not None and self.queries_from_queries is not None:
            queries = self.queries_from_scene(queries, view.queries_scene, (as_plane(scene, plane),))
            queries = self.queries_from_queries(queries)
        return scene, queries


def as_plane(rows: Float[Tensor, "B V C"], plane: tuple[int, int]) -> Float[Tensor, "B 1 C h w"]:
    """A volume as a picture: a row for each x, in it y after y with all of z side by side."""
    return rows.transpose(1, 2).unflatten(2, plane)[:, None]


def plane_centres(plane: tuple[int, int], rows: Float[Tensor, "B V C"]) -> ReferencePoints:
    """Each voxel at the centre of its own cell."""
    height, width = plane
    index = torch.arange(height * width, device=rows.device)
    places = torch.stack([(index % width + 0.5) / width, (index // width + 0.5) / height], dim=-1)
    return in_plane(places.expand(len(rows), -1, -1))


def in_plane(places: Float[Tensor, "B Q 2"]) -> ReferencePoints:
    """Places (u, v) as reference points of one picture that sees all of them."""
    locations = torch.cat([places, torch.zeros_like(places[..., :1])], dim=-1)[:, None, :, None]
    return ReferencePoints(locations, torch.ones(locations.shape[:-1], dtype=torch.bool, device=places.device))


class Context3d(nn.Module):
    """Pairs of 3x3x3 convolutions, near and far, added to the volume (atrous pyramid of LMSCNet and MonoScene)."""

    def __init__(self, channels: int, dilations: tuple[int, ...] = (1, 3)) -> None:
        super().__init__()

        def conv(dilation: int) -> nn.Conv3d:
            return nn.Conv3d(channels, channels, 3, padding=dilation, dilation=dilation, bias=False)

        self.branches = nn.ModuleList(
            nn.Sequential(
                conv(dilation),
                nn.BatchNorm3d(channels),
                nn.ReLU(inplace=True),
                conv(dilation),
                nn.BatchNorm3d(channels),
            )
            for dilation in dilations
        )

    def forward(self, volume: Float[Tensor, "B C X Y Z"]) -> Float[Tensor, "B C X Y Z"]:
        """The volume with its surroundings."""
        near, far = (branch(volume) for branch in self.branches)
        return F.relu(volume + near + far)


class EnlargingHead(nn.Module):
    """Transposed convolutions that enlarge, then classes."""

    def __init__(self, channels: int, num_classes: int, *, enlargements: tuple[Shape, ...], left: Shape) -> None:
        """Make the head.

        Args:
            channels: Of the volume.
            num_classes: K.
            enlargements: Factors along x, y, z of each convolution.
            left: Voxels of the full grid in a voxel behind them.
        """
        super().__init__()
        self.left = left

        def enlarge(factors: Shape) -> nn.Sequential:
            rest = (factors[0] - 1, factors[1] - 1, factors[2] - 1)
            conv = nn.ConvTranspose3d(channels, channels, 3, stride=factors, padding=1, output_padding=rest)
            return nn.Sequential(conv, nn.BatchNorm3d(channels), nn.ReLU(inplace=True))

        self.enlarge = nn.Sequential(*(enlarge(factors) for factors in enlargements))
        self.classify = nn.Conv3d(channels, num_classes, 1)

    def forward(self, volume: Float[Tensor, "B C X Y Z"]) -> TrilinearScores:
        """Score every voxel."""
        scores = self.classify(self.enlarge(volume))
        return TrilinearScores(scores.to(torch.promote_types(scores.dtype, torch.float32)), self.left)


class SceneDecoder(nn.Module):
    """From features of a picture to scores of the scene."""

    def __init__(
        self, config: SceneDecoderConfig, grid: VoxelGrid, num_classes: int, *, levels: int, factors: Shape
    ) -> None:
        """Make the decoder.

        Args:
            config: Sizes.
            grid: Of the volume.
            num_classes: K.
            levels: Of the picture's features.
            factors: Voxels of the full grid in a voxel of the volume, along x, y, z.

        Raises:
            InputError: If the enlargements are not parts of the factors.
        """
        super().__init__()
        channels = config.channels
        x, y, z = grid.shape
        self.shape, self.plane = grid.shape, (x, y * z)
        self.scene = nn.Parameter(torch.empty(grid.num_voxels, channels).normal_(std=config.deviation))
        self.positions = SqueezedPositions(channels, grid.shape)
        self.proposal = DeformableBlock(channels, heads=config.heads, points=config.image_points, levels=levels)
        self.layers = nn.ModuleList(
            SymphonyLayer(config, levels=levels, last=number == config.layers - 1) for number in range(config.layers)
        )
        self.context = Context3d(channels)
        self.head = EnlargingHead(
            channels, num_classes, enlargements=config.enlargements, left=config.left_factors(factors)
        )

    def forward(self, queries: Float[Tensor, "B Q C"], view: View) -> tuple[TrilinearScores, ...]:
        """Scores after each layer; in evaluation after the last one alone."""
        *earlier, last = self.volumes(queries, view)
        before = tuple(self.head(volume) for volume in earlier) if self.training else ()
        return (*before, self.head(self.context(last)))

    def volumes(
        self, queries: Float[Tensor, "B Q C"], view: View, guides: Sequence[PairGuide] = ()
    ) -> list[Float[Tensor, "B C X Y Z"]]:
        """The volume after each layer.

        Args:
            queries: Of instances.
            view: The picture.
            guides: One a layer, or none; each refines the voxels in view.
        """
        positions, volumes = self.positions(), []
        scene = self.propose(view, positions)
        for layer, guide in zip(self.layers, guides or [None] * len(self.layers), strict=True):
            scene, queries = layer(scene, queries, view, positions, self.plane, guide)
            volumes.append(scene.transpose(1, 2).unflatten(2, self.shape))
        return volumes

    def propose(self, view: View, positions: Float[Tensor, "V C"]) -> Float[Tensor, "B V C"]:
        """Embeddings of all voxels; those in which depth lies have looked into the picture."""
        scene = self.scene.repeat(len(view.proposed), 1, 1)
        index, real = ragged_to_padded(view.proposed)
        places = positions.index_select(0, index.flatten()).view(*index.shape, -1)
        rows = index.flatten(1)[:, None, :, None]
        references = ReferencePoints(
            view.voxels.locations.gather(2, rows[..., None].expand(-1, -1, -1, -1, 3)),
            view.voxels.visible.gather(2, rows),
        )
        looked = self.proposal(take_rows(scene, index), references, view.levels, places, real)
        return put_rows(scene, index, real, looked)
