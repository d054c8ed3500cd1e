"""Pseudo voxels and queries on disk: one bit a voxel, a file a frame, prepared here or by VoxFormer's authors.

A file holds the volume in C order of x, y, z, eight voxels a byte, the first in the most significant bit; that is what
VoxFormer's `.pseudo` and `.query_...` files hold too. Documentation: docs/datasets/semantickitti.md.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Bool
from torch import Tensor

from occloom.cache import MANIFEST, Cache, CacheOrigin, Setting, read_cache, require_origin
from occloom.data.kitti_files import KittiFrame, StereoFrame, read_voxel_bits
from occloom.data.label_spaces import SEMANTIC_KITTI_GRID
from occloom.errors import InputError
from occloom.grid import Shape
from occloom.interfaces import Needs

NO_KEY = "files"
"""What stands for the key of a source that is no cache: the files' contents are compared entry by entry."""


@dataclass(frozen=True)
class VolumeKind:
    """What is packed, and where it lies."""

    name: str
    """In messages."""
    folder: str
    """Below the data's root, of the prepared ones."""
    suffix: str
    """Of prepared files; those of VoxFormer's authors begin with it."""
    shape: Shape
    """Voxels."""
    released_folder: str
    """Of a sequence, in VoxFormer's `sequences_msnet3d_sweep10`."""
    command: str
    """That prepares them."""
    code_version: int
    """Of what is written now; a cache of another one is refused."""

    def folder_of(self, root: Path, named: Path) -> Path:
        """Where volumes lie: a name under <root>/<folder>, or any folder."""
        return root / self.folder / named if len(named.parts) == 1 else named

    def entry(self, frame: StereoFrame) -> str:
        """The name of a frame's file in a cache."""
        return f"sequences/{frame.token}{self.suffix}"


PSEUDO_VOXELS = VolumeKind(
    name="pseudo voxels",
    folder="pseudo_voxels",
    suffix=".pseudo",
    shape=SEMANTIC_KITTI_GRID.shape,
    released_folder="voxels",
    command="occloom prepare pseudo-voxels",
    code_version=1,
)
QUERIES = VolumeKind(
    name="queries",
    folder="queries",
    suffix=".query",
    shape=SEMANTIC_KITTI_GRID.coarsen((2, 2, 2)).shape,
    released_folder="queries",
    command="occloom prepare queries",
    code_version=1,
)


class PackedVolumes:
    """An opened folder of packed volumes: a cache, or files from elsewhere."""

    def __init__(self, kind: VolumeKind, folder: Path, cache: Cache | None) -> None:
        """Use `open_volumes`."""
        self.kind, self.folder, self.cache = kind, folder, cache
        self._files: dict[str, dict[str, Path]] = {}

    @property
    def key(self) -> str:
        """Of the cache; `NO_KEY` for files from elsewhere."""
        return NO_KEY if self.cache is None else self.cache.origin.key

    def path(self, frame: StereoFrame) -> Path | None:
        """The frame's file, None where there is none.

        Raises:
            InputError: If there are two.
        """
        sequence, _, name = frame.token.partition("/")
        return self._of_sequence(sequence).get(name)

    def frames(self, root: Path, sequences: Sequence[str]) -> list[KittiFrame]:
        """The frames that have a file, in order.

        Args:
            root: Of the data.
            sequences: Their names; none means all.

        Raises:
            InputError: If a named sequence has none, or there is none at all.
        """
        folders = [*self.folder.glob("sequences/*"), *self.folder.glob(f"*/{self.kind.released_folder}")]
        there = sorted({f.name if f.parent.name == "sequences" else f.parent.name for f in folders})
        found: list[KittiFrame] = []
        for sequence in sequences or there:
            names = sorted(self._of_sequence(sequence))
            if not names:
                raise self._missing(f"sequence {sequence}", root)
            found += [KittiFrame(root, sequence, name) for name in names]
        if not found:
            raise self._missing("any frame", root)
        return found

    def require(self, frames: Sequence[StereoFrame]) -> None:
        """Refuse to serve a split of which something is missing or stale.

        Every frame's file must be there and whole. Of one frame a sequence, the last, the inputs are compared with
        what they are now.

        Raises:
            InputError: If so.
        """
        for frame in frames:
            if self.path(frame) is None:
                raise self._missing(frame.token, frame.root)
            if self.cache is not None:
                self.cache.require_whole(self.kind.entry(frame))
        if self.cache is not None:
            for frame in {frame.token.partition("/")[0]: frame for frame in frames}.values():
                self.cache.check(self.kind.entry(frame), frame.root)

    def read(self, frame: StereoFrame) -> Bool[Tensor, "1 X Y Z"]:
        """The frame's volume.

        Raises:
            InputError: If it is missing or not of the right size.
        """
        path = self.path(frame)
        if path is None:
            raise self._missing(frame.token, frame.root)
        return torch.from_numpy(read_voxel_bits(path, self.kind.shape))[None]

    def _of_sequence(self, sequence: str) -> dict[str, Path]:
        """The files of a sequence by frame name; listed once."""
        if sequence not in self._files:
            files: dict[str, Path] = {}
            for folder in (self.folder / "sequences" / sequence, self.folder / sequence / self.kind.released_folder):
                for path in sorted(folder.iterdir()) if folder.is_dir() else ():
                    if not path.stem.isdigit() or not path.suffix.startswith(self.kind.suffix):
                        continue
                    if path.stem in files:
                        raise InputError(
                            f"two files of {self.kind.name} of one frame: {files[path.stem].name} and {path.name}",
                            where=folder,
                            rule="a folder holds one a frame",
                            remedy="move one kind into a folder of its own",
                        )
                    files[path.stem] = path
            self._files[sequence] = files
        return self._files[sequence]

    def _missing(self, what: str, root: Path) -> InputError:
        """The error for what is not there."""
        return InputError(
            f"no {self.kind.name} of {what}",
            where=self.folder,
            rule=f"a frame's lie in sequences/NN/FFFFFF{self.kind.suffix}, "
            f"or in NN/{self.kind.released_folder} as VoxFormer's authors pack them",
            remedy=f"run `{self.kind.command} --root {root}`",
        )


