"""Symphonies: a few queries in the picture and all voxels of the scene ask one another, again and again.

Images -> trunk and pixel decoder -> three levels of features; voxels in which the input depth lies look into them once
-> rounds of questions between queries, picture and voxels (`symphonies_decoder`) -> classes after each round (Jiang et
al., "Symphonize 3D Semantic Scene Completion with Contextual Instance Queries", CVPR 2024). Structure as the reference
lists it (monoocc 8 and 10, protoocc 3.1). It looks at one picture of the present frame. See docs/models/symphonies.md.

Suffixes: B batch, C channels, F channels of the pixel decoder, V voxels, Q queries, X Y Z voxels of the volume.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from occloom.backbones.frozen import FrozenBatchNorm2d
from occloom.backbones.pixel_decoder import PixelDecoder
from occloom.backbones.pretrained import RESNET50_IMAGENET, HubFile, load_trunk
from occloom.backbones.resnet import ResNet, resnet50
from occloom.errors import InputError
from occloom.geometry.precision import full_precision
from occloom.geometry.projection import unproject
from occloom.geometry.rigid import invert, transform_points
from occloom.grid import LabelSpace, Shape, VoxelGrid
from occloom.heads.trilinear import TrilinearScores
from occloom.interfaces import FeaturePyramid, Needs, OccupancyModel, Outputs
from occloom.lifting.cross_attention import ReferencePoints, project_references
from occloom.lifting.proposals import depth_proposals
from occloom.losses.affinity import class_sums, geometric_affinity, semantic_affinity
from occloom.losses.cross_entropy import cross_entropy
from occloom.losses.frustum import frustum_proportion
from occloom.models.symphonies_decoder import SceneDecoder, SceneDecoderConfig, View, in_plane
from occloom.models.voxdet_camera import SmallTrunk
from occloom.scene import Scene, Target

FRUSTUMS = (8, 8)
"""Parts of the picture along height and width whose shares of classes are compared."""
SUPERVISION = (0.5, 1.0)
"""Weights of the scores of earlier layers and of the last one."""


@dataclass(frozen=True)
class ResNet50FrozenNorm:
    """ResNet-50 as released: all is trained but batch normalisation, which stays as its weights bring it."""

    imagenet: ClassVar[HubFile | None] = RESNET50_IMAGENET

    def build(self) -> ResNet:
        """All four stages."""
        return resnet50(norm=FrozenBatchNorm2d)


@dataclass(frozen=True)
class SymphoniesConfig:
    """Sizes of Symphonies. The defaults are the released ones for pictures of 370x1220."""

    trunk: ResNet50FrozenNorm | SmallTrunk = ResNet50FrozenNorm()
    """Image trunk."""
    pixel_channels: int = 256
    """F: of the pixel decoder."""
    pixel_layers: int = 6
    """Of the pixel decoder."""
    pixel_feedforward: int = 2048
    """Hidden channels of its networks."""
    pixel_groups: int = 32
    """Of the normalisation of its projected levels."""
    decoder: SceneDecoderConfig = field(default_factory=SceneDecoderConfig)
    """Scene and queries."""
    volume_coarsening: Shape = (2, 2, 4)
    """Voxels of the grid in a voxel of the volume, along x, y, z."""
    queries: int = 100
    """Instance queries."""
    loss_stride: int = 1
    """A step's loss looks at each so many voxels along each axis, from a random one on; 1 for all voxels."""

    def __post_init__(self) -> None:
        if min(self.pixel_layers, self.queries, self.loss_stride) < 1:
            raise InputError(
                f"pixel_layers is {self.pixel_layers}, queries {self.queries} and loss_stride {self.loss_stride}",
                rule="all are at least 1",
            )
        self.decoder.left_factors(self.volume_coarsening)

    def build(self, grid: VoxelGrid, label_space: LabelSpace) -> "Symphonies":
        """Make the model, with random weights."""
        return Symphonies(self, grid, label_space)


