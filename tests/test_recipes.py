"""Every recipe goes through the same contract, shrunk to a grid that trains in a second; there is no skip list."""

import csv
import json
import math
from dataclasses import astuple, dataclass, fields, is_dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from occloom.backbones.internimage import InternImageTrunk
from occloom.cli.main import run
from occloom.engine.benchmark import example_scene
from occloom.engine.config import Recipe, from_json, to_json
from occloom.engine.table import read_table
from occloom.engine.train import build_model, build_model_without_memory
from occloom.errors import InputError
from occloom.grid import LabelSpace, VoxelGrid
from occloom.interfaces import Needs, OccupancyModel, SceneDataset, Split
from occloom.losses.voxnt import Refinement
from occloom.models.monoocc_distillation import MonoOccDistillationConfig
from occloom.models.voxdet import DetectorConfig
from occloom.models.voxdet_camera import VoxDetConfig
from occloom.models.voxdet_lidar import VoxDetLConfig
from occloom.models.voxdet_released import ReleasedGeometry, ReleasedOffsetLoss, ReleasedSampling
from occloom.recipes import RECIPES, resolve
from occloom.scene import Sample, Scene, Target, collate


@dataclass(frozen=True)
class SmallData:
    """The recipe's classes and views on a grid of a sixteenth of its edge, seen in small pictures."""

    grid: VoxelGrid
    label_space: LabelSpace
    num_frames: int
    num_cameras: int
    image_size: tuple[int, int] = (64, 128)
    root: None = None

    def build(self, split: Split, needs: Needs) -> SceneDataset:
        raise NotImplementedError


