from collections import Counter
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from occloom.errors import InputError
from occloom.grid import LabelSpace, VoxelGrid
from occloom.metrics.naive import FixedPrediction, fit_voxel_prior, load_voxel_prior, road_below, save_voxel_prior
from occloom.scene import Cameras, Sample, Scene, Target, collate

GRID = VoxelGrid(lower=(0.0, -1.0, -2.0), voxel_size=(0.2, 0.2, 0.2), shape=(3, 4, 5))
SPACE = LabelSpace(
    names=("car", "road", "tree", "nothing"),
    empty=3,
    colours=((1, 2, 3),) * 4,
    frequencies=(1.0, 1.0, 1.0, 1.0),
)


def scene() -> Scene:
    cameras = Cameras(
        intrinsics=torch.eye(3).expand(1, 1, 1, 3, 3),
        camera_from_ego=torch.eye(4).expand(1, 1, 1, 4, 4),
        time=torch.zeros(1, 1, 1),
    )
    return Scene(
        cameras=cameras,
        now_from_then=torch.eye(4).expand(1, 1, 4, 4),
        time=torch.zeros(1, 1),
        frame_valid=torch.ones(1, 1, dtype=torch.bool),
        camera_valid=torch.ones(1, 1, 1, dtype=torch.bool),
    )


@dataclass
class Frames:
    targets: list[Target | None]
    grid: VoxelGrid = GRID
    label_space: LabelSpace = SPACE

    @property
    def tokens(self):
        return tuple(f"00/{i:06d}" for i in range(len(self.targets)))

    def __len__(self):
        return len(self.targets)

    def sample(self, index, rng=None):
        return Sample(scene=scene(), target=self.targets[index], tokens=(self.tokens[index],))


def random_targets(count: int) -> list[Target]:
    generator = torch.Generator().manual_seed(0)
    targets = []
    for _ in range(count):
        observed = torch.rand(1, *GRID.shape, generator=generator) < 0.5
        labels = torch.randint(0, 4, (1, *GRID.shape), generator=generator)
        targets.append(Target(labels=torch.where(observed, labels, SPACE.empty), observed=observed))
    return targets


def test_prior_equals_a_naive_vote():
    targets = random_targets(3)
    prior = fit_voxel_prior(Frames(targets))
    never_observed = 0
    for index in np.ndindex(*GRID.shape):
        seen = [int(t.labels[0][index]) for t in targets if t.observed[0][index]]
        never_observed += not seen
        votes = Counter(seen)
        assert prior[index] == (min(votes, key=lambda c: (-votes[c], c)) if votes else SPACE.empty)
    assert never_observed > 0


def test_prior_of_unlabelled_frames_is_refused():
    with pytest.raises(InputError, match="00/000000 has no labels"):
        fit_voxel_prior(Frames([None]))


def test_prior_survives_the_disk(tmp_path):
    prior = fit_voxel_prior(Frames(random_targets(2)))
    save_voxel_prior(tmp_path / "prior.npz", prior)
    np.testing.assert_array_equal(load_voxel_prior(tmp_path / "prior.npz"), prior)


def test_files_that_hold_no_prior_are_refused_by_name(tmp_path):
    broken = tmp_path / "broken.npz"
    broken.write_bytes(b"PK but not an archive")
    other = tmp_path / "other.npz"
    np.savez(other, something=np.zeros(3))
    for path in (tmp_path / "missing.npz", broken, other):
        with pytest.raises(InputError, match=path.name):
            load_voxel_prior(path)


def test_road_lies_at_and_below_the_height_of_the_road():
    volume = road_below(GRID, SPACE)
    assert volume.shape == GRID.shape
    # The road is 1.73 m below the lidar: within [-1.8, -1.6), the second layer.
    assert (volume[:, :, :2] == SPACE.names.index("road")).all()
    assert (volume[:, :, 2:] == SPACE.empty).all()


def test_a_fixed_prediction_answers_every_scene_of_a_batch_with_its_volume():
    volume = np.random.default_rng(0).integers(0, 4, GRID.shape).astype(np.uint8)
    model = FixedPrediction(volume, GRID, SPACE)
    both = collate([Frames(random_targets(2)).sample(index) for index in range(2)])
    assert [np.array_equal(one, volume) for one in model.predict(both.scene).numpy()] == [True, True]
    outputs = model.forward(both.scene)
    assert torch.equal(outputs.logits.argmax(1), model.predict(both.scene))
    assert both.target is not None
    naive = np.mean(
        [
            np.log(np.e + 3) - float(label == volume[x, y, z])
            for b, x, y, z in both.target.observed.nonzero().tolist()
            for label in [both.target.labels[b, x, y, z]]
        ]
    )
    np.testing.assert_allclose(float(model.loss(outputs, both.target)["cross_entropy"]), naive, rtol=1e-6)