class SymphoniesEncoder(nn.Module):
    """From a picture to three levels of features, and the queries of instances with their places in it."""

    def __init__(self, config: SymphoniesConfig) -> None:
        super().__init__()
        wide, channels = config.pixel_channels, config.decoder.channels
        self.trunk = config.trunk.build()
        self.pixels = PixelDecoder(
            in_channels=self.trunk.channels[1:],
            channels=wide,
            layers=config.pixel_layers,
            heads=config.decoder.heads,
            points=4,
            feedforward=config.pixel_feedforward,
            groups=config.pixel_groups,
        )
        # The finest level is the trunk's own, as released.
        self.project = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(inputs, channels, 1),
                nn.BatchNorm2d(channels),
                nn.ReLU(inplace=True),
                nn.Conv2d(channels, channels, 1),
            )
            for inputs in (self.trunk.channels[0], wide, wide)
        )
        self.queries = nn.Parameter(torch.randn(config.queries, channels))
        self.places = nn.Parameter(torch.randn(config.queries, 2))

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> FeaturePyramid:
        """Features at strides 4, 8 and 16."""
        pyramid = self.trunk(images)
        refined = self.pixels(FeaturePyramid(pyramid.levels[1:], pyramid.strides[1:]))
        levels = (pyramid.levels[0], *refined.levels[:2])
        projected = tuple(project(level) for project, level in zip(self.project, levels, strict=True))
        return FeaturePyramid(projected, pyramid.strides[:3])


@dataclass(frozen=True)
class SymphoniesOutputs:
    """What Symphonies answers."""

    scores: tuple[TrilinearScores, ...]
    """After each layer; in evaluation after the last one alone."""
    intrinsics: Float[Tensor, "B 3 3"]
    """Of the picture: the loss compares parts of its view."""
    camera_from_ego: Float[Tensor, "B 4 4"]
    """Of the picture."""
    image_size: tuple[int, int]
    """Height and width of the picture."""

    @property
    def logits(self) -> Float[Tensor, "B K X Y Z"]:
        """Class scores on the full grid; large, made anew at each call."""
        return self.scores[-1].logits


@dataclass(frozen=True)
class ChosenVoxels:
    """Voxels that a loss looks at."""

    places: tuple[Int64[Tensor, " X"], Int64[Tensor, " Y"], Int64[Tensor, " Z"]]
    """Indices along each axis."""
    labels: Int64[Tensor, "B X Y Z"]
    observed: Bool[Tensor, "B X Y Z"]
    cells: Int64[Tensor, "B X Y Z"]
    """Part of the picture that each lies in, -1 for none."""


