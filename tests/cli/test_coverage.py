from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_drocc import recipe

from occloom.cache import CacheOrigin, create_cache
from occloom.cli.coverage import percent
from occloom.cli.main import run
from occloom.data.prior_cache import fill_prior_cache, prior_origin
from occloom.data.prior_sources import PriorMaps, PriorPicture
from occloom.interfaces import Needs
from occloom.models.drocc import occupancy_mask

SIZE = (72, 128)


@dataclass(frozen=True)
class FlatDepth:
    """Every picture shows a wall across its line of sight."""

    metres: float

    @property
    def origin(self) -> CacheOrigin:
        return CacheOrigin(source="flat", settings={"metres": self.metres}, code_version=1)

    def inputs(self, picture: PriorPicture) -> tuple[Path, ...]:
        return (picture.path,)

    def prior(self, picture: PriorPicture) -> PriorMaps:
        return PriorMaps(np.full(SIZE, self.metres, np.float32))


@pytest.fixture
def root(own_nuscenes: Path) -> Path:
    """Two frames to count, with a prior that sees walls, and one that knows nothing."""
    dataset = replace(recipe().data, root=own_nuscenes, prior=None).build("val", Needs())
    for name, source in (("wall", FlatDepth(8.0)), ("none", FlatDepth(0.0))):
        cache = create_cache(own_nuscenes / "prior" / name, prior_origin(source, SIZE))
        pictures = [p for index in range(len(dataset)) for p in dataset.prior_pictures(index) if p is not None]
        list(fill_prior_cache(cache, source, pictures, SIZE))
    return own_nuscenes


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_shares_are_those_of_the_labels_and_masks(root, capsys):
    arguments = ["coverage", "tiny_drocc:recipe", "--data.root", str(root), "--priors", "wall", "none"]
    assert run(arguments) == 0
    head, _, _, _, wall, nothing, *rest = capsys.readouterr().out.splitlines()
    assert head.startswith("2 samples of `val`")
    data = replace(recipe().data, root=root)
    dataset = data.build("val", Needs(images=False, prior_depth=True))
    missed = occupied = masked = 0
    for index in range(2):
        sample = dataset.sample(index)
        scene, target = sample.scene, sample.target
        poses = scene.cameras.camera_from_ego[:, 0]
        mask = occupancy_mask(scene.prior, poses, scene.camera_valid[:, 0], data.grid)
        full = target.observed & (target.labels != 17)
        missed, occupied, masked = missed + (full & ~mask).sum(), occupied + full.sum(), masked + mask.sum()
    assert cells(wall)[0] == "wall"
    assert cells(wall)[1] == percent(masked, torch.tensor(2 * data.grid.num_voxels))
    assert cells(wall)[5] == percent(missed, occupied)
    assert float(cells(wall)[6]) < float(cells(wall)[5]) < 100
    # A prior that knows nothing marks nothing and misses everything.
    assert cells(nothing) == ["none", "0.00", "0.00", "-", "0.00", "100.00", "100.00"]
    classes = [cells(line) for line in rest[3:]]
    assert sum(int(row[1].replace(",", "")) for row in classes) == occupied
    assert all(row[3] == "100.00" for row in classes)


def test_the_recipe_s_own_prior_and_fewer_samples(root, capsys):
    data = ["--data.root", str(root)]
    assert run(["coverage", "tiny_drocc:recipe", *data, "--samples", "1", "--data.val-mask", "none"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("1 samples of `val`, 10,000 voxels that count")
    assert "| wall |" in printed


def test_what_cannot_be_counted_is_named(root, capsys):
    assert run(["coverage", "baseline-town"]) == 2
    assert "no recipe of Dr.Occ" in capsys.readouterr().err
    assert run(["coverage", "tiny_drocc:recipe", "--data.root", str(root), "--data.prior", "None"]) == 2
    assert "no prior is named" in capsys.readouterr().err
    assert run(["coverage", "tiny_drocc:recipe", "--data.root", str(root), "--split", "test"]) == 2
    assert "occloom: " in capsys.readouterr().err
