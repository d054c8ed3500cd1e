"""Our modules with converted weights against formulas written down independently (naive_voxdet), part by part."""

from dataclasses import dataclass, replace
from pathlib import Path

import naive_voxdet as naive
import numpy as np
import pytest
import torch
from torch import Tensor

from occloom.backbones.resnet import IMAGE_MEAN, IMAGE_STD
from occloom.data.kitti360_files import INTRINSICS, VELODYNE_FROM_LEFT, fixed_calibration
from occloom.data.kitti_files import read_calibration
from occloom.data.label_spaces import SEMANTIC_KITTI
from occloom.data.pictures import PictureFit
from occloom.errors import InputError
from occloom.grid import VoxelGrid
from occloom.interfaces import FeaturePyramid
from occloom.lifting.cross_attention import ReferencePoints
from occloom.losses.voxnt import Refinement
from occloom.models.released_checkpoints import CAMERA_UNUSED, convert_camera, convert_lidar
from occloom.models.voxdet import DetectorConfig, LossWeights
from occloom.models.voxdet_camera import VoxDet, VoxDetConfig
from occloom.models.voxdet_lidar import VoxDetL, VoxDetLConfig
from occloom.models.voxdet_released import ReleasedGeometry, ReleasedOffsetLoss, ReleasedSampling
from occloom.scene import Cameras, Points, Scene, Target

# The range of SemanticKITTI in few voxels, a different number along each axis.
GRID = VoxelGrid(lower=(0.0, -25.6, -2.0), voxel_size=(3.2, 51.2 / 24, 0.8), shape=(16, 24, 8))
VOLUME = GRID.coarsen((2, 2, 2))
SIZE = (64, 96)
DETECTOR = DetectorConfig(
    sampling=ReleasedSampling(),
    offset_loss=ReleasedOffsetLoss(),
    refinement=Refinement(classes=(1,), maximum=(8, 8, 8), minimum=None),
    weights=LossWeights(cross_entropy=3.0, semantic_affinity=1.0, geometric_affinity=1.0),
)

# The lists of released names and the calibrations lie beside the real frames.
released = pytest.mark.real_data


def close(ours: Tensor, theirs: Tensor) -> None:
    assert theirs.std() > 1e-4, "an answer without structure would compare with anything"
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


def naive_grid(grid: VoxelGrid) -> naive.Grid:
    return naive.Grid(torch.tensor(grid.lower).double(), torch.tensor(grid.voxel_size).double(), grid.shape)


@dataclass
class Rig:
    """One camera for both sides."""

    released: naive.Camera
    intrinsics: Tensor
    camera_from_ego: Tensor


def rig(calibration_file: Path, raw_size: tuple[int, int]) -> Rig:
    """The camera of a calibration file with pictures fitted to SIZE."""
    rows = dict(line.split(":") for line in calibration_file.read_text().splitlines() if line.strip())
    matrix = {key: torch.eye(4, dtype=torch.float64) for key in ("P2", "Tr")}
    for key, value in matrix.items():
        value[:3] = torch.tensor([float(n) for n in rows[key].split()], dtype=torch.float64).view(3, 4)
    velodyne = matrix["Tr"].inverse()
    scale = SIZE[1] / raw_size[1]
    shift = SIZE[0] - int(raw_size[0] * scale)
    calibration = read_calibration(calibration_file)
    fit = PictureFit(source=raw_size, target=SIZE, how="width")
    return Rig(
        naive.Camera(
            matrix["P2"],
            velodyne[:3, :3],
            velodyne[:3, 3],
            torch.diag(torch.tensor([scale, scale, 1.0], dtype=torch.float64)),
            torch.tensor([0.0, shift, 0.0], dtype=torch.float64),
        ),
        fit.intrinsics(torch.from_numpy(calibration.intrinsics(2))),
        torch.from_numpy(calibration.camera_from_velodyne(2)),
    )


