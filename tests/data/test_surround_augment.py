from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from occloom.data.occ3d import Occ3dConfig
from occloom.data.occ3d_labels import OCC3D_GRID
from occloom.data.surround_augment import SurroundAugmentation, draw_change, exact_change, mirror_world
from occloom.errors import InputError
from occloom.geometry.projection import project
from occloom.geometry.rigid import transform_points
from occloom.grid import VoxelGrid
from occloom.interfaces import Needs
from occloom.scene import Sample

SOURCE, TARGET = (90, 160), (26, 70)
BEVDET = SurroundAugmentation()


def ramp_picture(path: Path) -> Path:
    """A picture whose red tells the column and whose green the row; blue is full, so that black is outside."""
    v, u = np.mgrid[: SOURCE[0], : SOURCE[1]]
    Image.fromarray(np.stack([u, v, np.full_like(u, 255)], axis=2).astype(np.uint8)).save(path)
    return path


@pytest.fixture(scope="module")
def ramp(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ramp_picture(tmp_path_factory.mktemp("ramp") / "ramp.png")


def test_the_exact_change_is_bevdets():
    change = exact_change((900, 1600), (256, 704))
    assert (change.scaled, change.left, change.top, change.flip, change.degrees) == ((396, 704), 0, 140, False, 0.0)


def test_draws_stay_within_bevdets_limits_and_keep_the_lowest_rows():
    rng = np.random.default_rng(0)
    changes = [draw_change(rng, BEVDET, (900, 1600), (256, 704)) for _ in range(400)]
    widths = np.array([change.scaled[1] for change in changes])
    assert (widths.min(), widths.max()) == (pytest.approx(608, abs=5), pytest.approx(880, abs=5))
    assert all(change.top == change.scaled[0] - 256 for change in changes)
    assert all(0 <= change.left <= max(0, change.scaled[1] - 704) for change in changes)
    assert max(change.left for change in changes) > 120
    assert 5.2 < max(abs(change.degrees) for change in changes) <= 5.4
    assert 150 < sum(change.flip for change in changes) < 250


@pytest.mark.parametrize("seed", range(6))
def test_a_place_of_the_picture_shows_what_it_showed_on_disk(ramp: Path, seed: int):
    rng = np.random.default_rng(seed)
    change = exact_change(SOURCE, TARGET) if seed == 0 else draw_change(rng, BEVDET, SOURCE, TARGET)
    image = change.image(ramp).numpy() * 255
    back = np.linalg.inv(change.picture_from_source.numpy())
    v, u = np.mgrid[: TARGET[0], : TARGET[1]]
    source = np.einsum("ij,jhw->ihw", back, np.stack([u, v, np.ones_like(u)]).astype(float))
    margin = 4  # the scaling filter mixes what lies beyond the border
    inside = (source[:2] > margin).all(0) & (source[0] < SOURCE[1] - 1 - margin) & (source[1] < SOURCE[0] - 1 - margin)
    assert inside.mean() > 0.7
    assert (image[2][inside] == 255).all()
    difference = (image[:2] - source[:2])[:, inside]
    # Pillow cuts off fractions of a grey level, here of a column or row on disk, of which a pixel has about two.
    assert np.abs(difference).max() < 1.6
    assert np.abs(difference.mean(axis=1) + (0.0 if seed == 0 else 0.5)).max() < 0.3


def test_what_no_picture_reaches_is_black(ramp: Path):
    change = exact_change(SOURCE, (60, 70))
    image = change.image(ramp)
    assert change.top == -21
    assert (image[:, :21] == 0).all()
    assert (image[2, 21:] == 1).all()


def test_the_exact_picture_is_pillows_scaled_and_cut(ramp: Path):
    expected = Image.open(ramp).resize((70, 39), Image.Resampling.BICUBIC).crop((0, 13, 70, 39))
    found = (exact_change(SOURCE, TARGET).image(ramp) * 255).round().byte().permute(1, 2, 0).numpy()
    np.testing.assert_array_equal(found, np.asarray(expected))


def test_a_picture_of_another_size_is_refused(ramp: Path):
    with pytest.raises(InputError, match=r"ramp\.png: the size is 90x160, expected 90x150"):
        exact_change((90, 150), TARGET).image(ramp)


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=30, deadline=None)
def test_a_change_keeps_straight_lines_and_areas_in_proportion(seed: int):
    change = draw_change(np.random.default_rng(seed), BEVDET, SOURCE, TARGET)
    matrix = change.picture_from_source
    assert matrix[2].tolist() == [0, 0, 1]
    scale_v, scale_u = (new / old for new, old in zip(change.scaled, SOURCE, strict=True))
    assert float(torch.linalg.det(matrix)) == pytest.approx(scale_u * scale_v * (-1 if change.flip else 1))


@pytest.mark.parametrize(
    ("field", "value"), [("flip_x", 1.2), ("picture_flip", -0.1), ("scale", (0.2, 0.1)), ("degrees", -1.0)]
)
def test_knobs_out_of_range_are_refused(field: str, value):
    with pytest.raises(InputError, match=rf"augmentation\.{field} is"):
        replace(BEVDET, **{field: value})


