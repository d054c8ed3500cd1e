"""Depth pre-training: small, against plain loops and by the laws it must keep; the full size on the meta device."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional as F

from occloom.engine import checkpoint
from occloom.errors import InputError
from occloom.grid import LabelSpace, VoxelGrid
from occloom.lifting.depth import DepthPlanes
from occloom.models.voxdet import DetectorConfig
from occloom.models.voxdet_camera import PixelCentres, ResNet50DTrunk, SmallTrunk, VoxDetConfig
from occloom.models.voxdet_pretrain import SurfaceScores, VoxDetPretrainConfig
from occloom.scene import Cameras, Scene, Target

GRID = VoxelGrid(lower=(0.0, -6.4, -2.0), voxel_size=(0.4, 0.4, 0.4), shape=(32, 32, 8))
PLANES = DepthPlanes(near=1.0, step=1.0, count=16)
TINY = VoxDetPretrainConfig(
    trunk=SmallTrunk(width=8),
    neck_channels=4,
    feature_stride=4,
    depth_channels=16,
    fusion_channels=8,
    geometry=PixelCentres(PLANES),
    channels=8,
    segmentation_channels=(8, 8),
)


def label_space(classes=5, empty=0):
    frequencies = tuple(1e6 if c == empty else 1e3 * (c + 1) for c in range(classes))
    return LabelSpace(tuple(f"c{c}" for c in range(classes)), empty, ((0, 0, 0),) * classes, frequencies)


def cameras(lead, size):
    height, width = size
    intrinsics = torch.tensor([[width * 0.6, 0, width / 2], [0, width * 0.6, height / 2], [0, 0, 1]])
    camera_from_ego = torch.tensor([[0.0, -1, 0, 0], [0, 0, -1, 0], [1, 0, 0, -0.3], [0, 0, 0, 1]])
    return Cameras(
        intrinsics=intrinsics.repeat(*lead, 1, 1),
        camera_from_ego=camera_from_ego.repeat(*lead, 1, 1),
        time=torch.zeros(lead),
    )


def random_scene(batch=2, num_cameras=1, size=(32, 64), seed=0):
    generator, lead = torch.Generator().manual_seed(seed), (batch, 1, num_cameras)
    depth = torch.rand(*lead, *size, generator=generator) * 16
    return Scene(
        cameras=cameras(lead, size),
        now_from_then=torch.eye(4).repeat(batch, 1, 1, 1),
        time=torch.zeros(batch, 1),
        frame_valid=torch.ones(batch, 1, dtype=torch.bool),
        camera_valid=torch.ones(lead, dtype=torch.bool),
        images=torch.rand(*lead, 3, *size, generator=generator),
        depth=torch.where(torch.rand(depth.shape, generator=generator) < 0.3, 0.0, depth),
    )


def random_target(batch=2, num_cameras=1, size=(32, 64), seed=0):
    generator = torch.Generator().manual_seed(seed)
    hit = torch.rand(batch, num_cameras, *size, generator=generator) < 0.1
    labels = torch.randint(0, 5, hit.shape, generator=generator)
    return Target(
        labels=torch.zeros(batch, *GRID.shape, dtype=torch.int64),
        observed=torch.zeros(batch, *GRID.shape, dtype=torch.bool),
        image_labels=torch.where(hit, labels, -1),
        depth=torch.where(hit, 1 + 15 * torch.rand(hit.shape, generator=generator), 0.0),
    )


def tiny_model(config=TINY, empty=0, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return config.build(GRID, label_space(empty=empty))


def test_shapes_and_prediction():
    model, scene = tiny_model().eval(), random_scene(size=(30, 62))
    with torch.no_grad():
        outputs = model(scene)
    assert outputs.depth.shape == (2, 1, 16, 8, 16)
    assert outputs.image_logits.shape == (2, 1, 5, 30, 62)
    assert outputs.logits.shape == (2, 5, *GRID.shape)
    torch.testing.assert_close(outputs.logits.exp().sum(dim=1), torch.ones(2, *GRID.shape), rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        assert torch.equal(model.predict(scene), outputs.logits.argmax(dim=1))


def test_every_parameter_gets_a_gradient():
    model = tiny_model().train()
    # What adds nothing before training would hide the gradients behind it.
    for name, parameter in model.named_parameters():
        if name.endswith(("gamma", "layer_scale")):
            torch.nn.init.ones_(parameter)
    scene = random_scene()
    # Normalised over a batch, cameras that are all alike vanish.
    scene.cameras.camera_from_ego[1, ..., 3] += 0.5
    scene.cameras.intrinsics[1, ..., 0, 0] *= 1.1
    sum(model.loss(model(scene), random_target()).values()).backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == []


def test_the_terms_are_plain_losses_over_what_the_lidar_has_hit():
    model, scene, target = tiny_model().eval(), random_scene(), random_target()
    outputs = model(scene)
    terms = model.loss(outputs, target)
    total, count, nll, hits = 0.0, 0, 0.0, 0
    centres = PLANES.centres()
    for b in range(2):
        for row in range(8):
            for column in range(16):
                cell = target.depth[b, 0, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4]
                if not (cell > 0).any():
                    continue
                # The normal density at planes' centres times the step is close to the share of each plane.
                normal = torch.distributions.Normal(cell[cell > 0].min(), 0.5)
                share = normal.cdf(centres + 0.5) - normal.cdf(centres - 0.5)
                share = share / share.sum()
                total += F.kl_div(outputs.depth[b, 0, :, row, column].log(), share, reduction="sum").item()
                count += 1
        for row, column in (target.image_labels[b, 0] >= 0).nonzero().tolist():
            scores = outputs.image_logits[b, 0, :, row, column]
            nll -= scores.log_softmax(0)[target.image_labels[b, 0, row, column]].item()
            hits += 1
    assert terms["depth"].item() == pytest.approx(total / count, rel=1e-3)
    assert terms["segmentation"].item() == pytest.approx(nll / hits, rel=1e-4)


def test_weights_scale_the_terms_and_a_target_without_hits_costs_nothing():
    model, scene, target = tiny_model().eval(), random_scene(), random_target()
    scaled = tiny_model(replace(TINY, depth_weight=2.0, segmentation_weight=0.5)).eval()
    one, other = model.loss(model(scene), target), scaled.loss(scaled(scene), target)
    torch.testing.assert_close(other["depth"], 2 * one["depth"])
    torch.testing.assert_close(other["segmentation"], one["segmentation"] / 2)
    nothing = replace(
        target, depth=torch.zeros_like(target.depth), image_labels=torch.full_like(target.image_labels, -1)
    )
    assert [value.item() for value in model.loss(model(scene), nothing).values()] == [0, 0]


def test_a_missing_camera_neither_trains_nor_shows():
    model, scene = tiny_model().eval(), random_scene(num_cameras=2)
    missing = replace(scene, camera_valid=torch.tensor([[[True, False]], [[True, True]]]))
    target = random_target(num_cameras=2)
    other = replace(target, depth=target.depth.clone(), image_labels=target.image_labels.clone())
    other.depth[0, 1], other.image_labels[0, 1] = 3.0, 1
    one, two = (model.loss(model(missing), t) for t in (target, other))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert model.loss(model(scene), other)["depth"] != one["depth"]
    images = scene.images.clone()
    images[0, 0, 1] = 0.3
    with torch.no_grad():
        assert torch.equal(model(replace(missing, images=images)).logits[0], model(missing).logits[0])


def surface(empty=0, num_cameras=1, size=(32, 64)):
    """One plane and one class a pixel, certain."""
    generator, lead = torch.Generator().manual_seed(4), (1, num_cameras)
    plane = torch.randint(0, PLANES.count, (*lead, size[0] // 4, size[1] // 4), generator=generator)
    classes = torch.randint(0, 5, (*lead, *size), generator=generator)
    rig = cameras((1, 1, num_cameras), size)
    return (
        plane,
        classes,
        SurfaceScores(
            depth=F.one_hot(plane, PLANES.count).movedim(-1, 2).float(),
            image_logits=50 * F.one_hot(classes, 5).movedim(-1, 2).float(),
            intrinsics=rig.intrinsics[:, 0],
            camera_from_ego=rig.camera_from_ego[:, 0],
            valid=torch.ones(lead, dtype=torch.bool),
            planes=PLANES,
            stride=4,
            grid=GRID,
            empty=empty,
        ),
    )


@pytest.mark.parametrize("empty", [0, 4])
def test_a_voxel_has_the_class_of_the_pixel_whose_depth_it_has(empty):
    plane, classes, scores = surface(empty)
    expected = torch.full(GRID.shape, empty)
    for x in range(32):
        for y in range(32):
            for z in range(8):
                left, up, forward = (-6.4 + 0.4 * (y + 0.5), -2 + 0.4 * (z + 0.5), 0.4 * (x + 0.5) - 0.3)
                if forward <= 0:
                    continue
                u, v = round(38.4 * -left / forward + 32), round(38.4 * -up / forward + 16)
                index = int(forward - 0.5) if forward >= 0.5 else -1
                if 0 <= u < 64 and 0 <= v < 32 and 0 <= index < 16 and plane[0, 0, v // 4, u // 4] == index:
                    expected[x, y, z] = classes[0, 0, v, u]
    found = scores.argmax()[0]
    assert (expected != empty).sum() > 50
    assert (found != expected).sum() <= 3  # float32 may round a pixel or a plane to the other side


def test_cutting_into_slabs_changes_nothing(monkeypatch):
    _, _, scores = surface(num_cameras=2)
    whole = scores.logits
    monkeypatch.setattr("occloom.models.voxdet_pretrain.SLAB_VOXELS", 1)
    assert len(list(scores.slabs())) == 32
    assert torch.equal(scores.logits, whole)


def test_two_cameras_that_agree_say_what_one_says():
    _, _, one = surface()
    two = SurfaceScores(
        **{
            **vars(one),
            **{
                name: getattr(one, name).repeat_interleave(2, dim=1)
                for name in ("depth", "image_logits", "intrinsics", "camera_from_ego", "valid")
            },
        }
    )
    torch.testing.assert_close(two.logits, one.logits)


def test_batch_equals_one_by_one():
    model, scene = tiny_model().eval(), random_scene(batch=3, num_cameras=2)
    with torch.no_grad():
        together = model(scene)
        for b in range(3):
            alone = model(scene.map(lambda tensor, b=b: tensor[b : b + 1]))
            torch.testing.assert_close(alone.depth, together.depth[b : b + 1], rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(alone.image_logits, together.image_logits[b : b + 1], rtol=1e-4, atol=1e-4)


def test_it_learns_one_sample():
    model, scene, target = tiny_model().train(), random_scene(batch=1), random_target(batch=1)
    optimiser, losses = torch.optim.AdamW(model.parameters(), lr=3e-3), []
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for _ in range(60):
            loss = sum(model.loss(model(scene), target).values())
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]


def test_voxdet_takes_over_trunk_neck_and_depth_network_whole(tmp_path):
    model = tiny_model(seed=1)
    shared = {
        name: getattr(TINY, name)
        for name in (
            "trunk",
            "neck_channels",
            "feature_stride",
            "depth_channels",
            "fusion_channels",
            "geometry",
            "channels",
        )
    }
    detector = DetectorConfig(groups=4)
    voxdet = VoxDetConfig(**shared, heads=2, volume_coarsening=(1, 1, 1), detector=detector).build(GRID, label_space())
    save_file(model.state_dict(), tmp_path / "ema.safetensors")
    taken = checkpoint.take_weights(voxdet, tmp_path / "ema.safetensors")
    assert {name.partition(".")[0] for name in taken.names} == {"trunk", "neck", "depth_net"}
    assert taken.misshapen == ()
    assert {name.partition(".")[0] for name in taken.not_there} == {"lifting", "detector"}
    assert {name.partition(".")[0] for name in taken.not_used} == {"segmentation"}
    for part in ("trunk", "neck", "depth_net"):
        state = getattr(voxdet, part).state_dict()
        assert all(torch.equal(state[name], tensor) for name, tensor in getattr(model, part).state_dict().items())


def test_full_size_has_the_released_counts_and_fits_together():
    grid = VoxelGrid((0.0, -25.6, -2.0), (0.2, 0.2, 0.2), (256, 256, 32))
    with torch.device("meta"):
        model = VoxDetPretrainConfig().build(grid, label_space(20))
    counts = {name: sum(p.numel() for p in part.parameters()) for name, part in model.named_children()}
    # Reference voxdet 11; 2x2 kernels of 128-128-64-32 channels, a weight and a bias a normalised channel, 20 classes.
    head = 4 * (128 * 128 + 128 * 64 + 64 * 32) + 2 * (128 + 64 + 32) + 32 * 20 + 20
    assert counts == {"trunk": 23_527_264, "neck": 4_916_224, "depth_net": 12_102_702, "segmentation": head}
    outputs = model(random_scene(batch=1, size=(384, 1280)).to("meta"))
    assert outputs.depth.shape == (1, 1, 112, 48, 160)
    assert outputs.image_logits.shape == (1, 1, 20, 384, 1280)
    assert outputs.argmax().shape == (1, 256, 256, 32)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"feature_stride": 8}, "segmentation_channels has 2 numbers"),
        ({"feature_stride": 3}, "feature_stride is 3"),
        ({"depth_std": 0.0}, "depth_std is 0"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(changes, named):
    with pytest.raises(InputError, match=named):
        replace(TINY, **changes)


def test_trunk_weights_reach_the_trunk(tmp_path):
    model = tiny_model(replace(TINY, trunk=SmallTrunk(width=8)))
    state = {name: tensor + 1 for name, tensor in model.trunk.state_dict().items()}
    save_file(state, tmp_path / "trunk.safetensors")
    model.load_trunk_weights(tmp_path / "trunk.safetensors")
    assert all(torch.equal(model.trunk.state_dict()[name], tensor) for name, tensor in state.items())
    with pytest.raises(InputError, match="no ImageNet weights"):
        model.load_trunk_weights("imagenet")
    assert ResNet50DTrunk.imagenet is not None
