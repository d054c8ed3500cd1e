"""Full-size models on real pictures, with weights by chance: one forward pass through every part."""

from pathlib import Path

import numpy as np
import pytest
import torch
from jaxtyping import Float64

from occloom.data.kitti360_files import FULL_SIZE, fixed_calibration
from occloom.data.pictures import PictureFit
from occloom.engine.train import build_model
from occloom.models.voxdet_camera import VoxDet
from occloom.recipes import voxdet_kitti360
from occloom.scene import scene_from_image

CAMERA_HEIGHT = 1.55
"""Of KITTI-360's cameras above the road, metres."""


def road_depth(
    intrinsics: Float64[np.ndarray, "3 3"], camera_from_ego: Float64[np.ndarray, "4 4"], height: int, width: int
) -> Float64[np.ndarray, "H W"]:
    """Depth of a level road up to 50 m; 0 above it, where nothing is known."""
    v, u = np.mgrid[:height, :width]
    rays = np.linalg.inv(intrinsics) @ np.stack([u.ravel(), v.ravel(), np.ones(u.size)])
    upward = (camera_from_ego[:3, :3].T @ rays)[2].reshape(height, width)
    depth = CAMERA_HEIGHT / np.maximum(-upward, 1e-6)
    return np.where(depth < 50, depth, 0)


@pytest.mark.slow
@pytest.mark.real_data
def test_voxdet_answers_the_real_picture_of_kitti_360(real_data: Path):
    recipe = voxdet_kitti360()
    height, width = recipe.data.image_size
    fit = PictureFit(FULL_SIZE, (height, width), "width")
    image = (fit.image(real_data / "kitti360" / "example_0000.png") * 255).round().byte().permute(1, 2, 0).numpy()
    calibration = fixed_calibration()
    intrinsics = fit.intrinsics(torch.from_numpy(calibration.intrinsics(2))).numpy()
    camera_from_ego = calibration.camera_from_velodyne(2)
    depth = road_depth(intrinsics, camera_from_ego, height, width)
    scene = scene_from_image(image, intrinsics=intrinsics, camera_from_ego=camera_from_ego, depth=depth)
    model = build_model(recipe).eval()
    assert isinstance(model, VoxDet)
    with torch.no_grad():
        proposed = model.lifting.geometry.proposals(scene, model.lifting.grid)
        outputs = model(scene)
        classes = outputs.scores.argmax()
    assert 1000 < int(proposed.sum()) < 20_000
    assert outputs.offsets is not None
    assert outputs.offsets.shape == (1, 6, 64, 64, 8)
    assert bool(((outputs.offsets > 0) & (outputs.offsets < 1)).all())
    assert classes.shape == (1, 256, 256, 32)
    assert int(classes.min()) >= 0
    assert int(classes.max()) < model.label_space.num_classes == 19
