from pathlib import Path

import numpy as np
import pytest

from occloom.data.kitti360_labels import KITTI_360
from occloom.data.kitti_files import KittiFrame, write_voxel_bits, write_voxel_labels
from occloom.data.label_spaces import SEMANTIC_KITTI, SEMANTIC_KITTI_GRID
from occloom.errors import InputError
from occloom.grid import LabelSpace
from occloom.town.shares import ClassShares, class_shares


def test_counts_seen_voxels_by_class_and_sequence(tmp_path: Path) -> None:
    first, second = np.zeros(SEMANTIC_KITTI_GRID.shape, np.uint16), np.zeros(SEMANTIC_KITTI_GRID.shape, np.uint16)
    first[0, 0, :4] = [10, 252, 40, 60]
    first[1, 0, :2] = [99, 50]
    second[0, 0, :2] = [10, 70]
    hidden = np.zeros(SEMANTIC_KITTI_GRID.shape, bool)
    hidden[1] = True
    for sequence, labels in (("00", first), ("03", second)):
        frame = KittiFrame(tmp_path, sequence, "000000")
        write_voxel_labels(frame.file("voxels", ".label"), labels)
        write_voxel_bits(frame.file("voxels", ".invalid"), hidden)
    shares = class_shares(tmp_path)
    assert (shares.num_sequences, shares.num_frames) == (2, 2)
    assert {k: shares.voxels[k] for k in (1, 9, 13, 15)} == {1: 3, 9: 2, 13: 0, 15: 1}
    assert shares.voxels.sum() == 2 * (~hidden).sum()
    assert {k: shares.sequences[k] for k in (1, 9, 13, 15)} == {1: 2, 9: 1, 13: 0, 15: 1}
    np.testing.assert_allclose(shares.share[[0, 1, 9]], [0, 3 / 6, 2 / 6])


@pytest.mark.parametrize("space", [SEMANTIC_KITTI, KITTI_360])
def test_reference_shares_add_up_and_vegetation_leads(space: LabelSpace) -> None:
    nothing = np.zeros(space.num_classes, np.int64)
    reference = ClassShares(space, nothing, nothing, 0, 0).reference
    np.testing.assert_allclose(reference.sum(), 1.0)
    assert space.names[int(reference.argmax())] == "vegetation"


def test_a_folder_without_labels_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no voxel labels"):
        class_shares(tmp_path)
