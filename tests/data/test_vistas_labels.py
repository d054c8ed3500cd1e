import numpy as np

from occloom.data.label_spaces import IGNORED
from occloom.data.vistas_labels import VISTAS, VISTAS_IDS


def test_there_are_124_classes_of_which_one_counts_for_nothing():
    assert VISTAS.num_classes == 124
    assert VISTAS.names[VISTAS.empty] == "Unlabeled"
    assert len(set(VISTAS.names)) == 124


def test_raw_ids_become_dense_ones_in_order():
    np.testing.assert_array_equal(VISTAS_IDS[:123], np.arange(1, 124))
    assert (VISTAS_IDS[123:] == IGNORED).all()
    # Of config_v2.0.json: the 22nd label is the road, the 62nd the sky, the 109th the car.
    assert [VISTAS.names[VISTAS_IDS[raw]] for raw in (21, 61, 108)] == ["Road", "Sky", "Car"]
    assert VISTAS.colours[VISTAS_IDS[21]] == (128, 64, 128)
