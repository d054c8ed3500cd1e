"""Priors on disk, of pictures made here; `PlaneSource` answers what a wall at a known depth would."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from occloom.cache import CacheOrigin, create_cache
from occloom.data.kitti_files import write_image
from occloom.data.prior_cache import (
    fill_prior_cache,
    load_prior,
    open_prior,
    prior_entry,
    prior_folder,
    prior_origin,
    require_priors,
    usual_size,
)
from occloom.data.prior_sources import PriorMaps, PriorPicture, PriorScan
from occloom.errors import InputError

SIZE = (12, 20)
INTRINSICS = np.array([[30.0, 0, 21.5], [0, 30.0, 9.5], [0, 0, 1]])


@dataclass(frozen=True)
class PlaneSource:
    """Depth falls from the upper to the lower row; what is left of the picture's first tenth is unknown."""

    features: bool = True

    @property
    def origin(self) -> CacheOrigin:
        return CacheOrigin(source="plane", settings={"features": self.features}, code_version=1)

    def inputs(self, picture: PriorPicture) -> tuple[Path, ...]:
        return (picture.path,)

    def prior(self, picture: PriorPicture) -> PriorMaps:
        depth = np.repeat(np.linspace(50, 2, 24, dtype=np.float32)[:, None], 40, axis=1)
        depth[:, :4] = 0
        depth[0, 10:] = np.inf
        value = float(picture.camera == "CAM_BACK")
        return PriorMaps(depth, np.full((3, 2, 4), value, np.float32) if self.features else None)


@pytest.fixture
def pictures(tmp_path: Path) -> tuple[PriorPicture, ...]:
    found = []
    for number, camera in enumerate(("CAM_FRONT", "CAM_BACK")):
        path = tmp_path / "samples" / camera / "one.png"
        write_image(path, np.full((24, 40, 3), 9 * number, np.uint8))
        intrinsics, scan = INTRINSICS + number * np.diag([1.0, 1, 0]), PriorScan(tmp_path / "scan", np.eye(4))
        found.append(PriorPicture(tmp_path, "scene-1/abc", camera, path, intrinsics, scan))
    return tuple(found)


def prepared(pictures, source=None, size=SIZE):
    source = source or PlaneSource()
    cache = create_cache(prior_folder(pictures[0].root, Path("plane")), prior_origin(source, size))
    assert list(fill_prior_cache(cache, source, pictures, size)) == list(pictures)
    return cache


def test_a_prior_comes_back_as_the_source_gave_it_at_its_size(pictures):
    prepared(pictures)
    cache = open_prior(prior_folder(pictures[0].root, Path("plane")))
    require_priors(cache, pictures)
    prior = load_prior(cache, pictures, features=True)
    assert prior.depth.shape == (1, 2, *SIZE)
    assert prior.depth.dtype == torch.float32
    # A pixel of twice the size takes the pixel under its centre: row 2 i + 1.
    rows = torch.linspace(50, 2, 24)[1::2]
    torch.testing.assert_close(prior.depth[0, 0, :, 5], rows, rtol=1e-3, atol=0)
    assert (prior.depth[..., :2] == 0).all()
    assert prior.features is not None
    assert prior.features.shape == (1, 2, 3, 2, 4)
    assert prior.features[0, :, 0, 0, 0].tolist() == [0, 1]
    assert load_prior(cache, pictures, features=False).features is None


def test_intrinsics_put_a_point_at_the_same_share_of_the_picture(pictures):
    prior = load_prior(prepared(pictures), pictures, features=False)
    assert prior.intrinsics.dtype == torch.float64
    for n, picture in enumerate(pictures):
        point = np.array([0.3, -0.1, 4.0])
        old, new = picture.intrinsics @ point, prior.intrinsics[0, n].numpy() @ point
        shares = [(pixels[:2] / pixels[2] + 0.5) / size for pixels, size in ((old, (40, 24)), (new, (20, 12)))]
        np.testing.assert_allclose(*shares, rtol=0, atol=1e-12)


def test_a_missing_picture_has_unknown_depth_and_no_features(pictures):
    cache, some = prepared(pictures), (None, pictures[1])
    require_priors(cache, some)
    prior = load_prior(cache, some, features=True)
    assert (prior.depth[0, 0] == 0).all()
    assert (prior.depth[0, 1] > 0).any()
    assert prior.features is not None
    assert (prior.features[0, 0] == 0).all()
    assert (prior.features[0, 1] == 1).all()
    torch.testing.assert_close(prior.intrinsics[0, 0], prior.intrinsics[0, 1])
    with pytest.raises(InputError, match="no camera has a picture"):
        load_prior(cache, [None, None], features=True)


def test_a_batch_of_priors_is_the_priors_of_its_samples(pictures):
    cache = prepared(pictures)
    both = load_prior(cache, pictures, features=True)
    for n, picture in enumerate(pictures):
        alone = load_prior(cache, [picture], features=True)
        torch.testing.assert_close(alone.depth[0, 0], both.depth[0, n])
        torch.testing.assert_close(alone.intrinsics[0, 0], both.intrinsics[0, n])


def test_what_is_finished_is_not_made_again(pictures):
    cache = prepared(pictures)
    path = cache.path(prior_entry(pictures[1]))
    assert path == pictures[0].root / "prior" / "plane" / "scene-1" / "abc" / "CAM_BACK.npz"
    written = path.stat().st_mtime_ns
    prepared(pictures)
    assert path.stat().st_mtime_ns == written
    path.unlink()
    with pytest.raises(InputError, match="resumes"):
        require_priors(cache, pictures)
    prepared(pictures)
    assert path.is_file()


def test_a_prior_of_other_settings_size_picture_or_intrinsics_is_refused(pictures):
    cache = prepared(pictures)
    with pytest.raises(InputError, match="setting features True, wanted False"):
        prepared(pictures, PlaneSource(features=False))
    with pytest.raises(InputError, match="setting height 12, wanted 6"):
        prepared(pictures, size=(6, 10))
    moved = replace(pictures[0], intrinsics=INTRINSICS + 1e-9)
    with pytest.raises(InputError, match="its input intrinsics has changed"):
        load_prior(cache, [moved], features=False)
    write_image(pictures[0].path, np.full((24, 40, 3), 77, np.uint8))
    with pytest.raises(InputError, match=r"its input samples/CAM_FRONT/one.png has changed"):
        load_prior(cache, pictures, features=False)


def test_what_cannot_be_read_is_refused(pictures, tmp_path):
    with pytest.raises(InputError, match="prior names a prepared one"):
        open_prior(None)
    with pytest.raises(InputError, match="no prepared depth prior"):
        open_prior(tmp_path / "nothing")
    cache = prepared(pictures, PlaneSource(features=False))
    with pytest.raises(InputError, match="has no features"):
        load_prior(cache, pictures, features=True)
    path = cache.path(prior_entry(pictures[0]))
    path.write_bytes(bytes(path.stat().st_size))
    with pytest.raises(InputError, match="cannot be read"):
        load_prior(cache, pictures, features=False)


@pytest.mark.parametrize(
    ("picture", "kept"), [((900, 1600), (225, 400)), ((225, 400), (225, 400)), ((226, 401), (113, 200))]
)
def test_depth_is_kept_at_a_quarter_of_nuscenes_pictures_and_small_ones_whole(picture, kept):
    assert usual_size(picture) == kept


def test_a_folder_elsewhere_is_taken_as_it_is():
    assert prior_folder(Path("data"), Path("moge")) == Path("data/prior/moge")
    assert prior_folder(Path("data"), Path("else/moge")) == Path("else/moge")
