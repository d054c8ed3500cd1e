import numpy as np
import pytest
from PIL import Image

from occloom.cli.render import render
from occloom.data.kitti_files import write_voxel_bits, write_voxel_labels
from occloom.errors import InputError

SHAPE = (256, 256, 32)
PANEL = (100, 160)


@pytest.fixture
def files(tmp_path):
    truth = np.zeros(SHAPE, np.uint16)
    truth[:, 120:136, 1] = 40
    prediction = truth.copy()
    prediction[100:110, 125:131, 2:8] = 10
    write_voxel_labels(tmp_path / "prediction.label", prediction)
    write_voxel_labels(tmp_path / "truth.label", truth)
    return tmp_path / "prediction.label", tmp_path / "truth.label"


def drawn(path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def test_files_are_drawn_side_by_side(files, tmp_path):
    prediction, truth = files
    render(prediction, out=tmp_path / "deep" / "one.png", panel_size=PANEL)
    render(prediction, truth=truth, out=tmp_path / "two.png", panel_size=PANEL)
    render(prediction, truth=truth, out=tmp_path / "three.png", errors=True, panel_size=PANEL)
    widths = [drawn(tmp_path / name).shape[1] for name in ("deep/one.png", "two.png", "three.png")]
    step = PANEL[1] + 12
    assert np.diff(widths).tolist() == [step, step]


def test_invalid_voxels_beside_the_truth_are_not_drawn(files, tmp_path):
    prediction, truth = files
    render(prediction, truth=truth, out=tmp_path / "all.png", panel_size=PANEL)
    invalid = np.zeros(SHAPE, bool)
    invalid[:, :, 2:] = True
    write_voxel_bits(truth.with_suffix(".invalid"), invalid)
    render(prediction, truth=truth, out=tmp_path / "observed.png", panel_size=PANEL)
    whole, observed = drawn(tmp_path / "all.png"), drawn(tmp_path / "observed.png")
    assert whole.shape == observed.shape
    # With the car hidden both panels are alike.
    top, left, right = 12 + 34 + 22, 12, 12 + PANEL[1] + 12
    one, two = (observed[top : top + PANEL[0], x : x + PANEL[1]] for x in (left, right))
    np.testing.assert_array_equal(one, two)
    assert (whole != observed).any()


def test_nothing_to_draw_is_refused(files, tmp_path):
    with pytest.raises(InputError, match="nothing to draw"):
        render(out=tmp_path / "x.png")
    with pytest.raises(InputError, match="--errors needs"):
        render(files[0], out=tmp_path / "x.png", errors=True)
    with pytest.raises(InputError, match=r"missing\.label"):
        render(tmp_path / "missing.label", out=tmp_path / "x.png")


def test_a_root_without_a_token_is_refused(files, tmp_path):
    with pytest.raises(InputError, match="--root and --token"):
        render(files[0], root=tmp_path, out=tmp_path / "x.png")


@pytest.mark.real_data
def test_a_real_frame_is_drawn_with_its_picture(real_data, tmp_path):
    root = real_data / "semantickitti"
    render(root=root, token="08/000005", out=tmp_path / "real.png")
    panel = drawn(tmp_path / "real.png")[-450:]
    # Road and sidewalk, the commonest classes of the frame, fill much of the panel: it is no empty background.
    assert (np.ptp(panel.astype(int), axis=2) > 60).mean() > 0.1
    with pytest.raises(InputError, match="no usable frame 08/000007"):
        render(root=root, token="08/000007", out=tmp_path / "x.png")