def scene_of(rigs: list[Rig], *, seed: int = 0) -> Scene:
    """Random pictures and depth maps of some rigs; half of the depth is unknown in one corner."""
    generator = torch.Generator().manual_seed(seed)
    batch = len(rigs)
    depth = 2 + 40 * torch.rand(batch, 1, 1, *SIZE, generator=generator)
    depth[..., :20, :24] = 0
    return Scene(
        cameras=Cameras(
            intrinsics=torch.stack([r.intrinsics for r in rigs])[:, None, None].float(),
            camera_from_ego=torch.stack([r.camera_from_ego for r in rigs])[:, None, None].float(),
            time=torch.zeros(batch, 1, 1),
        ),
        now_from_then=torch.eye(4).expand(batch, 1, 4, 4),
        time=torch.zeros(batch, 1),
        frame_valid=torch.ones(batch, 1, dtype=torch.bool),
        camera_valid=torch.ones(batch, 1, 1, dtype=torch.bool),
        images=torch.rand(batch, 1, 1, 3, *SIZE, generator=generator),
        depth=depth,
    )


@pytest.fixture(scope="module")
def tables(real_data) -> Path:
    return real_data.parent / "reference" / "state_dicts"


@pytest.fixture(scope="module")
def rigs(real_data) -> list[Rig]:
    """Two cameras of different sizes and calibrations."""
    folder = real_data / "semantickitti_calib_all"
    return [rig(folder / "04.txt", (370, 1226)), rig(folder / "00.txt", (376, 1241))]


@pytest.fixture(scope="module")
def scene(rigs) -> Scene:
    return scene_of(rigs)


@pytest.fixture(scope="module")
def state(tables) -> dict[str, Tensor]:
    return naive.released_state(tables / "voxdet_camera_semantickitti.tsv")


@pytest.fixture(scope="module")
def model(state) -> VoxDet:
    config = VoxDetConfig(geometry=ReleasedGeometry(), detector=DETECTOR)
    model = config.build(GRID, SEMANTIC_KITTI)
    model.load_state_dict(convert_camera(state, model.state_dict()))
    return model.eval().requires_grad_(False)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def distribution(*shape: int, seed: int = 0) -> Tensor:
    """Sharp, so that where it is looked at matters."""
    return (4 * normal(*shape, seed=seed)).softmax(1)


