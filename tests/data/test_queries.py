from pathlib import Path

import numpy as np
import pytest
import torch

from occloom.cache import create_cache
from occloom.data.kitti_files import KittiFrame, write_voxel_bits
from occloom.data.packed_volumes import PSEUDO_VOXELS, QUERIES, open_volumes
from occloom.data.queries import RawQueries, fill_queries, queries_origin
from occloom.errors import InputError


def test_raw_queries_are_those_of_a_loop():
    pseudo = np.random.default_rng(0).random((8, 6, 4)) < 0.05
    expected = np.zeros((4, 3, 2), dtype=bool)
    for x, y, z in np.argwhere(pseudo):
        expected[x // 2, y // 2, z // 2] = True
    ours = RawQueries().queries(torch.from_numpy(pseudo)[None])
    assert np.array_equal(ours[0].numpy(), expected)


class Half:
    """Proposes what lies on the left."""

    name = "half"

    def __init__(self, size: int = 128) -> None:
        self.size = size

    @property
    def settings(self) -> dict[str, str | int | float | bool | None]:
        return {"size": self.size}

    def queries(self, pseudo_voxels: torch.Tensor) -> torch.Tensor:
        volume = torch.zeros(1, self.size, 128, 16, dtype=torch.bool)
        volume[:, :, 64:] = True
        return volume


@pytest.fixture
def frames(tmp_path: Path) -> list[KittiFrame]:
    """Two frames with random pseudo voxels."""
    rng = np.random.default_rng(0)
    frames = [KittiFrame(tmp_path, "00", name) for name in ("000000", "000005")]
    for frame in frames:
        path = tmp_path / "pseudo_voxels" / "made" / PSEUDO_VOXELS.entry(frame)
        write_voxel_bits(path, rng.random(PSEUDO_VOXELS.shape) < 0.01)
    return frames


def test_a_file_holds_a_bit_a_voxel_the_first_most_significant(frames: list[KittiFrame], tmp_path: Path):
    pseudo, maker = open_volumes(PSEUDO_VOXELS, tmp_path, Path("made")), RawQueries()
    cache = create_cache(tmp_path / "queries" / "raw", queries_origin(tmp_path, pseudo, maker))
    assert list(fill_queries(cache, pseudo, maker, frames)) == frames
    for frame in frames:
        content = cache.path(QUERIES.entry(frame)).read_bytes()
        assert len(content) == 32_768
        bits = maker.queries(pseudo.read(frame))[0].numpy().ravel()
        for place in (*np.flatnonzero(bits)[:50], *np.flatnonzero(~bits)[:50]):
            assert (content[place // 8] >> (7 - place % 8)) & 1 == bits[place]
        read = open_volumes(QUERIES, tmp_path, Path("raw")).read(frame)
        assert torch.equal(read, maker.queries(pseudo.read(frame)))


def test_other_makers_and_changed_pseudo_voxels_are_refused(frames: list[KittiFrame], tmp_path: Path):
    pseudo = open_volumes(PSEUDO_VOXELS, tmp_path, Path("made"))
    cache = create_cache(tmp_path / "queries" / "raw", queries_origin(tmp_path, pseudo, RawQueries()))
    list(fill_queries(cache, pseudo, RawQueries(), frames))
    with pytest.raises(InputError, match="source 'raw', wanted 'half'"):
        create_cache(cache.folder, queries_origin(tmp_path, pseudo, Half()))
    path = pseudo.path(frames[1])
    assert path is not None
    write_voxel_bits(path, np.zeros(PSEUDO_VOXELS.shape, dtype=bool))
    with pytest.raises(InputError, match=r"stale: its input pseudo_voxels/made/sequences/00/000005\.pseudo"):
        list(fill_queries(cache, pseudo, RawQueries(), frames))


def test_a_network_of_another_grid_is_refused(frames: list[KittiFrame], tmp_path: Path):
    pseudo, maker = open_volumes(PSEUDO_VOXELS, tmp_path, Path("made")), Half(64)
    cache = create_cache(tmp_path / "queries" / "half", queries_origin(tmp_path, pseudo, maker))
    with pytest.raises(InputError, match=r"half answers \(64, 128, 16\) voxels"):
        list(fill_queries(cache, pseudo, maker, frames))
