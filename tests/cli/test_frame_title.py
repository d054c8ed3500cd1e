import numpy as np
import pytest
import torch

from occloom.cli.frame_title import frame_title
from occloom.metrics.confusion import count_confusion
from occloom.metrics.protocols import PROTOCOLS


@pytest.mark.parametrize("protocol", PROTOCOLS.values())
def test_the_mean_is_over_the_classes_that_occur_in_prediction_or_truth(protocol):
    prediction, truth = np.full((2, 1, 4, 4, 4), protocol.empty, np.uint8)
    truth[0, 0, :, 0] = 9
    prediction[0, 0, :, 0] = 9
    prediction[0, 1, :, 0] = 1  # nowhere true: it scores 0 and divides
    observed = torch.ones(1, 4, 4, 4, dtype=torch.bool)
    counts = count_confusion(torch.from_numpy(prediction), torch.from_numpy(truth), observed, 20)
    title = frame_title("08/000000", counts, protocol)
    assert title.startswith("08/000000    IoU 50.0    mIoU 50.0 over 2 classes present")
    assert title.endswith(protocol.mask_in_use)


@pytest.mark.parametrize("protocol", PROTOCOLS.values())
def test_a_frame_without_classes_has_a_title(protocol):
    counts = torch.zeros(20, 20, dtype=torch.int64)
    counts[protocol.empty, protocol.empty] = 9
    assert "mIoU 0.0 over 0 classes present" in frame_title("00/000000", counts, protocol)
