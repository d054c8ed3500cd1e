"""The shape of the house: who imports whom, what is public, how large things grow, and that shapes are checked."""

import ast
import subprocess
import sys
from dataclasses import fields, replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from jaxtyping import TypeCheckError

import occloom
from occloom.data.kitti_files import unpack_bits
from occloom.geometry.rigid import transform_points
from occloom.scene import Cameras, Scene

PACKAGE = Path(occloom.__file__).parent
TESTS = Path(__file__).parent

PUBLIC_NAMES = [
    "Cameras",
    "InputError",
    "LabelSpace",
    "Needs",
    "OccupancyModel",
    "Points",
    "Sample",
    "Scene",
    "Target",
    "VoxelGrid",
    "collate",
    "load_model",
    "scene_from_image",
]

BASE = {"errors", "grid", "scene", "interfaces"}
PARTS = {"backbones", "lifting", "voxel", "heads", "losses"}
EVERYTHING_BELOW_RECIPES = (
    BASE | PARTS | {"geometry", "ops", "metrics", "cache", "rays", "stereo", "data", "labels", "models"}
)

RECIPE_FILES = {
    "recipes_monoocc",
    "recipes_panoocc",
    "recipes_protoocc",
    "recipes_segmentation",
    "recipes_symphonies",
    "recipes_voxformer",
}
"""Recipes of one system each, which `recipes` lists beside its own."""

ALLOWED = {
    "errors": set(),
    "grid": {"errors"},
    "scene": {"errors", "grid"},
    "interfaces": {"errors", "grid", "scene"},
    "geometry": BASE,
    "ops": BASE | {"geometry"},
    **dict.fromkeys(PARTS, BASE | PARTS | {"geometry", "ops"}),
    "metrics": BASE | {"geometry", "ops"},
    "models": BASE | PARTS | {"geometry", "ops"},
    "engine.config": BASE | {"metrics"},
    "engine": BASE | {"engine.config", "geometry", "metrics", "cache", "viewer"},
    "cache": {"errors"},
    "rays": {"errors", "grid"},
    "stereo": BASE,
    "data": BASE | {"geometry", "cache", "stereo"},
    "labels": BASE | {"geometry", "cache", "rays"},
    "town": BASE
    | {"geometry", "labels", "rays"}
    | {"data.kitti_files", "data.kitti360_files", "data.label_spaces", "data.label_files", "data.occ3d_labels"},
    "viewer": {"errors", "grid", "scene", "rays"},
    "recipes_town": {"engine.config"},
    **dict.fromkeys(RECIPE_FILES, EVERYTHING_BELOW_RECIPES | {"engine.config", "recipes_town"}),
    "recipes_monoocc": EVERYTHING_BELOW_RECIPES | {"engine.config", "recipes_voxformer"},
    "recipes_protoocc": EVERYTHING_BELOW_RECIPES
    | {"engine.config", "recipes_panoocc", "recipes_voxformer", "recipes_symphonies"},
    "recipes": EVERYTHING_BELOW_RECIPES | {"engine.config", "recipes_town"} | RECIPE_FILES,
    "inference": EVERYTHING_BELOW_RECIPES | {"engine", "engine.config", "recipes"},
    "cli": EVERYTHING_BELOW_RECIPES | {"engine", "engine.config", "recipes", "inference", "town", "viewer"},
    "__main__": {"cli"},
    "": BASE | {"inference"},
}
"""What each part of the package may import besides itself; the longest name that fits a module is its part."""

OUTSIDE = {
    "embreex": {"rays"},
    "cv2": {"data"},
    "tyro": {"cli"},
    "lightning": {"engine"},
    "lightning_fabric": {"engine"},
    "huggingface_hub": {"backbones"},
    "transformers": {"data"},
    "moge": set(),
    "timm": set(),
    "torchvision": set(),
}
"""Packages that only some parts may import, so that the others run without them."""


