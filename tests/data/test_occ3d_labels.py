from pathlib import Path

import numpy as np
import pytest

from occloom.data.occ3d_labels import OCC3D, OCC3D_GRID


def test_the_grid_reaches_as_far_as_published() -> None:
    np.testing.assert_allclose(OCC3D_GRID.upper, (40.0, 40.0, 5.4))
    assert OCC3D_GRID.num_voxels == 640_000


def test_free_is_last_and_seventeen_classes_are_scored() -> None:
    assert OCC3D.names[OCC3D.empty] == "free"
    assert OCC3D.occupied == tuple(range(17))
    assert len(set(OCC3D.colours)) == 18
    assert np.argmax(OCC3D.frequencies[:17]) == OCC3D.names.index("driveable_surface")


@pytest.mark.real_data
def test_a_real_label_holds_these_ids_in_this_grid(real_data: Path) -> None:
    (path,) = (real_data / "occ3d_nuscenes" / "gts").glob("*/labels.npz")
    semantics = np.load(path)["semantics"]
    assert semantics.shape == OCC3D_GRID.shape
    assert set(np.unique(semantics)) <= set(range(OCC3D.num_classes))
    assert np.bincount(semantics.ravel()).argmax() == OCC3D.empty
