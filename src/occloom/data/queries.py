"""Queries: the voxels of 0.4 m in which VoxFormer's kind of lifting begins, made of pseudo voxels.

Raw queries are the coarse voxels that hold a pseudo voxel; a query network corrects them (`models/lmscnet`).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch.nn.functional as F
from jaxtyping import Bool
from torch import Tensor

from occloom.cache import Cache, CacheOrigin, Setting
from occloom.data.filled_cache import fill_cache
from occloom.data.kitti_files import KittiFrame, pack_bits
from occloom.data.packed_volumes import PSEUDO_VOXELS, QUERIES, PackedVolumes, volumes_origin
from occloom.errors import InputError


@runtime_checkable
class QueryMaker(Protocol):
    """What makes queries of pseudo voxels."""

    @property
    def name(self) -> str:
        """By which caches know it."""
        ...

    @property
    def settings(self) -> dict[str, Setting]:
        """All that its answers depend on, pseudo voxels apart."""
        ...

    def queries(self, pseudo_voxels: Bool[Tensor, "1 X Y Z"]) -> Bool[Tensor, "1 x y z"]:
        """The voxels, twice as large, that are taken for occupied."""
        ...


@dataclass(frozen=True)
class RawQueries:
    """No correction: a coarse voxel is proposed if a pseudo voxel lies in it."""

    name = "raw"

    @property
    def settings(self) -> dict[str, Setting]:
        """None."""
        return {}

    def queries(self, pseudo_voxels: Bool[Tensor, "1 X Y Z"]) -> Bool[Tensor, "1 x y z"]:
        """The largest of each 2x2x2 block."""
        return F.max_pool3d(pseudo_voxels[:, None].float(), 2)[:, 0] > 0


def queries_origin(root: Path, pseudo: PackedVolumes, maker: QueryMaker) -> CacheOrigin:
    """What a cache of queries is keyed by: who makes them, and of which pseudo voxels."""
    return volumes_origin(QUERIES, maker.name, maker.settings, root=root, made_of=pseudo.folder, key=pseudo.key)


def fill_queries(
    cache: Cache, pseudo: PackedVolumes, maker: QueryMaker, frames: Sequence[KittiFrame]
) -> Iterator[KittiFrame]:
    """Prepare what is not finished yet, yielding each frame when it is.

    Args:
        cache: Of the origin `queries_origin`.
        pseudo: The pseudo voxels.
        maker: Makes queries of them.
        frames: Each has pseudo voxels.

    Raises:
        InputError: If a frame has none, or the cache holds queries of other ones.
    """

    def inputs(frame: KittiFrame) -> tuple[Path, ...]:
        path = pseudo.path(frame)
        return () if path is None else (path,)

    make = partial(_packed_queries, pseudo, maker)
    return fill_cache(cache, frames, entry=QUERIES.entry, inputs=inputs, make=make, workers=1)


def _packed_queries(pseudo: PackedVolumes, maker: QueryMaker, frame: KittiFrame) -> bytes:
    """The contents of one frame's file."""
    queries = maker.queries(pseudo.read(frame))
    if tuple(queries.shape) != (1, *QUERIES.shape):
        raise InputError(
            f"{maker.name} answers {tuple(queries.shape[1:])} voxels",
            rule=f"queries are on {QUERIES.shape}, pseudo voxels on {PSEUDO_VOXELS.shape}",
            remedy="name a network that was trained on SemanticKITTI's grid",
        )
    return pack_bits(queries[0].cpu().numpy()).tobytes()
