"""Score voxels near and far, seen and hidden: `python tools/score_far_and_hidden.py ROOT RUN [RUN ...]`.

ProtoOcc's Fig. 3 says that it does better far away and where nothing is seen. Of the validation split of each run on a
town in nuScenes' layout: IoU and mIoU (protocol `occ3d`, percent) of the voxels that the camera mask counts, and of
those that it leaves out, to 30 m from the car along the ground and beyond. Only a town knows what is hidden.
"""

import sys
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from occloom.data.occ3d import Occ3dConfig
from occloom.inference import load_model, load_recipe
from occloom.interfaces import Needs
from occloom.metrics.confusion import count_confusion_by_bin
from occloom.metrics.protocols import OCC3D
from occloom.scene import collate

FAR = 30.0
"""Metres."""
BINS = ("seen, near", "seen, far", "hidden, near", "hidden, far")


def main(root: Path, runs: list[Path]) -> None:
    """Print a line a run and bin, and one for all that is hidden."""
    for run in runs:
        counts = count(root, run)
        for name, part in (*zip(BINS, counts, strict=True), ("hidden, all", counts[2] + counts[3])):
            scores = OCC3D.scores(part)
            print(f"{run}  {name:<12}  iou {100 * scores.iou:5.2f}  miou {100 * scores.miou:5.2f}")


def count(root: Path, run: Path) -> Tensor:
    """Confusion matrices of the bins."""
    model, data = load_model(run), load_recipe(run).data
    assert isinstance(data, Occ3dConfig), "RUN reads surround pictures"
    seen = replace(data, root=root, val_mask="camera").build("val", model.needs)
    every = replace(data, root=root, val_mask="none").build("val", Needs(images=False))
    classes = model.label_space.num_classes
    far = (seen.grid.centres()[..., :2].norm(dim=-1) > FAR).view(seen.grid.shape).long()
    counts = torch.zeros(len(BINS), classes, classes, dtype=torch.int64)
    with torch.inference_mode():
        for index in range(len(seen)):
            sample, target = collate([seen.sample(index)]), collate([every.sample(index)]).target
            assert sample.target is not None
            assert target is not None
            predicted, visible = model.predict(sample.scene), sample.target.observed
            for first, where in ((0, visible), (2, target.observed & ~visible)):
                counts[first : first + 2] += count_confusion_by_bin(
                    predicted, target.labels, where, far, num_bins=2, num_classes=classes
                )
    return counts


if __name__ == "__main__":
    main(Path(sys.argv[1]), [Path(run) for run in sys.argv[2:]])
