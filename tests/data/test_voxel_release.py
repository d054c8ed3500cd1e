import shutil
from pathlib import Path

import numpy as np
import pytest

from occloom.data.kitti_files import KittiFrame, read_voxel_bits, write_voxel_bits
from occloom.data.label_spaces import SEMANTIC_KITTI_GRID
from occloom.data.semantickitti import SemanticKittiConfig
from occloom.data.voxel_release import require_present_release
from occloom.errors import InputError
from occloom.interfaces import Needs

SHAPE = SEMANTIC_KITTI_GRID.shape


@pytest.mark.real_data
@pytest.mark.parametrize("with_scan", [True, False])
@pytest.mark.parametrize("token", ["00/000000", "04/000000", "08/000000", "08/000005", "08/000010"])
def test_both_releases_are_told_apart_on_real_frames(real_data: Path, tmp_path: Path, token: str, with_scan: bool):
    sequence, name = token.split("/")
    real = KittiFrame(real_data / "semantickitti", sequence, name)
    frame = KittiFrame(tmp_path, sequence, name)
    bits = read_voxel_bits(real.file("voxels", ".bin"), SHAPE)
    write_voxel_bits(frame.file("voxels", ".bin"), bits)
    if with_scan and real.file("velodyne", ".bin").is_file():
        frame.file("velodyne", ".bin").parent.mkdir()
        shutil.copy(real.file("velodyne", ".bin"), frame.file("velodyne", ".bin"))
    require_present_release(frame, SEMANTIC_KITTI_GRID)
    write_voxel_bits(frame.file("voxels", ".bin"), np.roll(bits.ravel(), 1).reshape(SHAPE))
    with pytest.raises(InputError, match=r"before August 2020.*download"):
        require_present_release(frame, SEMANTIC_KITTI_GRID)


@pytest.mark.real_data
def test_the_old_files_themselves_are_refused(real_data: Path, tmp_path: Path):
    real = real_data / "semantickitti" / "sequences" / "08"
    folder = tmp_path / "sequences" / "08"
    for name in ("image_2", "velodyne", "voxels_derived"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).symlink_to(real / name)
    (folder / "voxels").symlink_to(real / "voxels_2020_shifted")
    shutil.copy(real / "calib.txt", folder / "calib.txt")
    with pytest.raises(InputError, match="before August 2020"):
        SemanticKittiConfig(root=tmp_path).build("val", Needs())


@pytest.mark.parametrize("with_scan", [True, False])
def test_flat_road_at_sensor_height_is_no_reason(make_kitti, tmp_path: Path, with_scan: bool):
    root = make_kitti(tmp_path, sequences=("00",), frames=1)
    frame = KittiFrame(root, "00", "000000")
    if not with_scan:
        frame.file("velodyne", ".bin").unlink()
    require_present_release(frame, SEMANTIC_KITTI_GRID)
    bits = read_voxel_bits(frame.file("voxels", ".bin"), SHAPE)
    assert not bits[..., 0].any()
    write_voxel_bits(frame.file("voxels", ".bin"), np.roll(bits.ravel(), 1).reshape(SHAPE))
    with pytest.raises(InputError, match="before August 2020"):
        require_present_release(frame, SEMANTIC_KITTI_GRID)
