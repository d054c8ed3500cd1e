"""Predict the voxels of one picture: `python examples/predict_one_image.py` after `make demo`."""

from pathlib import Path

import numpy as np

from occloom import load_model, scene_from_image
from occloom.data.kitti_files import read_calibration, read_image
from occloom.viewer.images import comparison_picture


def main(
    frame: Path = Path("demo/town/sequences/90"), name: str = "000000", out: Path = Path("prediction.png")
) -> None:
    """Read a picture, its calibration and a depth map, predict, and draw."""
    calibration = read_calibration(frame / "calib.txt")
    image = read_image(frame / "image_2" / f"{name}.png")
    depth = np.load(frame.parents[1] / "depth" / "stereo-sgbm" / "sequences" / frame.name / f"{name}.npy")
    scene = scene_from_image(
        image,
        intrinsics=calibration.intrinsics(2),
        camera_from_ego=calibration.camera_from_velodyne(2),
        depth=depth,
    )
    model = load_model("voxdet-town")
    labels = model.predict(scene)[0].numpy()  # 256 x 256 x 32 class ids, 0 = empty
    comparison_picture(image, labels, None, model.grid, model.label_space).save(out)
    print(f"{(labels != model.label_space.empty).sum()} voxels are filled; picture: {out}")


if __name__ == "__main__":
    main()
