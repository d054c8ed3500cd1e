"""Laws of the plants: leaves and wood in their places, sizes as asked for."""

import numpy as np
import pytest

from occloom.town import assets_plants

STUFF = {
    "tree": (lambda r: assets_plants.tree(r, height=8.0, slim=False, fine=True), {70, 71}),
    "far tree": (lambda r: assets_plants.tree(r, height=8.0, slim=True, fine=False), {70, 71}),
    "conifer": (lambda r: assets_plants.conifer(r, height=8.0), {70, 71}),
    "bush": (lambda r: assets_plants.bush(r, radius=0.8, height=1.2), {70}),
    "hedge": (lambda r: assets_plants.hedge(r, length=7.0, height=1.4, width=0.8), {70}),
    "shrubs": (lambda r: assets_plants.shrubs(r, length=7.0, height=2.5, width=2.0), {70}),
}


@pytest.mark.parametrize("name", STUFF)
def test_plants_are_sound_and_have_their_classes(name: str, assert_stuff) -> None:
    assert_stuff(*STUFF[name])


@pytest.mark.parametrize("name", STUFF)
def test_a_plant_is_a_function_of_its_generator(name: str, assert_drawn) -> None:
    assert_drawn(STUFF[name][0])


@pytest.mark.parametrize("name", STUFF)
def test_plants_are_rooted(name: str) -> None:
    for seed in range(6):
        mesh = STUFF[name][0](np.random.default_rng(seed))
        assert mesh.vertices[:, 2].min() < 0.05


@pytest.mark.parametrize("height", [6.0, 11.0])
@pytest.mark.parametrize("slim", [False, True])
def test_a_tree_has_its_height_a_bare_stem_and_the_crown_around_it(height: float, slim: bool) -> None:
    for seed in range(6):
        mesh = assets_plants.tree(np.random.default_rng(seed), height=height, slim=slim, fine=True)
        crown = mesh.vertices[mesh.faces[mesh.label == 70]].reshape(-1, 3)
        wood = mesh.vertices[mesh.faces[mesh.label == 71]].reshape(-1, 3)
        assert abs(crown[:, 2].max() / height - 1) < 0.2
        assert crown[:, 2].min() > 0.1 * height
        assert wood[:, 2].min() < 0
        assert np.linalg.norm(crown[:, :2].mean(axis=0)) < 0.1 * height


def test_a_slim_tree_is_narrower_and_a_fine_one_has_more_and_smaller_leaves() -> None:
    def crown(slim: bool, fine: bool) -> np.ndarray:
        mesh = assets_plants.tree(np.random.default_rng(1), height=9.0, slim=slim, fine=fine)
        return mesh.vertices[mesh.faces[mesh.label == 70]]

    def area(corners: np.ndarray) -> np.ndarray:
        return np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=-1) / 2

    assert np.ptp(crown(True, True)[..., 0]) < 0.8 * np.ptp(crown(False, True)[..., 0])
    fine, coarse = area(crown(False, True)), area(crown(False, False))
    assert len(fine) > 2 * len(coarse)
    assert fine.mean() < 0.5 * coarse.mean()


@pytest.mark.parametrize("kind", [assets_plants.hedge, assets_plants.shrubs])
@pytest.mark.parametrize(("length", "height", "width"), [(3.0, 1.0, 0.8), (12.0, 3.0, 2.0)])
def test_rows_fill_their_length(kind, length: float, height: float, width: float) -> None:
    for seed in range(4):
        points = kind(np.random.default_rng(seed), length=length, height=height, width=width).vertices
        low, high = points.min(axis=0), points.max(axis=0)
        assert low[0] > -1.8
        assert high[0] < length + 1.8
        assert 0.6 * height < high[2] < 1.3 * height + 0.4
        counts = np.histogram(points[:, 0], bins=int(length / 1.5), range=(0, length))[0]
        assert counts.min() > 0
        assert (np.abs([low[1], high[1]]) < 1.3 * width + 0.5).all()


def test_crown_points_lie_in_the_outer_part_of_their_ellipsoid() -> None:
    centre, radii = np.array([1.0, -2.0, 5.0]), np.array([3.0, 2.0, 1.0])
    points = assets_plants.crown_points(np.random.default_rng(0), centre, radii, clumps=50, per_clump=11)
    assert points.shape == (550, 3)
    away = np.linalg.norm((points - centre) / radii, axis=-1)
    assert away.max() < 0.9 + 0.36 + 1e-9
    assert away.min() > 0.45 - 0.36 - 1e-9
    assert np.median(away) > 0.5 ** (1 / 3) - 0.2


def test_leaves_are_darker_within_and_below() -> None:
    rng = np.random.default_rng(0)
    points = rng.normal(size=(3000, 3))
    leaf = assets_plants.foliage(rng, points, np.zeros(3), 0.1)
    light = leaf.colour[::2].mean(axis=1)
    for outwards in (points[:, 2], np.linalg.norm(points, axis=-1)):
        order = np.argsort(outwards)
        assert light[order[2000:]].mean() > 1.05 * light[order[:1000]].mean()