def name_of(path: Path) -> str:
    """The dotted name of a module within the package, "" for the package itself."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}


@cache
def tree_of(module: str) -> ast.Module:
    return ast.parse(MODULES[module].read_text())


def imports_of(module: str) -> set[str]:
    """Absolute names of all modules that a module imports anywhere, also within functions."""
    found: set[str] = set()
    for node in ast.walk(tree_of(module)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} imports relatively"
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            modules = {name for name in inner if name.removeprefix("occloom.") in MODULES}
            found |= modules if len(modules) == len(inner) else modules | {str(node.module)}
    return found


def inner_imports(module: str) -> set[str]:
    names = {name for name in imports_of(module) if name.split(".")[0] == "occloom"}
    return {name.removeprefix("occloom").removeprefix(".") for name in names}


def part_of(module: str, parts: set[str]) -> str | None:
    """The longest of some parts that a module belongs to."""
    fitting = [part for part in parts if module == part or (part and module.startswith(f"{part}."))]
    return max(fitting, key=len, default=None)


def may_import(part: str, module: str) -> bool:
    """Whether what a part may import holds a module, at least as precisely as the module's own part is named."""
    holding, own = part_of(module, ALLOWED[part] | {part}), part_of(module, set(ALLOWED))
    return holding is not None and own is not None and len(holding) >= len(own)


@pytest.mark.parametrize(
    ("part", "module", "answer"),
    [
        ("models", "ops.voxel_pooling", True),
        ("models", "engine.train", False),
        ("models", "metrics.confusion", False),
        ("engine", "engine.config", True),
        ("engine.config", "engine.train", False),
        ("recipes", "engine.config", True),
        ("recipes", "engine.train", False),
        ("town", "data.kitti_files", True),
        ("town", "data.semantickitti", False),
        ("geometry", "geometry.rigid", True),
        ("geometry", "grids", False),
    ],
)
def test_the_rule_of_imports_can_fail(part, module, answer):
    assert may_import(part, module) is answer


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_one_way(module):
    part = part_of(module, set(ALLOWED))
    assert part is not None, f"{module} belongs to no part; name it in ALLOWED"
    foreign = {name for name in inner_imports(module) if not may_import(part, name)}
    assert not foreign, f"occloom.{module} must not import {sorted(foreign)}"


def test_no_module_imports_itself_through_others():
    done: set[str] = set()

    def visit(module: str, above: tuple[str, ...]) -> None:
        assert module in MODULES, f"{above[-1]} imports {module}, which does not exist"
        assert module not in above, " -> ".join((*above, module))
        if module not in done:
            for name in sorted(inner_imports(module) - {""}):
                visit(name, (*above, module))
            done.add(module)

    for module in MODULES:
        visit(module, ())


@pytest.mark.parametrize("package", OUTSIDE)
def test_outside_packages_are_imported_where_they_belong(package):
    users = {part_of(m, set(ALLOWED)) for m in MODULES if package in {name.split(".")[0] for name in imports_of(m)}}
    assert users <= OUTSIDE[package]


def test_the_public_names_are_frozen():
    assert sorted(occloom.__all__) == PUBLIC_NAMES
    assert dir(occloom) == PUBLIC_NAMES


@pytest.mark.parametrize("name", PUBLIC_NAMES)
def test_a_public_name_can_be_had_and_is_explained(name):
    assert getattr(occloom, name).__doc__
    assert getattr(occloom, name).__module__.startswith("occloom.")


def test_another_name_is_no_attribute():
    with pytest.raises(AttributeError, match="nonsense"):
        _ = occloom.nonsense


@pytest.mark.multiprocess
def test_importing_the_package_and_its_command_does_not_wait_for_pytorch():
    code = "import sys, occloom, occloom.cli.main; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("module", [m for m, path in MODULES.items() if not path.name.startswith("__")])
def test_every_module_has_a_twin_among_the_tests(module):
    *folders, name = module.split(".")
    assert TESTS.joinpath(*folders, f"test_{name}.py").is_file()