class Symphonies(OccupancyModel):
    """Symphonies from one camera and an input depth map."""

    needs = Needs(images=True, depth=True)
    class_weights: Tensor

    def __init__(self, config: SymphoniesConfig, grid: VoxelGrid, label_space: LabelSpace) -> None:
        """Make the model.

        Raises:
            ValueError: If the coarsening does not divide the grid.
            InputError: If sizes do not fit together.
        """
        super().__init__()
        self.config, self.grid, self.label_space = config, grid, label_space
        wide = config.pixel_channels
        self.left_out = {
            # The trunk's finest level is taken as it is, so what would refine it serves masks alone.
            "encoder.pixels, finest level and mask features": (wide**2 + 9 * wide**2 + 4 * wide) + (wide**2 + wide)
        }
        self.volume_grid = grid.coarsen(config.volume_coarsening)
        self.encoder = SymphoniesEncoder(config)
        self.decoder = SceneDecoder(
            config.decoder, self.volume_grid, label_space.num_classes, levels=3, factors=config.volume_coarsening
        )
        # Fixed by the label space, so neither trained nor saved.
        self.register_buffer(
            "class_weights", label_space.class_weights(device=torch.get_default_device()), persistent=False
        )

    def forward(self, scene: Scene) -> SymphoniesOutputs:
        """Answer the present frame.

        Raises:
            InputError: If there is more than one camera.
        """
        return self.outputs(scene, self.decoder(self.queries(scene), self.view(scene, self.features(scene))))

    def features(self, scene: Scene) -> FeaturePyramid:
        """Of the present picture.

        Raises:
            InputError: If there is more than one camera.
        """
        assert scene.images is not None, "needs asks for images"
        cameras = scene.camera_valid.shape[2]
        if cameras != 1:
            raise InputError(
                f"the samples have {cameras} cameras",
                rule="the queries of Symphonies have their places in one picture",
                remedy="name one of --data.cameras",
            )
        return self.encoder(scene.images[:, 0, 0])

    def queries(self, scene: Scene) -> Float[Tensor, "B Q C"]:
        """Of instances, the same in every sample."""
        return self.encoder.queries.expand(scene.batch_size, -1, -1)

    def outputs(self, scene: Scene, scores: tuple[TrilinearScores, ...]) -> SymphoniesOutputs:
        """Scores with the camera that the loss asks for."""
        assert scene.images is not None, "needs asks for images"
        return SymphoniesOutputs(
            scores=scores,
            intrinsics=scene.cameras.intrinsics[:, 0, 0],
            camera_from_ego=scene.cameras.camera_from_ego[:, 0, 0],
            image_size=(scene.images.shape[-2], scene.images.shape[-1]),
        )

    def view(self, scene: Scene, features: FeaturePyramid) -> View:
        """What the decoder knows of the picture; a picture that is missing sees nothing."""
        assert scene.depth is not None, "needs asks for depth"
        cameras = scene.cameras
        intrinsics, camera_from_ego = cameras.intrinsics[:, 0], cameras.camera_from_ego[:, 0]
        present = scene.camera_valid[:, 0, 0] & scene.frame_valid[:, 0]
        size = (scene.depth.shape[-2], scene.depth.shape[-1])
        centres = self.volume_grid.centres(device=scene.depth.device).view(1, -1, 1, 3)
        found = project_references(
            centres.expand(scene.batch_size, -1, -1, -1), intrinsics, camera_from_ego, size, near=0.0, far=1.0
        )
        depth = scene.depth[:, 0] * present[:, None, None, None]
        proposed = depth_proposals(depth, intrinsics, camera_from_ego, self.volume_grid)
        places = self.encoder.places.sigmoid().expand(scene.batch_size, -1, -1)
        return View(
            levels=tuple(level[:, None] for level in features.levels),
            voxels=ReferencePoints(found.locations, found.visible & present[:, None, None, None]),
            proposed=proposed.flatten(1),
            queries_image=in_plane(places),
            queries_scene=in_plane(self.places_in_scene(places, depth[:, 0], intrinsics[:, 0], camera_from_ego[:, 0])),
        )

    def places_in_scene(
        self,
        places: Float[Tensor, "B Q 2"],
        depth: Float[Tensor, "B H W"],
        intrinsics: Float[Tensor, "B 3 3"],
        camera_from_ego: Float[Tensor, "B 4 4"],
    ) -> Float[Tensor, "B Q 2"]:
        """Where the queries' pixels lie in the scene laid out as a plane, as fractions; no gradient comes back from it.

        Args:
            places: In the picture.
            depth: Of the picture in metres; where it is unknown, a query stands at the camera.
            intrinsics: Of the picture.
            camera_from_ego: Of the picture.
        """
        with full_precision(depth.device.type), torch.no_grad():
            height, width = depth.shape[-2:]
            pixels = (places * places.new_tensor((width, height)) - 0.5).round()
            u, v = pixels.long().unbind(-1)
            index = v.clamp(0, height - 1) * width + u.clamp(0, width - 1)
            points = unproject(pixels, depth.flatten(1).gather(1, index), intrinsics)
            ego = transform_points(invert(camera_from_ego), points)
            grid = self.volume_grid
            lower, upper = (ego.new_tensor(corner) for corner in (grid.lower, grid.upper))
            x, y, z = ((ego - lower) / (upper - lower)).clamp(0, 1).unbind(-1)
            row = (y * grid.shape[1]).floor().clamp(max=grid.shape[1] - 1)
            return torch.stack([(row + z) / grid.shape[1], x], dim=-1)

    def loss(self, outputs: Outputs, target: Target) -> dict[str, Float[Tensor, ""]]:
        """The four terms over the scores of all layers, the last one's at full weight.

        In training over every `loss_stride`-th voxel along each axis, from a random one on.
        """
        assert isinstance(outputs, SymphoniesOutputs), "outputs must be this model's own"
        return self.supervised(outputs.scores, self.chosen_voxels(outputs, target))

    def supervised(self, answers: tuple[TrilinearScores, ...], chosen: "ChosenVoxels") -> dict[str, Float[Tensor, ""]]:
        """The four terms of the scores of all layers."""
        total: dict[str, Tensor] = {}
        for number, scores in enumerate(answers, start=1):
            weight = SUPERVISION[number == len(answers)]
            terms = self.voxel_loss(scores.at(*chosen.places), chosen)
            total = {name: total.get(name, 0) + weight * term for name, term in terms.items()}
        return total

    def chosen_voxels(self, outputs: SymphoniesOutputs, target: Target) -> "ChosenVoxels":
        """The voxels that a step's loss looks at, drawn anew each time."""
        stride, device = self.config.loss_stride if self.training else 1, target.labels.device
        x, y, z = (
            torch.arange(int(torch.randint(stride, (), device="cpu")), n, stride, device=device)
            for n in self.grid.shape
        )
        labels, observed = (part[:, x][:, :, y][..., z] for part in (target.labels, target.observed))
        centres = self.grid.centres(device=device)[x][:, y][:, :, z]
        return ChosenVoxels((x, y, z), labels, observed, frustum_cells(outputs, centres))

    def voxel_loss(self, logits: Float[Tensor, "B K X Y Z"], chosen: "ChosenVoxels") -> dict[str, Float[Tensor, ""]]:
        """The four terms of some voxels."""
        labels, observed = chosen.labels, chosen.observed
        sums = class_sums(logits, labels, observed)
        return {
            "cross_entropy": cross_entropy(logits, labels, observed, self.class_weights),
            "semantic_affinity": semantic_affinity(sums),
            "geometric_affinity": geometric_affinity(sums, self.label_space.empty),
            "frustum": frustum_proportion(logits, labels, observed, chosen.cells, FRUSTUMS[0] * FRUSTUMS[1]),
        }

    def predict(self, scene: Scene) -> Int64[Tensor, "B X Y Z"]:
        """The most likely class of every voxel: the argmax of `logits`, without making them."""
        return self.forward(scene).scores[-1].argmax()

    def load_trunk_weights(self, source: Path | Literal["imagenet"]) -> None:
        """Fill the trunk with weights of a file, or with those published for ImageNet.

        Raises:
            InputError: If they cannot be had, or are of another trunk.
        """
        load_trunk(self.encoder.trunk, source, imagenet=self.config.trunk.imagenet)


def frustum_cells(outputs: SymphoniesOutputs, centres: Float[Tensor, "X Y Z 3"]) -> Int64[Tensor, "B X Y Z"]:
    """The part of the picture that each voxel's centre lies in, -1 where the camera does not see it.

    Args:
        outputs: Whose camera it is.
        centres: In the ego frame, in metres.
    """
    found = project_references(
        centres.view(1, -1, 1, 3).expand(len(outputs.intrinsics), -1, -1, -1),
        outputs.intrinsics[:, None],
        outputs.camera_from_ego[:, None],
        outputs.image_size,
        near=0.0,
        far=1.0,
    )
    rows, columns = FRUSTUMS
    u, v = found.locations[:, 0, :, 0, :2].unbind(-1)
    seen = found.visible[:, 0, :, 0]
    u, v = torch.where(seen, u, 0), torch.where(seen, v, 0)
    cell = (v * rows).long() * columns + (u * columns).long()
    return torch.where(seen, cell, -1).view(-1, *centres.shape[:3])
