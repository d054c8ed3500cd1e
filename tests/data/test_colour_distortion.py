import colorsys
import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from occloom.data.colour_distortion import (
    ColourDistortion,
    PhotometricDistortion,
    distort_all,
    distort_colours,
    draw_distortion,
    turn_hue,
)
from occloom.data.occ3d import Occ3dConfig
from occloom.data.surround_augment import SurroundAugmentation
from occloom.errors import InputError
from occloom.interfaces import Needs

IMAGE = torch.rand(3, 6, 7, generator=torch.Generator().manual_seed(0))


def by_pixel(image, function):
    changed = torch.empty_like(image)
    for i, j in itertools.product(*map(range, image.shape[1:])):
        changed[:, i, j] = torch.tensor(function(*image[:, i, j].tolist()))
    return changed


@pytest.mark.parametrize("degrees", [18.0, -18.0, 200.0, 0.0])
def test_the_hue_turns_as_the_standard_library_turns_it(degrees):
    image = torch.cat([IMAGE, torch.tensor([[0.0, 1, 0.4], [0, 1, 0.4], [0, 0, 0.4]])[..., None].expand(-1, -1, 7)], 1)

    def turned(r, g, b):
        h, s, v = colorsys.rgb_to_hsv(r, g, b)
        return colorsys.hsv_to_rgb((h + degrees / 360) % 1, s, v)

    torch.testing.assert_close(turn_hue(image, degrees), by_pixel(image, turned), rtol=1e-4, atol=1e-5)


def test_saturation_is_that_of_the_standard_library():
    def paler(r, g, b):
        h, s, v = colorsys.rgb_to_hsv(r, g, b)
        return colorsys.hsv_to_rgb(h, 0.6 * s, v)

    found = distort_colours(IMAGE, ColourDistortion(saturation=0.6))
    torch.testing.assert_close(found, by_pixel(IMAGE, paler), rtol=1e-4, atol=1e-5)


def test_brightness_is_added_contrast_multiplied_and_channels_exchanged():
    image = 0.3 + 0.3 * IMAGE
    change = ColourDistortion(brightness=0.1, contrast=1.2, channels=(2, 0, 1))
    torch.testing.assert_close(distort_colours(image, change), ((image + 0.1) * 1.2)[[2, 0, 1]])
    torch.testing.assert_close(
        distort_colours(image, replace(change, contrast_first=False)), ((image + 0.1) * 1.2)[[2, 0, 1]]
    )
    assert torch.equal(distort_colours(image, ColourDistortion()), image)
    wild = distort_colours(IMAGE, ColourDistortion(brightness=0.5, contrast=1.5, saturation=1.5, hue_degrees=90.0))
    assert 0 <= float(wild.min()) <= float(wild.max()) <= 1


def test_draws_stay_within_their_limits_and_leave_half_alone():
    rng, knobs = np.random.default_rng(0), PhotometricDistortion()
    draws = [draw_distortion(rng, knobs) for _ in range(600)]
    for name, middle, limit in (
        ("brightness", 0.0, 32 / 255),
        ("contrast", 1.0, 0.5),
        ("saturation", 1.0, 0.5),
        ("hue_degrees", 0.0, 18.0),
    ):
        far = np.array([abs(getattr(draw, name) - middle) for draw in draws])
        assert 0.95 * limit < far.max() <= limit
        assert 0.4 < (far == 0).mean() < 0.6
    exchanged = np.mean([draw.channels != (0, 1, 2) for draw in draws])
    assert 0.3 < exchanged < 0.55
    assert 0.4 < np.mean([draw.contrast_first for draw in draws]) < 0.6


def test_every_picture_is_changed_by_itself_and_missing_frames_repeat():
    images = IMAGE.expand(1, 3, 2, 3, 6, 7)
    changed = distort_all(
        images, torch.tensor([[True, True, False]]), np.random.default_rng(1), PhotometricDistortion()
    )
    pictures = changed[0, :2].flatten(0, 1)
    assert not any(torch.equal(a, b) for a, b in itertools.combinations(pictures, 2))
    assert torch.equal(changed[:, 2], changed[:, 1])
    assert torch.equal(images, IMAGE.expand(1, 3, 2, 3, 6, 7))


def test_knobs_out_of_range_are_refused():
    with pytest.raises(InputError, match=r"augmentation\.colours\.contrast is -1"):
        PhotometricDistortion(contrast=-1.0)


def test_training_samples_are_changed_where_it_is_asked_for(made_nuscenes: Path):
    plain = SurroundAugmentation(scale=(0.0, 0.0), picture_flip=0.0, degrees=0.0, flip_x=0.0, flip_y=0.0)
    config = Occ3dConfig(root=made_nuscenes, image_size=(32, 56), keyframes=(0, -1), augmentation=plain)
    coloured = replace(config, augmentation=replace(plain, colours=PhotometricDistortion()))
    one, two = (each.build("train", Needs()).sample(2, np.random.default_rng(0)) for each in (config, coloured))
    assert not torch.equal(one.scene.images, two.scene.images)
    assert torch.equal(one.scene.cameras.intrinsics, two.scene.cameras.intrinsics)
    assert torch.equal(one.target.labels, two.target.labels)
    exact = (each.build("train", Needs()).sample(2) for each in (config, coloured))
    assert torch.equal(*(sample.scene.images for sample in exact))