@pytest.mark.parametrize("module", MODULES)
def test_files_and_functions_stay_short(module):
    assert len(MODULES[module].read_text().splitlines()) <= 600
    functions = [n for n in ast.walk(tree_of(module)) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
    lengths = {node.name: (node.end_lineno or node.lineno) - node.lineno + 1 for node in functions}
    assert not {name: length for name, length in lengths.items() if length > 80}


@pytest.mark.parametrize("module", MODULES)
def test_no_function_takes_any_keyword(module):
    functions = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
    taking = [n.lineno for n in ast.walk(tree_of(module)) if isinstance(n, functions) and n.args.kwarg is not None]
    assert not taking, f"keywords are swallowed in lines {taking}"


def is_dataclass(node: ast.ClassDef) -> bool:
    return any("dataclass" in ast.unparse(decorator) for decorator in node.decorator_list)


def unexplained_fields(node: ast.ClassDef) -> list[str]:
    """Fields of a class that no string follows."""
    following = [*node.body[1:], None]
    return [
        ast.unparse(field.target)
        for field, after in zip(node.body, following, strict=True)
        if isinstance(field, ast.AnnAssign)
        and not (
            isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant) and isinstance(after.value.value, str)
        )
    ]


CONFIGS = [
    pytest.param(node, id=f"{module}.{node.name}")
    for module in MODULES
    for node in ast.walk(tree_of(module))
    if isinstance(node, ast.ClassDef) and node.name.endswith(("Config", "Recipe")) and is_dataclass(node)
]


@pytest.mark.parametrize("config", CONFIGS)
def test_every_field_of_a_config_is_explained(config):
    assert unexplained_fields(config) == []
    assert any("frozen=True" in ast.unparse(decorator) for decorator in config.decorator_list)


def test_configs_are_found_and_a_field_without_a_line_is_noticed():
    assert len(CONFIGS) > 2
    (node,) = ast.parse('class AConfig:\n    a: int\n    """Told."""\n    b: int\n    c: int = 1\n').body
    assert isinstance(node, ast.ClassDef)
    assert unexplained_fields(node) == ["b", "c"]


class TestShapesAreChecked:
    """Without the last item of pytest's addopts no shape would be checked, and nothing else would tell."""

    def test_a_function_refuses_a_wrong_shape(self):
        with pytest.raises(TypeCheckError, match="points_b"):
            transform_points(torch.eye(4), torch.zeros(5, 2))

    def test_a_function_refuses_axes_that_disagree(self):
        with pytest.raises(TypeCheckError, match="points_b"):
            transform_points(torch.eye(4).repeat(2, 1, 1), torch.zeros(3, 5, 3))

    def test_a_function_refuses_a_wrong_kind_of_array(self):
        with pytest.raises(TypeCheckError, match="packed"):
            unpack_bits(np.zeros(1, np.int64), (2, 2, 2))

    def test_a_record_refuses_fields_that_disagree(self):
        cameras = Cameras(
            intrinsics=torch.zeros(1, 1, 2, 3, 3), camera_from_ego=torch.zeros(1, 1, 2, 4, 4), time=torch.zeros(1, 1, 2)
        )
        scene = Scene(
            cameras=cameras,
            now_from_then=torch.zeros(1, 1, 4, 4),
            time=torch.zeros(1, 1),
            frame_valid=torch.ones(1, 1, dtype=torch.bool),
            camera_valid=torch.ones(1, 1, 2, dtype=torch.bool),
        )
        assert {field.name for field in fields(scene)} >= {"images", "depth", "points"}
        with pytest.raises(TypeCheckError, match="camera_valid"):
            replace(scene, camera_valid=torch.ones(1, 2, 2, dtype=torch.bool))
        with pytest.raises(TypeCheckError, match="images"):
            replace(scene, images=torch.zeros(1, 1, 2, 4, 8, 8))
