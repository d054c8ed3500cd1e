from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from occloom.cache import create_cache
from occloom.data.depth_cache import depth_entry, fill_depth_cache
from occloom.data.depth_sources import LidarDepth, SgbmDepth
from occloom.data.kitti_files import KittiFrame, read_calibration, read_poses, unpack_bits
from occloom.data.label_spaces import SEMANTIC_KITTI_GRID
from occloom.data.packed_volumes import PSEUDO_VOXELS
from occloom.data.pseudo_voxels import PseudoVoxels, fill_pseudo_voxels
from occloom.data.queries import RawQueries
from occloom.data.semantickitti import SemanticKittiConfig
from occloom.errors import InputError
from occloom.interfaces import Needs

SIZE = (36, 122)


def write_depth(frame: KittiFrame, seed: int) -> None:
    """Known for a tenth of the pixels, some of it outside the grid."""
    rng = np.random.default_rng(seed)
    depth = np.where(rng.random(SIZE) < 0.1, rng.uniform(2, 70, SIZE), 0).astype(np.float32)
    path = frame.root / "depth" / "made" / depth_entry(frame)
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, depth)


@pytest.fixture
def root(make_kitti: Callable[..., Path], tmp_path: Path) -> Path:
    """Eleven scans of sequence 00; of 000008 and 000003 there is no depth."""
    root = make_kitti(tmp_path / "data", sequences=("00",), frames=3)
    for number in (0, 1, 2, 4, 5, 6, 7, 9, 10):
        write_depth(KittiFrame(root, "00", f"{number:06d}"), number)
    return root


def source(root: Path, scans: int = 10) -> PseudoVoxels:
    return PseudoVoxels(root, root / "depth" / "made", scans)


def naive(root: Path, now: int, window: list[int]) -> np.ndarray:
    """Pixel by pixel."""
    folder = root / "sequences" / "00"
    calibration, poses = read_calibration(folder / "calib.txt"), read_poses(folder / "poses.txt")
    tr = calibration.camera0_from_velodyne
    occupied = np.zeros((256, 256, 32), dtype=bool)
    for then in window:
        depth = np.load(root / "depth" / "made" / "sequences" / "00" / f"{then:06d}.npy").astype(np.float64)
        for v, u in np.argwhere(depth > 0):
            # P2 (x, y, z, 1) = d (u, v, 1) with x, y, z in the rectified frame of camera 0.
            p2 = calibration.projections[2]
            rectified = np.linalg.solve(p2[:, :3], depth[v, u] * np.array([u, v, 1.0]) - p2[:, 3])
            point = np.linalg.inv(tr) @ np.linalg.inv(poses[now]) @ poses[then] @ np.append(rectified, 1.0)
            index = np.floor((point[:3] - (0.0, -25.6, -2.0)) / 0.2).astype(int)
            if (index >= 0).all() and (index < (256, 256, 32)).all():
                occupied[tuple(index)] = True
    return occupied


class TestVoxels:
    @pytest.mark.parametrize(
        ("now", "scans", "window"), [(10, 10, [10, 9, 7, 6, 5, 4, 2, 1]), (5, 10, [5, 4, 2, 1, 0]), (10, 1, [10])]
    )
    def test_they_are_those_of_a_loop_over_pixels(self, root: Path, now: int, scans: int, window: list[int]):
        ours = source(root, scans).voxels(KittiFrame(root, "00", f"{now:06d}"))
        expected = naive(root, now, window)
        assert expected.sum() > 100
        # A point on the border of two voxels may fall into either, by a rounding error.
        assert (ours != expected).sum() <= 2

    def test_more_scans_only_add(self, root: Path):
        frame = KittiFrame(root, "00", "000010")
        one, ten = (source(root, scans).voxels(frame) for scans in (1, 10))
        assert not (one & ~ten).any()
        assert ten.sum() > 3 * one.sum()

    def test_a_scan_that_stands_still_adds_nothing_of_its_own(self, root: Path):
        frame = KittiFrame(root, "00", "000001")
        (root / "depth" / "made" / "sequences" / "00" / "000000.npy").write_bytes(
            (root / "depth" / "made" / "sequences" / "00" / "000001.npy").read_bytes()
        )
        poses = frame.folder / "poses.txt"
        line = poses.read_text().splitlines()[0]
        poses.write_text("\n".join([line] * 11) + "\n")
        assert np.array_equal(source(root, 2).voxels(frame), source(root, 1).voxels(frame))


