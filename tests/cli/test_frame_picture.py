from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_recipes import TinyModelConfig

from occloom.cli.frame_picture import draw, draw_surround
from occloom.data.occ3d import CAMERAS, Occ3dConfig
from occloom.interfaces import Needs
from occloom.metrics.protocols import OCC3D
from occloom.scene import collate


@pytest.fixture(scope="module")
def frame(made_nuscenes: Path):
    samples = Occ3dConfig(root=made_nuscenes, image_size=(32, 56), keyframes=(0,), label_scale=4).build("val", Needs())
    sample = collate([samples.sample(0)])
    model = TinyModelConfig().build(samples.grid, samples.label_space)
    return model, sample, sample.target.labels[0].to(torch.uint8).numpy()


@pytest.fixture(scope="module")
def whole(frame) -> np.ndarray:
    model, sample, prediction = frame
    return np.asarray(draw_surround(model, sample, prediction, OCC3D, CAMERAS))


def test_six_cameras_make_the_sheet_higher_and_truth_makes_it_wider(frame, whole: np.ndarray):
    model, sample, prediction = frame
    one = draw(model, replace(sample, target=None), prediction, OCC3D)
    assert whole.shape[1] == 2 * one.width - 12
    assert whole.shape[0] > one.height


def test_a_camera_without_a_picture_is_grey(frame, whole: np.ndarray):
    model, sample, prediction = frame
    valid = sample.scene.camera_valid.clone()
    valid[0, 0, 4] = False
    lacking = replace(sample, scene=replace(sample.scene, camera_valid=valid), target=None)
    picture = np.asarray(draw_surround(model, lacking, prediction, OCC3D, CAMERAS))
    grey = [(sheet == (225, 227, 230)).all(axis=2).sum() for sheet in (whole, picture)]
    assert grey[1] - grey[0] > 5_000