def shrunk(name: str) -> Recipe:
    recipe = resolve(name)
    data = recipe.data
    x, y, z = (min(n, max(16, n // 8)) for n in data.grid.shape)
    size = tuple(extent * n / m for extent, n, m in zip(data.grid.voxel_size, data.grid.shape, (x, y, z), strict=True))
    grid = VoxelGrid(lower=data.grid.lower, voxel_size=(size[0], size[1], size[2]), shape=(x, y, z))
    # Two cameras of a surround rig and three frames show all that more would, in a fraction of the time.
    small = SmallData(grid, data.label_space, min(data.num_frames, 3), min(data.num_cameras, 2))
    return replace(recipe, data=small, model=cheaply(recipe.model))


def cheaply(config):
    """The same parts at any depth, with a narrow, shallow InternImage (XL would take minutes) and a loss of all voxels.

    Of so few, a loss that draws some by lot could not be compared from step to step.
    """
    if isinstance(config, InternImageTrunk):
        return replace(config, width=32, depths=(1, 1, 1, 1))
    if not is_dataclass(config):
        return config
    changes = {field.name: cheaply(getattr(config, field.name)) for field in fields(config)}
    if "loss_stride" in changes:
        changes["loss_stride"] = 1
    return replace(config, **changes)


def scene_for(model: OccupancyModel, recipe: Recipe) -> Scene:
    """Only what the model says it needs."""
    scene, needs = example_scene(recipe), model.needs
    prior = scene.prior if needs.prior_depth else None
    if prior is not None and not needs.prior_features:
        prior = replace(prior, features=None)
    return replace(
        scene,
        images=scene.images if needs.images else None,
        depth=scene.depth if needs.depth else None,
        points=scene.points if needs.points else None,
        prior=prior,
        pseudo_voxels=scene.pseudo_voxels if needs.pseudo_voxels else None,
        proposals=scene.proposals if needs.proposals else None,
    )


def target_for(recipe: Recipe, seed: int) -> Target:
    """Slabs of every class, a tenth unobserved, without a number that a model could not know; some pixels hit."""
    grid, classes = recipe.data.grid, recipe.data.label_space.num_classes
    rng = np.random.default_rng(seed)
    labels = np.broadcast_to(rng.integers(0, classes, (1, grid.shape[0], 1, grid.shape[2])), (1, *grid.shape))
    observed = rng.random((1, *grid.shape)) < 0.9
    labels = np.where(observed, labels, recipe.data.label_space.empty)
    hit = rng.random((1, recipe.data.num_cameras, *recipe.data.image_size)) < 0.1
    depth = np.where(hit, rng.uniform(5.0, 20.0, hit.shape), 0.0).astype(np.float32)
    image_labels = np.where(hit, rng.integers(0, classes, hit.shape), -1)
    segments = np.broadcast_to(np.arange(hit.shape[-1]) // 16, hit.shape)
    return Target(
        torch.from_numpy(labels.copy()),
        torch.from_numpy(observed),
        image_labels=torch.from_numpy(image_labels),
        depth=torch.from_numpy(depth),
        pseudo_masks=torch.from_numpy(segments.copy()),
    )


def taught(recipe: Recipe, folder: Path) -> Recipe:
    """The recipe with weights of a teacher, which nobody trained, where one is asked for."""
    config = recipe.model
    if not isinstance(config, MonoOccDistillationConfig):
        return recipe
    teacher = config.teacher.build(recipe.data.grid, recipe.data.label_space)
    save_file(teacher.state_dict(), folder / "model.safetensors")
    return replace(recipe, model=replace(config, checkpoint=folder))


@pytest.fixture(params=RECIPES)
def recipe(request, tmp_path) -> Recipe:
    return taught(shrunk(request.param), tmp_path)


@pytest.fixture
def model(recipe) -> OccupancyModel:
    return build_model(recipe)


def test_a_recipe_is_named_as_it_is_listed():
    for name, function in RECIPES.items():
        recipe = function()
        assert recipe.name == name
        assert function.__doc__
        assert recipe == resolve(name)


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_survives_its_json(name):
    recipe = resolve(name)
    for part in (recipe.model, recipe.data, recipe.train):
        assert from_json(part, json.loads(json.dumps(to_json(part), allow_nan=False)), where=name) == part


PUBLISHED = {
    # Reference voxdet 11: trunk, neck, depth network, lifting, encoder, decouplers, necks, predictor, auxiliary head.
    "voxdet-semantickitti": 23_527_264 + 4_916_224 + 12_102_702 + 448_064 + 6_639_360 + 2_287_832 + 1_902_592 + 933_120,
    "voxdet-kitti360": 52_757_030,
    # Point network, backbone, neck, encoder with decouplers and necks, predictor, auxiliary head.
    "voxdet-l-semantickitti": 75_596 + 6_639_360 + 951_296 + 13_485_528 + 710_528 + 222_592,
}
TABLES = ("voxdet_camera_semantickitti", "voxdet_camera_kitti360", "voxdet_lidar_semantickitti")


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_command_tells_the_published_number_of_parameters(name: str, capsys: pytest.CaptureFixture[str]):
    for recipe in (name, f"{name}-released"):
        assert run(["benchmark", recipe, "--parameters-only", "--json"]) == 0
        parameters = json.loads(capsys.readouterr().out)["parameters"]
        assert parameters["published"] == PUBLISHED[name]
        assert parameters["published"] == parameters["trainable"] + sum(parameters["left_out"].values())


def test_the_command_tells_bevdets_number_of_parameters(capsys: pytest.CaptureFixture[str]):
    assert run(["benchmark", "bevdet4d-occ3d", "--parameters-only", "--json"]) == 0
    parameters = json.loads(capsys.readouterr().out)["parameters"]
    assert parameters["trainable"] == 34_969_712  # reference drocc 0.6


def test_the_command_tells_cotrs_number_of_parameters(capsys: pytest.CaptureFixture[str]):
    """37.71 M (reference drocc 7); the position tables' rows that are never read are not built."""
    assert run(["benchmark", "cotr-occ3d", "--parameters-only", "--json"]) == 0
    parameters = json.loads(capsys.readouterr().out)["parameters"]
    assert parameters["published"] == 37_712_256
    assert parameters["trainable"] == 37_712_256 - 28_800


@pytest.mark.parametrize(
    ("name", "expected"),
    # Reference drocc 7: 36.36, 40.16 and 36.78 M.
    [
        ("drocc-d2-bevdet4d-occ3d", 36_356_912),
        ("drocc-r-bevdet4d-occ3d", 40_155_664),
        ("drocc-bevdet4d-occ3d", 36_777_618),
    ],
)
def test_the_command_tells_dr_occs_number_of_parameters(name, expected, capsys: pytest.CaptureFixture[str]):
    assert run(["benchmark", name, "--parameters-only", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["parameters"]["trainable"] == expected


@pytest.mark.parametrize(
    "table", sorted(Path(__file__).parents[1].glob("docs/tables/*.toml")), ids=lambda path: path.stem
)
def test_tables_of_the_pages_can_be_run(table: Path):
    assert read_table(table, resolve).rows


@pytest.mark.real_data
def test_the_published_numbers_are_those_of_the_published_tensors(real_data: Path):
    for (name, published), table in zip(PUBLISHED.items(), TABLES, strict=True):
        with (real_data.parent / "reference" / "state_dicts" / f"{table}.tsv").open() as file:
            rows = list(csv.DictReader(file, delimiter="\t"))
        assert sum(math.prod(json.loads(row["shape"])) for row in rows if row["kind"] == "param") == published, name


@dataclass(frozen=True)
class Detail:
    """What paper, released configurations and logs say of a VoxDet (reference voxdet 7 and 8)."""

    weights: tuple[float, float, float, float, float]
    """Cross-entropy, semantic and geometric affinity, regression, auxiliary."""
    maximum: int | None
    """Of the length of cars along each axis; None where nothing is refined."""
    minimum: int | None = None
    released: bool = False


DETAILS = {
    "voxdet-semantickitti": Detail((1, 1, 1, 1, 0.2), 30, 3),
    "voxdet-town": Detail((1, 1, 1, 1, 0.2), 30, 3),
    "voxdet-l-semantickitti": Detail((1, 1, 1, 1, 0.2), 30, 3),
    "voxdet-l-town": Detail((1, 1, 1, 1, 0.2), 30, 3),
    "voxdet-semantickitti-released": Detail((3, 1, 1, 1, 0.2), 31, None, released=True),
    "voxdet-kitti360": Detail((4, 4, 4, 1, 0.2), None),
    "voxdet-kitti360-released": Detail((4, 4, 4, 1, 0.2), None, released=True),
    "voxdet-kitti360-town": Detail((1, 1, 1, 1, 0.2), None),
    "voxdet-l-semantickitti-released": Detail((3, 1, 5, 1, 0.5), 31, None, released=True),
}


def detectors() -> dict[str, DetectorConfig]:
    """Of every recipe that has one."""
    models = {name: resolve(name).model for name in RECIPES}
    return {name: model.detector for name, model in models.items() if isinstance(model, VoxDetConfig | VoxDetLConfig)}


def test_no_detector_is_missing_in_the_table():
    assert detectors().keys() == DETAILS.keys()


@pytest.mark.parametrize(("name", "detail"), DETAILS.items())
def test_losses_and_refinement_are_those_of_paper_or_release(name: str, detail: Detail):
    detector = detectors()[name]
    assert astuple(detector.weights) == detail.weights
    expected = None
    if detail.maximum is not None:
        minimum = None if detail.minimum is None else (detail.minimum,) * 3
        expected = Refinement(classes=(1,), maximum=(detail.maximum,) * 3, minimum=minimum)
    assert detector.refinement == expected


@pytest.mark.parametrize(("name", "detail"), DETAILS.items())
def test_released_parts_are_in_released_recipes_alone(name: str, detail: Detail):
    recipe, detector = resolve(name), detectors()[name]
    assert detail.released == name.endswith("-released")
    assert isinstance(detector.sampling, ReleasedSampling) == detail.released
    assert isinstance(detector.offset_loss, ReleasedOffsetLoss) == detail.released
    if isinstance(recipe.model, VoxDetConfig):
        assert isinstance(recipe.model.geometry, ReleasedGeometry) == detail.released
        assert (to_json(recipe.data)["image_fit"] == "released-width") == detail.released


def test_recipes_with_released_parts_are_named_so():
    for name in RECIPES.keys() - DETAILS.keys():
        assert ("Released" in repr(resolve(name))) == name.endswith("-released")
        assert to_json(resolve(name).data).get("image_fit") != "released-width"


@pytest.mark.parametrize("name", RECIPES)
def test_the_full_size_can_be_built_without_memory(name):
    model = build_model_without_memory(resolve(name))
    assert sum(p.numel() for p in model.parameters()) > 0
    assert model.grid == resolve(name).data.grid


def test_a_batch_has_logits_for_every_voxel_and_a_prediction_among_them(recipe, model):
    model.eval()
    one = Sample(scene_for(model, recipe), None, ("00/000000",))
    scene = collate([one, replace(one, tokens=("00/000001",))]).scene
    with torch.no_grad():
        logits = model(scene).logits
        prediction = model.predict(scene)
    assert logits.shape == (2, recipe.data.label_space.num_classes, *recipe.data.grid.shape)
    assert torch.isfinite(logits).all()
    chosen = logits.gather(1, prediction[:, None])[:, 0]
    assert torch.allclose(chosen, logits.amax(1), atol=1e-5)
    assert torch.allclose(logits[0], logits[1], atol=1e-4)


def test_every_parameter_gets_a_gradient_and_steps_lower_the_loss(recipe, model):
    model.train()
    scene, target = scene_for(model, recipe), target_for(recipe, 0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=min(1e-3, recipe.train.learning_rate))
    totals = []
    for _ in range(4):
        losses = model.loss(model(scene), target)
        total = torch.stack(list(losses.values())).sum()
        assert torch.isfinite(total)
        optimizer.zero_grad()
        total.backward()
        missing = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
        assert not missing
        optimizer.step()
        totals.append(total.item())
    assert totals[-1] < totals[0]


def test_unobserved_voxels_do_not_matter(recipe, model):
    model.eval()
    scene, target = scene_for(model, recipe), target_for(recipe, 1)
    other = (target.labels + 1) % recipe.data.label_space.num_classes
    changed = replace(target, labels=torch.where(target.observed, target.labels, other))
    with torch.no_grad():
        outputs = model(scene)
        one, two = model.loss(outputs, target), model.loss(outputs, changed)
    assert {name: float(value) for name, value in one.items()} == {name: float(value) for name, value in two.items()}


def test_weights_carry_all_that_a_prediction_depends_on(recipe, model):
    other = build_model(replace(recipe, train=replace(recipe.train, seed=recipe.train.seed + 1)))
    other.load_state_dict(model.state_dict())
    scene = scene_for(model, recipe)
    with torch.no_grad():
        assert torch.equal(model.eval()(scene).logits, other.eval()(scene).logits)


def test_recipes_of_others_are_imported_by_name():
    assert resolve("tiny_recipes:tiny").name == "tiny_recipes:tiny"


@pytest.mark.parametrize(
    ("name", "named"),
    [
        ("baseline-twon", "perhaps you meant baseline-town"),
        ("zzz", "there are baseline-town"),
        ("tiny_recipes:nothing", "nothing"),
        ("no_such_module:recipe", "no_such_module"),
        ("tiny_recipes:not_a_recipe", "returned int"),
    ],
)
def test_what_is_no_recipe_is_refused(name, named):
    with pytest.raises(InputError, match=named):
        resolve(name)
