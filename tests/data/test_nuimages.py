import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from town_views import packed

from occloom.data.label_spaces import IGNORED
from occloom.data.nuimages import CodedMask, PaintedMasks, list_nuimages, unpack_runs
from occloom.errors import InputError


@pytest.mark.parametrize(
    ("code", "runs"),
    # Pairs of text and run lengths that other readers of COCO's masks test themselves with.
    [
        (b"52203", [5, 2, 2, 2, 5]),
        (b"61X13mN000`0", [6, 1, 40, 4, 5, 4, 5, 4, 21]),
        (b"e75S10000000ST1", [245, 5, 35, 5, 35, 5, 35, 5, 35, 5, 1190]),
        (b"", []),
    ],
)
def test_published_codes_give_their_runs(code, runs):
    assert unpack_runs(code) == runs


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**32 - 1), st.sampled_from([0.0, 0.02, 0.5, 1.0]))
def test_masks_come_back(height, width, seed, share):
    mask = np.random.default_rng(seed).random((height, width)) < share
    np.testing.assert_array_equal(CodedMask("a", 1, (height, width), packed(mask)).decoded(), mask)


def masks_of(*masks):
    return tuple(CodedMask(f"m{n}", class_id, mask.shape, packed(mask)) for n, (class_id, mask) in enumerate(masks))


def test_later_masks_lie_over_earlier_ones_and_the_rest_is_ignored(tmp_path):
    whole, upper = np.zeros((3, 4), bool), np.zeros((3, 4), bool)
    whole[:, 1:], upper[0, :] = True, True
    painted = PaintedMasks((3, 4), masks_of((1, whole), (IGNORED, upper)), "p", tmp_path)
    np.testing.assert_array_equal(painted.read(), [[255] * 4, [255, 1, 1, 1], [255, 1, 1, 1]])


@pytest.mark.parametrize(
    ("counts", "size", "named"),
    [("NTI=", (3, 4), "its runs cover"), ("!!", (3, 4), "no base64"), ("WA==", (3, 4), "cut"), ("", (4, 3), "4x3")],
)
def test_a_damaged_mask_is_named(counts, size, named, tmp_path):
    masks = (CodedMask("m", 1, size, counts),)
    with pytest.raises(InputError, match=named) as raised:
        PaintedMasks((3, 4), masks, "p", tmp_path).read()
    assert "the mask m of picture p" in str(raised.value)


def test_only_keyframes_are_listed_and_unknown_categories_refused(town_sets: Path, tmp_path: Path):
    root = Path(shutil.copytree(town_sets / "nuimages", tmp_path / "nuimages"))
    assert len(list_nuimages(root, "train")) == 1
    path = root / "v1.0-train" / "surface_ann.json"
    rows = json.loads(path.read_text())
    rows[0]["category_token"] = "nothing"
    path.write_text(json.dumps(rows))
    with pytest.raises(InputError, match="unknown token nothing"):
        list_nuimages(root, "train")
