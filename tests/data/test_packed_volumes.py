from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from occloom.cache import CacheOrigin, create_cache, digests
from occloom.data.kitti360 import Kitti360Config
from occloom.data.kitti_files import KittiFrame
from occloom.data.occ3d import Occ3dConfig
from occloom.data.packed_volumes import NO_KEY, PSEUDO_VOXELS, QUERIES, VolumeKind, open_volumes, volumes_origin
from occloom.errors import InputError
from occloom.interfaces import Needs

KINDS = [PSEUDO_VOXELS, QUERIES]
RELEASED = {PSEUDO_VOXELS: ".pseudo", QUERIES: ".query_iou5203_pre7712_rec6153"}


def volume(kind: VolumeKind, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random(kind.shape) < 0.05


def packed(bits: np.ndarray) -> bytes:
    """Bit by bit: voxel 8 i + k of the C order stands in byte i, at the weight 2^(7 - k)."""
    weights = 1 << np.arange(7, -1, -1)
    return (bits.reshape(-1, 8) * weights).sum(axis=1).astype(np.uint8).tobytes()


def write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def frame(root: Path, name: str = "000005") -> KittiFrame:
    return KittiFrame(root, "08", name)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
class TestReading:
    @pytest.mark.parametrize("released", [False, True])
    def test_prepared_and_released_files_are_read_alike(self, tmp_path: Path, kind: VolumeKind, released: bool):
        bits, folder = volume(kind), tmp_path / kind.folder / "made"
        if released:
            write(folder / "08" / kind.released_folder / f"000005{RELEASED[kind]}", packed(bits))
        else:
            write(folder / "sequences" / "08" / f"000005{kind.suffix}", packed(bits))
        opened = open_volumes(kind, tmp_path, Path("made"))
        assert torch.equal(opened.read(frame(tmp_path)), torch.from_numpy(bits)[None])
        assert opened.key == NO_KEY
        assert opened.frames(tmp_path, ()) == [frame(tmp_path)]
        opened.require([frame(tmp_path)])

    def test_a_frame_that_is_missing_is_named_with_the_command(self, tmp_path: Path, kind: VolumeKind):
        write(tmp_path / "made" / "sequences" / "08" / f"000000{kind.suffix}", packed(volume(kind)))
        opened = open_volumes(kind, tmp_path, tmp_path / "made")
        wanted = rf"no {kind.name} of 08/000005.*run `{kind.command} --root {tmp_path}`"
        with pytest.raises(InputError, match=wanted):
            opened.read(frame(tmp_path))
        with pytest.raises(InputError, match=wanted):
            opened.require([frame(tmp_path, "000000"), frame(tmp_path)])
        with pytest.raises(InputError, match=rf"no {kind.name} of sequence 07"):
            opened.frames(tmp_path, ("07",))

    def test_a_file_of_another_size_is_refused_before_it_is_read(self, tmp_path: Path, kind: VolumeKind):
        write(tmp_path / "made" / "sequences" / "08" / f"000005{kind.suffix}", packed(volume(kind))[:-1])
        opened = open_volumes(kind, tmp_path, tmp_path / "made")
        size = int(np.prod(kind.shape)) // 8
        with pytest.raises(InputError, match=f"the file has {size - 1} bytes, expected {size}"):
            opened.read(frame(tmp_path))

    def test_two_files_of_a_frame_are_refused(self, tmp_path: Path, kind: VolumeKind):
        for suffix in (kind.suffix, f"{kind.suffix}_other"):
            write(tmp_path / "made" / "sequences" / "08" / f"000005{suffix}", packed(volume(kind)))
        with pytest.raises(InputError, match=f"two files of {kind.name} of one frame"):
            open_volumes(kind, tmp_path, tmp_path / "made").read(frame(tmp_path))

    def test_a_folder_that_is_not_named_or_not_there_is_refused(self, tmp_path: Path, kind: VolumeKind):
        with pytest.raises(InputError, match=rf"needs {kind.name} and the data has none.*{kind.command}"):
            open_volumes(kind, tmp_path, None)
        with pytest.raises(InputError, match=rf"{kind.folder}/made: no {kind.name}; run `{kind.command}"):
            open_volumes(kind, tmp_path, Path("made"))
        (tmp_path / "empty").mkdir()
        with pytest.raises(InputError, match=f"no {kind.name} of any frame"):
            open_volumes(kind, tmp_path, tmp_path / "empty").frames(tmp_path, ())


def test_readers_without_such_files_refuse_models_that_need_them(made_nuscenes: Path, made_kitti360: Path):
    configs = Occ3dConfig(root=made_nuscenes), Kitti360Config(root=made_kitti360)
    for config in configs:
        for needs in (Needs(images=False, pseudo_voxels=True), Needs(proposals=True)):
            with pytest.raises(InputError, match="prepared in SemanticKITTI's layout alone"):
                config.build("val", needs)


class TestCaches:
    @pytest.fixture
    def made(self, tmp_path: Path) -> Callable[[str, int], None]:
        """Writes a cache of queries made of the cache `pseudo_voxels/source`."""

        def make(source: str, code_version: int) -> None:
            create_cache(tmp_path / "pseudo_voxels" / "source", CacheOrigin(source, {}, 1))
            key = CacheOrigin(source, {}, 1).key
            made_of = tmp_path / "pseudo_voxels" / "source"
            origin = volumes_origin(QUERIES, "raw", {}, root=tmp_path, made_of=made_of, key=key)
            cache = create_cache(tmp_path / "queries" / "made", CacheOrigin("raw", origin.settings, code_version))
            write(cache.path(QUERIES.entry(frame(tmp_path))), packed(volume(QUERIES)))
            write(tmp_path / "given", b"input")
            cache.record(QUERIES.entry(frame(tmp_path)), digests([tmp_path / "given"], tmp_path))

        return make

    def test_a_cache_is_read(self, tmp_path: Path, made: Callable[[str, int], None]):
        made("first", QUERIES.code_version)
        opened = open_volumes(QUERIES, tmp_path, Path("made"))
        opened.require([frame(tmp_path)])
        assert torch.equal(opened.read(frame(tmp_path)), torch.from_numpy(volume(QUERIES))[None])
        assert opened.cache is not None
        assert opened.key == opened.cache.origin.key

    def test_one_of_other_code_is_refused(self, tmp_path: Path, made: Callable[[str, int], None]):
        made("first", QUERIES.code_version + 1)
        with pytest.raises(InputError, match=f"code version {QUERIES.code_version + 1}, wanted {QUERIES.code_version}"):
            open_volumes(QUERIES, tmp_path, Path("made"))

    def test_one_made_of_a_cache_that_was_replaced_is_refused(self, tmp_path: Path, made: Callable[[str, int], None]):
        made("first", QUERIES.code_version)
        manifest = tmp_path / "pseudo_voxels" / "source" / "manifest.json"
        manifest.unlink()
        open_volumes(QUERIES, tmp_path, Path("made"))  # what queries were made of need not stay
        create_cache(tmp_path / "pseudo_voxels" / "source", CacheOrigin("second", {}, 1))
        with pytest.raises(InputError, match="setting made_of_key"):
            open_volumes(QUERIES, tmp_path, Path("made"))

    def test_a_changed_input_and_a_short_file_are_noticed(self, tmp_path: Path, made: Callable[[str, int], None]):
        made("first", QUERIES.code_version)
        write(tmp_path / "given", b"changed")
        with pytest.raises(InputError, match="stale: its input given"):
            open_volumes(QUERIES, tmp_path, Path("made")).require([frame(tmp_path)])
        write(tmp_path / "queries" / "made" / QUERIES.entry(frame(tmp_path)), b"short")
        with pytest.raises(InputError, match="missing or not whole"):
            open_volumes(QUERIES, tmp_path, Path("made")).require([frame(tmp_path)])
