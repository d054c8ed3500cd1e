"""Folders of prepared files (depth maps, queries, masks, features) that say what they were made from.

A cache is one folder with `manifest.json` (source, settings, code version and their key), `entries.jsonl` (one line a
finished entry: name, size, digests of its inputs) and the entries. Whatever does not match is refused, never used.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from occloom.errors import InputError

MANIFEST, ENTRIES = "manifest.json", "entries.jsonl"
Setting = str | int | float | bool | None


@dataclass(frozen=True)
class CacheOrigin:
    """What every entry of a cache has in common."""

    source: str
    """Name of what made it, such as "stereo-sgbm"."""
    settings: Mapping[str, Setting]
    """Everything that changes the bytes of an entry, inputs apart."""
    code_version: int
    """Raised by hand when the code gives other bytes for the same settings."""

    @property
    def key(self) -> str:
        """SHA-256 of the parts, the same on every machine."""
        return hashlib.sha256(json.dumps(_plain(self), sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Entry:
    """One finished file of a cache."""

    name: str
    """Path inside the cache's folder, with forward slashes."""
    size: int
    """In bytes."""
    inputs: Mapping[str, str]
    """Digest of each file it was made from, by path relative to the data's root, or absolute."""


class Cache:
    """An opened cache: which entries are there, and whether they still stand for their inputs."""

    def __init__(self, folder: Path, origin: CacheOrigin, entries: Mapping[str, Entry]) -> None:
        """Use `create_cache` or `read_cache`."""
        self.folder = folder
        self.origin = origin
        self._entries = dict(entries)

    def __len__(self) -> int:
        """Number of finished entries."""
        return len(self._entries)

    def path(self, name: str) -> Path:
        """Where an entry lies or will lie."""
        return self.folder / name

    def done(self, name: str, inputs: Mapping[str, str]) -> bool:
        """Whether an entry is finished: recorded, and its file of the recorded size.

        Raises:
            InputError: If it was made from other inputs than `inputs`.
        """
        entry = self._entries.get(name)
        if entry is None or not self._is_whole(entry):
            return False
        self._compare(entry, inputs)
        return True

    def check(self, name: str, root: Path) -> None:
        """Refuse an entry that is missing, cut short, or made from files that have changed since.

        Inputs that are no longer under `root` are not compared: a prepared depth map may outlive the right picture.

        Raises:
            InputError: If the entry cannot be used.
        """
        entry = self.require_whole(name)
        paths = {name: root / name for name in entry.inputs}
        self._compare(entry, {name: file_digest(path) for name, path in paths.items() if path.is_file()})

    def require_whole(self, name: str) -> Entry:
        """The record of an entry; its inputs are not looked at.

        Raises:
            InputError: If the entry is missing or cut short.
        """
        entry = self._entries.get(name)
        if entry is None or not self._is_whole(entry):
            raise InputError(
                "the entry is missing or not whole",
                where=self.path(name),
                rule=f"{self.folder / ENTRIES} lists every finished entry with its size",
                remedy="run the preparation again: it resumes",
            )
        return entry

    def record(self, name: str, inputs: Mapping[str, str]) -> None:
        """Note that the entry's file is finished; call it from one process only."""
        entry = Entry(name=name, size=self.path(name).stat().st_size, inputs=inputs)
        with (self.folder / ENTRIES).open("a") as file:
            # The line break comes first: what an interruption cut short then spoils no line but its own.
            file.write("\n" + json.dumps({**asdict(entry), "inputs": dict(inputs)}, sort_keys=True))
        self._entries[name] = entry

    def _is_whole(self, entry: Entry) -> bool:
        """Whether the file is there with the recorded size."""
        path = self.path(entry.name)
        return path.is_file() and path.stat().st_size == entry.size

    def _compare(self, entry: Entry, inputs: Mapping[str, str]) -> None:
        """Refuse inputs that differ from the recorded ones."""
        for name, digest in inputs.items():
            if entry.inputs.get(name) != digest:
                raise InputError(
                    f"the entry is stale: its input {name} has changed since",
                    where=self.path(entry.name),
                    rule="an entry stands for the very files it was made from",
                    remedy=f"delete {self.folder} and prepare it again",
                )


