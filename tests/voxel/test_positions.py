import itertools

import pytest
import torch

from occloom.errors import InputError
from occloom.voxel.positions import AxisPositions, SummedPositions


def test_positions_are_those_of_the_voxel_in_c_order():
    positions = AxisPositions(16, (2, 3, 4))
    rows = positions()
    for x, y, z in itertools.product(range(2), range(3), range(4)):
        expected = torch.cat([positions.tables[0][x], positions.tables[1][y], positions.tables[2][z]])
        assert torch.equal(rows[(x * 3 + y) * 4 + z], expected)
    some = torch.tensor([23, 0, 7, 7])
    assert torch.equal(positions.of(some), rows[some])


def test_what_8_does_not_divide_is_refused():
    with pytest.raises(InputError, match="8 divides"):
        AxisPositions(12, (2, 2, 2))


def test_summed_positions_are_those_of_the_voxel_in_c_order():
    positions = SummedPositions(5, (2, 3, 4))
    rows = positions()
    for x, y, z in itertools.product(range(2), range(3), range(4)):
        expected = positions.tables[0][x] + positions.tables[1][y] + positions.tables[2][z]
        assert torch.equal(rows[(x * 3 + y) * 4 + z], expected)


def test_summed_positions_have_the_published_parameters():
    """Reference protoocc 4: Base, Small, Tiny."""
    counts = [
        sum(p.numel() for p in SummedPositions(256, shape).parameters())
        for shape in ((100, 100, 16), (50, 50, 16), (50, 50, 4))
    ]
    assert counts == [55_296, 29_696, 26_624]
