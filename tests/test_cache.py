import json
from dataclasses import replace
from pathlib import Path

import pytest

from occloom.cache import CacheOrigin, create_cache, digests, read_cache, write_atomically
from occloom.errors import InputError

ORIGIN = CacheOrigin(source="blur", settings={"radius": 2, "mode": "fast"}, code_version=1)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.txt").write_text("a")
    return tmp_path / "data"


def filled(folder: Path, root: Path):
    cache = create_cache(folder, ORIGIN)
    write_atomically(cache.path("out/a.bin"), b"12345")
    cache.record("out/a.bin", digests([root / "a.txt"], root))
    return cache


def test_entries_are_found_again(tmp_path: Path, root: Path):
    filled(tmp_path / "cache", root)
    again = create_cache(tmp_path / "cache", ORIGIN)
    assert again.done("out/a.bin", digests([root / "a.txt"], root))
    assert not again.done("out/b.bin", {})
    again.check("out/a.bin", root)
    assert len(read_cache(tmp_path / "cache")) == 1


@pytest.mark.parametrize(
    ("other", "named"),
    [
        (replace(ORIGIN, source="sharpen"), "source 'blur'"),
        (replace(ORIGIN, code_version=2), "code version 1"),
        (replace(ORIGIN, settings={"radius": 3, "mode": "fast"}), "setting radius 2"),
        (replace(ORIGIN, settings={"radius": 2}), "setting mode 'fast'"),
    ],
)
def test_another_origin_is_refused_and_the_difference_named(tmp_path: Path, root: Path, other: CacheOrigin, named: str):
    filled(tmp_path / "cache", root)
    assert other.key != ORIGIN.key
    with pytest.raises(InputError, match=named):
        create_cache(tmp_path / "cache", other)


def test_changed_inputs_are_refused(tmp_path: Path, root: Path):
    cache = filled(tmp_path / "cache", root)
    (root / "a.txt").write_text("b")
    with pytest.raises(InputError, match=r"a\.txt has changed"):
        cache.check("out/a.bin", root)
    with pytest.raises(InputError, match=r"a\.txt has changed"):
        cache.done("out/a.bin", digests([root / "a.txt"], root))
    (root / "a.txt").unlink()
    cache.check("out/a.bin", root)


def test_inputs_are_found_however_the_root_is_named(tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    cache = create_cache(tmp_path / "cache", ORIGIN)
    write_atomically(cache.path("out/a.bin"), b"12345")
    cache.record("out/a.bin", digests([root / "a.txt"], Path("data")))
    cache.check("out/a.bin", Path("data"))
    cache.check("out/a.bin", root)
    (root / "a.txt").write_text("b")
    with pytest.raises(InputError, match=r"a\.txt has changed"):
        cache.check("out/a.bin", root)


def test_a_cut_entry_is_not_done(tmp_path: Path, root: Path):
    cache = filled(tmp_path / "cache", root)
    cache.path("out/a.bin").write_bytes(b"123")
    assert not cache.done("out/a.bin", {})
    with pytest.raises(InputError, match="not whole"):
        cache.check("out/a.bin", root)


def test_an_interrupted_record_is_forgotten(tmp_path: Path, root: Path):
    filled(tmp_path / "cache", root)
    path = tmp_path / "cache" / "entries.jsonl"
    whole = path.read_text()
    path.write_text(whole + whole.replace("a.bin", "b.bin")[: len(whole) // 2])
    again = read_cache(tmp_path / "cache")
    assert len(again) == 1
    write_atomically(again.path("out/b.bin"), b"1")
    again.record("out/b.bin", {})
    assert read_cache(tmp_path / "cache").done("out/b.bin", {})


def test_foreign_folders_and_altered_manifests_are_refused(tmp_path: Path, root: Path):
    with pytest.raises(InputError, match="not empty"):
        create_cache(root, ORIGIN)
    filled(tmp_path / "cache", root)
    path = tmp_path / "cache" / "manifest.json"
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps({**manifest, "code_version": 7}))
    with pytest.raises(InputError, match="altered"):
        read_cache(tmp_path / "cache")
    path.write_text("{")
    with pytest.raises(InputError, match="cannot be read"):
        read_cache(tmp_path / "cache")


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "x.bin"
    write_atomically(path, b"old")

    def full_disk(descriptor: int) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("os.fsync", full_disk)
    with pytest.raises(OSError, match="no space"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
