import torch

from occloom.geometry.precision import full_precision


def test_mixed_precision_is_off_inside_and_on_again_after():
    a = torch.full((2, 2), 1 / 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        with full_precision("cpu"):
            inside = a @ a
        outside = a @ a
    assert (inside.dtype, outside.dtype) == (torch.float32, torch.bfloat16)


def test_the_meta_device_is_left_alone():
    with full_precision("meta"):
        assert torch.ones(2, device="meta").dtype == torch.float32
