import numpy as np

from occloom.data.label_spaces import RAW_LABELS
from occloom.data.occ3d_labels import OCC3D
from occloom.town.occ3d_ids import to_occ3d_ids


def test_every_class_can_be_had_and_no_raw_id_means_empty() -> None:
    ids = to_occ3d_ids(np.arange(1 << 16, dtype=np.uint16))
    assert set(np.unique(ids)) == set(range(OCC3D.num_classes))
    assert ids[0] == OCC3D.empty
    assert (ids != OCC3D.empty).sum() < 40


def test_ids_keep_their_names_where_both_benchmarks_have_them() -> None:
    names = {label.name.removeprefix("moving-"): label.raw_id for label in RAW_LABELS}
    shared = {name for name in OCC3D.names if name in names}
    assert shared == {"car", "bicycle", "motorcycle", "bus", "truck", "sidewalk", "terrain", "vegetation"}
    for name in shared:
        assert OCC3D.names[int(to_occ3d_ids(np.array([names[name]], np.uint16))[0])] == name