class TestRefusals:
    def test_the_present_frame_needs_depth(self, root: Path):
        with pytest.raises(InputError, match=r"no depth of 00/000008.*occloom prepare depth --root"):
            source(root).voxels(KittiFrame(root, "00", "000008"))

    def test_earlier_scans_need_poses(self, root: Path):
        frame = KittiFrame(root, "00", "000010")
        (frame.folder / "poses.txt").unlink()
        with pytest.raises(InputError, match=r"poses.txt: no poses; they move.*--scans 1"):
            source(root).voxels(frame)
        assert source(root, scans=1).voxels(frame).any()

    def test_poses_must_reach_the_frame(self, root: Path):
        frame = KittiFrame(root, "00", "000010")
        lines = (frame.folder / "poses.txt").read_text().splitlines()
        (frame.folder / "poses.txt").write_text("\n".join(lines[:10]) + "\n")
        with pytest.raises(InputError, match="no row for frame 000010"):
            source(root).voxels(frame)

    def test_depth_of_another_size_is_refused(self, root: Path):
        frame = KittiFrame(root, "00", "000010")
        np.save(root / "depth" / "made" / depth_entry(frame), np.ones((10, 20), np.float32))
        with pytest.raises(InputError, match="the depth map is 10x20"):
            source(root).voxels(frame)


class TestCache:
    def test_it_is_filled_once_packed_and_resumes(self, root: Path):
        frames = [KittiFrame(root, "00", name) for name in ("000000", "000005", "000010")]
        made = source(root)
        cache = create_cache(root / "pseudo_voxels" / "made", made.origin)
        stopped = fill_pseudo_voxels(cache, made, frames, workers=1)
        assert next(stopped) == frames[0]
        stopped.close()
        written = cache.path(PSEUDO_VOXELS.entry(frames[0])).stat().st_mtime_ns
        again = create_cache(root / "pseudo_voxels" / "made", made.origin)
        assert list(fill_pseudo_voxels(again, made, frames, workers=1)) == frames
        assert cache.path(PSEUDO_VOXELS.entry(frames[0])).stat().st_mtime_ns == written
        for frame in frames:
            packed = np.frombuffer(again.path(PSEUDO_VOXELS.entry(frame)).read_bytes(), np.uint8)
            assert len(packed) == 262_144
            assert np.array_equal(unpack_bits(packed, SEMANTIC_KITTI_GRID.shape), made.voxels(frame))

    def test_other_settings_and_other_depth_are_refused(self, root: Path):
        frame = KittiFrame(root, "00", "000010")
        cache = create_cache(root / "pseudo_voxels" / "made", source(root).origin)
        list(fill_pseudo_voxels(cache, source(root), [frame], workers=1))
        with pytest.raises(InputError, match="setting scans 10, wanted 5"):
            create_cache(root / "pseudo_voxels" / "made", source(root, 5).origin)
        lidar = create_cache(root / "depth" / "lidar", LidarDepth().origin)
        with pytest.raises(InputError, match="setting made_of 'depth/made', wanted 'depth/lidar'"):
            create_cache(root / "pseudo_voxels" / "made", PseudoVoxels(root, lidar.folder).origin)
        write_depth(KittiFrame(root, "00", "000009"), seed=99)
        with pytest.raises(InputError, match=r"stale: its input depth/made/sequences/00/000009.npy"):
            list(fill_pseudo_voxels(cache, source(root), [frame], workers=1))

    def test_depth_that_came_later_is_noticed(self, root: Path):
        frame = KittiFrame(root, "00", "000010")
        cache = create_cache(root / "pseudo_voxels" / "made", source(root).origin)
        list(fill_pseudo_voxels(cache, source(root), [frame], workers=1))
        write_depth(KittiFrame(root, "00", "000008"), seed=8)
        with pytest.raises(InputError, match=r"stale: its input depth/made/sequences/00/000008.npy"):
            list(fill_pseudo_voxels(cache, source(root), [frame], workers=1))


@pytest.mark.real_data
@pytest.mark.parametrize("token", ["08/000005", "00/000000", "04/000000"])
def test_real_pseudo_voxels_lie_where_the_truth_is_occupied(real_data: Path, tmp_path: Path, token: str):
    """Stereo depth of the scans that have both pictures: several of 08, one each of 00 and 04."""
    root = real_data / "semantickitti"
    sequence, name = token.split("/")
    scans = [KittiFrame(root, sequence, f"{number:06d}") for number in range(int(name) + 1)]
    frames = [frame for frame in scans if frame.left.is_file() and frame.right.is_file()]
    depth = create_cache(tmp_path / "depth", SgbmDepth().origin)
    list(fill_depth_cache(depth, SgbmDepth(), frames, workers=1))
    frame = KittiFrame(root, sequence, name)
    made = PseudoVoxels(root, depth.folder)
    assert made.window(frame) == frames[::-1]
    config = SemanticKittiConfig(
        root=root, val=(sequence,), label_scale=2, label_reduction="monoscene", classes="occupancy"
    )
    dataset = config.build("val", Needs(images=False))
    target = dataset.target(dataset.tokens.index(token))
    proposed = RawQueries().queries(torch.from_numpy(made.voxels(frame))[None])
    observed, occupied = target.observed, target.labels == 1
    precision = float((proposed & occupied & observed).sum() / (proposed & observed).sum())
    share = float((occupied & observed).sum() / observed.sum())
    assert precision > 3 * share
