from pathlib import Path

import numpy as np
import pytest

from occloom.cli.render_occ3d import draw_occ3d_frame, read_occ3d_frame
from occloom.data.occ3d_files import read_labels, write_prediction
from occloom.data.occ3d_labels import OCC3D
from occloom.errors import InputError

TOKEN = "scene-0002/0002" + "0" * 28
PANEL = (40, 64)


def read(root: Path | None, token: str | None = TOKEN, prediction: Path | None = None, mask="camera", truth=None):
    return read_occ3d_frame(prediction, truth, root, token, version="v1.0-trainval", mask=mask)


def test_a_frame_of_a_folder_has_its_labels_and_its_pictures(made_nuscenes: Path):
    labels = read_labels(made_nuscenes / "gts" / TOKEN / "labels.npz")
    for mask, observed in (("camera", labels.mask_camera), ("none", np.ones_like(labels.mask_camera))):
        frame = read(made_nuscenes, mask=mask)
        np.testing.assert_array_equal(frame.observed, observed)
        np.testing.assert_array_equal(frame.truth, np.where(observed, labels.semantics, OCC3D.empty))
    assert [view.name for view in frame.views][:2] == ["CAM_FRONT_LEFT", "CAM_FRONT"]
    assert all(view.picture is not None for view in frame.views)


def test_a_frame_without_labels_is_drawn_with_its_pictures_alone(own_nuscenes: Path):
    (token,) = (f"scene-0003/{path.stem}" for path in (own_nuscenes / "samples" / "CAM_BACK").glob("0003*.png"))
    (own_nuscenes / "samples" / "CAM_FRONT" / f"{token.partition('/')[2]}.png").unlink()
    frame = read(own_nuscenes, token)
    assert frame.truth is None
    assert frame.observed.all()
    assert frame.views[1].picture is None
    assert draw_occ3d_frame(frame, mask="camera", errors=False, panel_size=PANEL).height > 60


def test_errors_need_both(made_nuscenes: Path, tmp_path: Path):
    with pytest.raises(InputError, match="--errors needs a prediction and a truth"):
        draw_occ3d_frame(read(made_nuscenes), mask="camera", errors=True, panel_size=PANEL)
    write_prediction(tmp_path / "a.npz", np.full((200, 200, 16), 17))
    frame = read(made_nuscenes, prediction=tmp_path / "a.npz")
    wide = draw_occ3d_frame(frame, mask="camera", errors=True, panel_size=PANEL)
    assert wide.width == 3 * (PANEL[1] + 12) + 12


def test_nothing_to_draw_and_unknown_frames_are_refused(made_nuscenes: Path):
    with pytest.raises(InputError, match="nothing to draw"):
        read(None, None)
    with pytest.raises(InputError, match="no frame scene-0002/x; there are scene-0002/0002"):
        read(made_nuscenes, "scene-0002/x")
    with pytest.raises(InputError, match="no frame scene-0900/x; there are scene-0001, scene-0002, scene-0003"):
        read(made_nuscenes, "scene-0900/x")


@pytest.mark.real_data
def test_the_real_labels_are_drawn(real_data: Path):
    (path,) = (real_data / "occ3d_nuscenes" / "gts").glob("*/labels.npz")
    frame = read(None, None, mask="none", truth=path)
    picture = draw_occ3d_frame(frame, mask="none", errors=False, panel_size=PANEL)
    assert len(picture.getcolors(maxcolors=1 << 24) or []) > 200
