from pathlib import Path

import numpy as np
import pytest
import torch

from occloom.data.kitti360_labels import KITTI_360
from occloom.data.label_spaces import SEMANTIC_KITTI
from occloom.data.labelled_frames import labelled_frames
from occloom.data.occ3d_files import Mask, label_path, read_labels
from occloom.data.occ3d_labels import OCC3D
from occloom.errors import InputError


@pytest.mark.parametrize("mask", ["camera", "lidar", "none"])
def test_occ3ds_files_are_found_without_tables_and_masked(made_nuscenes: Path, mask: Mask):
    frames = labelled_frames(made_nuscenes, (), mask)
    assert len(frames) == 5
    assert frames.label_space is OCC3D
    target = frames.target(0)
    assert target is not None
    token = sorted(path.parent.name for path in (made_nuscenes / "gts" / "scene-0001").glob("*/labels.npz"))[0]
    labels = read_labels(label_path(made_nuscenes, f"scene-0001/{token}"))
    expected = {"camera": labels.mask_camera, "lidar": labels.mask_lidar, "none": np.ones_like(labels.mask_lidar)}[mask]
    assert torch.equal(target.observed[0], torch.from_numpy(expected))
    assert (target.labels[0].numpy()[expected] == labels.semantics[expected]).all()


def test_scenes_can_be_chosen(made_nuscenes: Path):
    assert len(labelled_frames(made_nuscenes, ("scene-0002",), "camera")) == 2
    with pytest.raises(InputError, match=r"no labels\.npz below"):
        labelled_frames(made_nuscenes, ("scene-0002", "scene-0009"), "camera")


def test_kittis_layouts_are_found_by_their_folders(made_kitti: Path, made_kitti360: Path):
    for root, part, space in ((made_kitti, "08", SEMANTIC_KITTI), (made_kitti360, "0006", KITTI_360)):
        assert len(labelled_frames(root, (), "camera")) == 4
        frames = labelled_frames(root, (part,), "camera")
        assert len(frames) == 2
        assert frames.label_space is space
        target = frames.target(1)
        assert target is not None
        assert tuple(target.labels.shape[1:]) == frames.grid.shape
        assert 0.5 < target.observed.float().mean() < 0.9


def test_folders_without_labels_are_refused(tmp_path: Path):
    with pytest.raises(InputError, match="no layout that is known"):
        labelled_frames(tmp_path, (), "camera")
    (tmp_path / "sequences" / "00").mkdir(parents=True)
    with pytest.raises(InputError, match="no sequence has voxels"):
        labelled_frames(tmp_path, (), "camera")