class TestMirroredWorld:
    @pytest.fixture(scope="class")
    def sample(self, made_nuscenes: Path) -> Sample:
        config = Occ3dConfig(root=made_nuscenes, image_size=(32, 56), keyframes=(0, -1), label_scale=2)
        return config.build("train", Needs(points=True)).sample(2)

    GRID = OCC3D_GRID.coarsen((2, 2, 2))
    WAYS = ((True, False), (False, True), (True, True))

    @pytest.mark.parametrize(("along_x", "along_y"), WAYS)
    def test_twice_is_the_identity_and_once_is_not(self, sample: Sample, along_x: bool, along_y: bool):
        once = mirror_world(sample, self.GRID, along_x=along_x, along_y=along_y)
        twice = mirror_world(once, self.GRID, along_x=along_x, along_y=along_y)
        assert torch.equal(twice.target.labels, sample.target.labels)
        assert torch.equal(twice.scene.cameras.camera_from_ego, sample.scene.cameras.camera_from_ego)
        assert torch.equal(twice.scene.now_from_then, sample.scene.now_from_then)
        assert torch.equal(twice.scene.points.positions, sample.scene.points.positions)
        assert torch.equal(twice.scene.augmentation.ego_from_source[0], torch.eye(4, dtype=torch.float64))
        assert not torch.equal(once.target.labels, sample.target.labels)
        assert not torch.equal(once.target.observed, sample.target.observed)
        assert torch.equal(once.scene.images, sample.scene.images)

    @pytest.mark.parametrize(("along_x", "along_y"), WAYS)
    def test_what_a_pixel_shows_has_the_same_class(self, sample: Sample, along_x: bool, along_y: bool):
        """The voxel's mirrored centre has the same pixel and depth in every camera and frame, and the same label."""
        mirrored = mirror_world(sample, self.GRID, along_x=along_x, along_y=along_y)
        centres = self.GRID.centres(dtype=torch.float64)
        dims = [axis for axis, on in enumerate((along_x, along_y)) if on]
        assert torch.equal(mirrored.target.labels[0], sample.target.labels[0].flip(dims))
        assert torch.equal(mirrored.target.observed[0], sample.target.observed[0].flip(dims))
        there = centres.flip(dims)[::9, ::7, ::3].reshape(-1, 3)
        here = centres[::9, ::7, ::3].reshape(-1, 3)
        signs = torch.tensor([-1.0 if along_x else 1.0, -1.0 if along_y else 1.0, 1.0], dtype=torch.float64)
        torch.testing.assert_close(there, here * signs)
        for of, to, points in ((sample, mirrored, here),):
            for t in range(2):
                for n in range(6):
                    cameras = of.scene.cameras, to.scene.cameras
                    before, after = (
                        project(transform_points(c.camera_from_ego[0, t, n], p), c.intrinsics[0, t, n])
                        for c, p in zip(cameras, (points, points * signs), strict=True)
                    )
                    torch.testing.assert_close(after[1], before[1], atol=1e-9, rtol=0)
                    seen = before[1] > 0.1
                    torch.testing.assert_close(after[0][seen], before[0][seen], atol=1e-6, rtol=1e-9)

    @pytest.mark.parametrize(("along_x", "along_y"), WAYS)
    def test_volumes_follow_the_labels(self, sample: Sample, along_x: bool, along_y: bool):
        fine, coarse = sample.target.labels == 3, sample.target.labels[:, ::2, ::2, ::2] == 3
        scene = replace(sample.scene, pseudo_voxels=fine, proposals=coarse)
        mirrored = mirror_world(replace(sample, scene=scene), self.GRID, along_x=along_x, along_y=along_y)
        dims = [1 + axis for axis, on in enumerate((along_x, along_y)) if on]
        assert torch.equal(mirrored.scene.pseudo_voxels, mirrored.target.labels == 3)
        assert torch.equal(mirrored.scene.proposals, coarse.flip(dims))

    def test_points_and_ego_motion_follow(self, sample: Sample):
        mirrored = mirror_world(sample, self.GRID, along_x=True, along_y=False)
        flip = mirrored.scene.augmentation.ego_from_source[0]
        assert flip.diagonal().tolist() == [-1, 1, 1, 1]
        torch.testing.assert_close(
            mirrored.scene.points.positions.double(), transform_points(flip, sample.scene.points.positions.double())
        )
        point = torch.tensor([[3.0, -2.0, 1.0]], dtype=torch.float64)
        moved = transform_points(sample.scene.now_from_then[0, 1], point)
        moved_after = transform_points(mirrored.scene.now_from_then[0, 1], transform_points(flip, point))
        torch.testing.assert_close(moved_after, transform_points(flip, moved))

    def test_neither_way_is_the_sample_itself(self, sample: Sample):
        assert mirror_world(sample, self.GRID, along_x=False, along_y=False) is sample

    def test_a_grid_that_is_not_symmetric_is_refused(self, sample: Sample):
        grid = VoxelGrid(lower=(0.0, -40.0, -1.0), voxel_size=(0.8, 0.8, 0.8), shape=(100, 100, 8))
        assert mirror_world(sample, grid, along_x=False, along_y=True).scene.images is not None
        with pytest.raises(ValueError, match="symmetric"):
            mirror_world(sample, grid, along_x=True, along_y=False)
