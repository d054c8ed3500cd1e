from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from jaxtyping import Float
from torch import Tensor

from occloom.errors import InputError
from occloom.grid import LabelSpace, VoxelGrid
from occloom.interfaces import FeaturePyramid, Needs, OccupancyModel, Outputs
from occloom.scene import Cameras, Scene, Target


def scene(batch: int) -> Scene:
    return Scene(
        cameras=Cameras(
            intrinsics=torch.eye(3).repeat(batch, 1, 1, 1, 1),
            camera_from_ego=torch.eye(4).repeat(batch, 1, 1, 1, 1),
            time=torch.zeros(batch, 1, 1),
        ),
        now_from_then=torch.eye(4).repeat(batch, 1, 1, 1),
        time=torch.zeros(batch, 1),
        frame_valid=torch.ones(batch, 1, dtype=torch.bool),
        camera_valid=torch.ones(batch, 1, 1, dtype=torch.bool),
    )


@dataclass(frozen=True)
class Logits:
    logits: Float[Tensor, "B K X Y Z"]


class Constant(OccupancyModel):
    """Answers the same scores whatever it sees."""

    grid = VoxelGrid(lower=(0.0, 0.0, 0.0), voxel_size=(1.0, 1.0, 1.0), shape=(2, 3, 4))
    label_space = LabelSpace(("empty", "a"), 0, ((0, 0, 0),) * 2, (1e3, 1e2))
    needs = Needs(images=False)

    def __init__(self, scores: Tensor) -> None:
        super().__init__()
        self.scores = scores

    def forward(self, scene: Scene) -> Outputs:
        return Logits(self.scores.expand(scene.batch_size, *self.scores.shape))

    def loss(self, outputs: Outputs, target: Target) -> dict[str, Tensor]:
        return {"none": outputs.logits.sum() * 0}


def test_prediction_is_the_most_likely_class():
    scores = torch.randn(2, 2, 3, 4, generator=torch.Generator().manual_seed(0))
    prediction = Constant(scores).predict(scene(3))
    assert prediction.shape == (3, 2, 3, 4)
    assert torch.equal(prediction, (scores[1] > scores[0]).long().expand(3, -1, -1, -1))


def test_a_model_must_answer_and_have_a_loss():
    class Half(OccupancyModel):
        def forward(self, scene: Scene) -> Outputs:
            raise AssertionError("never called")

    with pytest.raises(TypeError, match="loss"):
        Half()  # pyright: ignore[reportAbstractUsage]


def test_a_pyramid_of_equal_batches_stands():
    pyramid = FeaturePyramid(levels=(torch.ones(2, 8, 6, 4), torch.ones(2, 16, 3, 2)), strides=(8, 16))
    assert [level.shape[1] for level in pyramid.levels] == [8, 16]


@pytest.mark.parametrize(
    ("levels", "strides", "message"),
    [
        ((), (), "one stride a level"),
        (((2, 8, 6, 4),), (8, 16), "1 levels, 2 strides"),
        (((2, 8, 6, 4), (3, 8, 3, 2)), (8, 16), r"\(3, 8, 3, 2\)"),
        (((2, 8, 6, 4), (2, 8, 3)), (8, 16), r"\(2, 8, 3\)"),
    ],
)
def test_a_pyramid_that_does_not_fit_is_always_refused(levels, strides, message):
    with pytest.raises(ValueError, match=message):
        FeaturePyramid(levels=tuple(torch.ones(shape) for shape in levels), strides=strides)


def test_a_model_has_all_parameters_of_the_released_one_and_no_pretrained_trunk_unless_it_says_so():
    model = Constant(torch.zeros(2, 2, 3, 4))
    assert dict(model.left_out) == {}
    for source in ("imagenet", Path("weights.pth")):
        with pytest.raises(InputError, match=r"Constant takes no trunk weights.*trunk-weights"):
            model.load_trunk_weights(source)
