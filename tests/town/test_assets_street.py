"""Laws of fences, poles, lamps and signs: their classes, their length, and which way they face."""

import numpy as np
import pytest

from occloom.town import assets_street
from occloom.town.materials import Material

STUFF = {
    "fence": (lambda r: assets_street.fence(r, length=9.0, height=1.2), {51}),
    "field fence": (lambda r: assets_street.field_fence(length=9.0), {51}),
    "guard rail": (lambda r: assets_street.guard_rail(length=9.0), {51}),
    "lamp": (lambda r: assets_street.street_lamp(r, reach=1.4), {80}),
    "utility pole": (assets_street.utility_pole, {80}),
    "bollards": (lambda r: assets_street.bollards(3), {80}),
    "traffic light": (assets_street.traffic_light, {80}),
    "sign": (assets_street.traffic_sign, {80, 81}),
    "guide sign": (assets_street.guide_sign, {80, 81}),
}
ALONG = ("fence", "field fence", "guard rail")


@pytest.mark.parametrize("name", STUFF)
def test_street_furniture_is_sound_and_has_its_classes(name: str, assert_stuff) -> None:
    assert_stuff(*STUFF[name])


@pytest.mark.parametrize("name", STUFF)
def test_furniture_is_a_function_of_its_generator(name: str, assert_drawn) -> None:
    assert_drawn(STUFF[name][0])


@pytest.mark.parametrize("name", STUFF)
def test_posts_go_into_the_ground(name: str) -> None:
    for seed in range(8):
        assert -1.0 < STUFF[name][0](np.random.default_rng(seed)).vertices[:, 2].min() <= -0.05


@pytest.mark.parametrize("name", ALONG)
def test_what_runs_along_the_street_has_its_length_and_is_thin(name: str) -> None:
    for seed in range(8):
        points = STUFF[name][0](np.random.default_rng(seed)).vertices
        assert -0.05 <= points[:, 0].min() <= 0.0
        assert 9.0 - 1e-4 <= points[:, 0].max() < 9.3
        assert np.abs(points[:, 1]).max() < 0.2
        assert 0.7 < points[:, 2].max() < 1.45


def test_a_lamp_shines_at_the_end_of_its_arm_downwards() -> None:
    for reach in (1.0, 2.0):
        mesh = assets_street.street_lamp(np.random.default_rng(0), reach=reach)
        light = mesh.vertices[mesh.faces[mesh.material == Material.LAMP]]
        assert light[..., 2].min() == pytest.approx(6.5)
        assert light[..., 0].min() < reach < light[..., 0].max()
        assert mesh.vertices[:, 2].min() < 0


@pytest.mark.parametrize("count", [1, 4])
def test_bollards_are_counted_and_a_metre_and_a_half_apart(count: int) -> None:
    points = assets_street.bollards(count).vertices
    near = np.round(points[:, 0] / 1.5)
    np.testing.assert_array_equal(np.unique(near), np.arange(count))
    assert np.abs(points[:, 0] - 1.5 * near).max() < 0.08


def test_one_signal_of_three_is_lit() -> None:
    lit = set()
    for seed in range(12):
        mesh = assets_street.traffic_light(np.random.default_rng(seed))
        lamp = mesh.faces[mesh.material == Material.LAMP]
        assert np.ptp(mesh.vertices[lamp][..., 2]) < 0.23
        assert (mesh.colour[mesh.material == Material.LAMP].max(axis=1) > 0.3).all()
        lit.add(round(float(mesh.vertices[lamp][..., 2].mean()), 1))
    assert len(lit) == 3


@pytest.mark.parametrize("make", [assets_street.traffic_light, assets_street.traffic_sign, assets_street.guide_sign])
def test_boards_and_signals_are_before_their_posts(make) -> None:
    """What is to be read is nearer to the traffic, which comes from -x, than the middle of the post."""
    for seed in range(20):
        mesh = make(np.random.default_rng(seed))
        shown = (mesh.label == 81) | (mesh.material == Material.LAMP)
        assert mesh.vertices[mesh.faces[shown]][..., 0].max() < 0


def test_flat_plates_face_the_traffic() -> None:
    facing = 0
    for seed in range(20):
        mesh = assets_street.traffic_sign(np.random.default_rng(seed))
        corners = mesh.vertices[mesh.faces[mesh.label == 81]].astype(np.float64)
        area = 0.5 * np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        total = area.sum(axis=0)  # of closed boxes it is zero
        assert np.abs(total[1:]).max() < 1e-6
        assert total[0] < 1e-6
        facing += total[0] < -0.1
    assert facing > 5