def open_volumes(kind: VolumeKind, root: Path, named: Path | None) -> PackedVolumes:
    """The packed volumes that a data set names, to read from.

    Args:
        kind: What is looked for.
        root: Of the data.
        named: A name under <root>/<folder>, or a folder; None where the data names none, which is refused.

    Raises:
        InputError: If there is no such folder, or it is a cache that was made by other code, or of something that has
            been prepared with other settings since.
    """
    if named is None:
        field = kind.folder
        raise InputError(
            f"the model needs {kind.name} and the data has none",
            rule=f"{field} names a prepared folder",
            remedy=f"run `{kind.command} --root {root}` and give {field} the folder's name",
        )
    folder = kind.folder_of(root, named)
    if not folder.is_dir():
        raise InputError(f"no {kind.name}", where=folder, remedy=f"run `{kind.command} --root {root}`")
    cache = read_cache(folder) if (folder / MANIFEST).is_file() else None
    if cache is not None:
        _require_current(kind, root, cache)
    return PackedVolumes(kind, folder, cache)


def volumes_origin(
    kind: VolumeKind, source: str, settings: Mapping[str, Setting], *, root: Path, made_of: Path, key: str
) -> CacheOrigin:
    """What a cache of packed volumes is keyed by.

    Args:
        kind: What is packed.
        source: Name of what makes it.
        settings: Its own.
        root: Of the data.
        made_of: Folder that it is made from.
        key: Of the cache there, or `NO_KEY`.
    """
    name = made_of.relative_to(root).as_posix() if made_of.is_relative_to(root) else made_of.name
    return CacheOrigin(source, {**settings, "made_of": name, "made_of_key": key}, kind.code_version)


def _require_current(kind: VolumeKind, root: Path, cache: Cache) -> None:
    """Refuse a cache of old code, or made from a cache in whose place another one stands now."""
    settings = dict(cache.origin.settings)
    made_of = root / str(settings.get("made_of"))
    if (made_of / MANIFEST).is_file():
        settings["made_of_key"] = read_cache(made_of).origin.key
    require_origin(cache, CacheOrigin(cache.origin.source, settings, kind.code_version))


def refuse_volumes(needs: Needs, root: Path) -> None:
    """Refuse a model that looks at pseudo voxels or queries, in the name of a reader that has none.

    Raises:
        InputError: If it does.
    """
    if needs.pseudo_voxels or needs.proposals:
        raise InputError(
            "the model needs pseudo voxels or queries, which are prepared in SemanticKITTI's layout alone",
            where=root,
            remedy="use SemanticKITTI or a town in its layout, or another model",
        )