@released
class TestImageParts:
    def test_the_trunk_answers_at_four_levels(self, model, state, scene):
        images = scene.images[:, 0, 0]
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (IMAGE_MEAN, IMAGE_STD))
        for ours, theirs in zip(model.trunk(images).levels, naive.backbone(state, (images - mean) / std), strict=True):
            close(ours, theirs)

    def test_the_neck_joins_them(self, model, state):
        levels = [normal(2, c, 64 // s, 96 // s, seed=s) for c, s in ((256, 4), (512, 8), (1024, 16), (2048, 32))]
        (ours,) = model.neck(FeaturePyramid(tuple(levels), (4, 8, 16, 32))).levels
        close(ours, naive.neck(state, levels))

    def test_monocular_depth_and_context(self, model, state, rigs):
        features = normal(2, 512, 8, 12)
        camera = torch.stack([r.released.vector() for r in rigs])
        context, depth = model.depth_net.mono(features, camera)
        expected_context, expected_depth = naive.mono_depth(state, features, camera)
        close(context, expected_context)
        close(depth.log(), expected_depth.log())

    def test_stereo_depth(self, model, state, scene):
        hot = naive.stereo_one_hot(scene.depth[:, 0, 0])
        close(model.depth_net.stereo(hot).log(), naive.stereo_encoder(state, hot).log())

    def test_attention_to_the_neighbourhood(self, model, state):
        query, other = normal(2, 112, 7, 9), normal(2, 112, 7, 9, seed=1)
        name = "depth_net.depth_aggregation.stereo_mono_attention"
        theirs = naive.neighbourhood_attention(state, f"{name}.neighbor_atttention", query, other)
        ours = model.depth_net.fusion.stereo_asks(query, other)
        close(ours, other + state[f"{name}.gamma"] * theirs)

    def test_the_fusion_of_both(self, model, state):
        mono, stereo = distribution(2, 112, 8, 12), distribution(2, 112, 8, 12, seed=1)
        close(model.depth_net.fusion(mono, stereo).log(), naive.depth_fusion(state, mono, stereo).log())


@released
class TestReleasedGeometry:
    geometry = ReleasedGeometry()

    def test_the_camera_vector_holds_the_raw_numbers(self, scene, rigs):
        theirs = torch.stack([r.released.vector() for r in rigs])
        torch.testing.assert_close(self.geometry.camera_vector(scene), theirs, atol=1e-6, rtol=1e-5)

    def test_every_calibration_of_kitti_is_known(self, real_data):
        sizes = {718.856: (376, 1241), 721.5377: (375, 1242), 707.0912: (370, 1226)}
        files = sorted((real_data / "semantickitti_calib_all").glob("*.txt"))
        assert len(files) == 22
        for file in files:
            one = rig(file, sizes[float(read_calibration(file).intrinsics(2)[0, 0])])
            ours = self.geometry.camera_vector(scene_of([one]))
            torch.testing.assert_close(ours[0], one.released.vector(), atol=1e-6, rtol=1e-5)

    def test_kitti_360_has_no_fourth_column(self, rigs):
        calibration = fixed_calibration()
        fit = PictureFit(source=(376, 1408), target=SIZE, how="width")
        one = Rig(
            rigs[0].released,
            fit.intrinsics(torch.from_numpy(calibration.intrinsics(2))),
            torch.from_numpy(calibration.camera_from_velodyne(2)),
        )
        vector = self.geometry.camera_vector(scene_of([one]))[0]
        raw = torch.tensor(INTRINSICS)
        torch.testing.assert_close(vector[:4], torch.stack([raw[0, 0], raw[1, 1], raw[0, 2], raw[1, 2]]))
        assert not vector[4:7].any()
        pose = torch.tensor(VELODYNE_FROM_LEFT)[:3].flatten()
        torch.testing.assert_close(vector[-12:], pose, atol=1e-6, rtol=1e-5)

    def test_another_data_sets_camera_is_refused(self, scene):
        cameras = replace(scene.cameras, intrinsics=scene.cameras.intrinsics * 1.4)
        with pytest.raises(InputError, match="focal length"):
            self.geometry.camera_vector(replace(scene, cameras=cameras))

    def test_the_depth_is_told_a_plane_too_near(self, scene):
        depth = scene.depth[:, 0, 0]
        assert torch.equal(self.geometry.one_hot(depth, 8), naive.stereo_one_hot(depth))
        edges = torch.tensor([2.24, 2.25, 20.0, 58.24, 58.25, 0.0])
        hot = self.geometry.one_hot(edges.view(6, 1, 1).expand(6, 8, 8).contiguous(), 8)[:, :, 0, 0]
        assert hot.sum(1).tolist() == [0, 1, 1, 1, 0, 0]
        assert hot.argmax(1)[1:4].tolist() == [0, 35, 111]  # 20 m: channel 35 (reference voxdet 0.3)

    def test_pooling_sums_the_frustum(self, model, scene, rigs):
        from occloom.lifting.lift_splat import lift_splat

        context, depth = normal(2, 128, 8, 12), distribution(2, 112, 8, 12)
        voxels = self.geometry.voxels(scene, VOLUME, (8, 12), 8)
        ours = lift_splat(context[:, None], depth[:, None], voxels, scene.camera_valid[:, 0], VOLUME.shape)
        for b, one in enumerate(rigs):
            theirs = naive.lss_pool(context[b], depth[b], one.released, naive_grid(VOLUME), SIZE)
            close(ours[b], theirs)

    def test_what_lies_less_than_a_voxel_before_the_grid_counts_in_it(self, scene, rigs):
        # Right above the first layer's floor is the road: half of the frustum's lower points lie below the grid.
        thin = VoxelGrid(lower=(0.0, -25.6, -1.0), voxel_size=(6.4, 6.4, 1.0), shape=(8, 8, 2))
        ours = self.geometry.voxels(scene, thin, (8, 12), 8)
        context, depth = torch.ones(1, 8, 12), torch.ones(112, 8, 12)
        for b, one in enumerate(rigs):
            theirs = naive.lss_pool(context, depth, one.released, naive_grid(thin), SIZE)
            counts = torch.bincount(ours[b][ours[b] >= 0], minlength=thin.num_voxels)
            assert torch.equal(counts.view(thin.shape).float(), theirs[0])

    def test_query_proposals(self, scene, rigs):
        ours = self.geometry.proposals(scene, VOLUME)
        for b, one in enumerate(rigs):
            theirs = naive.proposals(scene.depth[b, 0, 0], one.released, naive_grid(VOLUME))
            assert torch.equal(ours[b], theirs)
        assert 50 < ours.sum() < ours.numel()

    def test_without_depth_every_voxel_asks(self, scene):
        far = replace(scene, depth=torch.full_like(scene.depth, 500.0))
        assert self.geometry.proposals(far, VOLUME).all()

    def test_references(self, scene, rigs):
        points = VOLUME.centres().view(1, -1, 1, 3).expand(2, -1, 1, 3)
        ours = self.geometry.references(scene, points, SIZE)
        for b, one in enumerate(rigs):
            theirs, seen = naive.centre_references(one.released, naive_grid(VOLUME), SIZE)
            assert torch.equal(ours.visible[b, 0, :, 0], seen)
            assert 50 < seen.sum() < len(seen)
            torch.testing.assert_close(ours.locations[b, 0, :, 0][seen], theirs[seen], atol=1e-5, rtol=1e-5)


@released
class TestLifting:
    def test_the_layers_of_attention(self, model, state):
        context, depth = normal(1, 128, 8, 12), distribution(1, 112, 8, 12)
        queries, reference = normal(1, 50, 128, seed=2), 1.2 * torch.rand(1, 50, 3) - 0.1
        seen = torch.arange(50) % 3 > 0
        references = ReferencePoints(locations=reference[:, None, :, None], visible=seen[None, None, :, None])
        values = context[:, None] + (model.lifting.camera_embedding + model.lifting.level_embedding)[..., None, None]
        ours = queries
        for layer in model.lifting.layers:
            ours = layer(ours, references, values, depth[:, None], torch.ones(1, 50, dtype=torch.bool))
        theirs = naive.cross_attention_layers(state, queries[0], reference[0], seen, context[0], depth[0])
        close(ours[0], theirs)

    def test_one_attention_looks_where_it_should(self, model, state):
        context, depth = normal(128, 8, 12), distribution(1, 112, 8, 12)[0]
        queries, reference = normal(50, 128, seed=2), torch.rand(50, 3)
        seen = torch.ones(50, dtype=torch.bool)
        name = "VoxFormer_head.cross_transformer.encoder.layers.1.attentions.0"
        references = ReferencePoints(reference[None, None, :, None], seen[None, None, :, None])
        ours = model.lifting.layers[1].attention(
            queries[None], references, (context[None, None],), (depth[None, None],), seen[None]
        )
        bias = state[f"{name}.output_proj.bias"]
        theirs = naive.depth_attention(state, name, queries, reference, seen, context, depth)
        # Without the bias, which would hide what is small.
        close(10 * (ours[0] - bias), 10 * (theirs - bias))

    def test_the_whole_volume(self, model, state, scene, rigs):
        context, depth = normal(2, 128, 8, 12), distribution(2, 112, 8, 12)
        ours = model.lifting(scene, context[:, None], depth[:, None], 8)
        grid = naive_grid(VOLUME)
        for b, one in enumerate(rigs):
            pooled = naive.lss_pool(context[b], depth[b], one.released, grid, SIZE)
            proposed = naive.proposals(scene.depth[b, 0, 0], one.released, grid)
            close(ours[b], naive.lifted(state, context[b], depth[b], pooled, proposed, one.released, grid, SIZE))


@released
class TestDetector:
    def levels(self, batch: int = 2) -> list[Tensor]:
        return [normal(batch, 128, 8 // s, 12 // s, 4 // s, seed=s) for s in (1, 2, 4)]

    def test_the_shared_encoder(self, model, state):
        volume = normal(2, 128, 8, 12, 4)
        name = "occ_encoder_backbone.local_aggregator.local_encoder_backbone"
        theirs = naive.encoder(state, volume, blocks=2, name=name)
        for ours, level in zip(model.detector.encoder(volume), theirs, strict=True):
            close(ours, level)

    @pytest.mark.parametrize(("task", "branch"), [("cls", "classification"), ("reg", "regression")])
    def test_each_plane_module(self, model, state, task, branch):
        for i, volume in enumerate(self.levels()[:2]):
            name = f"occ_encoder_backbone.local_aggregator.local_encoder_neck.sp_tpvs_{task}.{i}"
            decoupler = getattr(model.detector, branch).decouplers[i]
            close(decoupler(volume), naive.tpv(state, name, volume))

    @pytest.mark.parametrize(("task", "branch"), [("cls", "classification"), ("reg", "regression")])
    def test_each_task_has_its_own_pyramid(self, model, state, task, branch):
        levels = self.levels()
        close(getattr(model.detector, branch)(levels), naive.task_pyramid(state, levels, task))

    def test_the_offset_field(self, model, state):
        features = normal(2, 128, 8, 12, 4)
        close(model.detector.offset_head(features), naive.offset_field(state, features))

    def test_the_instances_are_aggregated(self, model, state):
        features, offsets = normal(2, 128, 8, 12, 4), torch.rand(2, 6, 4, 6, 2)
        places = ReleasedSampling().places(offsets)
        ours = features
        for layer in model.detector.aggregation:
            ours = layer(ours, places)
        close(ours, naive.aggregated(state, features, naive.sampling_grids(offsets)))

    def test_the_class_head_and_the_auxiliary_head(self, model, state):
        features = normal(2, 128, 8, 12, 4)
        close(model.detector.class_head(features).logits, naive.class_scores(state, features, GRID.shape))
        auxiliary = model.detector.auxiliary_head(features).logits
        close(auxiliary, naive.class_scores(state, features, GRID.shape, auxiliary=True))


class TestReleasedSampling:
    def test_places_are_those_that_were_measured(self):
        """Reference voxdet 0.1: voxel (10, 20, 3) of 64x64x8 reads at (26.93, 19.82, 0.77), (32, 20, 4) elsewhere."""
        shape = (64, 64, 8)
        places = ReleasedSampling().places(torch.zeros(1, 6, *shape))
        axes = torch.stack(torch.meshgrid(*(torch.arange(n).float() for n in shape), indexing="ij"))[None]
        for voxel, place in (((10, 20, 3), (26.93, 19.82, 0.77)), ((32, 20, 4), (36.07, 19.82, 3.56))):
            for direction in range(6):
                found = places.read(axes, direction)[0, :, *voxel]
                torch.testing.assert_close(found, torch.tensor(place), atol=5e-3, rtol=0)

    def test_it_reads_what_grid_sample_reads(self):
        offsets, volume = torch.rand(2, 6, 5, 7, 3), normal(2, 4, 5, 7, 3)
        places = ReleasedSampling().places(offsets)
        for direction, grid in enumerate(naive.sampling_grids(offsets)):
            theirs = torch.nn.functional.grid_sample(volume, grid, align_corners=False)
            close(places.read(volume, direction), theirs)

    def test_the_gradient_reaches_the_offsets(self):
        offsets = torch.rand(1, 6, 4, 6, 3, dtype=torch.float64) * 0.3
        volume = normal(1, 2, 4, 6, 3).double()
        theirs, ours = offsets.clone().requires_grad_(), offsets.clone().requires_grad_()
        grids = naive.sampling_grids(theirs)
        total = sum((torch.nn.functional.grid_sample(volume, g, align_corners=False) ** 2).sum() for g in grids)
        (expected,) = torch.autograd.grad(total, theirs)
        places = ReleasedSampling().places(ours)
        (found,) = torch.autograd.grad(sum((places.read(volume, d) ** 2).sum() for d in range(6)), ours)
        torch.testing.assert_close(found, expected)


class TestLosses:
    def labels(self) -> Tensor:
        """Blocks of classes, a long car, and some ignored voxels (255)."""
        generator = torch.Generator().manual_seed(0)
        blocks = torch.randint(0, 20, (2, 4, 6, 4), generator=generator)
        labels = blocks.repeat_interleave(4, 1).repeat_interleave(4, 2).repeat_interleave(2, 3)
        labels[0, 2:14, 3, 2] = 1
        labels[1, :3, :5] = 255
        return labels

    def target(self, labels: Tensor) -> Target:
        return Target(labels=torch.where(labels == 255, 0, labels), observed=labels != 255)

    @released
    def test_all_terms(self, model):
        from occloom.heads.trilinear import TrilinearScores
        from occloom.models.voxdet import DetectionOutputs

        labels = self.labels()
        coarse, auxiliary = normal(2, 20, 8, 12, 4), normal(2, 20, 8, 12, 4, seed=1)
        offsets = torch.rand(2, 6, 4, 6, 2)
        factors = (2, 2, 2)
        outputs = DetectionOutputs(
            scores=TrilinearScores(coarse, factors), offsets=offsets, auxiliary=TrilinearScores(auxiliary, factors)
        )
        ours = model.detector.losses(outputs, self.target(labels))

        lengths = naive.run_lengths(labels)
        refined = naive.refined(labels, lengths, class_id=1, longest=7)
        assert (refined != labels).sum() > 5
        frequencies = list(SEMANTIC_KITTI.frequencies)
        expected = {"regression": naive.regression_loss(offsets, refined, lengths)}
        for name, logits, entropy in (("", coarse, 3.0), ("auxiliary_", auxiliary, 1.0)):
            share = 0.2 if name else 1.0
            logits = torch.nn.functional.interpolate(logits, size=GRID.shape, mode="trilinear")
            semantic, geometric = naive.affinity_losses(logits, refined)
            expected[f"{name}cross_entropy"] = share * entropy * naive.cross_entropy(logits, refined, frequencies)
            expected[f"{name}semantic_affinity"] = share * semantic
            expected[f"{name}geometric_affinity"] = share * geometric
        assert ours.keys() == expected.keys()
        for name, theirs in expected.items():
            torch.testing.assert_close(ours[name], theirs, atol=1e-4, rtol=1e-4)

    def test_nothing_observed_gives_no_division_by_zero(self):
        offsets = torch.rand(1, 6, 2, 2, 2)
        loss = ReleasedOffsetLoss().loss(offsets, offsets * 0, torch.zeros(1, 2, 2, 2, dtype=torch.bool))
        torch.testing.assert_close(loss, offsets.sum())


def naive_answers(state: dict[str, Tensor], scene: Scene, rigs: list[Rig]) -> tuple[Tensor, Tensor, Tensor]:
    """Offsets, logits and auxiliary logits of the whole camera model."""
    images, depth_maps = scene.images[:, 0, 0], scene.depth[:, 0, 0]
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (IMAGE_MEAN, IMAGE_STD))
    features = naive.neck(state, naive.backbone(state, (images - mean) / std))
    context, mono = naive.mono_depth(state, features, torch.stack([r.released.vector() for r in rigs]))
    depth = naive.depth_fusion(state, mono, naive.stereo_encoder(state, naive.stereo_one_hot(depth_maps)))
    grid, volumes = naive_grid(VOLUME), []
    for b, one in enumerate(rigs):
        pooled = naive.lss_pool(context[b], depth[b], one.released, grid, SIZE)
        proposed = naive.proposals(depth_maps[b], one.released, grid)
        volumes.append(naive.lifted(state, context[b], depth[b], pooled, proposed, one.released, grid, SIZE))
    volume = torch.stack(volumes)
    name = "occ_encoder_backbone.local_aggregator.local_encoder_backbone"
    offsets, logits = naive.detected(state, volume, blocks=2, name=name, size=GRID.shape)
    return offsets, logits, naive.class_scores(state, volume, GRID.shape, auxiliary=True)


@released
def test_the_camera_model_end_to_end(model, state, scene, rigs):
    ours = model(scene)
    offsets, logits, auxiliary = naive_answers(state, scene, rigs)
    close(ours.offsets, offsets)
    close(ours.logits, logits)
    close(model.detector.auxiliary_head(model.lift(scene)).logits, auxiliary)


@released
def test_the_lidar_model_end_to_end(tables):
    state = naive.released_state(tables / "voxdet_lidar_semantickitti.tsv")
    model = VoxDetLConfig(detector=replace(DETECTOR, blocks=(3, 3, 3))).build(GRID, SEMANTIC_KITTI)
    assert isinstance(model, VoxDetL)
    model.load_state_dict(convert_lidar(state, model.state_dict()))
    model.eval().requires_grad_(False)
    rng = np.random.default_rng(0)
    low, high = np.array([-3.0, -27, -2.5, 0]), np.array([55.0, 27, 5, 1])
    clouds = [torch.from_numpy(rng.uniform(low, high, (300, 4))).float() for _ in range(2)]
    points = Points(
        positions=torch.cat(clouds)[:, :3],
        features=torch.cat(clouds)[:, 3:],
        batch_index=torch.arange(2).repeat_interleave(300),
        time=torch.zeros(600),
    )
    scene = Scene(
        cameras=Cameras(torch.eye(3).expand(2, 1, 1, 3, 3), torch.eye(4).expand(2, 1, 1, 4, 4), torch.zeros(2, 1, 1)),
        now_from_then=torch.eye(4).expand(2, 1, 4, 4),
        time=torch.zeros(2, 1),
        frame_valid=torch.ones(2, 1, dtype=torch.bool),
        camera_valid=torch.ones(2, 1, 1, dtype=torch.bool),
        points=points,
    )
    grid = naive_grid(VOLUME)
    scattered = torch.stack([naive.scattered(*naive.point_features(state, cloud, grid), grid) for cloud in clouds])
    close(model.points(points, 2), scattered)
    levels = naive.encoder(state, scattered, blocks=2, name="voxel_backbone")
    for ours, theirs in zip(model.backbone(scattered), levels, strict=True):
        close(ours, theirs)
    volume = naive.plain_pyramid(state, levels)
    close(model.neck(levels), volume)
    name = "occ_encoder_backbone.local_aggregator.local_encoder_backbone"
    offsets, logits = naive.detected(state, volume, blocks=3, name=name, size=GRID.shape)
    answer = model(scene)
    close(answer.offsets, offsets)
    close(answer.logits, logits)


@released
def test_every_published_tensor_moves_the_answer(state, scene, rigs):
    """The comparisons above would not notice a tensor that has no weight in what they compare."""
    # A softmax does not see what is added to all it chooses from.
    unseen = ("depth_aggregation.out_conv.bias", *(f"refine_conv.{i}.key_norm.bias" for i in range(4)))
    idle = ("num_batches_tracked", *CAMERA_UNUSED, *unseen)
    live = {key: value.clone().requires_grad_() for key, value in state.items() if not key.endswith(idle)}
    answers = naive_answers({**state, **live}, scene.map(lambda tensor: tensor[:1]), rigs[:1])
    total = sum((answer * normal(*answer.shape)).sum() for answer in answers)
    gradients = torch.autograd.grad(total, list(live.values()))
    # How far the answers go, to first order, if each number of a tensor goes a hundredth of their mean in a bad way.
    moves = {
        key: 0.01 * gradient.abs().sum() * value.detach().abs().mean()
        for (key, value), gradient in zip(live.items(), gradients, strict=True)
    }
    weakest = min(moves, key=lambda key: moves[key].item())
    assert moves[weakest] > 2e-3, weakest
