from dataclasses import replace
from pathlib import Path

import pytest

from occloom.backbones.internimage import INTERNIMAGE_T, INTERNIMAGE_XL
from occloom.cli.main import run
from occloom.data.road_images import RoadImagesConfig
from occloom.models.segmentation_pretrain import SegmentationPretrainConfig
from occloom.recipes import RECIPES, resolve
from occloom.recipes_segmentation import SEGMENTATION_RECIPES


def test_they_are_listed():
    assert SEGMENTATION_RECIPES.items() <= RECIPES.items()


def test_both_steps_together_are_the_papers_20k_iterations_and_the_second_begins_with_the_first():
    """MonoOcc, IV-B: Vistas (124 classes), then four sets with 19 classes; 16 pictures a step as for public weights."""
    one, two = resolve("internimage-xl-vistas-pretrain"), resolve("internimage-xl-road-pretrain")
    assert one.train.steps + two.train.steps == 20_000
    assert one.train.batch_size == two.train.batch_size == 8 * 2
    assert one.data.label_space.num_classes == 124
    assert two.data.label_space.num_classes == 19 + 1
    assert isinstance(two.data, RoadImagesConfig)
    assert set(two.data.sets) == {"kitti360", "bdd100k", "cityscapes", "nuimages"}
    assert one.model == two.model == SegmentationPretrainConfig(trunk=INTERNIMAGE_XL)
    assert two.train == replace(one.train, trunk_weights=None, start_from=Path("runs") / one.name)


def test_the_towns_trunk_is_the_public_t():
    recipe = resolve("internimage-xl-road-pretrain-town")
    assert isinstance(recipe.model, SegmentationPretrainConfig)
    assert recipe.model.trunk == INTERNIMAGE_T


def test_the_towns_pictures_are_trained_on_scored_and_drawn(town_sets: Path, tmp_path: Path, capsys):
    """The commands of docs/models/internimage.md with a tiny trunk."""
    road, out = town_sets, tmp_path / "run"
    small = ["--model.trunk.width", "16", "--model.trunk.depths", "1", "1", "1", "1", "--model.channels", "8"]
    small += ["--data.image-size", "48", "160", "--data.root", str(road), "--out", str(out)]
    train = ["train", "internimage-xl-road-pretrain-town", *small, "--train.workers", "0"]
    assert run([*train, "--train.steps", "2", "--train.validate-every", "2"]) == 0
    results = tmp_path / "results.json"
    assert run(["evaluate", str(out), "--out", str(results)]) == 0
    assert "vegetation" in capsys.readouterr().out
    predict = ["predict", str(out), "--root", str(road), "--out", str(tmp_path / "out"), "--picture"]
    assert run(predict) == 0
    assert len(list((tmp_path / "out" / "cityscapes").glob("town_*.png"))) == 1
    assert len(list((tmp_path / "out" / "pictures").glob("*.png"))) == 1


def test_without_step_one_or_pictures_the_error_says_what_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    command = [
        "train",
        "internimage-xl-road-pretrain-town",
        "--data.root",
        str(tmp_path),
        "--out",
        str(tmp_path / "run"),
    ]
    small = ["--model.trunk.width", "16", "--model.trunk.depths", "1", "1", "1", "1"]
    assert run([*command, *small, "--train.trunk-weights", str(tmp_path / "none.pth")]) == 2
    assert "--train.trunk-weights PATH" in capsys.readouterr().err
    assert run([*command, *small, "--train.start-from", str(tmp_path / "one")]) == 2
    assert "one: no such folder" in capsys.readouterr().err
    assert run([*command, *small]) == 2
    assert "gtFine" in capsys.readouterr().err
