from pathlib import Path

import numpy as np
import pytest

from occloom.cache import CacheOrigin, create_cache
from occloom.data.depth_cache import depth_entry, fill_depth_cache, frames_to_prepare, open_depth_cache
from occloom.data.depth_sources import FileDepth, LidarDepth, SgbmDepth, mobile_stereo_origin
from occloom.errors import InputError


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*.npy")}


def test_which_frames_are_prepared(made_kitti: Path):
    assert [f.token for f in frames_to_prepare(made_kitti, ("08",), "voxels")] == ["08/000000", "08/000005"]
    assert len(frames_to_prepare(made_kitti, (), "pictures")) == 12
    with pytest.raises(InputError, match="no such sequence"):
        frames_to_prepare(made_kitti, ("99",), "voxels")
    with pytest.raises(InputError, match="root holds"):
        frames_to_prepare(made_kitti / "sequences", (), "voxels")


def test_an_interrupted_preparation_goes_on(made_kitti: Path, tmp_path: Path):
    frames, source = frames_to_prepare(made_kitti, (), "voxels"), SgbmDepth()
    whole = create_cache(tmp_path / "whole", source.origin)
    assert [f.token for f in fill_depth_cache(whole, source, frames, workers=1)] == [f.token for f in frames]
    part = create_cache(tmp_path / "part", source.origin)
    stopped = fill_depth_cache(part, source, frames, workers=1)
    assert next(stopped) == frames[0]
    stopped.close()
    assert len(contents(part.folder)) == 1
    written = part.path(depth_entry(frames[0])).stat().st_mtime_ns
    again = create_cache(tmp_path / "part", source.origin)
    list(fill_depth_cache(again, source, frames, workers=1))
    assert contents(again.folder) == contents(whole.folder)
    assert again.path(depth_entry(frames[0])).stat().st_mtime_ns == written


@pytest.mark.multiprocess
def test_processes_write_the_same_bytes(made_kitti: Path, tmp_path: Path):
    frames, source = frames_to_prepare(made_kitti, (), "voxels"), SgbmDepth()
    for workers in (1, 2):
        cache = create_cache(tmp_path / str(workers), source.origin)
        assert len(list(fill_depth_cache(cache, source, frames, workers=workers))) == len(frames)
    assert contents(tmp_path / "1") == contents(tmp_path / "2")


def test_other_sources_and_settings_are_refused(made_kitti: Path, tmp_path: Path):
    create_cache(tmp_path / "c", SgbmDepth().origin)
    with pytest.raises(InputError, match="setting block_size 5, wanted 3"):
        create_cache(tmp_path / "c", SgbmDepth(block_size=3).origin)
    with pytest.raises(InputError, match="source 'stereo-sgbm', wanted 'lidar'"):
        create_cache(tmp_path / "c", LidarDepth().origin)


def test_files_are_taken_over_and_their_changes_noticed(make_kitti, tmp_path: Path):
    root = make_kitti(tmp_path / "data", sequences=("00",))
    frames = frames_to_prepare(root, (), "voxels")
    for value, frame in enumerate(frames, start=1):
        path = tmp_path / "given" / depth_entry(frame)
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, np.full((36, 122), value, dtype=np.float32))
    source = FileDepth(tmp_path / "given")
    cache = create_cache(tmp_path / "taken", source.origin)
    list(fill_depth_cache(cache, source, frames, workers=1))
    assert contents(tmp_path / "taken") == contents(tmp_path / "given")
    np.save(tmp_path / "given" / depth_entry(frames[0]), np.full((36, 122), 9, dtype=np.float32))
    with pytest.raises(InputError, match="stale"):
        list(fill_depth_cache(create_cache(tmp_path / "taken", source.origin), source, frames, workers=1))


def test_depth_of_a_network_is_read_without_its_weights(tmp_path: Path):
    for digest in ("1a", "2b"):
        created = create_cache(tmp_path / digest, mobile_stereo_origin(digest))
        opened = open_depth_cache(tmp_path / digest)
        assert opened is not None
        assert opened.origin.key == created.origin.key
    with pytest.raises(InputError, match="setting weights '1a', wanted '2b'"):
        create_cache(tmp_path / "1a", mobile_stereo_origin("2b"))
    create_cache(tmp_path / "old", CacheOrigin(source="stereo-msnet3d", settings={"weights": "1a"}, code_version=0))
    with pytest.raises(InputError, match="code version 0, wanted 1"):
        open_depth_cache(tmp_path / "old")
