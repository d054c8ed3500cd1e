from dataclasses import replace

import torch
from tiny_surround import GRID, random_scene

from occloom.lifting.cross_attention import project_references
from occloom.models.voxformer import CoveredPixels
from occloom.models.voxformer_released import ReleasedPlaces


def test_released_places_are_those_of_pixels_without_their_half_over_the_picture():
    scene = random_scene(batch=2, cameras=2, frames=2, size=(37, 61))
    valid = scene.camera_valid.clone()
    valid[0, 1, 1] = False
    scene = replace(scene, camera_valid=valid)
    points = GRID.centres().view(1, -1, 3).expand(2, -1, -1)
    released = ReleasedPlaces().references(scene, points, (3, 4), 16)
    ours = project_references(
        points[:, :, None],
        scene.cameras.intrinsics.flatten(1, 2),
        scene.cameras.camera_from_ego.flatten(1, 2),
        (37, 61),
        near=0.0,
        far=1.0,
    )
    shares = ours.locations[..., :2] - 0.5 / torch.tensor([61, 37])
    torch.testing.assert_close(released.locations[..., :2], shares, atol=1e-4, rtol=1e-4)
    assert not released.visible[0, 3].any()
    inside = (shares > 0).all(-1) & (shares < 1).all(-1) & (ours.locations[..., 2] > 1e-5)
    inside[0, 3] = False
    assert torch.equal(released.visible, inside)
    assert released.visible.any()


def test_this_librarys_places_are_shares_of_what_the_features_cover():
    """A voxel that is drawn at a pixel is looked for at that pixel's place in the map, whatever the picture's size."""
    scene = random_scene(batch=1, cameras=1, frames=1, size=(37, 61))
    points = GRID.centres().view(1, -1, 3)
    found = CoveredPixels().references(scene, points, (3, 4), 16)
    camera = scene.cameras.camera_from_ego[0, 0, 0]
    at = points[0] @ camera[:3, :3].T + camera[:3, 3]
    pixel = (at @ scene.cameras.intrinsics[0, 0, 0].T)[:, :2] / at[:, 2:]
    seen = found.visible[0, 0, :, 0]
    assert seen.any()
    place = found.locations[0, 0, seen, 0, :2] * torch.tensor([4 * 16, 3 * 16]) - 0.5
    torch.testing.assert_close(place, pixel[seen], atol=1e-3, rtol=1e-4)