def create_cache(folder: Path, origin: CacheOrigin) -> Cache:
    """Open a cache to write into, making it where there is none; what is finished stays.

    Raises:
        InputError: If the folder holds a cache of another origin, or files that no cache made.
    """
    manifest = folder / MANIFEST
    if not manifest.is_file():
        if folder.is_dir() and any(folder.iterdir()):
            raise InputError(
                f"the folder is not empty and has no {MANIFEST}",
                where=folder,
                rule="a cache is written into a folder of its own",
                remedy="name another folder, or empty this one",
            )
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(manifest, json.dumps({**_plain(origin), "key": origin.key}, indent=1).encode())
    cache = read_cache(folder)
    require_origin(cache, origin)
    return cache


def read_cache(folder: Path) -> Cache:
    """Open an existing cache to read from.

    Raises:
        InputError: If its manifest is missing, damaged or altered.
    """
    manifest = folder / MANIFEST
    try:
        found = json.loads(manifest.read_text())
        origin = CacheOrigin(source=found["source"], settings=found["settings"], code_version=found["code_version"])
        intact = found["key"] == origin.key
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"the manifest cannot be read ({error})", where=manifest, remedy=_again(folder)) from error
    if not intact:
        raise InputError(
            "the manifest was altered: its key is not that of its content", where=manifest, remedy=_again(folder)
        )
    return Cache(folder, origin, _read_entries(folder / ENTRIES))


def require_origin(cache: Cache, origin: CacheOrigin) -> None:
    """Refuse a cache of another origin, naming the first part that differs.

    Raises:
        InputError: If source, code version or a setting differs.
    """
    found, wanted = _flat(cache.origin), _flat(origin)
    for name in [*wanted, *(n for n in found if n not in wanted)]:
        if found.get(name) != wanted.get(name):
            raise InputError(
                f"the cache has {name} {found.get(name)!r}, wanted {wanted.get(name)!r}",
                where=cache.folder,
                rule="a cache serves only what it was made for",
                remedy=f"use the matching settings, or another folder; or {_again(cache.folder)}",
            )


def digests(paths: Iterable[Path], root: Path) -> dict[str, str]:
    """SHA-256 of the contents of files, by path relative to `root`, or by absolute path for files elsewhere.

    Raises:
        InputError: If a file is missing.
    """
    found: dict[str, str] = {}
    for path in paths:
        if not path.is_file():
            raise InputError(
                "no such file", where=path, rule="the preparation reads it", remedy="complete the download"
            )
        name = path.relative_to(root) if path.is_relative_to(root) else path.resolve()
        found[name.as_posix()] = file_digest(path)
    return found


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file that is either whole or not there, also when the process is killed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def file_digest(path: Path) -> str:
    """SHA-256 of a file's contents."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _plain(origin: CacheOrigin) -> dict[str, object]:
    """The origin as JSON can hold it."""
    return {"source": origin.source, "settings": dict(origin.settings), "code_version": origin.code_version}


def _flat(origin: CacheOrigin) -> dict[str, Setting]:
    """Source, code version and settings by a name fit for a message."""
    settings = {f"setting {name}": value for name, value in origin.settings.items()}
    return {"source": origin.source, "code version": origin.code_version, **settings}


def _again(folder: Path) -> str:
    """The remedy that always works."""
    return f"delete {folder} and prepare it again"


def _read_entries(path: Path) -> dict[str, Entry]:
    """The finished entries; a line that an interruption cut short counts as none."""
    entries: dict[str, Entry] = {}
    for line in path.read_text().splitlines() if path.is_file() else ():
        try:
            entry = Entry(**json.loads(line))
        except (ValueError, TypeError):
            continue
        entries[entry.name] = entry
    return entries
